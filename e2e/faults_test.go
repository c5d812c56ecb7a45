// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// fault is something that befalls a server, and what every scrape says while it lasts.
type fault struct {
	name string
	// begin makes it happen and returns what ends it.
	begin func(t *testing.T, s *testservers.Postgres) (end func())
	want  verdict
	// during looks further at a scrape.
	during func(t *testing.T, s *testservers.Postgres, m Metrics)
	// database and settings are the exporter's and the server's, if they matter.
	database string
	settings []string
	// lost says that the kept session ends with the fault.
	lost map[string]float64
	// since is the first version that has such a fault.
	since int
}

// faults returns the table of TestFaults.
func faults() []fault {
	stop := func(mode syscall.Signal) func(*testing.T, *testservers.Postgres) func() {
		return func(t *testing.T, s *testservers.Postgres) func() {
			check(t, s.Stop(mode))
			return func() { check(t, s.Start(context.Background())) }
		}
	}
	sql := func(begin, end string) func(*testing.T, *testservers.Postgres) func() {
		return func(t *testing.T, s *testservers.Postgres) func() {
			execute(t, s, begin)
			return func() { execute(t, s, end) }
		}
	}
	lock := func(table string) func(*testing.T, *testservers.Postgres) func() {
		return func(t *testing.T, s *testservers.Postgres) func() {
			locker := hold(t, s, "BEGIN; LOCK TABLE "+table+" IN ACCESS EXCLUSIVE MODE")
			return func() { check(t, locker.Close(context.Background())) }
		}
	}
	return []fault{
		{name: "fast shutdown", begin: stop(testservers.Fast), want: refused, lost: map[string]float64{"shutdown": 1}},
		{name: "immediate shutdown", begin: stop(testservers.Immediate), want: refused, lost: map[string]float64{immediateShutdown: 1}},
		{
			name: "smart shutdown held open by a session", want: verdict{"rejecting", "not_accepting"},
			begin: func(t *testing.T, s *testservers.Postgres) func() {
				holder := hold(t, s, "SELECT 1")
				check(t, s.Signal(testservers.Smart))
				eventually(t, "no smart shutdown", func() bool { return s.Exec(context.Background(), "SELECT 1") != nil })
				return func() {
					check(t, holder.Close(context.Background()))
					check(t, s.Wait(hanging))
					check(t, s.Start(context.Background()))
				}
			},
		},
		{
			name: "postmaster stopped", want: timeout, during: keptAnswers,
			begin: func(t *testing.T, s *testservers.Postgres) func() { return freeze(t, s, s.PID()) },
		},
		{
			name: "every process stopped", want: timeout,
			begin: func(t *testing.T, s *testservers.Postgres) func() {
				return freeze(t, s, append(children(t, s), s.PID())...)
			},
		},
		{
			name: "all slots taken by others", want: verdict{"connection_limit", "too_many_connections"},
			settings: []string{"max_connections = 8", "superuser_reserved_connections = 2"},
			begin:    func(t *testing.T, s *testservers.Postgres) func() { return fill(t, s, testservers.Superuser) },
			during: func(t *testing.T, s *testservers.Postgres, m Metrics) {
				keptAnswers(t, s, m)
				if used, usable := m["pg_connections_used"], m["pg_connections_usable"]; used != 8 || usable != 6 {
					t.Errorf("used %v of %v usable, want 8 of 6", used, usable)
				}
				if idle := m[`pg_connections{datname="postgres",state="idle"}`]; idle != 7 {
					t.Errorf("%v idle sessions, want the 7 that fill the server", idle)
				}
			},
		},
		{
			name: "only reserved slots left", want: verdict{"connection_limit", "reserved_slots"}, during: keptAnswers,
			settings: []string{"max_connections = 8", "superuser_reserved_connections = 3"},
			begin: func(t *testing.T, s *testservers.Postgres) func() {
				execute(t, s, "CREATE ROLE filler LOGIN")
				return fill(t, s, "filler")
			},
		},
		{
			name: "only slots left that are reserved by a setting", want: verdict{"connection_limit", "reserved_slots"}, since: 16,
			settings: []string{"max_connections = 10", "superuser_reserved_connections = 2", "reserved_connections = 3"},
			begin: func(t *testing.T, s *testservers.Postgres) func() {
				execute(t, s, "CREATE ROLE filler LOGIN")
				return fill(t, s, "filler")
			},
			during: func(t *testing.T, s *testservers.Postgres, m Metrics) {
				keptAnswers(t, s, m)
				// A login that is being refused holds a slot as well, for as long as that takes, and so may those before it.
				if used, usable := m["pg_connections_used"], m["pg_connections_usable"]; used < 5 || used > 8 || usable != 5 || m["pg_settings_reserved_connections"] != 3 {
					t.Errorf("used %v of %v usable, want 5 of 5", used, usable)
				}
			},
		},
		{
			name: "too many children", want: verdict{"connection_limit", "too_many_connections"}, during: keptAnswers,
			settings: []string{"max_connections = 8"},
			begin: func(t *testing.T, s *testservers.Postgres) func() {
				var silent []net.Conn
				for range 80 { // more than twice all kinds of processes (canAcceptConnections in postmaster.c)
					var dialer net.Dialer
					conn, err := dialer.DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", s.Port))
					check(t, err)
					silent = append(silent, conn)
				}
				time.Sleep(200 * time.Millisecond) // for the postmaster to take them
				return func() {
					for _, conn := range silent {
						check(t, conn.Close())
					}
					time.Sleep(500 * time.Millisecond)
				}
			},
		},
		{
			name: "role limit", want: verdict{"misconfigured", "role_limit"},
			begin: sql("ALTER ROLE "+role+" CONNECTION LIMIT 1", "ALTER ROLE "+role+" CONNECTION LIMIT 10"), during: keptAnswers,
		},
		{
			name: "database limit", want: verdict{"connection_limit", "database_limit"}, database: "app", during: keptAnswers,
			begin: sql("ALTER DATABASE app CONNECTION LIMIT 1", "ALTER DATABASE app CONNECTION LIMIT -1"),
		},
		{
			name: "wrong password", want: verdict{"misconfigured", "auth"}, during: keptAnswers,
			begin: sql("ALTER ROLE "+role+" PASSWORD 'other'", "DROP ROLE "+role+"; "+createRole),
		},
		{
			name: "role removed", want: verdict{"misconfigured", "auth"},
			begin: sql("DROP ROLE "+role, createRole),
		},
		{
			name: "database missing", want: verdict{"misconfigured", "no_database"}, database: "app",
			begin: sql("DROP DATABASE app WITH (FORCE)", "CREATE DATABASE app"), lost: map[string]float64{"terminated": 1},
		},
		{
			name: "refused by pg_hba.conf", want: verdict{"misconfigured", "auth"}, during: keptAnswers,
			begin: func(t *testing.T, s *testservers.Postgres) func() {
				path := filepath.Join(s.Dir, "data", "pg_hba.conf")
				before, err := os.ReadFile(path)
				check(t, err)
				check(t, os.WriteFile(path, []byte("local all all trust\nhost all all all reject\n"), 0))
				execute(t, s, "SELECT pg_reload_conf()")
				time.Sleep(100 * time.Millisecond) // the postmaster's own reading of it
				return func() {
					check(t, os.WriteFile(path, before, 0))
					execute(t, s, "SELECT pg_reload_conf()")
					time.Sleep(100 * time.Millisecond)
				}
			},
		},
		{
			name: "pg_authid locked", want: timeout, begin: lock("pg_authid"), during: keptAnswers,
		},
		{
			name: "recovery at start-up", want: verdict{"rejecting", "not_accepting"}, lost: map[string]float64{"shutdown": 1},
			begin: func(t *testing.T, s *testservers.Postgres) func() {
				check(t, s.Stop(testservers.Fast))
				signal := filepath.Join(s.Dir, "data", "standby.signal")
				check(t, os.WriteFile(signal, nil, 0o644))
				check(t, s.Append("postgresql.conf", "hot_standby = off"))
				check(t, s.Launch())
				eventually(t, "no recovery", func() bool { return strings.Contains(fmt.Sprint(s.Exec(context.Background(), "")), "57P03") })
				return func() {
					check(t, s.Stop(testservers.Fast))
					check(t, os.Remove(signal))
					check(t, s.Start(context.Background()))
				}
			},
		},
	}
}

// TestFaults lets each fault befall a server: every scrape answers in time with the right verdict, the first one after
// it is right again, the change is logged once, and nothing is left behind.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, f := range faults() {
		if f.since > testenv.Major(t) {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, testservers.PostgresConfig{Settings: f.settings})
			if f.database == "" {
				f.database = "postgres"
			}
			e := startExporter(t, environment(s.Port, f.database))
			e.Settle()
			end := f.begin(t, s)
			scrapes := 3
			if f.want.reason == "auth" {
				scrapes = 2 // after the third refusal the password is held back
			}
			for range scrapes {
				m := e.Expect(f.want)
				if f.during != nil {
					f.during(t, s, m)
				}
			}
			end()
			m := e.Expect(up)
			if m["pg_kept_session_up"] != 1 || m["pg_stats_privileged"] != 1 {
				t.Errorf("afterwards: kept session %v, privileged %v", m["pg_kept_session_up"], m["pg_stats_privileged"])
			}
			e.ExpectNothingLeft(s)
			e.ExpectLoggedChanges(s, "up", f.want.reason, "up")
			if f.lost != nil {
				expectLosses(t, m, asTold(testenv.Major(t), f.lost))
			}
		})
	}
}

// fill takes slots as user until the server has none for it.
func fill(t *testing.T, s *testservers.Postgres, user string) func() {
	t.Helper()
	var held []*pgconn.PgConn
	// A session that has just ended holds its slot a little longer: full is what stays full.
	for refusals := 0; refusals < 5; {
		conn, err := pgconn.Connect(t.Context(), fmt.Sprintf("host='%s' port=%d user=%s dbname=postgres sslmode=disable", s.Dir, s.Port, user))
		if err != nil {
			refusals++
			time.Sleep(100 * time.Millisecond)
			continue
		}
		held = append(held, conn)
		refusals = 0
	}
	return func() {
		for _, conn := range held {
			check(t, conn.Close(context.Background()))
		}
		eventually(t, "slots stay taken", func() bool {
			rows, err := s.Query(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
			return err == nil && len(rows[0]) == 1 && rows[0] < "4"
		})
	}
}

// TestAuthentication tests that a method that the exporter cannot do, or has no credentials for, is a misconfiguration
// whose detail names the method.
func TestAuthentication(t *testing.T) {
	t.Parallel()
	certificate, key := newCertificate(t)
	for _, test := range []struct {
		name, hba string
		settings  []string
		want      []string // parts of the log line
		since     int
	}{
		{name: "Kerberos", hba: "host all all all gss", want: []string{"Kerberos (GSSAPI)", "another method in pg_hba.conf"}},
		{
			name: "OAuth", hba: "host all all all oauth issuer=https://issuer.invalid scope=openid", since: 18,
			settings: []string{"oauth_validator_libraries = 'none'"}, want: []string{"OAuth", "another method in pg_hba.conf"},
		},
		{name: "ident", hba: "host all all all ident", want: []string{"ident or peer"}},
		{name: "a certificate", hba: "hostssl all all all cert", want: []string{"client certificate", "sslcert"}},
		{name: "a certificate too", hba: "hostssl all all all scram-sha-256 clientcert=verify-full", want: []string{"client certificate", "sslcert"}},
		{name: "no line", hba: "host app all all scram-sha-256", want: []string{"no line of pg_hba.conf"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if test.since > testenv.Major(t) {
				t.Skipf("PostgreSQL %d and later have this method", test.since)
			}
			s := newServer(t, testservers.PostgresConfig{
				Certificate: certificate, Key: key, Settings: append([]string{"ssl_ca_file = 'server.crt'"}, test.settings...),
			})
			path := filepath.Join(s.Dir, "data", "pg_hba.conf")
			check(t, os.WriteFile(path, []byte("local all all trust\n"+test.hba+"\n"), 0))
			if count(t, s, "SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL") > 0 {
				t.Skip("this build of PostgreSQL does not have the method")
			}
			check(t, s.Stop(testservers.Fast))
			check(t, s.Start(t.Context()))
			e, _ := startWithFile(t, fmt.Sprintf("targets: {a: {host: 127.0.0.1, port: %d, user: %s, password: %q}}", s.Port, role, password))
			m := e.ScrapePatiently().of("a")
			if found := verdictOf(t, m, nil); found != (verdict{"misconfigured", "auth"}) {
				t.Errorf("found %+v", found)
			}
			_, page := e.Probe("a", "&debug=true")
			for _, part := range test.want {
				if !strings.Contains(e.Logged(), part) || !strings.Contains(page, part) {
					t.Errorf("%q is missing in the log or on the page\n%s\n%s", part, e.Logged(), page)
				}
			}
		})
	}
}

// TestNotAccepting tests that the exporter says why a server accepts no connections now.
func TestNotAccepting(t *testing.T) {
	t.Parallel()
	const startingUp = "the server is starting up"
	sinceFourteen := func(detail string) string { // until 13 a server in recovery says that it starts
		if testenv.Major(t) < 14 {
			return startingUp
		}
		return detail
	}
	standby := func(t *testing.T, s *testservers.Postgres, files map[string]string, settings string) {
		check(t, s.Stop(testservers.Immediate))
		for name, content := range files {
			path := filepath.Join(s.Dir, "data", name)
			check(t, os.WriteFile(path, []byte(content), 0o600))
			check(t, os.Chmod(path, 0o666)) // the server's user rewrites it
		}
		check(t, s.Append("postgresql.conf", settings))
		check(t, s.Launch())
	}
	for _, test := range []struct {
		name, want string
		begin      func(t *testing.T, s *testservers.Postgres)
	}{
		{"smart shutdown", "the server is shutting down", func(t *testing.T, s *testservers.Postgres) {
			hold(t, s, "SELECT 1")
			check(t, s.Signal(testservers.Smart))
		}},
		{"warm standby", sinceFourteen("hot_standby is off"), func(t *testing.T, s *testservers.Postgres) {
			standby(t, s, map[string]string{"standby.signal": ""}, "hot_standby = off")
		}},
		{"standby that lacks WAL", sinceFourteen("not yet ready"), func(t *testing.T, s *testservers.Postgres) {
			execute(t, s, "CHECKPOINT")
			rows, err := s.Query(t.Context(), "SELECT concat_ws(' ', redo_lsn, redo_wal_file, checkpoint_lsn) FROM pg_control_checkpoint()")
			check(t, err)
			at := strings.Fields(rows[0])
			standby(t, s, map[string]string{"standby.signal": "", "backup_label": backupLabel(at[0], at[1], at[2])}, "")
		}},
		{"standby that lacks all WAL", startingUp, func(t *testing.T, s *testservers.Postgres) {
			standby(t, s, map[string]string{
				"standby.signal": "", "backup_label": backupLabel("7/28", "000000010000000700000000", "7/60"),
			}, "")
		}},
		{"crash", "the server is recovering from a crash", func(t *testing.T, s *testservers.Postgres) {
			stuck, killed := hold(t, s, "SELECT 1"), hold(t, s, "SELECT 1")
			t.Cleanup(freeze(t, s, int(stuck.PID()))) // the postmaster waits for it, for 5 s
			check(t, syscall.Kill(int(killed.PID()), syscall.SIGKILL))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, testservers.PostgresConfig{})
			test.begin(t, s)
			var page string
			e, _ := startWithFile(t, fmt.Sprintf("targets: {a: {host: 127.0.0.1, port: %d, %s}}", s.Port, login()))
			eventually(t, "it is not said that "+test.want, func() bool {
				_, page = e.Probe("a", "&debug=true")
				return strings.Contains(page, test.want)
			})
			if !strings.Contains(page, "not_accepting") {
				t.Error(page)
			}
		})
	}
}

// backupLabel returns the file that makes a server recover from a position as if it were restored from a backup, whose
// end it then looks for.
func backupLabel(redo, file, checkpoint string) string {
	return fmt.Sprintf(`START WAL LOCATION: %s (file %s)
CHECKPOINT LOCATION: %s
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-28 00:00:00 UTC
LABEL: test
START TIMELINE: 1
`, redo, file, checkpoint)
}
