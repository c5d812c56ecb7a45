// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// connectTimeout bounds a login of the load, and the end of its sessions.
const connectTimeout = 5 * time.Second

// startLoad starts clients that behave like applications: short transactions through PgBouncer, sessions that come and
// go, one that leaves a transaction open, and two that wait for each other's locks. The load is light.
func (s *Stack) startLoad(ctx context.Context, _ StackConfig) error {
	for _, database := range []string{"orders", "billing"} {
		conn, err := pgx.Connect(ctx, s.direct(database, "setup"))
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, `CREATE TABLE account (id int PRIMARY KEY, balance int);
INSERT INTO account SELECT i, 0 FROM generate_series(0, 100) i`)
		_ = conn.Close(ctx)
		if err != nil {
			return err
		}
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var clients sync.WaitGroup
	for _, kind := range []struct {
		count   int
		dsn     string
		session func(context.Context, *pgx.Conn) error
	}{
		{6, s.pooled("orders", "shop"), buy},
		{3, s.pooled("billing", "invoices"), buy},
		{8, s.direct("orders", "back office"), browse},
		{4, s.direct("billing", "reports"), browse},
		{1, s.direct("billing", "batch"), forget},
		{2, s.direct("orders", "stock"), contend},
	} {
		for range kind.count {
			clients.Go(func() { client(running, kind.dsn, kind.session) })
		}
	}
	s.ends = append(s.ends, func() error {
		stop()
		clients.Wait()
		return s.slots.Release(ctx)
	})
	return nil
}

// direct returns the connection string for a session with the primary.
func (s *Stack) direct(database, application string) string {
	return s.dsn(s.Primary.Port, database, application)
}

// pooled returns the connection string for a session through PgBouncer.
func (s *Stack) pooled(database, application string) string {
	return s.dsn(s.PgBouncer.Port, database, application) + " default_query_exec_mode=simple_protocol"
}

func (s *Stack) dsn(port int, database, application string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=%s application_name='%s' sslmode=disable",
		port, customer, s.password, database, application)
}

// client opens one session after another until ctx ends. It ignores errors: faults break sessions.
func client(ctx context.Context, dsn string, session func(context.Context, *pgx.Conn) error) {
	for pause(ctx, 0, 4*time.Second) == nil {
		connecting, cancel := context.WithTimeout(ctx, connectTimeout)
		conn, err := pgx.Connect(connecting, dsn)
		cancel()
		if err != nil {
			continue
		}
		_ = session(ctx, conn)
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		_ = conn.Close(closing)
		cancel()
	}
}

// buy commits a short transaction several times per second, until an error.
func buy(ctx context.Context, conn *pgx.Conn) error {
	for {
		err := transact(ctx, conn, 2+rand.IntN(99), 10*time.Millisecond, 60*time.Millisecond) //nolint:gosec // not a secret
		if err != nil {
			return err
		}
		if err := pause(ctx, 50*time.Millisecond, 400*time.Millisecond); err != nil {
			return err
		}
	}
}

// browse runs a short query every few seconds, then idles.
func browse(ctx context.Context, conn *pgx.Conn) error {
	for range 5 {
		if _, err := conn.Exec(ctx, "SELECT sum(balance) FROM account, pg_sleep(0.2)"); err != nil {
			return err
		}
		if err := pause(ctx, 2*time.Second, 8*time.Second); err != nil {
			return err
		}
	}
	return pause(ctx, 0, 20*time.Second)
}

// forget leaves a transaction open for up to 50 s. No other session needs its row.
func forget(ctx context.Context, conn *pgx.Conn) error {
	return transact(ctx, conn, 0, 20*time.Second, 50*time.Second)
}

// contend updates one row in long transactions, until an error. Sessions that run it wait for each other.
func contend(ctx context.Context, conn *pgx.Conn) error {
	for {
		if err := transact(ctx, conn, 1, time.Second, 3*time.Second); err != nil {
			return err
		}
		if err := pause(ctx, time.Second, 5*time.Second); err != nil {
			return err
		}
	}
}

// transact updates a row, waits between minWait and maxWait, and commits.
func transact(ctx context.Context, conn *pgx.Conn, id int, minWait, maxWait time.Duration) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE account SET balance = balance + 1 WHERE id = $1", id); err != nil {
			return err
		}
		return pause(ctx, minWait, maxWait)
	})
}

// pause waits for a random time between minWait and maxWait. It fails if ctx ends first.
func pause(ctx context.Context, minWait, maxWait time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(minWait + rand.N(maxWait-minWait)): //nolint:gosec // not a secret
		return nil
	}
}
