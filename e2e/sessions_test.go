// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// TestLosses ends the kept session between two scrapes: it is counted, once and for what it was, and the next scrape
// finds everything well.
func TestLosses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		end  func(t *testing.T, s *testservers.Postgres)
		want string
	}{
		{"restarted", func(t *testing.T, s *testservers.Postgres) {
			check(t, s.Stop(testservers.Fast))
			check(t, s.Start(context.Background()))
		}, "shutdown"},
		{"restarted after an immediate shutdown", func(t *testing.T, s *testservers.Postgres) {
			check(t, s.Stop(testservers.Immediate))
			check(t, s.Start(context.Background()))
		}, immediateShutdown},
		{"terminated", func(t *testing.T, s *testservers.Postgres) {
			execute(t, s, "SELECT pg_terminate_backend("+strconv.Itoa(keptPID(t, s))+")")
		}, "terminated"},
		{"another backend crashed", func(t *testing.T, s *testservers.Postgres) {
			other := hold(t, s, "SELECT 1")
			check(t, syscall.Kill(int(other.PID()), syscall.SIGKILL))
			eventually(t, "no recovery", func() bool { return s.Exec(context.Background(), "SELECT 1") == nil })
		}, "crash"},
		{"its own backend crashed", func(t *testing.T, s *testservers.Postgres) {
			check(t, syscall.Kill(keptPID(t, s), syscall.SIGKILL))
			time.Sleep(100 * time.Millisecond)
			eventually(t, "no recovery", func() bool { return s.Exec(context.Background(), "SELECT 1") == nil })
		}, "crash"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, testservers.PostgresConfig{})
			e := startExporter(t, environment(s.Port, "postgres"))
			e.Settle()
			before := float64(time.Now().Unix())
			test.end(t, s)
			time.Sleep(time.Second) // within which it must have been counted
			m := e.Expect(up)
			expectLosses(t, m, asTold(testenv.Major(t), map[string]float64{test.want: 1}))
			if last := m["pg_session_last_loss_timestamp_seconds"]; last < before || last > before+60 {
				t.Errorf("last loss at %v, the test began at %v", last, before)
			}
			if m = e.Expect(up); m["pg_kept_session_up"] != 1 {
				t.Error("no session is kept afterwards")
			}
			e.ExpectNothingLeft(s)
			e.ExpectLoggedChanges(s, "up")
		})
	}
}

// TestIdleSessionTimeout: the session is lost, and not opened again before the next scrape, which would go on for ever.
func TestIdleSessionTimeout(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	if testenv.Major(t) < 14 {
		t.Skip("PostgreSQL 13 has no idle_session_timeout")
	}
	execute(t, s, "ALTER ROLE "+role+" SET idle_session_timeout = '100ms'")
	e := startExporter(t, environment(s.Port, "postgres"))
	e.Expect(up)
	time.Sleep(time.Second)
	losses := e.Expect(up).losses()
	// One more where that scrape's own session was asked for its figures too late.
	if n := losses["terminated"]; len(losses) != 1 || n < 1 || n > 2 {
		t.Errorf("losses %v, want one terminated", losses)
	}
}

func TestKeptBackendStopped(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"))
	e.Settle()
	thaw := freeze(t, s, keptPID(t, s))
	if m := e.Expect(up); m["pg_kept_session_up"] != 0 {
		t.Error("the kept session answers while its process is stopped")
	}
	m := e.Expect(up) // another session is kept by now
	if m["pg_kept_session_up"] != 1 {
		t.Error("a session that does not answer was not replaced")
	}
	expectLosses(t, m, map[string]float64{})
	thaw()
	e.ExpectNothingLeft(s)
	e.ExpectLoggedChanges(s, "up")
}

func TestSmartShutdownIsNotHeldOpen(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"))
	e.Settle()
	check(t, s.Signal(testservers.Smart))
	time.Sleep(300 * time.Millisecond)
	m := e.Expect(verdict{"rejecting", "not_accepting"})
	if m["pg_kept_session_up"] != 1 {
		t.Error("the kept session did not answer during the smart shutdown")
	}
	check(t, s.Wait(hanging))
	m = e.Expect(refused)
	expectLosses(t, m, map[string]float64{}) // we ended it
	check(t, s.Start(t.Context()))
	e.Expect(up)
	e.ExpectNothingLeft(s)
	e.ExpectLoggedChanges(s, "up", "not_accepting", "refused", "up")
}

func TestServerStartsLater(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	check(t, s.Stop(testservers.Fast))
	e := startExporter(t, environment(s.Port, "postgres"))
	for range 2 {
		m := e.Expect(refused)
		for _, absent := range []string{"pg_connections_used", `pg_probe_phase_duration_seconds{phase="startup"}`, "pg_probe_last_success_timestamp_seconds"} {
			if _, ok := m[absent]; ok {
				t.Errorf("%s is there while nothing is known", absent)
			}
		}
		if m["pg_kept_session_up"] != 0 || m["pg_probe_consecutive_failures"] == 0 {
			t.Errorf("kept session %v, failures %v", m["pg_kept_session_up"], m["pg_probe_consecutive_failures"])
		}
	}
	check(t, s.Start(t.Context()))
	if m := e.Expect(up); m["pg_kept_session_up"] != 1 || m["pg_probe_consecutive_failures"] != 0 || m["pg_connections_used"] == 0 {
		t.Error("the first scrape of a started server does not show all")
	}
	e.Settle()
	e.ExpectNothingLeft(s)
	e.ExpectLoggedChanges(s, "refused", "up")
}

// TestDatabaseLocked: names of databases cannot be looked up, the figures go on.
func TestDatabaseLocked(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"))
	e.Settle()
	locker := hold(t, s, "BEGIN; LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE")
	for range 2 {
		m := e.Scrape() // a new login may hang behind the lock; what it says is not the point
		keptAnswers(t, s, m)
		if m[`pg_connections{datname="postgres",state="idle in transaction"}`] != 1 {
			t.Error("the figures lack the session that holds the lock")
		}
		if m["pg_idle_in_transaction_max_seconds"] <= 0 {
			t.Error("the age of the transaction is missing")
		}
	}
	check(t, locker.Close(context.Background()))
	e.Expect(up)
	e.ExpectNothingLeft(s)
	if changes := e.LoggedChanges(); changes[0] != "up" || changes[len(changes)-1] != "up" || len(changes) > 3 {
		t.Errorf("logged %v", changes)
	}
}

// TestUnprivileged: what such a role cannot see is absent, and what is shown is not wrong.
func TestUnprivileged(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	execute(t, s, "REVOKE pg_monitor FROM "+role)
	hold(t, s, "BEGIN")
	e := startExporter(t, environment(s.Port, "postgres"), "--collect.applications", "--probe.commit")
	e.Expect(up)
	m := e.Expect(up)
	_, body, err := e.Get(t.Context(), "/metrics", scrapeTimeout)
	check(t, err)
	likeGolden(t, "unprivileged", body, func(help string) bool {
		for _, name := range []string{"pg_settings_reserved_", "pg_sessions_", "pg_database_connection_limit", "pg_session_last_loss"} {
			if strings.Contains(help, name) { // which hangs on the version, or there is none
				return true
			}
		}
		return false
	})
	if m["pg_stats_privileged"] != 0 {
		t.Error("pg_stats_privileged is not 0")
	}
	for _, absent := range []string{
		"pg_connections_lock_waiting", "pg_idle_in_transaction_max_seconds", "pg_transaction_max_seconds",
		"pg_checkpointer_start_time_seconds", `pg_connections{datname="postgres",state="idle in transaction"}`,
	} {
		if _, ok := m[absent]; ok {
			t.Errorf("%s cannot be known", absent)
		}
	}
	if n := m["pg_connections_used"]; n < 2 || n > 4 {
		t.Errorf("%v slots used, want an upper bound of about 3", n)
	}
	if n := m[`pg_connections{datname="postgres",state="unknown"}`]; n < 1 {
		t.Errorf("%v sessions in an unknown state, want the one held open", n)
	}
	execute(t, s, "GRANT pg_monitor TO "+role)
	if m = e.Expect(up); m["pg_stats_privileged"] != 1 {
		t.Error("a privilege granted later is not noticed")
	}
}

func TestPasswordFile(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	file := t.TempDir() + "/password"
	check(t, os.WriteFile(file, []byte(password+"\n"), 0o600))
	env := environment(s.Port, "postgres")
	env[2] = "DATA_SOURCE_PASS_FILE=" + file
	e := startExporter(t, env)
	e.Settle()
	execute(t, s, "ALTER ROLE "+role+" PASSWORD 'rotated'")
	e.Expect(verdict{"misconfigured", "auth"})
	check(t, os.WriteFile(file, []byte("rotated"), 0o600))
	e.Expect(up)
	check(t, os.Remove(file))
	e.Expect(verdict{"misconfigured", "auth"})
	if !strings.Contains(e.Logged(), "DATA_SOURCE_PASS_FILE: a file in "+filepath.Dir(file)+": no such file") {
		t.Error("the log does not say which file is missing")
	}
	check(t, os.WriteFile(file, []byte("rotated\r\n"), 0o600))
	e.Expect(up)
	e.ExpectNothingLeft(s)
	e.ExpectLoggedChanges(s, "up", "auth", "up", "auth", "up")
}

// TestRefusedPassword: a password that the server refuses is sent three times and then once a minute. The scrapes in
// between leave no line in the server's log, notice that the server has stopped, and send another password at once.
func TestRefusedPassword(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	file := t.TempDir() + "/password"
	check(t, os.WriteFile(file, []byte("wrong"), 0o600))
	env := environment(s.Port, "postgres")
	env[2] = "DATA_SOURCE_PASS_FILE=" + file
	e := startExporter(t, env)
	refused := verdict{"misconfigured", "auth"}
	for range 6 {
		e.Expect(refused)
	}
	if n := strings.Count(s.Log(), "password authentication failed"); n != 3 {
		t.Errorf("%d passwords were refused, want 3", n)
	}
	lines := strings.Count(s.Log(), "\n")
	e.Expect(refused)
	if n := strings.Count(s.Log(), "\n"); n > lines+1 { // log_connections is on in these tests
		t.Errorf("a scrape in between wrote to the server's log:\n%s", s.Log())
	}
	check(t, s.Stop(testservers.Fast))
	e.Expect(verdict{"no_response", "refused"})
	check(t, s.Start(t.Context()))
	e.Expect(refused)
	check(t, os.WriteFile(file, []byte(password), 0o600))
	e.Expect(up)
	e.ExpectLoggedChanges(s, "auth", "refused", "auth", "up")
}

// TestRoleMayNotLogIn: as soon as the role may log in again, the server is up.
func TestRoleMayNotLogIn(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"))
	execute(t, s, "ALTER ROLE "+role+" NOLOGIN")
	for range 6 {
		e.Expect(verdict{"misconfigured", "auth"})
	}
	execute(t, s, "ALTER ROLE "+role+" LOGIN")
	e.Expect(up)
}

// TestNoKeep: without a kept session nothing stays open, and the new one does its work.
func TestNoKeep(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"), "--no-probe.keep", "--collect.applications")
	e.Expect(up)
	m := e.Expect(up)
	if m["pg_connections_used"] == 0 || m["pg_query_duration_seconds_count"] != 2 {
		t.Errorf("used %v, queries %v", m["pg_connections_used"], m["pg_query_duration_seconds_count"])
	}
	// The session of the scrape before may still be closing.
	eventually(t, "more than one session is ours", func() bool {
		return e.Scrape()[`pg_connections_by_application{application_name="pg_liveness_exporter"}`] == 1
	})
	for _, absent := range []string{"pg_kept_session_up", `pg_session_losses_total{reason="crash"}`} {
		if _, ok := m[absent]; ok {
			t.Errorf("%s is there without a kept session", absent)
		}
	}
	eventually(t, "a session stays open", func() bool {
		rows, err := s.Query(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE usename = '"+role+"'")
		return err == nil && rows[0] == "0"
	})
}

// TestKeepOfATarget: a database whose target has keep: false can be copied and dropped between scrapes, while the other
// target keeps its session. A reload changes the target.
func TestKeepOfATarget(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	execute(t, s, "CREATE DATABASE dropped")
	target := func(name, more string) string {
		return fmt.Sprintf("  %[1]s: {host: 127.0.0.1, port: %[2]d, dbname: %[1]s, %[3]s%[4]s}\n", name, s.Port, login(), more)
	}
	e, path := startWithFile(t, "targets:\n"+target("postgres", "")+target("dropped", ", keep: false"))
	for range 3 {
		e.ScrapePatiently()
	}
	m := e.ScrapePatiently()
	for name, keeps := range map[string]bool{"postgres": true, "dropped": false} {
		own := m.of(name)
		if own["pg_up"] != 1 || own["pg_connections_used"] == 0 {
			t.Errorf("%s: pg_up %v, %v connections", name, own["pg_up"], own["pg_connections_used"])
		}
		for _, series := range []string{"pg_kept_session_up", `pg_session_losses_total{reason="terminated"}`} {
			if hasKey(own, series) != keeps {
				t.Errorf("%s: %s is there: %v, want %v", name, series, !keeps, keeps)
			}
		}
	}
	database := func(sql string) error {
		_, err := s.Query(t.Context(), sql)
		return err
	}
	// The session of the last scrape may still be closing.
	eventually(t, "the database cannot be copied", func() bool { return database("CREATE DATABASE copied TEMPLATE dropped") == nil })

	check(t, os.WriteFile(path, []byte("targets:\n"+target("postgres", "")+target("dropped", "")), 0o600))
	check(t, e.cmd.Process.Signal(syscall.SIGHUP))
	eventually(t, "the target keeps no session after the reload", func() bool {
		return e.ScrapePatiently().of("dropped")["pg_kept_session_up"] == 1
	})
	if err := database("DROP DATABASE dropped"); err == nil || !strings.Contains(err.Error(), "is being accessed by other users") {
		t.Errorf("with a kept session: %v", err)
	}
	check(t, os.WriteFile(path, []byte("defaults: {keep: false}\ntargets:\n"+target("postgres", ", keep: true")+target("dropped", "")), 0o600))
	check(t, e.cmd.Process.Signal(syscall.SIGHUP))
	eventually(t, "the database cannot be dropped", func() bool { return database("DROP DATABASE dropped") == nil })
	m = e.ScrapePatiently()
	if own := m.of("postgres"); own["pg_kept_session_up"] != 1 || len(own.losses()) > 0 {
		t.Errorf("the other target: pg_kept_session_up %v, losses %v", own["pg_kept_session_up"], own.losses())
	}
	if own := m.of("dropped"); own["pg_up"] != 0 || own[`pg_probe_failures_total{reason="no_database"}`] != 1 || hasKey(own, "pg_kept_session_up") {
		t.Errorf("a database that is gone: pg_up %v, pg_kept_session_up there: %v", own["pg_up"], hasKey(own, "pg_kept_session_up"))
	}
}

// TestLongLock: logins that wait behind a lock on the server are not given up and begun again without end.
func TestLongLock(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"))
	e.Settle()
	locker := hold(t, s, "BEGIN; LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE")
	for begin := time.Now(); time.Since(begin) < 18*time.Second; {
		keptAnswers(t, s, e.Expect(timeout))
	}
	waiting := 0
	for _, pid := range children(t, s) {
		title, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err == nil && strings.Contains(string(title), role) {
			waiting++
		}
	}
	if waiting != 4 { // the kept session, two logins, and a third one after 15 s
		t.Errorf("the exporter has %d sessions on the server after 18 s, want 4", waiting)
	}
	check(t, locker.Close(context.Background()))
	e.Expect(up)
	e.ExpectNothingLeft(s)
	e.ExpectLoggedChanges(s, "up", "timeout", "up")
}

// TestChurn: sessions are counted by how they ended, also while the catalogue is locked.
func TestChurn(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{HBA: trusting})
	e := startExporter(t, environment(s.Port, "postgres"))
	e.Settle()
	if testenv.Major(t) < 14 {
		if hasSeries(e.Scrape(), "pg_sessions_") {
			t.Error("PostgreSQL 13 counts sessions")
		}
		return
	}
	connect := func() *pgconn.PgConn {
		conn, err := pgconn.Connect(t.Context(), fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=app sslmode=disable", s.Port))
		check(t, err)
		return conn
	}
	kinds := []string{"", "abandoned_", "fatal_", "killed_"}
	counts := func() (n [4]float64) {
		m := e.Scrape()
		for i, kind := range kinds {
			series := "pg_sessions_" + kind + `total{datname="app"}`
			if !hasKey(m, series) {
				t.Errorf("%s is missing", series)
			}
			n[i] = m[series]
		}
		return n
	}
	if n := counts(); n != [4]float64{} {
		t.Errorf("a database that had no session has had %v", n)
	}
	check(t, connect().Close(t.Context()))
	lost := connect()
	check(t, lost.Conn().Close())
	fatal := connect()
	_, err := fatal.Exec(t.Context(), "SET idle_in_transaction_session_timeout = 1; BEGIN").ReadAll()
	check(t, err)
	defer func() { _ = fatal.Close(context.Background()) }()
	killed := connect()
	execute(t, s, fmt.Sprintf("SELECT pg_terminate_backend(%d)", killed.PID()))
	defer func() { _ = killed.Close(context.Background()) }()
	want := [4]float64{4, 1, 1, 1}
	eventually(t, "sessions are not counted by how they ended", func() bool { return counts() == want })

	locker, err := s.Connect(t.Context())
	check(t, err)
	defer func() { _ = locker.Close(context.Background()) }()
	_, err = locker.Exec(t.Context(), "BEGIN; LOCK TABLE pg_database, pg_authid IN ACCESS EXCLUSIVE MODE").ReadAll()
	check(t, err)
	expectEqual(t, "counts while the catalogue is locked", want, counts())
}
