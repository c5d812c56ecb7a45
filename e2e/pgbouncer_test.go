// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// pooled is a PostgreSQL server behind a PgBouncer in transaction mode.
type pooled struct {
	server *testservers.Postgres
	*testservers.PgBouncer
}

// eachPgBouncer runs a test with Debian's PgBouncer and with a newer one.
func eachPgBouncer(t *testing.T, test func(t *testing.T, p *pooled, newer bool)) {
	t.Helper()
	t.Parallel()
	for _, version := range []struct{ name, variable, program string }{
		{"packaged", "PGBOUNCER", "pgbouncer"}, {"newer", "PGBOUNCER_NEWER", "newer-pgbouncer"},
	} {
		t.Run(version.name, func(t *testing.T) {
			t.Parallel()
			bin := testenv.Tool(t, version.variable, version.program)
			said, err := exec.CommandContext(t.Context(), bin, "--version").Output()
			check(t, err)
			t.Logf("%.30s", said)
			s := newServer(t, testservers.PostgresConfig{})
			execute(t, s, "ALTER ROLE "+role+" CONNECTION LIMIT -1")
			at := fmt.Sprintf("host=127.0.0.1 port=%d", s.Port)
			b, err := testservers.NewPgBouncer(t.Context(), testservers.PgBouncerConfig{
				Bin: bin,
				Databases: []string{
					"postgres = " + at, "app = " + at + " pool_size=2", "off = " + at,
					"session = " + at + " dbname=app pool_mode=session", "statement = " + at + " dbname=app pool_mode=statement",
					"tight = " + at + " dbname=app pool_mode=session pool_size=1",
				},
				Settings: []string{"pool_mode = transaction", "stats_users = " + role, "auth_query =", "server_login_retry = 1"},
				Users:    map[string]string{role: password, "other": "other"},
			})
			check(t, err)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("PgBouncer log:\n%s", b.Log())
				}
				check(t, b.Remove())
			})
			test(t, &pooled{s, b}, version.variable != "PGBOUNCER")
		})
	}
}

// console returns what runs commands as PgBouncer's administrator, in one session.
func (p *pooled) console(t *testing.T) func(commands ...string) {
	t.Helper()
	conn, err := p.Console(t.Context())
	check(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return func(commands ...string) {
		t.Helper()
		for _, command := range commands {
			if _, err := conn.Exec(context.Background(), command).ReadAll(); err != nil {
				t.Fatalf("%s: %v", command, err)
			}
		}
	}
}

// file are targets: the console, and databases behind it. The console waits, as PgBouncer 1.18 is busy for a moment when
// its server goes away.
func (p *pooled) file() string {
	return fmt.Sprintf(`
targets:
  pool: {kind: pgbouncer, host: 127.0.0.1, port: %[2]d, timeout: 5s, %[1]s}
  postgres: {host: 127.0.0.1, port: %[2]d, %[1]s}
  app: {host: 127.0.0.1, port: %[2]d, dbname: app, %[1]s}
  session: {host: 127.0.0.1, port: %[2]d, dbname: session, %[1]s}
  statement: {host: 127.0.0.1, port: %[2]d, dbname: statement, commit: true, %[1]s}
`, login(), p.Port)
}

// wrongFile are more targets, which have something wrong.
func (p *pooled) wrongFile() string {
	return p.file() + fmt.Sprintf(`
  off: {host: 127.0.0.1, port: %[2]d, dbname: off, %[1]s}
  missing: {host: 127.0.0.1, port: %[2]d, dbname: missing, %[1]s}
  stranger: {kind: pgbouncer, host: 127.0.0.1, port: %[2]d, user: other, password: other, sslmode: disable}
  wrong: {kind: pgbouncer, host: 127.0.0.1, port: %[2]d, user: %[3]s, password: wrong, sslmode: disable}
  no-console: {kind: pgbouncer, host: 127.0.0.1, port: %[4]d, %[1]s}
  no-pgbouncer: {kind: pgbouncer, host: 127.0.0.1, port: %[2]d, dbname: app, %[1]s}
  no-server: {host: 127.0.0.1, port: %[2]d, dbname: pgbouncer, %[1]s}
  patient: {host: 127.0.0.1, port: %[2]d, dbname: app, timeout: 8s, %[1]s}
`, login(), p.Port, role, p.server.Port)
}

// connect opens a session through PgBouncer.
func (p *pooled) connect(t *testing.T, database string) (*pgconn.PgConn, error) {
	t.Helper()
	c, err := pgconn.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable", p.Port, role, database))
	check(t, err)
	c.Password = password
	conn, err := pgconn.ConnectConfig(t.Context(), c)
	if err == nil {
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
	}
	return conn, err
}

// use opens a session through PgBouncer, which must succeed.
func (p *pooled) use(t *testing.T, database string) *pgconn.PgConn {
	t.Helper()
	conn, err := p.connect(t, database)
	check(t, err)
	return conn
}

// TestPgBouncer: the console's figures, and PostgreSQL's through PgBouncer.
func TestPgBouncer(t *testing.T) {
	eachPgBouncer(t, func(t *testing.T, p *pooled, newer bool) {
		e, _ := startWithFile(t, p.file())
		for range 3 {
			e.ScrapePatiently()
		}
		status, body := e.Probe("pool", "")
		if status != 200 {
			t.Fatalf("status %d: %s", status, body)
		}
		likeGolden(t, "pgbouncer", body, func(help string) bool {
			for _, since := range []string{
				"_client_parses_", "_server_parses_", "_binds_", "_server_assignments_", "_client_logins_", "_client_connections",
			} {
				if !newer && strings.Contains(help, since) {
					return !strings.Contains(help, "config_max_client_connections")
				}
			}
			return false
		})
		m := parseMetrics(t, body)
		app := `{database="app",force_user="",name="app",pool_mode=""}` // it sets none of its own
		for series, want := range map[string]float64{
			"pgbouncer_up": 1, "pg_kept_session_up": 1, "pgbouncer_config_max_client_connections": 100, "pgbouncer_databases": 7,
			"pgbouncer_databases_pool_size" + app: 2, "pgbouncer_databases_paused" + app: 0, `pg_probe_state{state="accepting"}`: 1,
		} {
			if got, ok := m[series]; !ok || got != want {
				t.Errorf("%s is %v (there: %v), want %v", series, got, ok, want)
			}
		}
		if m["pg_query_duration_seconds_count"] < 3 || m["pg_connect_duration_seconds_count"] < 3 {
			t.Errorf("%v queries and %v connects in 4 probes", m["pg_query_duration_seconds_count"], m["pg_connect_duration_seconds_count"])
		}

		// Through it the ordinary kind is as it always is.
		m = e.ScrapePatiently()
		for _, target := range []string{"postgres", "app", "session", "statement"} {
			own := m.of(target)
			for _, series := range []string{"pg_up", "pg_kept_session_up", "pg_stats_privileged"} {
				if own[series] != 1 {
					t.Errorf("%s: %s is %v", target, series, own[series])
				}
			}
			if own["pg_connections_used"] < 1 || own["pg_settings_max_connections"] < 10 || own["pg_query_duration_seconds_count"] < 3 {
				t.Errorf("%s: figures %v", target, own)
			}
		}

		if up := m.of("statement")["pg_commit_up"]; up != 1 {
			t.Errorf("through PgBouncer, pg_commit_up is %v", up)
		}

		// Two clients take all of a pool, and a third one waits.
		for range 2 {
			conn := p.use(t, "app")
			_, err := conn.Exec(t.Context(), "BEGIN; SELECT 1").ReadAll()
			check(t, err)
		}
		waiting, stop := context.WithCancel(t.Context())
		third, ended := p.use(t, "app"), make(chan struct{})
		go func() {
			_, _ = third.Exec(waiting, "SELECT 1").ReadAll()
			close(ended)
		}()
		defer func() {
			stop()
			<-ended
		}()
		pool := `{database="app",user="` + role + `"}`
		eventually(t, "nobody is seen to wait", func() bool {
			m := e.ProbeMetrics("pool", "")
			wait := m["pgbouncer_pools_client_maxwait_seconds"+pool]
			return m["pgbouncer_pools_client_waiting_connections"+pool] >= 1 && m["pgbouncer_pools_server_active_connections"+pool] == 2 &&
				wait > 0 && wait < 60 && wait != float64(int(wait)) // the microseconds are there
		})
		p.console(t)("DISABLE app")
		if m := e.ProbeMetrics("pool", ""); m["pgbouncer_databases_disabled"+app] != 1 {
			t.Error("a disabled database is not seen")
		}
	})
}

// TestPoolerRefuses: what PgBouncer itself refuses has the reason that its text gives.
func TestPoolerRefuses(t *testing.T) {
	eachPgBouncer(t, func(t *testing.T, p *pooled, _ bool) {
		e, _ := startWithFile(t, p.wrongFile())
		console := p.console(t)
		console("DISABLE off")
		expect := func(target string, want verdict) {
			t.Helper()
			before := failures(e.ProbeMetrics(target, ""))
			m := e.ProbeMetrics(target, "")
			if up, ok := m["pgbouncer_up"]; ok { // verdictOf knows the name of a PostgreSQL server's
				m["pg_up"] = up
			}
			if got := verdictOf(t, m, before); got != want {
				t.Errorf("%s: got %+v, want %+v", target, got, want)
			}
		}
		expect("postgres", up)
		expect("pool", up)
		expect("off", verdict{"misconfigured", "no_database"})
		expect("missing", verdict{"misconfigured", "no_database"})
		expect("stranger", verdict{"misconfigured", "permission"})
		expect("wrong", verdict{"misconfigured", "auth"})
		expect("no-console", verdict{"misconfigured", "no_database"})
		expect("no-pgbouncer", verdict{"misconfigured", "no_database"})
		expect("no-server", verdict{"misconfigured", "no_database"})
		expect("app", up)

		// Paused until the deadline: it lets us in and gives us no server.
		console("PAUSE app")
		expect("app", verdict{"no_response", "pooler"})
		// A request to cancel that finds no server makes 1.18 refuse for a moment.
		resumed := func() {
			t.Helper()
			console("RESUME app")
			eventually(t, "app is not up again", func() bool { return e.ProbeMetrics("app", "")["pg_up"] == 1 })
		}
		resumed()

		// Paused until PgBouncer's own deadline.
		console("SET query_wait_timeout = 1", "PAUSE app")
		_, body, err := e.Get(t.Context(), "/probe?target=patient", hanging)
		check(t, err)
		if m := parseMetrics(t, body); m["pg_up"] != 0 || m[`pg_probe_state{state="rejecting"}`] != 1 {
			t.Errorf("query_wait_timeout: %v", m)
		}
		resumed()

		console("SET max_client_conn = 1")
		expect("postgres", verdict{"connection_limit", "pooler"})
		expect("pool", up) // who asks for the console is let in
		if m := e.ProbeMetrics("pool", ""); m["pgbouncer_used_clients"] < m["pgbouncer_config_max_client_connections"] {
			t.Errorf("%v of %v clients", m["pgbouncer_used_clients"], m["pgbouncer_config_max_client_connections"])
		}
		console("SET max_client_conn = 100")
		expect("postgres", up)

		// A server that is down behind it is down, whatever PgBouncer calls that; its console is not.
		check(t, p.server.Stop(testservers.Fast))
		for range 3 {
			m := e.ScrapePatiently()
			for _, target := range []string{"postgres", "app"} {
				own := m.of(target)
				if own["pg_up"] != 0 || own[`pg_probe_state{state="rejecting"}`]+own[`pg_probe_state{state="no_response"}`] != 1 {
					t.Errorf("%s: the server is down, pg_up %v\n%s", target, own["pg_up"], e.Logged())
				}
			}
			if m.of("pool")["pgbouncer_up"] != 1 {
				t.Error("the console does not answer without the server")
			}
			time.Sleep(700 * time.Millisecond)
		}
		check(t, p.server.Start(t.Context()))
		eventually(t, "not up again", func() bool {
			m := e.ScrapePatiently()
			return m.of("postgres")["pg_up"] == 1 && m.of("app")["pg_up"] == 1
		})
		if strings.Contains(e.Logged(), password) {
			t.Error("a password is logged")
		}
	})
}

// TestPgBouncerStops: a PgBouncer that waits for its clients to leave before it stops does not wait for us, and one that
// is back is up at once.
func TestPgBouncerStops(t *testing.T) {
	eachPgBouncer(t, func(t *testing.T, p *pooled, _ bool) {
		e, _ := startWithFile(t, p.file())
		isUp := func() bool {
			m := e.ScrapePatiently()
			return m.of("pool")["pgbouncer_up"] == 1 && m.of("postgres")["pg_up"] == 1 && m.of("app")["pg_up"] == 1
		}
		isUp()
		if !isUp() {
			t.Fatal("not up")
		}
		_, e.quiet = e.Usage()
		check(t, p.Signal(syscall.SIGTERM))
		eventually(t, "it waits for our sessions", func() bool {
			m := e.ScrapePatiently()
			if m.of("pool")["pgbouncer_up"] == 1 || m.of("app")["pg_up"] == 1 {
				t.Error("up while it stops")
			}
			return p.Wait(100*time.Millisecond) == nil
		})
		if m := e.ScrapePatiently(); m.of("pool")[`pg_probe_state{state="no_response"}`] != 1 {
			t.Error("a stopped PgBouncer answers")
		}
		check(t, p.Start(t.Context()))
		if !isUp() {
			t.Error("not up at once")
		}
		e.ExpectNoMoreUsed()
	})
}

// TestPgBouncerWithoutServer: when the server is away for longer than clients may wait, their queries are counted and take no
// time, which the rule PgBouncerBackEndUnreachable goes by.
func TestPgBouncerWithoutServer(t *testing.T) {
	eachPgBouncer(t, func(t *testing.T, p *pooled, _ bool) {
		e, _ := startWithFile(t, fmt.Sprintf("targets: {pool: {kind: pgbouncer, host: 127.0.0.1, port: %d, %s}}", p.Port, login()))
		const queries, duration = `pgbouncer_stats_totals_queries_pooled_total{database="app"}`, `pgbouncer_stats_totals_queries_duration_seconds_total{database="app"}`
		ask := func() error {
			conn, err := p.connect(t, "app")
			if err != nil {
				return err
			}
			_, err = conn.Exec(t.Context(), "SELECT pg_sleep(0.01)").ReadAll()
			return err
		}
		check(t, ask())
		before := e.ProbeMetrics("pool", "")
		check(t, ask())
		after := e.ProbeMetrics("pool", "")
		if after[queries] != before[queries]+1 || after[duration] < before[duration]+0.01 {
			t.Errorf("a query that runs: %v to %v queries, %v to %v s", before[queries], after[queries], before[duration], after[duration])
		}
		p.console(t)("SET query_wait_timeout = 1")
		check(t, p.server.Stop(testservers.Fast))
		before = after
		for range 5 {
			if ask() == nil {
				t.Error("a query ran on no server")
			}
		}
		after = e.ProbeMetrics("pool", "")
		if after[queries] < before[queries]+5 || after[duration] != before[duration] {
			t.Errorf("queries that do not run: %v to %v queries, %v to %v s", before[queries], after[queries], before[duration], after[duration])
		}
		for series, value := range after {
			if strings.HasPrefix(series, "pgbouncer_pools_server_") && strings.Contains(series, `database="app"`) && value != 0 {
				t.Errorf("%s is %v", series, value)
			}
		}
		check(t, p.server.Start(t.Context()))
		eventually(t, "no query runs again", func() bool { return ask() == nil })
	})
}

// TestPooledSession: the kept session takes no server of a pool that a probe needs, and its end, of which PgBouncer says
// nothing, is no loss.
func TestPooledSession(t *testing.T) {
	eachPgBouncer(t, func(t *testing.T, p *pooled, _ bool) {
		e, _ := startWithFile(t, p.file()+fmt.Sprintf(`
  tight: {host: 127.0.0.1, port: %[2]d, dbname: tight, %[1]s}
`, login(), p.Port))
		for i := range 4 {
			_, body, err := e.Get(t.Context(), "/probe?target=tight", 3*scrapeTimeout)
			check(t, err)
			if m := parseMetrics(t, body); m["pg_up"] != 1 || m["pg_connections_used"] < 1 {
				t.Errorf("probe %d through a pool of one: pg_up %v, %v connections\n%s", i, m["pg_up"], m["pg_connections_used"], e.Logged())
			}
		}
		e.ScrapePatiently()
		p.console(t)("SET client_idle_timeout = 1")
		time.Sleep(3 * time.Second)
		m := e.ScrapePatiently()
		for _, target := range []string{"postgres", "pool"} {
			own := m.of(target)
			if own["pg_up"]+own["pgbouncer_up"] != 1 || len(own.losses()) > 0 {
				t.Errorf("%s: up %v, losses %v", target, own["pg_up"]+own["pgbouncer_up"], own.losses())
			}
		}
		if strings.Contains(e.Logged(), "Kept session lost") {
			t.Error("a session that PgBouncer ended is logged as a loss")
		}
	})
}

// TestPooledCommit: commits that hang are cancelled through PgBouncer, which survives it.
func TestPooledCommit(t *testing.T) {
	eachPgBouncer(t, func(t *testing.T, p *pooled, _ bool) {
		execute(t, p.server, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
		e, _ := startWithFile(t, fmt.Sprintf(`
targets:
  app: {host: 127.0.0.1, port: %[2]d, dbname: app, commit: true, timeout: 300ms, %[1]s}
`, login(), p.Port))
		for range 20 {
			if m := e.ProbeMetrics("app", ""); m["pg_up"] != 1 || m["pg_commit_up"] != 0 {
				t.Errorf("pg_up %v, pg_commit_up %v", m["pg_up"], m["pg_commit_up"])
			}
			time.Sleep(50 * time.Millisecond)
		}
		if p.Wait(0) == nil {
			t.Error("PgBouncer has ended")
		}
		eventually(t, "a commit is left waiting", func() bool {
			rows, err := p.server.Query(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
			return err == nil && rows[0] == "0"
		})
	})
}

// TestConsoleLooksUpPasswords tests a console whose users are in the server (auth_query): while the server lets PgBouncer
// not in, nobody can log in there, and the kept session shows that PgBouncer is alive.
func TestConsoleLooksUpPasswords(t *testing.T) {
	t.Parallel()
	for _, fault := range []struct {
		name  string
		begin func(t *testing.T, p *pooled)
	}{
		{"server stopped", func(t *testing.T, p *pooled) { check(t, p.server.Stop(testservers.Fast)) }},
		{"server hangs", func(t *testing.T, p *pooled) {
			t.Cleanup(freeze(t, p.server, append(children(t, p.server), p.server.PID())...))
		}},
		{"server refuses PgBouncer's password", func(t *testing.T, p *pooled) {
			execute(t, p.server, "ALTER ROLE postgres PASSWORD 'other'")
			p.console(t)("RECONNECT")
		}},
		{"server has no database for it", func(t *testing.T, p *pooled) {
			execute(t, p.server, "ALTER DATABASE app ALLOW_CONNECTIONS false")
			p.console(t)("RECONNECT")
		}},
		{"server has no room", func(t *testing.T, p *pooled) {
			execute(t, p.server, "ALTER DATABASE app CONNECTION LIMIT 0", "ALTER ROLE postgres NOSUPERUSER")
			p.console(t)("RECONNECT")
		}},
	} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			p := newLookup(t)
			file := fmt.Sprintf("targets: {pool: {kind: pgbouncer, host: 127.0.0.1, port: %d, timeout: 1s, %s}}", p.Port, login())
			e, _ := startWithFile(t, file)
			var m Metrics
			for range 2 {
				if m = e.ScrapePatiently().of("pool"); m["pgbouncer_up"] != 1 || m["pg_kept_session_up"] != 1 {
					t.Fatalf("up %v, kept %v\n%s", m["pgbouncer_up"], m["pg_kept_session_up"], e.Logged())
				}
			}
			fault.begin(t, p)
			for i := range 5 {
				before := failures(m)
				m = e.ScrapePatiently().of("pool")
				m["pg_up"] = m["pgbouncer_up"] // verdictOf knows the name of a PostgreSQL server's
				if found := verdictOf(t, m, before); found != (verdict{"rejecting", "pooler"}) {
					t.Errorf("scrape %d: found %+v", i, found)
				}
				if m["pg_kept_session_up"] != 1 || m["pgbouncer_config_max_client_connections"] != 100 {
					t.Errorf("scrape %d: kept session %v, figures %v", i, m["pg_kept_session_up"], m["pgbouncer_config_max_client_connections"])
				}
			}
			if fault.name == "server hangs" { // without a session, nothing shows that PgBouncer is alive
				first, _ := startWithFile(t, file)
				if m := first.ScrapePatiently().of("pool"); m[`pg_probe_state{state="no_response"}`] != 1 || !strings.Contains(first.Logged(), "auth_query") {
					t.Errorf("a first probe finds %v\n%s", m, first.Logged())
				}
			}
		})
	}
}

// newLookup starts a PgBouncer that looks up its users' passwords in the database app of a new server.
func newLookup(t *testing.T) *pooled {
	t.Helper()
	bin := testenv.Tool(t, "PGBOUNCER_NEWER", "newer-pgbouncer") // 1.18 has no auth_dbname, which the console needs
	s := newServer(t, testservers.PostgresConfig{})
	execute(t, s, "ALTER ROLE postgres PASSWORD 'postgres'", "ALTER ROLE "+role+" CONNECTION LIMIT -1")
	b, err := testservers.NewPgBouncer(t.Context(), testservers.PgBouncerConfig{
		Bin: bin, Databases: []string{fmt.Sprintf("app = host=127.0.0.1 port=%d", s.Port)},
		Settings: []string{"stats_users = " + role, "auth_user = postgres", "auth_dbname = app"},
	})
	check(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("PgBouncer log:\n%s", b.Log())
		}
		check(t, b.Remove())
	})
	return &pooled{s, b}
}

// TestOneOfSeveralPgBouncers tests that the log says once that figures may be those of one process of several.
func TestOneOfSeveralPgBouncers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, variable, program string
		settings                []string
		warnings                int
	}{
		{"alone", "PGBOUNCER", "pgbouncer", nil, 0},
		{"so_reuseport", "PGBOUNCER", "pgbouncer", []string{"so_reuseport = 1"}, 1},
		{"newer, alone", "PGBOUNCER_NEWER", "newer-pgbouncer", nil, 0},
		{"newer, so_reuseport", "PGBOUNCER_NEWER", "newer-pgbouncer", []string{"so_reuseport = 1"}, 1},
		{"newer, peers", "PGBOUNCER_NEWER", "newer-pgbouncer", []string{"peer_id = 1"}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b, err := testservers.NewPgBouncer(t.Context(), testservers.PgBouncerConfig{
				Bin: testenv.Tool(t, test.variable, test.program), Users: plainUsers,
				Settings: append([]string{"stats_users = " + role}, test.settings...),
			})
			check(t, err)
			t.Cleanup(func() { check(t, b.Remove()) })
			e, _ := startWithFile(t, fmt.Sprintf(
				"targets: {pool: {kind: pgbouncer, host: 127.0.0.1, port: %d, user: %s, password: %s, sslmode: disable}}", b.Port, role, plainPassword))
			for range 3 {
				if m := e.ScrapePatiently().of("pool"); m["pgbouncer_up"] != 1 {
					t.Fatalf("not up\n%s", e.Logged())
				}
			}
			if got := strings.Count(e.Logged(), "several PgBouncers"); got != test.warnings {
				t.Errorf("%d warnings, want %d\n%s", got, test.warnings, e.Logged())
			}
		})
	}
}

// TestAdHocPgBouncer: a module of kind pgbouncer makes a PgBouncer of what /probe names, and one with a dbname needs no database
// postgres.
func TestAdHocPgBouncer(t *testing.T) {
	eachPgBouncer(t, func(t *testing.T, p *pooled, _ bool) {
		t.Helper()
		e, _ := startWithFile(t, fmt.Sprintf(`
defaults: {%s}
modules:
  pools: {kind: pgbouncer, allow: [127.0.0.1]}
  servers: {dbname: app, allow: [127.0.0.1]}
`, login()))
		pool := e.ProbeMetrics(fmt.Sprintf("127.0.0.1:%d", p.Port), "&module=pools")
		if pool["pgbouncer_up"] != 1 || hasSeries(pool, "pg_up") {
			t.Errorf("pgbouncer_up %v", pool["pgbouncer_up"])
		}
		inApp(t, p.server, "ALTER DATABASE postgres ALLOW_CONNECTIONS false")
		if m := e.ProbeMetrics(fmt.Sprintf("127.0.0.1:%d", p.server.Port), "&module=servers"); m["pg_up"] != 1 {
			t.Errorf("pg_up %v\n%s", m["pg_up"], e.Logged())
		}
	})
}
