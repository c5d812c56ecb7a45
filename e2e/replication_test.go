// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testservers"
)

// TestReplication: role and lag of a real primary and its standby: streaming, idle, replay paused, disconnected, promoted.
func TestReplication(t *testing.T) {
	t.Parallel()
	primary := newServer(t, testservers.PostgresConfig{})
	execute(t, primary, "CREATE TABLE busy (n int)", "CREATE ROLE plain LOGIN PASSWORD 'plain'")
	standby := newStandby(t, primary)
	e, _ := startWithFile(t, fmt.Sprintf(`
targets:
  primary: {host: 127.0.0.1, port: %[2]d, %[1]s}
  standby: {host: 127.0.0.1, port: %[3]d, %[1]s}
  plain: {host: 127.0.0.1, port: %[3]d, user: plain, password: plain, sslmode: disable}`, login(), primary.Port, standby.Port))
	eventually(t, "the standby does not stream", func() bool {
		rows, err := standby.Query(context.Background(), "SELECT status FROM pg_stat_wal_receiver")
		return err == nil && len(rows) == 1 && rows[0] == "streaming"
	})
	write := func() { execute(t, primary, "INSERT INTO busy VALUES (1)") }
	caughtUp := func(what string) {
		t.Helper()
		eventually(t, what, func() bool {
			m := e.ScrapePatiently().of("standby")
			lag, ok := m["pg_replication_lag_seconds"]
			return ok && lag == 0 && m["pg_wal_receiver_up"] == 1
		})
	}
	write()
	caughtUp("streaming: the lag does not become 0")
	_, body := e.Probe("standby", "")
	likeGolden(t, "standby", body, func(help string) bool {
		return strings.Contains(help, "apply_delay") ||
			!strings.Contains(help, "pg_replication_") && !strings.Contains(help, "pg_wal_") && !strings.Contains(help, "read_only")
	})
	m := e.ScrapePatiently()
	for target, want := range map[string]map[string]float64{
		"primary": {"pg_replication_is_replica": 0, "pg_transaction_read_only": 0},
		"standby": {"pg_replication_is_replica": 1, "pg_transaction_read_only": 1, "pg_wal_receiver_up": 1},
		"plain":   {"pg_replication_is_replica": 1, "pg_transaction_read_only": 1},
	} {
		own := m.of(target)
		for _, name := range []string{"pg_replication_is_replica", "pg_transaction_read_only", "pg_wal_receiver_up"} {
			if got, ok := own[name]; ok != hasKey(want, name) || got != want[name] {
				t.Errorf("%s: %s is %v (there: %v), want %v", target, name, got, ok, want)
			}
		}
		if _, ok := own["pg_replication_lag_seconds"]; ok != (target == "standby") {
			t.Errorf("%s: a lag is there: %v", target, ok)
		}
	}

	// A server that does not let us call a function, or does not have it, costs that series alone. That is remembered as
	// long as the session is kept.
	execute(t, primary, "REVOKE EXECUTE ON FUNCTION pg_stat_get_wal_receiver() FROM PUBLIC")
	eventually(t, "what a server does not tell costs more than that", func() bool {
		m := e.ScrapePatiently()
		plain, own := m.of("plain"), m.of("primary")
		_, lag := plain["pg_replication_lag_seconds"]
		return plain["pg_connections_used"] > 0 && own["pg_connections_used"] > 0 && plain["pg_replication_is_replica"] == 1 && !lag
	})
	execute(t, primary, "GRANT EXECUTE ON FUNCTION pg_stat_get_wal_receiver() TO PUBLIC")
	execute(t, standby, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('plain', '"+role+"')")
	caughtUp("told again: the lag does not become 0")

	time.Sleep(2 * time.Second) // an idle primary makes no lag
	if lag := e.ScrapePatiently().of("standby")["pg_replication_lag_seconds"]; lag != 0 {
		t.Errorf("idle: the lag is %v", lag)
	}

	// A default that is changed while a session is kept counts from the next session on. One of the exporter's own role says nothing
	// about other roles.
	for _, test := range []struct {
		change string
		want   float64
	}{
		{"ALTER DATABASE postgres SET default_transaction_read_only = on", 1},
		{"BEGIN READ WRITE; ALTER DATABASE postgres RESET default_transaction_read_only; COMMIT", 0},
		{"ALTER ROLE " + role + " SET default_transaction_read_only = on", 0},
		{"ALTER ROLE " + role + " RESET default_transaction_read_only", 0},
	} {
		execute(t, primary, test.change)
		if got := e.ScrapePatiently().of("primary")["pg_transaction_read_only"]; got != test.want {
			t.Errorf("after %s, pg_transaction_read_only is %v", test.change, got)
		}
	}

	execute(t, standby, "SELECT pg_wal_replay_pause()")
	write()
	time.Sleep(2 * time.Second)
	m = e.ScrapePatiently()
	if lag := m.of("standby")["pg_replication_lag_seconds"]; lag < 1.5 || lag > 60 {
		t.Errorf("paused: the lag is %v", lag)
	}
	if lag := m.of("plain")["pg_replication_lag_seconds"]; lag < 1.5 || lag > 60 {
		t.Errorf("paused: the lag that a plain role sees is %v", lag)
	}
	execute(t, standby, "SELECT pg_wal_replay_resume()")
	caughtUp("resumed: the lag does not become 0")

	check(t, primary.Stop(testservers.Fast))
	eventually(t, "disconnected: no lag is seen", func() bool {
		m := e.ScrapePatiently().of("standby")
		return m["pg_up"] == 1 && m["pg_wal_receiver_up"] == 0 && m["pg_replication_lag_seconds"] > 0 && m["pg_replication_lag_seconds"] < 60
	})
	check(t, primary.Start(t.Context()))
	caughtUp("connected again: the lag does not become 0")

	execute(t, standby, "SELECT pg_promote()")
	m = e.ScrapePatiently().of("standby")
	_, lag := m["pg_replication_lag_seconds"]
	_, receiver := m["pg_wal_receiver_up"]
	if m["pg_replication_is_replica"] != 0 || m["pg_transaction_read_only"] != 0 || lag || receiver {
		t.Errorf("promoted: replica %v, read only %v, lag %v, receiver %v", m["pg_replication_is_replica"], m["pg_transaction_read_only"], lag, receiver)
	}
}

// TestReplicationFromArchive: a standby that restores an archive has no receiver that could be down, and no lag while there is
// nothing to replay. One that is delayed says by how much.
func TestReplicationFromArchive(t *testing.T) {
	t.Parallel()
	archive := t.TempDir()
	check(t, os.Chmod(archive, 0o777)) // the server runs as another user
	check(t, os.Chmod(filepath.Dir(archive), 0o755))
	primary := newServer(t, testservers.PostgresConfig{
		Settings: []string{"archive_mode = on", fmt.Sprintf("archive_command = 'cp %%p %s/%%f'", archive)},
	})
	execute(t, primary, "CREATE TABLE busy (n int)", "CREATE ROLE plain LOGIN PASSWORD 'plain'")
	standby := newStandby(t, primary)
	check(t, standby.Append("postgresql.conf", fmt.Sprintf("primary_conninfo = ''\nrestore_command = 'cp %s/%%f %%p'\narchive_mode = off", archive)))
	check(t, standby.Stop(testservers.Fast))
	check(t, standby.Start(t.Context()))
	e := startExporter(t, environment(standby.Port, "postgres"))
	const lag = "pg_replication_lag_seconds"
	eventually(t, "a lag while nothing is replayed", func() bool {
		m := e.Expect(up)
		if _, ok := m["pg_wal_receiver_up"]; ok || m["pg_replication_is_replica"] != 1 {
			t.Fatalf("receiver: %v, replica %v", ok, m["pg_replication_is_replica"])
		}
		_, ok := m[lag]
		return !ok
	})
	// Nor for a role that may not see whether there is a primary to stream from.
	plain, _ := startWithFile(t, fmt.Sprintf("targets: {plain: {host: 127.0.0.1, port: %d, user: plain, password: plain, sslmode: disable}}", standby.Port))
	for range 2 {
		if m := plain.Scrape().of("plain"); m["pg_up"] != 1 || hasKey(m, "pg_wal_receiver_up") {
			t.Errorf("up %v, receiver %v", m["pg_up"], hasKey(m, "pg_wal_receiver_up"))
		}
	}
	execute(t, primary, "INSERT INTO busy VALUES (1)", "SELECT pg_switch_wal()")
	eventually(t, "no lag while a file is replayed", func() bool { _, ok := e.Expect(up)[lag]; return ok })
	eventually(t, "a lag after the file is replayed", func() bool { _, ok := e.Expect(up)[lag]; return !ok })
	execute(t, standby, "SELECT pg_wal_replay_pause()")
	for range 3 {
		if _, ok := e.Expect(up)[lag]; !ok {
			t.Error("no lag while the replay is paused")
		}
	}
	if _, ok := e.Expect(up)["pg_replication_apply_delay_seconds"]; ok {
		t.Error("a delay that is not set")
	}
	check(t, standby.Append("postgresql.conf", "recovery_min_apply_delay = '5min'"))
	execute(t, standby, "SELECT pg_reload_conf()")
	eventually(t, "no delay", func() bool { return e.Expect(up)["pg_replication_apply_delay_seconds"] == 300 })
}

// TestAuroraReader tests a standby that plays a reader of Amazon Aurora: the functions of the replication are not supported, and
// Aurora's own function has the lag of each instance.
func TestAuroraReader(t *testing.T) {
	t.Parallel()
	primary := newServer(t, testservers.PostgresConfig{Settings: []string{"allow_system_table_mods = on"}})
	execute(t, primary, "CREATE TABLE lags (server_id text, replica_lag_in_msec float8)", "GRANT SELECT ON lags TO PUBLIC",
		"INSERT INTO lags VALUES ('writer', NULL), ('reader', 23), ('other', 4000)",
		"CREATE FUNCTION pg_catalog.aurora_replica_status() RETURNS SETOF public.lags LANGUAGE sql AS 'SELECT * FROM public.lags'",
		"CREATE FUNCTION pg_catalog.aurora_db_instance_identifier() RETURNS text LANGUAGE sql AS $$SELECT 'reader'$$",
		"DELETE FROM pg_proc WHERE proname = 'pg_last_wal_receive_lsn'",
		`CREATE FUNCTION pg_catalog.pg_last_wal_receive_lsn() RETURNS pg_lsn LANGUAGE plpgsql AS
			$$BEGIN RAISE feature_not_supported USING MESSAGE = 'not supported for Aurora'; END$$`)
	standby := newStandby(t, primary)
	e := startExporter(t, environment(standby.Port, "postgres"))
	e.Expect(up)
	errors := strings.Count(standby.Log(), "not supported for Aurora")
	for range 3 {
		m := e.Expect(up)
		lag, ok := m["pg_replication_lag_seconds"]
		if _, receiver := m["pg_wal_receiver_up"]; lag != 0.023 || receiver || m["pg_replication_is_replica"] != 1 || m["pg_connections_used"] == 0 {
			t.Errorf("lag %v (%v), receiver %v, replica %v, %v connections", lag, ok, receiver, m["pg_replication_is_replica"], m["pg_connections_used"])
		}
	}
	if n := strings.Count(standby.Log(), "not supported for Aurora"); errors == 0 || n != errors {
		t.Errorf("%d errors in the server's log after one scrape, %d after four", errors, n)
	}
	if status, body := e.Health("/replica?lag=1s"); status != 200 {
		t.Errorf("/replica?lag=1s: %d %s", status, body)
	}
	execute(t, primary, "UPDATE lags SET replica_lag_in_msec = 7500 WHERE server_id = 'reader'")
	eventually(t, "the lag does not change", func() bool { return e.Expect(up)["pg_replication_lag_seconds"] == 7.5 })
}
