// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// plainPassword is a password that the configuration of every pooler can hold.
const plainPassword = "hunter2"

var plainUsers = map[string]string{role: plainPassword}

// pooler is a throwaway pooler of any kind.
type pooler interface {
	Start(ctx context.Context) error
	Signal(signal syscall.Signal) error
	Wait(limit time.Duration) error
	Log() string
	Remove() error
}

// newPooler starts a pooler in front of the server on a port, and returns it with its own port.
type newPooler func(ctx context.Context, bin string, server int) (pooler, int, error)

func newPgBouncer(settings ...string) newPooler {
	return func(ctx context.Context, bin string, server int) (pooler, int, error) {
		b, err := testservers.NewPgBouncer(ctx, testservers.PgBouncerConfig{
			Bin: bin, Users: plainUsers, Databases: []string{fmt.Sprintf("app = host=127.0.0.1 port=%d", server)},
			Settings: append([]string{"auth_query =", "server_login_retry = 1"}, settings...),
		})
		if err != nil {
			return nil, 0, err
		}
		return b, b.Port, nil
	}
}

func newOdyssey(c testservers.OdysseyConfig) newPooler {
	return func(ctx context.Context, bin string, server int) (pooler, int, error) {
		c.Bin, c.Server, c.Users = bin, server, plainUsers
		o, err := testservers.NewOdyssey(ctx, c)
		if err != nil {
			return nil, 0, err
		}
		return o, o.Port, nil
	}
}

func newPgagroal(c testservers.PgagroalConfig) newPooler {
	return func(ctx context.Context, bin string, server int) (pooler, int, error) {
		c.Bin, c.Server, c.Users = bin, server, plainUsers
		a, err := testservers.NewPgagroal(ctx, c)
		if err != nil {
			return nil, 0, err
		}
		return a, a.Port, nil
	}
}

func newPgpool(c testservers.PgpoolConfig) newPooler {
	return func(ctx context.Context, bin string, server int) (pooler, int, error) {
		c.Bin, c.Servers, c.Users = bin, []int{server}, plainUsers
		p, err := testservers.NewPgpool(ctx, c)
		if err != nil {
			return nil, 0, err
		}
		return p, p.Port, nil
	}
}

// startPooler starts a pooler in front of a new server, and skips the test if the pooler is not there.
func startPooler(t *testing.T, variable, program string, start newPooler) *throughPooler {
	t.Helper()
	bin := testenv.Tool(t, variable, program)
	port, err := testservers.ReserveShortPort()
	check(t, err)
	t.Cleanup(func() { check(t, port.Release()) })
	p := &throughPooler{server: newServer(t, testservers.PostgresConfig{Port: port.Number})}
	execute(t, p.server, "ALTER ROLE "+role+" PASSWORD '"+plainPassword+"'")
	p.pooler, p.port, err = start(t.Context(), bin, p.server.Port)
	check(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("pooler log:\n%s", p.Log())
		}
		check(t, p.Remove())
	})
	return p
}

// TestPoolers tests what the exporter reports about a server behind each pooler.
func TestPoolers(t *testing.T) {
	t.Parallel()
	// What a probe may find if the server behind the pooler is down. The first one can find a pooler that waits for the server,
	// or Pgpool-II while it restarts the processes that had a session with the server.
	var (
		auth          = verdict{"misconfigured", "auth"}
		missing       = verdict{"misconfigured", "no_database"}
		notTold       = verdict{"rejecting", "pooler"}
		pgbouncerDown = []verdict{{"no_response", "pooler"}, {"rejecting", "pooler"}}
		odysseyDown   = []verdict{{"rejecting", "pooler"}}
		pgagroalDown  = []verdict{{"rejecting", "pooler"}, {"rejecting", "terminated"}, {"no_response", "timeout"}}
		pgpoolDown    = []verdict{{"no_response", "timeout"}, {"no_response", "terminated"}, {"rejecting", "pooler"}}
	)
	for _, test := range []struct {
		name, variable, program string
		new                     newPooler
		stop                    syscall.Signal // ends the pooler at once
		serverDown              []verdict
		noUser, noDatabase      verdict // what a probe finds if there is no such user, or no such database
	}{
		{"PgBouncer, session", "PGBOUNCER", "pgbouncer", newPgBouncer("pool_mode = session"), syscall.SIGKILL, pgbouncerDown, auth, missing},
		{"PgBouncer, transaction", "PGBOUNCER", "pgbouncer", newPgBouncer("pool_mode = transaction"), syscall.SIGKILL, pgbouncerDown, auth, missing},
		{"newer PgBouncer, session", "PGBOUNCER_NEWER", "newer-pgbouncer", newPgBouncer("pool_mode = session"), syscall.SIGKILL, pgbouncerDown, auth, missing},
		{"newer PgBouncer, transaction", "PGBOUNCER_NEWER", "newer-pgbouncer", newPgBouncer("pool_mode = transaction"), syscall.SIGKILL, pgbouncerDown, auth, missing},
		{"Odyssey, session", "ODYSSEY", "odyssey", newOdyssey(testservers.OdysseyConfig{}), syscall.SIGKILL, odysseyDown, missing, notTold},
		{"Odyssey, transaction", "ODYSSEY", "odyssey", newOdyssey(testservers.OdysseyConfig{Pool: "transaction"}), syscall.SIGKILL, odysseyDown, missing, notTold},
		{"pgagroal", "PGAGROAL", "pgagroal", newPgagroal(testservers.PgagroalConfig{}), syscall.SIGTERM, pgagroalDown, notTold, missing},
		{"Pgpool-II", "PGPOOL", "pgpool", newPgpool(testservers.PgpoolConfig{}), syscall.SIGINT, pgpoolDown, auth, missing},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := startPooler(t, test.variable, test.program, test.new)
			p.stop = test.stop
			e := startExporter(t, []string{
				fmt.Sprintf("DATA_SOURCE_URI=127.0.0.1:%d/app?sslmode=disable", p.port),
				"DATA_SOURCE_USER=" + role, "DATA_SOURCE_PASS=" + plainPassword,
			})
			for _, part := range []struct {
				name string
				test func(*testing.T, *Exporter)
			}{
				{"wrong settings of the exporter", func(t *testing.T, _ *Exporter) { p.testMistakes(t, test.noUser, test.noDatabase) }},
				{"server up", p.testServerUp},
				{"settings of the role", p.testSettings},
				{"server down", func(t *testing.T, e *Exporter) { p.testServerDown(t, e, test.serverDown) }},
				{"pooler down", p.testPoolerDown},
			} {
				t.Run(part.name, func(t *testing.T) {
					e := e.In(t)
					e.Scrape() // what it counted before does not concern this part
					part.test(t, e)
				})
			}
		})
	}
}

// throughPooler is a server behind a pooler.
type throughPooler struct {
	server *testservers.Postgres
	pooler
	port int
	stop syscall.Signal
}

// restart restarts the pooler, so that it opens new sessions with the server.
func (p *throughPooler) restart(t *testing.T) {
	t.Helper()
	check(t, p.Signal(p.stop))
	check(t, p.Wait(hanging))
	check(t, p.Start(t.Context()))
}

// connect opens a session of the exporter's role at a port.
func (p *throughPooler) connect(t *testing.T, port int) *pgconn.PgConn {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), fmt.Sprintf(
		"host=127.0.0.1 port=%d user=%s password=%s dbname=app sslmode=disable application_name=%s",
		port, role, plainPassword, config.ApplicationName)) // Pgpool-II shares no session between clients that send different parameters
	check(t, err)
	return conn
}

// letsIn reports whether a client gets in and can run a statement.
func (p *throughPooler) letsIn(t *testing.T) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hanging)
	defer cancel()
	conn, err := pgconn.Connect(ctx, fmt.Sprintf(
		"host=127.0.0.1 port=%d user=%s password=%s dbname=app sslmode=disable", p.port, role, plainPassword))
	if err != nil {
		return false
	}
	_, err = conn.Exec(ctx, "SELECT 1").ReadAll()
	return errors.Join(err, conn.Close(ctx)) == nil
}

// settings returns the PID of the server's process behind a session, and the settings that a client may depend on.
func settings(t *testing.T, conn *pgconn.PgConn) (pid, values string) {
	t.Helper()
	results, err := conn.Exec(t.Context(), `SELECT pg_backend_pid(), concat_ws('|', current_setting('search_path'),
current_setting('lock_timeout'), current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'),
current_setting('extra_float_digits'), current_setting('transaction_isolation'), current_setting('transaction_deferrable'),
current_setting('transaction_read_only'))`).ReadAll()
	check(t, err)
	return string(results[0].Rows[0][0]), string(results[0].Rows[0][1])
}

func (p *throughPooler) expectFigures(t *testing.T, m Metrics) {
	t.Helper()
	for series, want := range map[string]float64{
		"pg_replication_is_replica": 0, "pg_transaction_read_only": 0, "pg_kept_session_up": 1, "pg_stats_privileged": 1,
		"pg_settings_max_connections": 100, "pg_connections_usable": 97, "pg_role_connection_limit": 10,
		"pg_postmaster_start_time_seconds": float64(count(t, p.server, "SELECT floor(extract(epoch FROM pg_postmaster_start_time()))")),
	} {
		if got, ok := m[series]; !ok || float64(int(got)) != want {
			t.Errorf("%s is %v (there: %v), want %v", series, got, ok, want)
		}
	}
	if used := m["pg_connections_used"]; used < 1 || used > 10 {
		t.Errorf("%v connections used", used)
	}
}

// testMistakes tests that mistakes in the exporter's own settings are not reported as a server that is down, where the pooler
// tells them apart.
func (p *throughPooler) testMistakes(t *testing.T, noUser, noDatabase verdict) {
	for _, mistake := range []struct {
		database, user, password string
		want                     verdict
	}{
		{"app", role, "wrong", verdict{"misconfigured", "auth"}},
		{"app", "stranger", plainPassword, noUser},
		{"missing", role, plainPassword, noDatabase},
	} {
		e := startExporter(t, []string{
			fmt.Sprintf("DATA_SOURCE_URI=127.0.0.1:%d/%s?sslmode=disable", p.port, mistake.database),
			"DATA_SOURCE_USER=" + mistake.user, "DATA_SOURCE_PASS=" + mistake.password,
		})
		if found := verdictOf(t, e.Scrape(), Metrics{}); found != mistake.want {
			t.Errorf("%+v: found %v", mistake, found)
		}
	}
}

// testServerUp tests that the exporter reports the server's figures, and that a later client finds no trace of a probe.
func (p *throughPooler) testServerUp(t *testing.T, e *Exporter) {
	for range 5 {
		p.expectFigures(t, e.Expect(up))
	}
	eventually(t, "a transaction is left open", func() bool {
		return count(t, p.server, "SELECT count(*) FROM pg_stat_activity WHERE usename = '"+role+"' AND (state <> 'idle' OR xact_start IS NOT NULL)") == 0
	})
	direct := p.connect(t, p.server.Port)
	_, want := settings(t, direct)
	check(t, direct.Close(t.Context()))
	used := keptSession(t, p.server)
	eventually(t, "no client gets a session with the server that the exporter has used", func() bool {
		conn := p.connect(t, p.port)
		pid, got := settings(t, conn)
		check(t, conn.Close(t.Context()))
		expectEqual(t, "settings of a later client", want, got)
		return slices.Contains(used, pid)
	})
}

// testSettings tests that the figures do not depend on settings of the role.
func (p *throughPooler) testSettings(t *testing.T, e *Exporter) {
	inApp(t, p.server, lookAlikes+`;
ALTER ROLE monitor SET default_transaction_isolation = serializable; ALTER ROLE monitor SET default_transaction_deferrable = on;
ALTER ROLE monitor SET default_transaction_read_only = on; ALTER ROLE monitor SET lock_timeout = 1;
ALTER ROLE monitor SET extra_float_digits = -15`)
	p.restart(t)
	eventually(t, "not up after a restart of the pooler", func() bool {
		m := e.Scrape()
		return m["pg_up"] == 1 && m["pg_kept_session_up"] == 1
	})
	for range 3 {
		p.expectFigures(t, e.Expect(up))
	}
	execute(t, p.server, "ALTER ROLE monitor RESET ALL")
}

// expectUp requires that the next probe succeeds. pgagroal may not answer for a moment after a restart.
func (p *throughPooler) expectUp(t *testing.T, e *Exporter) {
	t.Helper()
	if _, ok := p.pooler.(*testservers.Pgagroal); ok {
		eventually(t, "not up", func() bool { return e.Scrape()["pg_up"] == 1 })
		return
	}
	e.Expect(up)
}

// testServerDown tests that the server is reported as down, in time, if only the pooler answers.
func (p *throughPooler) testServerDown(t *testing.T, e *Exporter, want []verdict) {
	p.expectUp(t, e)
	check(t, p.server.Stop(testservers.Fast))
	for range 4 {
		before := failures(e.last)
		if found := verdictOf(t, e.Scrape(), before); !slices.Contains(want, found) {
			t.Errorf("the server is down and a probe finds %v, not one of %v", found, want)
		}
		time.Sleep(300 * time.Millisecond)
	}
	check(t, p.server.Start(t.Context()))
	if _, ok := p.pooler.(*testservers.Pgpool); ok {
		p.restart(t) // it does not return to a server that was down
	}
	eventually(t, "not up again", func() bool { return e.Scrape()["pg_up"] == 1 })
}

// testPoolerDown tests that a pooler that has ended is a server that refuses connections.
func (p *throughPooler) testPoolerDown(t *testing.T, e *Exporter) {
	p.expectUp(t, e)
	check(t, p.Signal(p.stop))
	check(t, p.Wait(hanging))
	for range 2 {
		e.Expect(refused)
	}
	check(t, p.Start(t.Context()))
	e.Expect(up)
}
