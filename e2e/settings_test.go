// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testservers"
)

// TestSettingsOfTheRole tests that settings that somebody gave to the exporter's role, its database or the server change neither
// the verdict nor a figure.
func TestSettingsOfTheRole(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "app"))
	for _, test := range []struct{ name, set, reset string }{
		{"serializable", "ALTER ROLE monitor SET default_transaction_isolation = serializable", "ALTER ROLE monitor RESET ALL"},
		{
			"serializable, deferrable and read-only beside a serializable write",
			"ALTER ROLE monitor SET default_transaction_isolation = serializable; ALTER ROLE monitor SET default_transaction_deferrable = on;" +
				"ALTER ROLE monitor SET default_transaction_read_only = on", "ALTER ROLE monitor RESET ALL",
		},
		{"a statement_timeout of 1 ms", "ALTER ROLE monitor SET statement_timeout = 1", "ALTER ROLE monitor RESET ALL"},
		{"a lock_timeout of 1 ms", "ALTER ROLE monitor SET lock_timeout = 1", "ALTER ROLE monitor RESET ALL"},
		{
			"an idle_in_transaction_session_timeout of 1 ms",
			"ALTER ROLE monitor SET idle_in_transaction_session_timeout = 1", "ALTER ROLE monitor RESET ALL",
		},
		{"extra_float_digits", "ALTER ROLE monitor SET extra_float_digits = -15", "ALTER ROLE monitor RESET ALL"},
		{"another role", "CREATE ROLE other CONNECTION LIMIT 3; GRANT pg_monitor TO other; GRANT other TO monitor; ALTER ROLE monitor SET role = other", "ALTER ROLE monitor RESET ALL"},
		{"look-alikes before pg_catalog", lookAlikes, "ALTER ROLE monitor RESET ALL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := e.In(t)
			want := e.Scrape()
			writer := connectSuperuser(t, s, "app")
			_, err := writer.Exec(t.Context(), "BEGIN ISOLATION LEVEL SERIALIZABLE; CREATE TABLE IF NOT EXISTS written (n int); INSERT INTO written VALUES (1)").ReadAll()
			check(t, err)
			for _, statement := range []string{test.set, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'monitor'"} {
				inApp(t, s, statement)
			}
			eventually(t, "no session is kept", func() bool {
				m := e.Scrape()
				if m["pg_up"] != 1 {
					t.Errorf("pg_up %v", m["pg_up"])
				}
				return m["pg_kept_session_up"] == 1
			})
			for range 2 {
				got := e.Scrape()
				if got["pg_up"] != 1 || got["pg_kept_session_up"] != 1 || got["pg_transaction_read_only"] != 0 {
					t.Fatalf("pg_up %v, pg_kept_session_up %v, pg_transaction_read_only %v", got["pg_up"], got["pg_kept_session_up"], got["pg_transaction_read_only"])
				}
				for _, name := range []string{
					"pg_connections_usable", "pg_role_connection_limit", "pg_postmaster_start_time_seconds", "pg_checkpointer_start_time_seconds",
				} {
					if got[name] != want[name] {
						t.Errorf("%s is %v, was %v", name, got[name], want[name])
					}
				}
				if used := got["pg_connections_used"]; used < 1 || used > 20 {
					t.Errorf("%v connections used", used)
				}
			}
			_, err = writer.Exec(t.Context(), "ROLLBACK").ReadAll()
			check(t, err)
			inApp(t, s, test.reset)
		})
	}
}

// lookAlikes are functions, aggregates and operators that the statistics would use if they came first in the search_path.
const lookAlikes = `CREATE SCHEMA IF NOT EXISTS evil;
CREATE OR REPLACE FUNCTION evil.seven(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 777::bigint';
CREATE AGGREGATE evil.count(*) (SFUNC = evil.seven, STYPE = bigint, INITCOND = '0');
CREATE FUNCTION evil.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS $$SELECT 'on'$$;
CREATE FUNCTION evil.equal(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.equal);
GRANT USAGE ON SCHEMA evil TO PUBLIC;
ALTER ROLE monitor SET search_path = evil, pg_catalog`

// TestStandbyWithSerializableDefault tests that a hot standby with serializable as its default is up: an ordinary SELECT fails
// there.
func TestStandbyWithSerializableDefault(t *testing.T) {
	t.Parallel()
	primary := newServer(t, testservers.PostgresConfig{})
	execute(t, primary, "ALTER ROLE "+role+" SET default_transaction_isolation = serializable")
	standby := newStandby(t, primary)
	e := startExporter(t, environment(standby.Port, "postgres"))
	for range 2 {
		m := e.Scrape()
		if m["pg_up"] != 1 || m["pg_replication_is_replica"] != 1 || m["pg_connections_used"] < 1 {
			t.Errorf("pg_up %v, replica %v, %v connections used", m["pg_up"], m["pg_replication_is_replica"], m["pg_connections_used"])
		}
	}
}

// TestNewSessionsReachAnotherServer tests that role and figures are those of the server that the new session reaches, if a proxy
// leads new sessions to a standby while the kept session stays on the primary.
func TestNewSessionsReachAnotherServer(t *testing.T) {
	t.Parallel()
	primary := newServer(t, testservers.PostgresConfig{})
	standby := newStandby(t, primary)
	proxy := newSwitch(t, primary.Port)
	e := startExporter(t, environment(proxy.port, "postgres"), "--probe.commit")
	before := e.Scrape()
	if before["pg_replication_is_replica"] != 0 || before["pg_kept_session_up"] != 1 {
		t.Fatalf("replica %v, kept %v", before["pg_replication_is_replica"], before["pg_kept_session_up"])
	}
	for _, to := range []struct {
		port             int
		replica, primary float64
	}{{standby.Port, 1, 503}, {primary.Port, 0, 200}, {standby.Port, 1, 503}} {
		proxy.to.Store(int64(to.port))
		for range 3 {
			m := e.Scrape()
			if m["pg_up"] != 1 || m["pg_replication_is_replica"] != to.replica || m["pg_transaction_read_only"] != to.replica {
				t.Errorf("pg_up %v, replica %v, read only %v, want %v", m["pg_up"], m["pg_replication_is_replica"], m["pg_transaction_read_only"], to.replica)
			}
			if _, lag := m["pg_wal_receiver_up"]; lag != (to.replica == 1) {
				t.Errorf("the figures are another server's: receiver %v", lag)
			}
			if status, body := e.Health("/primary"); float64(status) != to.primary {
				t.Errorf("/primary: %d %s", status, body)
			}
		}
	}
	m := e.Scrape()
	for _, reason := range []string{"shutdown", "crash", "terminated", "network"} {
		if n := m[`pg_session_losses_total{reason="`+reason+`"}`]; n != 0 {
			t.Errorf("%v losses with reason %s", n, reason)
		}
	}
}

// TestRoundRobin tests that the role is the one of the session that pg_up speaks of, if each new session reaches the other server.
func TestRoundRobin(t *testing.T) {
	t.Parallel()
	primary := newServer(t, testservers.PostgresConfig{})
	standby := newStandby(t, primary)
	proxy := newSwitch(t, primary.Port)
	e := startExporter(t, environment(proxy.port, "postgres"))
	for i := range 8 {
		port, want := primary.Port, 0.0
		if i%2 == 1 {
			port, want = standby.Port, 1
		}
		proxy.to.Store(int64(port))
		if m := e.Scrape(); m["pg_up"] != 1 || m["pg_replication_is_replica"] != want {
			t.Errorf("scrape %d: pg_up %v, replica %v, want %v", i, m["pg_up"], m["pg_replication_is_replica"], want)
		}
	}
}

// switchProxy is a TCP proxy. New connections go to the port in to, and those that stand stay where they are.
type switchProxy struct {
	port int
	to   atomic.Int64
}

func newSwitch(t *testing.T, to int) *switchProxy {
	t.Helper()
	p := &switchProxy{}
	p.to.Store(int64(to))
	s, err := testservers.NewFakeServer(t.Context(), func(client net.Conn) {
		var dialer net.Dialer
		ctx, cancel := context.WithTimeout(context.Background(), hanging)
		defer cancel()
		server, err := dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", p.to.Load()))
		if err != nil {
			return
		}
		defer func() { _ = server.Close() }()
		go func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		}()
		_, _ = io.Copy(client, server)
	})
	check(t, err)
	t.Cleanup(func() { _ = s.Close() })
	p.port = s.Port
	return p
}

// connectSuperuser opens a session of the superuser's, which ends with the test.
func connectSuperuser(t *testing.T, s *testservers.Postgres, database string) *pgconn.PgConn {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), fmt.Sprintf("host='%s' port=%d user=%s dbname=%s", s.Dir, s.Port, testservers.Superuser, database))
	check(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}
