// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"
	"strings"
	"testing"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// TestRefusedParts tests that functions and tables that the exporter's role may not use cost their own series and nothing else,
// that the server logs an error for them at the first scrape alone, that the exporter logs them once, and that a reload asks
// again at once.
func TestRefusedParts(t *testing.T) {
	t.Parallel()
	const (
		own       = `pg_connections{datname="app",state="active"}`
		unknown   = `pg_connections{datname="unknown",state="idle"}`
		sessions  = `pg_sessions_total{datname="app"}`
		everybody = " FROM PUBLIC, pg_monitor, pg_read_all_stats, pg_read_all_settings"
	)
	roles := map[string]bool{"pg_replication_is_replica": true, "pg_transaction_read_only": true}
	for _, test := range []struct {
		name, revoke    string
		absent, instead []string // series that are then absent, and series that are there instead
		part            string
	}{
		{
			"connections", "EXECUTE ON FUNCTION pg_stat_get_activity(integer)",
			[]string{own, "pg_connections_used", "pg_stats_privileged", "pg_checkpointer_start_time_seconds", "pg_transaction_max_seconds"},
			nil, "connections (42501)",
		},
		{"start time", "EXECUTE ON FUNCTION pg_postmaster_start_time()", []string{"pg_postmaster_start_time_seconds"}, nil, "start time (42501)"},
		{"a function of the replication", "EXECUTE ON FUNCTION pg_last_wal_receive_lsn()", nil, nil, "replication (42501)"},
		{"databases", "SELECT ON pg_database", nil, []string{unknown}, "databases (42501)"},
		{"roles", "SELECT ON pg_roles", []string{"pg_role_connection_limit"}, nil, "role limit (42501)"},
		{"session counters", "EXECUTE ON FUNCTION pg_stat_get_db_sessions(oid)", []string{sessions}, nil, "session counters (42501)"},
		{"the recovery", "EXECUTE ON FUNCTION pg_is_in_recovery()", []string{"pg_commit_up"}, nil, "role (42501)"},
		{"the client's port", "EXECUTE ON FUNCTION inet_client_port()", nil, nil, "client port (42501)"},
		{"the own session", "EXECUTE ON FUNCTION current_database()", []string{own, sessions}, []string{`pg_connections{datname="unknown",state="active"}`}, "own session (42501)"},
		{"the commit probe", "EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text)", []string{"pg_commit_up"}, nil, ""},
		{"settings", "EXECUTE ON FUNCTION current_setting(text, boolean)", []string{"pg_connections_usable", "pg_settings_max_connections"}, nil, "connection limits (42501)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, testservers.PostgresConfig{})
			if test.name == "session counters" && testenv.Major(t) < 14 {
				t.Skip("before PostgreSQL 14 there are none")
			}
			if strings.Contains(test.revoke, "emit_message") && testenv.Major(t) >= 17 {
				test.revoke = strings.Replace(test.revoke, "text, text)", "text, text, boolean)", 1)
			}
			hold(t, s, "SELECT 1") // in the database postgres
			inApp(t, s, "REVOKE "+test.revoke+everybody)
			e := startExporter(t, environment(s.Port, "app"), "--probe.commit", "--web.enable-lifecycle")
			e.Expect(up)
			m := e.Expect(up)
			refusals := strings.Count(s.Log(), "permission denied")
			if refusals == 0 {
				t.Error("nothing was refused")
			}
			for range 5 {
				m = e.Expect(up)
			}
			if n := strings.Count(s.Log(), "permission denied"); n != refusals {
				t.Errorf("%d errors in the server's log after two scrapes, %d after seven", refusals, n)
			}
			for _, name := range test.absent {
				if hasKey(m, name) {
					t.Errorf("%s is %v, want it to be absent", name, m[name])
				}
			}
			for _, name := range test.instead {
				if !hasKey(m, name) {
					t.Errorf("%s is absent", name)
				}
			}
			for _, name := range []string{
				"pg_kept_session_up", "pg_replication_is_replica", "pg_transaction_read_only", "pg_postmaster_start_time_seconds", "pg_connections_used",
				"pg_connections_usable", own, sessions, "pg_role_connection_limit", "pg_commit_up",
			} {
				if testenv.Major(t) < 14 && (name == sessions || test.part == "role (42501)" && roles[name]) {
					continue // before PostgreSQL 14 a login reports no role
				}
				if !hasKey(m, name) && !slices.Contains(test.absent, name) {
					t.Errorf("%s is absent", name)
				}
			}
			if !hasSeries(m, "pg_server_info{") {
				t.Error("the version is absent")
			}
			if status, _ := e.Health("/primary"); status != 200 && (testenv.Major(t) >= 14 || test.part != "role (42501)") {
				t.Errorf("/primary: %d", status)
			}
			refused, again := "Server refuses part of the statistics", "Server provides these statistics again"
			if test.part == "" {
				refused, again = "Commit probe failed", "Commit probe succeeded again"
			}
			if n := strings.Count(e.Logged(), refused); n != 1 || !strings.Contains(e.Logged(), test.part) {
				t.Errorf("logged %d times:\n%s", n, e.Logged())
			}
			inApp(t, s, "GRANT "+test.revoke+" TO PUBLIC")
			e.Reload()
			e.Expect(up)
			if m = e.Expect(up); strings.Count(s.Log(), "permission denied") != refusals {
				t.Error("refused after the reload")
			}
			for _, name := range test.absent {
				if !hasKey(m, name) && (name != sessions || testenv.Major(t) >= 14) {
					t.Errorf("%s is absent after the reload", name)
				}
			}
			eventually(t, "the exporter does not log that it is read again", func() bool { return strings.Contains(e.Logged(), again) })
		})
	}
}

// TestRefusesEverything tests that a role that may use nothing still shows that the server is up and its version, and costs the
// server no error in each scrape, also if its errors would end the session.
func TestRefusesEverything(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	inApp(t, s, "REVOKE USAGE ON SCHEMA pg_catalog FROM PUBLIC")
	e := startExporter(t, environment(s.Port, "app"))
	e.Expect(up)
	e.Expect(up)
	errors := strings.Count(s.Log(), "permission denied")
	for range 4 {
		m := e.Expect(up)
		if !hasSeries(m, "pg_server_info{") || m["pg_kept_session_up"] != 1 || hasKey(m, "pg_connections_used") {
			t.Errorf("kept %v, version %v", m["pg_kept_session_up"], hasSeries(m, "pg_server_info{"))
		}
	}
	if n := strings.Count(s.Log(), "permission denied"); errors == 0 || n != errors {
		t.Errorf("%d errors in the server's log after two scrapes, %d after six", errors, n)
	}
}

// TestFiguresOfAnotherServer tests that no figure and no name stays from the server before, if a proxy leads new sessions to
// another one, both hide when they started, and the other one hides its databases and limits.
func TestFiguresOfAnotherServer(t *testing.T) {
	t.Parallel()
	one := newServer(t, testservers.PostgresConfig{Settings: []string{"max_connections = 50"}})
	other := newServer(t, testservers.PostgresConfig{Settings: []string{"max_connections = 77"}})
	execute(t, one, "ALTER DATABASE app RENAME TO app_a", "ALTER DATABASE app_a CONNECTION LIMIT 5", "ALTER DATABASE postgres CONNECTION LIMIT 40")
	for _, s := range []*testservers.Postgres{one, other} {
		execute(t, s, "REVOKE EXECUTE ON FUNCTION pg_postmaster_start_time() FROM PUBLIC")
	}
	execute(t, other, "REVOKE SELECT ON pg_database FROM PUBLIC", "REVOKE SELECT ON pg_roles FROM PUBLIC")
	proxy := newSwitch(t, one.Port)
	e := startExporter(t, environment(proxy.port, "postgres"))
	for range 2 {
		if m := e.Expect(up); m["pg_settings_max_connections"] != 50 || m["pg_role_connection_limit"] != 10 || m[`pg_database_connection_limit{datname="app_a"}`] != 5 {
			t.Fatalf("%v connections, limits %v and %v", m["pg_settings_max_connections"], m["pg_role_connection_limit"], m[`pg_database_connection_limit{datname="app_a"}`])
		}
	}
	proxy.to.Store(int64(other.Port))
	for range 2 {
		m := e.Expect(up)
		if m["pg_settings_max_connections"] != 77 {
			t.Errorf("%v connections, want those of the other server", m["pg_settings_max_connections"])
		}
		for name := range m {
			if strings.Contains(name, "app_a") || strings.HasPrefix(name, "pg_database_connection_limit") || name == "pg_role_connection_limit" {
				t.Errorf("%s is the other server's", name)
			}
		}
	}
}
