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

// startHAProxy starts a HAProxy before a server, with settings for its one proxy, and returns its port.
func startHAProxy(t *testing.T, server int, settings string) string {
	t.Helper()
	program, port := testenv.Tool(t, "HAPROXY", "haproxy"), freePort(t)
	file := filepath.Join(t.TempDir(), port+".cfg") // processWith finds it by this name
	check(t, os.WriteFile(file, fmt.Appendf(nil, `
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen postgres
  bind 127.0.0.1:%s
  server one 127.0.0.1:%d
  %s
`, port, server, settings), 0o600))
	startTool(t, "HAProxy", program, "-db", "-f", file)
	return port
}

// processWith returns the process whose command line contains a text.
func processWith(t *testing.T, text string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	check(t, err)
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), text) { // it may have ended
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			check(t, err)
			return pid
		}
	}
	t.Fatalf("no process with %s", text)
	return 0
}

// expectPlace checks that an application gets in through a port of a proxy or pooler.
func expectPlace(t *testing.T, port string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hanging)
	defer cancel()
	cfg, err := pgconn.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%s user=%s dbname=postgres sslmode=disable", port, role))
	check(t, err)
	cfg.Password = password
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		t.Errorf("an application does not get in: %v", err)
		return
	}
	check(t, conn.Close(ctx))
}

// TestGivesWayBehindProxy: with one place left, the kept session gives it to the next login, and takes it no more.
func TestGivesWayBehindProxy(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	port := startHAProxy(t, s.Port, "maxconn 1")
	e, _ := startWithFile(t, fmt.Sprintf("targets: {a: {host: 127.0.0.1, port: %s, timeout: 4s, %s}}", port, login()))
	eventually(t, "HAProxy does not start", func() bool { return e.ScrapePatiently().of("a")["pg_up"] == 1 })
	for range 4 {
		if m := e.ScrapePatiently().of("a"); m["pg_up"] != 1 {
			t.Errorf("pg_up %v", m["pg_up"])
		}
	}
	expectPlace(t, port)
	if m := e.ScrapePatiently().of("a"); m["pg_up"] != 1 || m["pg_connections_used"] == 0 || m["pg_kept_session_up"] != 0 {
		t.Errorf("pg_up %v, %v connections, kept %v", m["pg_up"], m["pg_connections_used"], m["pg_kept_session_up"])
	}
	expectPlace(t, port)
}

// TestGivesWayBehindPoolers: a pooler with one place, whether others wait for it or are refused, serves both its
// applications and the exporter.
func TestGivesWayBehindPoolers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, variable, program string
		new                     newPooler
	}{
		{"pgagroal waits", "PGAGROAL", "pgagroal", newPgagroal(testservers.PgagroalConfig{MaxConnections: 1})},
		{"pgagroal refuses", "PGAGROAL", "pgagroal", newPgagroal(testservers.PgagroalConfig{MaxConnections: 1, BlockingTimeout: time.Second})},
		{"Pgpool-II waits", "PGPOOL", "pgpool", newPgpool(testservers.PgpoolConfig{Children: 1})},
		{"Pgpool-II refuses", "PGPOOL", "pgpool", newPgpool(testservers.PgpoolConfig{Children: 2, Reserved: 1})},
		{"Odyssey waits", "ODYSSEY", "odyssey", newOdyssey(testservers.OdysseyConfig{PoolSize: 1})},
		{"Odyssey refuses", "ODYSSEY", "odyssey", newOdyssey(testservers.OdysseyConfig{ClientMax: 1})},
		{"PgBouncer waits", "PGBOUNCER_NEWER", "newer-pgbouncer", newPgBouncer("pool_mode = session", "default_pool_size = 1")},
		{"PgBouncer refuses", "PGBOUNCER_NEWER", "newer-pgbouncer", newPgBouncer("max_client_conn = 1")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := startPooler(t, test.variable, test.program, test.new)
			e, _ := startWithFile(t, fmt.Sprintf(`
targets: {a: {host: 127.0.0.1, port: %d, dbname: app, timeout: 4s, sslmode: disable, user: %s, password: %s}}
`, p.port, role, plainPassword))
			for i := range 4 {
				time.Sleep(500 * time.Millisecond) // until the pooler has noticed that the last session has ended
				if m := e.ScrapePatiently().of("a"); m["pg_up"] != 1 || m["pg_connections_used"] == 0 {
					t.Errorf("scrape %d: pg_up %v, %v connections", i, m["pg_up"], m["pg_connections_used"])
				}
				if i > 0 { // until then nothing was waiting for the place
					eventually(t, "an application does not get in", func() bool { return p.letsIn(t) })
				}
			}
		})
	}
}

// TestKeptBehindProxy: where there is room behind a proxy, the session is kept.
func TestKeptBehindProxy(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	port := startHAProxy(t, s.Port, "")
	e, _ := startWithFile(t, fmt.Sprintf("targets: {a: {host: 127.0.0.1, port: %s, timeout: 4s, %s}}", port, login()))
	eventually(t, "HAProxy does not start", func() bool { return e.Scrape().of("a")["pg_kept_session_up"] == 1 })
	for range 3 {
		if m := e.Scrape().of("a"); m["pg_up"] != 1 || m["pg_kept_session_up"] != 1 {
			t.Errorf("pg_up %v, kept %v", m["pg_up"], m["pg_kept_session_up"])
		}
	}
}

// TestSlowLoginBehindProxy: a login that is slow and waits for no place does not cost the kept session.
func TestSlowLoginBehindProxy(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	far := newProxy(t, s.Port, 250*time.Millisecond)
	e, _ := startWithFile(t, fmt.Sprintf("targets: {a: {host: 127.0.0.1, port: %d, timeout: 3s, %s}}", far.port, login()))
	for i := range 4 {
		m := e.ScrapePatiently().of("a")
		if m["pg_up"] != 1 || i > 1 && m["pg_kept_session_up"] != 1 {
			t.Errorf("scrape %d: pg_up %v, kept %v, the login took %v s", i, m["pg_up"], m["pg_kept_session_up"],
				m[`pg_probe_phase_duration_seconds{phase="startup"}`])
		}
	}
}

// TestHAProxyStops: a HAProxy that waits for its sessions before it stops does not wait for us.
func TestHAProxyStops(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	port := startHAProxy(t, s.Port, "")
	e, _ := startWithFile(t, fmt.Sprintf("targets: {a: {host: 127.0.0.1, port: %s, %s}}", port, login()))
	eventually(t, "HAProxy does not start", func() bool { return e.Scrape().of("a")["pg_kept_session_up"] == 1 })
	pid := processWith(t, port+".cfg")
	check(t, syscall.Kill(pid, syscall.SIGUSR1))
	eventually(t, "HAProxy waits for the kept session", func() bool {
		e.Scrape()
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(state), ") Z ") // it has ended, and nobody has waited for it
	})
}

// TestIdleSessionsAreCut: behind a proxy that cuts idle sessions, nobody logs in between scrapes but once, the losses
// are named, and said once.
func TestIdleSessionsAreCut(t *testing.T) {
	t.Parallel()
	for _, limit := range []string{"500ms", "2s"} {
		t.Run(limit, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, testservers.PostgresConfig{})
			port := startHAProxy(t, s.Port, "timeout client "+limit+"\n  timeout server "+limit)
			e, _ := startWithFile(t, fmt.Sprintf("targets: {a: {host: 127.0.0.1, port: %s, %s}}", port, login()))
			eventually(t, "HAProxy does not start", func() bool { return e.Scrape().of("a")["pg_up"] == 1 })
			const scrapes = 4
			before := logins(s)
			for range scrapes {
				time.Sleep(5 * time.Second)
				if m := e.Scrape().of("a"); m["pg_up"] != 1 || m["pg_connections_used"] == 0 {
					t.Errorf("pg_up %v, %v connections", m["pg_up"], m["pg_connections_used"])
				}
			}
			if n := logins(s) - before; n > scrapes+2 { // the first session that was cut is opened once more
				t.Errorf("%d logins for %d scrapes", n, scrapes)
			}
			if m := e.Scrape().of("a"); m[`pg_session_losses_total{reason="terminated"}`] < scrapes-2 ||
				m[`pg_session_losses_total{reason="network"}`] > 2 {
				t.Errorf("losses %v", m.losses())
			}
			if n := strings.Count(e.Logged(), `msg="Idle sessions are ended`); n != 1 {
				t.Errorf("the idle limit is logged %d times", n)
			}
			if n := strings.Count(e.Logged(), `msg="Kept session lost"`); n > 2 {
				t.Errorf("losses are logged %d times", n)
			}
		})
	}
}

// TestTerminatedBehindProxy: after an administrator's command that came through a proxy, as when a server is suspended,
// nothing logs in before the next scrape, which finds the reason.
func TestTerminatedBehindProxy(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	port := startHAProxy(t, s.Port, "")
	e, _ := startWithFile(t, fmt.Sprintf("targets: {a: {host: 127.0.0.1, port: %s, %s}}", port, login()))
	eventually(t, "HAProxy does not start", func() bool { return e.Scrape().of("a")["pg_kept_session_up"] == 1 })
	before := logins(s)
	execute(t, s, fmt.Sprintf("SELECT pg_terminate_backend(%d)", keptPID(t, s)))
	time.Sleep(2 * time.Second)
	if n := logins(s) - before; n != 0 {
		t.Errorf("%d logins that nobody asked for", n)
	}
	expectLosses(t, e.Scrape().of("a"), map[string]float64{"terminated": 1})
	check(t, s.Stop(testservers.Fast))
	check(t, s.Start(context.Background()))
	time.Sleep(time.Second)
	expectLosses(t, e.Scrape().of("a"), map[string]float64{"terminated": 1, "shutdown": 1})
}

// TestPgBouncerOverSocketStops: nothing keeps a PgBouncer from stopping that is probed over its Unix socket.
func TestPgBouncerOverSocketStops(t *testing.T) {
	t.Parallel()
	bin := testenv.Tool(t, "PGBOUNCER_NEWER", "pgbouncer")
	s := newServer(t, testservers.PostgresConfig{})
	for kind, dbname := range map[string]string{"pgbouncer": "pgbouncer", "postgres": "postgres"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			sockets := t.TempDir()
			check(t, os.Chmod(sockets, 0o777))
			check(t, os.Chmod(filepath.Dir(sockets), 0o755))
			b, err := testservers.NewPgBouncer(t.Context(), testservers.PgBouncerConfig{
				Bin: bin, Databases: []string{fmt.Sprintf("postgres = host=127.0.0.1 port=%d", s.Port)},
				Settings: []string{"unix_socket_dir = " + sockets, "stats_users = " + role}, Users: map[string]string{role: password},
			})
			check(t, err)
			t.Cleanup(func() { check(t, b.Remove()) })
			e, _ := startWithFile(t, fmt.Sprintf(`
targets: {a: {host: %s, port: %d, kind: %s, dbname: %s, user: %s, password: %q}}
`, sockets, b.Port, kind, dbname, role, password))
			for range 3 {
				m := e.Scrape().of("a")
				if m["pg_probe_consecutive_failures"] != 0 || m["pg_kept_session_up"] != 0 {
					t.Fatalf("%v failures, kept %v\n%s", m["pg_probe_consecutive_failures"], m["pg_kept_session_up"], e.Logged())
				}
			}
			check(t, b.Signal(syscall.SIGTERM))
			check(t, b.Wait(hanging))
			if m := e.Scrape().of("a"); m["pg_probe_consecutive_failures"] != 1 {
				t.Errorf("%v failures", m["pg_probe_consecutive_failures"])
			}
		})
	}
}

// TestPgpoolStops: a Pgpool-II that waits for its clients to leave, and lets new ones wait meanwhile, does not wait for us.
func TestPgpoolStops(t *testing.T) {
	t.Parallel()
	p := startPooler(t, "PGPOOL", "pgpool", newPgpool(testservers.PgpoolConfig{}))
	e, _ := startWithFile(t, fmt.Sprintf(`
targets: {a: {host: 127.0.0.1, port: %d, dbname: app, timeout: 2s, sslmode: disable, user: %s, password: %s}}
`, p.port, role, plainPassword))
	eventually(t, "no session is kept", func() bool { return e.ScrapePatiently().of("a")["pg_kept_session_up"] == 1 })
	check(t, p.Signal(syscall.SIGTERM))
	eventually(t, "it waits for our session", func() bool {
		e.ScrapePatiently()
		return p.Wait(100*time.Millisecond) == nil
	})
}

// TestScrapeWhileReopened: a scrape that comes while a lost session is opened again shows the connections.
func TestScrapeWhileReopened(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"))
	e.Settle()
	for i := range 20 {
		execute(t, s, fmt.Sprintf("SELECT pg_terminate_backend(%d)", keptPID(t, s)))
		time.Sleep(time.Duration(i) * time.Millisecond)
		if m := e.Expect(up); m["pg_connections_used"] == 0 {
			t.Errorf("no connections %d ms after the session has ended", i)
		}
		e.Expect(up)
	}
}

// TestWarnings: what makes applications or administrators fail although the probe succeeds is logged once.
func TestWarnings(t *testing.T) {
	t.Parallel()
	primary := newServer(t, testservers.PostgresConfig{})
	execute(t, primary, "ALTER ROLE "+role+" SET default_transaction_isolation = serializable",
		"CREATE DATABASE pattern IS_TEMPLATE true")
	standby := newStandby(t, primary)
	e, _ := startWithFile(t, fmt.Sprintf(`
targets:
  standby: {host: 127.0.0.1, port: %[2]d, dbname: postgres, %[1]s}
  template: {host: 127.0.0.1, port: %[3]d, dbname: pattern, %[1]s}
  quiet: {host: 127.0.0.1, port: %[3]d, dbname: postgres, %[1]s}
`, login(), standby.Port, primary.Port))
	for range 3 {
		e.Scrape()
	}
	for target, message := range map[string]string{"standby": "Sessions are serializable by default", "template": "The target's database is a template"} {
		var found int
		for line := range strings.Lines(e.Logged()) {
			if strings.Contains(line, message) {
				found++
				if !strings.Contains(line, "target="+target) {
					t.Errorf("logged for another target: %s", line)
				}
			}
		}
		if found != 1 {
			t.Errorf("%q is logged %d times", message, found)
		}
	}
}
