// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Fault is something that can be broken and mended.
type Fault struct {
	// Key is a letter, Name says what breaks, Seen what is then seen and when.
	Key, Name, Seen string
	Break           func(context.Context) error
	// Mend is nil where it mends itself.
	Mend func(context.Context) error
}

// Faults are what can be broken, one at a time.
func (s *Stack) Faults() []Fault {
	return []Fault{
		{
			"s", "stop the primary",
			"at the next scrape its state is no response; PostgresDown fires after the third failed probe, about a minute from now, and Alertmanager sends it half a minute later; then PgBouncerBackEndUnreachable, since no label cluster tells whose server it is",
			func(context.Context) error { return s.Primary.Stop(Fast) }, s.Primary.Start,
		},
		{
			"h", "hang the primary: sessions that are open go on, new ones get no answer",
			"as when it stops (PostgresDown), but with reason timeout: each probe waits 5 s, and the connection figures still come",
			func(context.Context) error { return s.Primary.Signal(syscall.SIGSTOP) },
			func(context.Context) error { return s.Primary.Signal(syscall.SIGCONT) },
		},
		{
			"c", "take all connection slots of the primary",
			"at the next scrape its state is connection limit; PostgresConnectionSlotsExhausted fires about a minute from now, PostgresDown does not",
			func(ctx context.Context) error { return s.eater.start(ctx, s.direct("orders", "leak")) },
			s.eater.stop,
		},
		{
			"w", "make commits on the primary wait for a standby that is not there",
			"pg_up stays 1 and pg_commit_up is 0 at the next scrape; PostgresCommitsHang fires about a minute from now; clients of PgBouncer wait",
			s.settings("ALTER SYSTEM SET synchronous_standby_names = 'nobody'"),
			s.settings("ALTER SYSTEM RESET synchronous_standby_names"),
		},
		{
			"l", "stop the standby from replaying",
			"its lag grows from the next scrape on; PostgresReplicaLag fires when it has been too long for 5 min",
			func(ctx context.Context) error { return s.Standby.Exec(ctx, "SELECT pg_wal_replay_pause()") },
			func(ctx context.Context) error { return s.Standby.Exec(ctx, "SELECT pg_wal_replay_resume()") },
		},
		{
			"p", "pause PgBouncer",
			"its databases are paused; PgBouncerClientsWaiting fires after 2 min, PgBouncerPaused after 5; servers are well",
			s.console("PAUSE orders", "PAUSE billing"), s.console("RESUME orders", "RESUME billing"),
		},
		{
			"x", "crash the primary: kill one of its sessions, so that it restarts the others",
			"probes may not notice, but the loss of the kept session is counted; PostgresCrashRestarted fires within half a minute",
			s.crash, nil,
		},
	}
}

// settings changes settings of the primary.
func (s *Stack) settings(sql string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := s.Primary.Exec(ctx, sql); err != nil {
			return err
		}
		return s.Primary.Exec(ctx, "SELECT pg_reload_conf()")
	}
}

// console gives commands to PgBouncer. Databases are paused by name: PAUSE alone shows in none of its figures.
func (s *Stack) console(commands ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := s.PgBouncer.Console(ctx)
		if err != nil {
			return err
		}
		for _, command := range commands {
			if _, err = conn.Exec(ctx, command).ReadAll(); err != nil {
				break
			}
		}
		return errors.Join(err, conn.Close(ctx))
	}
}

// crash kills a session as the kernel does when memory runs out; its server then starts all others anew.
func (s *Stack) crash(ctx context.Context) error {
	session, err := s.Primary.Connect(ctx)
	if err != nil {
		return err
	}
	return syscall.Kill(int(session.PID()), syscall.SIGKILL)
}

// slotEater opens sessions until no more are to be had, and goes on as others end.
type slotEater struct {
	end   context.CancelFunc // nil while it does not eat
	eater sync.WaitGroup
}

func (e *slotEater) start(ctx context.Context, dsn string) error {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return err
	}
	ctx, e.end = context.WithCancel(context.WithoutCancel(ctx))
	e.eater.Go(func() {
		var sessions []*pgconn.PgConn
		for ctx.Err() == nil {
			session, err := pgconn.ConnectConfig(ctx, config)
			if err != nil {
				_ = pause(ctx, 50*time.Millisecond, 150*time.Millisecond) // all are taken, or we end
				continue
			}
			sessions = append(sessions, session)
		}
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
		defer cancel()
		for _, session := range sessions {
			_ = session.Close(closing)
		}
	})
	return nil
}

func (e *slotEater) stop(context.Context) error {
	if e.end != nil {
		e.end()
		e.eater.Wait()
		e.end = nil
	}
	return nil
}
