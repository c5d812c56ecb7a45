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

// Fault is a way to break the stack.
type Fault struct {
	// Key is the letter that make demo takes for the fault.
	Key string
	// Name describes what Break does.
	Name string
	// Seen describes what the metrics then show, from the next scrape on.
	Seen string
	// Notices are the notifications of severity critical and warning that follow.
	Notices []Notice
	// Break breaks something.
	Break func(context.Context) error
	// Mend undoes Break. It is nil if the stack recovers by itself.
	Mend func(context.Context) error
}

// Notice is a pair of notifications of Alertmanager: that an alert fires, and that it is resolved. The times are the
// longest that the intervals in examples/ allow. Often it takes half a minute less.
type Notice struct {
	// Alert is the name of the alert, Target the server that it is about.
	Alert, Target string
	// Firing is how long after Break the first notification comes.
	Firing time.Duration
	// Resolved is how long after Mend the second one comes. If there is no Mend, it is counted from Break.
	Resolved time.Duration
}

// Faults returns the faults of the stack. At most one may be broken at a time.
func (s *Stack) Faults() []Fault {
	const thirdFailure = 2 * time.Minute
	down := Notice{"PostgresDown", "primary", thirdFailure, 2 * time.Minute}
	waiting := Notice{"PgBouncerClientsWaiting", "pool", 4 * time.Minute, 7 * time.Minute}
	return []Fault{
		{
			"s", "stop the primary",
			"The state of the primary is \"no response\", with reason refused. No label cluster says which server is behind " +
				"PgBouncer, so that its alert is not left out.",
			[]Notice{
				down,
				{"PgBouncerBackEndUnreachable", "pool", 4 * time.Minute, 3 * time.Minute},
				{"PostgresReplicationBroken", "standby", 4 * time.Minute, 7 * time.Minute},
			},
			func(context.Context) error { return s.Primary.Stop(Fast) }, s.Primary.Start,
		},
		{
			"h", "hang the primary: open sessions continue, new ones get no response",
			"The state of the primary is \"no response\", with reason timeout: each probe takes 5 s. The connection statistics " +
				"are still there.",
			[]Notice{down},
			func(context.Context) error { return s.Primary.Signal(syscall.SIGSTOP) },
			func(context.Context) error { return s.Primary.Signal(syscall.SIGCONT) },
		},
		{
			"c", "take all connection slots of the primary",
			"The state of the primary is \"connection limit\", and all its slots are in use.",
			[]Notice{
				{"PostgresConnectionSlotsExhausted", "primary", thirdFailure, 3 * time.Minute},
				{"PgLivenessCheckFailing", "primary", 4*time.Minute + 30*time.Second, 7 * time.Minute},
			},
			func(ctx context.Context) error { return s.slots.Hold(ctx, s.direct("orders", "leak")) },
			s.slots.Release,
		},
		{
			"w", "make commits on the primary wait for a standby that does not exist",
			"pg_up stays 1 and pg_commit_up is 0. The clients of PgBouncer wait.",
			[]Notice{{"PostgresCommitsHang", "primary", thirdFailure, 3 * time.Minute}, waiting},
			s.settings("ALTER SYSTEM SET synchronous_standby_names = 'nobody'"),
			s.settings("ALTER SYSTEM RESET synchronous_standby_names"),
		},
		{
			"l", "pause replay on the standby",
			"The lag of the standby grows.",
			[]Notice{{"PostgresReplicaLag", "standby", 7*time.Minute + 30*time.Second, 8 * time.Minute}},
			func(ctx context.Context) error { return s.Standby.Exec(ctx, "SELECT pg_wal_replay_pause()") },
			func(ctx context.Context) error { return s.Standby.Exec(ctx, "SELECT pg_wal_replay_resume()") },
		},
		{
			"p", "pause PgBouncer",
			"The databases of PgBouncer are paused and their clients wait. The servers stay healthy.",
			[]Notice{waiting, {"PgBouncerPaused", "pool", 6*time.Minute + 30*time.Second, 7 * time.Minute}},
			s.console("PAUSE orders", "PAUSE billing"), s.console("RESUME orders", "RESUME billing"),
		},
		{
			"x", "crash the primary: kill one of its sessions, so that it restarts all others",
			"Probes may not fail, but the kept session is counted as lost.",
			[]Notice{{"PostgresCrashRestarted", "primary", thirdFailure, 21 * time.Minute}},
			s.crash, nil,
		},
	}
}

// settings returns a function that runs sql on the primary and reloads its configuration.
func (s *Stack) settings(sql string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := s.Primary.Exec(ctx, sql); err != nil {
			return err
		}
		return s.Primary.Exec(ctx, "SELECT pg_reload_conf()")
	}
}

// console returns a function that runs commands on the console of PgBouncer. Faults pause databases by name, because
// PAUSE alone shows in no column of SHOW DATABASES.
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

// crash kills a session as the kernel does if memory runs out. The server then restarts all sessions.
func (s *Stack) crash(ctx context.Context) error {
	session, err := s.Primary.Connect(ctx)
	if err != nil {
		return err
	}
	return syscall.Kill(int(session.PID()), syscall.SIGKILL)
}

// SlotHolder takes all connection slots of a server, also those that others free later. The zero value holds none.
type SlotHolder struct {
	stop    context.CancelFunc // nil while it holds none
	running sync.WaitGroup
}

// Hold starts to open sessions with the server in the background, until Release.
func (h *SlotHolder) Hold(ctx context.Context, dsn string) error {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return err
	}
	ctx, h.stop = context.WithCancel(context.WithoutCancel(ctx))
	h.running.Go(func() {
		var sessions []*pgconn.PgConn
		for ctx.Err() == nil {
			session, err := pgconn.ConnectConfig(ctx, config)
			if err != nil {
				_ = pause(ctx, 50*time.Millisecond, 150*time.Millisecond) // no slot is free, or Release was called
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

// Release closes the sessions and waits for that. It does nothing if none are held.
func (h *SlotHolder) Release(context.Context) error {
	if h.stop != nil {
		h.stop()
		h.running.Wait()
		h.stop = nil
	}
	return nil
}
