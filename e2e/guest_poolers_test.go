// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

const plainPassword = "hunter2"

var plainUsers = map[string]string{role: plainPassword}

type pooler interface {
	Log() string
	Remove() error
}

// TestGivesWayBehindPoolers: a pooler with one place serves both its applications and the exporter.
func TestGivesWayBehindPoolers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, variable, program string
		start                   func(ctx context.Context, bin string, server int) (pooler, int, error)
	}{
		{"pgagroal waits", "PGAGROAL", "pgagroal", func(ctx context.Context, bin string, server int) (pooler, int, error) {
			a, err := testservers.NewPgagroal(ctx, testservers.PgagroalConfig{Bin: bin, Server: server, MaxConnections: 1, Users: plainUsers})
			return a, a.Port, err
		}},
		{"pgagroal refuses", "PGAGROAL", "pgagroal", func(ctx context.Context, bin string, server int) (pooler, int, error) {
			a, err := testservers.NewPgagroal(ctx, testservers.PgagroalConfig{
				Bin: bin, Server: server, MaxConnections: 1, BlockingTimeout: time.Second, Users: plainUsers,
			})
			return a, a.Port, err
		}},
		{"Pgpool-II waits", "PGPOOL", "pgpool", func(ctx context.Context, bin string, server int) (pooler, int, error) {
			p, err := testservers.NewPgpool(ctx, testservers.PgpoolConfig{Bin: bin, Servers: []int{server}, Children: 1, Users: plainUsers})
			return p, p.Port, err
		}},
		{"Pgpool-II refuses", "PGPOOL", "pgpool", func(ctx context.Context, bin string, server int) (pooler, int, error) {
			p, err := testservers.NewPgpool(ctx, testservers.PgpoolConfig{
				Bin: bin, Servers: []int{server}, Children: 2, Reserved: 1, Users: plainUsers,
			})
			return p, p.Port, err
		}},
		{"Odyssey waits", "ODYSSEY", "odyssey", func(ctx context.Context, bin string, server int) (pooler, int, error) {
			o, err := testservers.NewOdyssey(ctx, testservers.OdysseyConfig{Bin: bin, Server: server, PoolSize: 1, Users: plainUsers})
			return o, o.Port, err
		}},
		{"Odyssey refuses", "ODYSSEY", "odyssey", func(ctx context.Context, bin string, server int) (pooler, int, error) {
			o, err := testservers.NewOdyssey(ctx, testservers.OdysseyConfig{Bin: bin, Server: server, ClientMax: 1, Users: plainUsers})
			return o, o.Port, err
		}},
		{"PgBouncer refuses", "PGBOUNCER_NEWER", "pgbouncer", func(ctx context.Context, bin string, server int) (pooler, int, error) {
			b, err := testservers.NewPgBouncer(ctx, testservers.PgBouncerConfig{
				Bin: bin, Users: plainUsers, Databases: []string{fmt.Sprintf("postgres = host=127.0.0.1 port=%d", server)},
				Settings: []string{"max_client_conn = 1"},
			})
			return b, b.Port, err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bin := testenv.Tool(t, test.variable, test.program)
			reserved, err := testservers.ReserveShortPort()
			check(t, err)
			t.Cleanup(func() { check(t, reserved.Release()) })
			s := newServer(t, testservers.PostgresConfig{Port: reserved.Number})
			execute(t, s, "ALTER ROLE "+role+" PASSWORD '"+plainPassword+"'")
			p, port, err := test.start(t.Context(), bin, s.Port)
			check(t, err)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("pooler log:\n%s", p.Log())
				}
				check(t, p.Remove())
			})
			e, _ := startWithFile(t, fmt.Sprintf(`
targets: {a: {host: 127.0.0.1, port: %d, dbname: postgres, timeout: 4s, sslmode: disable, user: %s, password: %s}}
`, port, role, plainPassword))
			application := func() error {
				ctx, cancel := context.WithTimeout(t.Context(), hanging)
				defer cancel()
				conn, err := pgconn.Connect(ctx, fmt.Sprintf(
					"host=127.0.0.1 port=%d user=%s password=%s dbname=postgres sslmode=disable", port, role, plainPassword))
				if err != nil {
					return err
				}
				_, err = conn.Exec(ctx, "SELECT 1").ReadAll()
				_ = conn.Close(ctx)
				return err
			}
			for i := range 4 {
				time.Sleep(500 * time.Millisecond) // until the pooler has noticed that the last session has ended
				m := e.ScrapePatiently().of("a")
				t.Logf("scrape %d: up %v, kept %v, used %v", i, m["pg_up"], m["pg_kept_session_up"], m["pg_connections_used"])
				if m["pg_up"] != 1 {
					t.Errorf("scrape %d: pg_up %v\n%s", i, m["pg_up"], e.Logged())
				}
				if i < 2 {
					continue
				}
				eventually(t, "an application does not get in", func() bool { return application() == nil })
			}
		})
	}
}
