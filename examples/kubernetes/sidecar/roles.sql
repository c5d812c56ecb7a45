-- The image runs this file with psql when it creates the data directory.
\set password `cat /run/secrets/liveness/password`
CREATE ROLE liveness LOGIN PASSWORD :'password' CONNECTION LIMIT 10;
GRANT pg_monitor TO liveness;
