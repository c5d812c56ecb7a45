#!/bin/sh
# Creates the exporter's role when the image creates the primary's data directory.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$(cat /run/secrets/liveness_password)" -U postgres <<'SQL'
CREATE ROLE liveness LOGIN CONNECTION LIMIT 10 PASSWORD :'password';
GRANT pg_monitor TO liveness;
SQL
