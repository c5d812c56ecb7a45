// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// closeGrace is how long a session may take to end cleanly before its sockets are closed.
	closeGrace = 500 * time.Millisecond
	// maxMessage bounds one message of a server, in bytes. The meter bounds their sum.
	maxMessage = 1 << 20
)

// session is an open connection. It belongs to one goroutine at a time.
type session struct {
	conn   *pgconn.PgConn
	dialer *dialer
	meter  *meter
	// refusals remembers what the server refuses. All sessions of a prober share it.
	refusals *refusals
	// parameters are the run-time parameters that the login sent.
	parameters map[string]string
	// role is what the ping of a new session found, nil if it is not known. postmasterStart is when the server started, in
	// seconds since the epoch by its own clock, unknown if the role may not read it.
	role            *Role
	postmasterStart Number
	// panicked reports whether pgconn, or the code that reads its results, panicked on data from the server.
	panicked bool
	// overran reports whether run closed the sockets because a reply was late.
	overran bool
	// fatal is the error with which the server ended the session, nil if there was none.
	fatal *pgconn.PgError
	// notice is the SQLSTATE of the last notice of class 57P. In an immediate shutdown, a server informs its sessions
	// in a notice (quickdie in src/backend/tcop/postgres.c).
	notice string
	// pooled reports whether the other side is a pooler. A pooler needs no cancel request for an unfinished query, and
	// PgBouncer 1.18 may crash if it gets one. A pooler does not give a reason when it ends a session.
	pooled bool
	// relayed reports whether the server sees another client port than this side has: a proxy or a pooler is between.
	relayed bool
	// hasStatementTimeout reports whether the server ends a query by itself, so that no cancel request is needed.
	hasStatementTimeout bool
	// syncWaitCancelled reports whether a commit did not wait for its synchronous standbys.
	syncWaitCancelled bool
}

// address returns the server's address as host:port, or the path of a Unix socket.
func (s *session) address() string { return s.dialer.metered.RemoteAddr().String() }

// query runs sql by the simple protocol, which poolers support too. budget bounds the memory that the reply may use, in
// bytes. If ctx ends first, the session is closed, and a cancel request is sent in the background unless the session
// needs none.
func (s *session) query(ctx context.Context, sql string, budget int) ([]*pgconn.Result, error) {
	var results []*pgconn.Result
	s.dialer.busy.Store(!s.pooled && !s.hasStatementTimeout)
	s.meter.sentAt = time.Now()
	err := s.run(ctx, budget, func() error {
		var err error
		results, err = s.conn.Exec(ctx, sql).ReadAll()
		return err
	})
	if !s.conn.IsClosed() {
		s.dialer.busy.Store(false)
	}
	return results, err
}

// run runs a statement under guard. budget bounds its reply, in bytes. If ctx ends, run closes the sockets after
// replyGrace: pgconn stops watching ctx once it has read ReadyForQuery, but continues to read if CommandComplete is
// missing.
func (s *session) run(ctx context.Context, budget int, statement func() error) error {
	finished, finish := context.WithCancel(context.Background())
	defer finish()
	var settled atomic.Bool // by whichever comes first, the statement or the end of replyGrace
	defer context.AfterFunc(ctx, func() {
		timer := time.NewTimer(replyGrace)
		defer timer.Stop()
		select {
		case <-timer.C:
			if settled.CompareAndSwap(false, true) {
				s.dialer.sockets.closeAll()
			}
		case <-finished.Done():
		}
	})()
	s.meter.grant(budget)
	err := s.guard(statement)
	s.overran = !settled.CompareAndSwap(false, true)
	var pgErr *pgconn.PgError
	switch {
	case s.overran:
		return ctx.Err()
	case err == nil, errors.As(err, &pgErr):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case s.meter.err != nil:
		return s.meter.err // ReadAll reads ahead, and reports such an error only as a closed connection
	}
	return err
}

// queryRows runs sql like query, with a budget for one row per database, pool or user.
func (s *session) queryRows(ctx context.Context, sql string) ([]*pgconn.Result, error) {
	return s.query(ctx, sql, largeBudget)
}

// queryCatalog is queryRows for a PostgreSQL server, with the session's prefix.
func (s *session) queryCatalog(ctx context.Context, sql string) ([]*pgconn.Result, error) {
	prefix := s.prefix()
	results, err := s.queryPrefixed(ctx, prefix, sql, largeBudget)
	switch {
	case prefix != plainPrefixSQL:
	case len(results) > 0:
		s.refusals.record(PartLockTimeout, nil)
	case s.refusals.record(PartLockTimeout, err):
		return s.queryPrefixed(ctx, s.prefix(), sql, largeBudget)
	}
	return results, err
}

// queryPart reads a part of the statistics and returns the rows of its last result. It returns none if the server refuses
// the part, or refused it so recently that queryPart does not ask. It returns an error if the session is lost or a row does
// not have the given number of columns.
func (s *session) queryPart(ctx context.Context, part Part, sql string, columns int) ([][][]byte, error) {
	if s.refusals.refused(part) != nil {
		return nil, nil
	}
	query := s.queryCatalog
	if part == PartSessionCounter { // the server cancels it if it is slow, so it is not sent again
		query = func(ctx context.Context, sql string) ([]*pgconn.Result, error) {
			return s.query(ctx, s.prefix()+sql, largeBudget)
		}
	}
	results, err := query(ctx, sql)
	s.refusals.record(part, err)
	switch {
	case isRefusal(err), err == nil && len(results) == 0:
		return nil, nil
	case err != nil:
		return nil, err
	}
	rows := results[len(results)-1].Rows
	for _, row := range rows {
		if len(row) != columns {
			return nil, errors.New("a row of another width")
		}
	}
	return rows, nil
}

// abortedByUs reports whether this side ended the session because of what the server sent.
func (s *session) abortedByUs() bool { return s.panicked || s.overran || s.meter.exceeded() }

// guard runs parse, which parses what the server sends, and returns its error. A panic in parse closes the session
// instead of crashing the process: pgconn panics on some sequences of messages that no real server sends
// (jackc/pgx#1833). Only the goroutine that owns the session may call it.
func (s *session) guard(parse func() error) error {
	err := contain(s.dialer, parse)
	var panicErr *panicError
	if errors.As(err, &panicErr) && !s.panicked {
		s.panicked = true
		if s.conn != nil {
			// Close cannot block: the sockets are already closed.
			_ = contain(s.dialer, func() error { return s.conn.Close(context.Background()) })
		}
	}
	return err
}

// panicError is a contained panic.
type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// contain runs f and turns a panic into a *panicError. After a panic it closes all sockets of the session, since
// pgconn's state can no longer be trusted.
func contain(d *dialer, f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			d.sockets.closeAll()
			d.logger.Debug("What the server sent made the driver panic, and the session was closed", "panic", fmt.Sprint(value),
				"stack", string(debug.Stack()))
			err = &panicError{value}
		}
	}()
	return f()
}

// close ends the session with a Terminate message, since the server counts a session without one as abandoned. After
// closeGrace it closes the sockets, even if pgconn is still busy with an abandoned query. The end of ctx has no effect.
func (s *session) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	_ = s.guard(func() error { return s.conn.Close(ctx) }) // closes the socket in any case
	select {
	case <-s.conn.CleanupDone():
	case <-ctx.Done():
	}
	s.dialer.sockets.closeAll()
	<-s.conn.CleanupDone()
}

// isFatal reports whether the server ended the session with this error.
func isFatal(e *pgconn.PgError) bool {
	severity := e.SeverityUnlocalized // Severity is translated; this field is absent before 9.6 and in poolers
	if severity == "" {
		severity = e.Severity
	}
	return severity == "FATAL" || severity == "PANIC"
}
