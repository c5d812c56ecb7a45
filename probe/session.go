// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// closeGrace is how long a session may take to end politely before its sockets are closed.
	closeGrace = 500 * time.Millisecond
	// maxMessage bounds one message of a server, or of what only looks like one. The meter bounds their sum.
	maxMessage = 1 << 20
)

// session is an open connection. It belongs to one goroutine at a time.
type session struct {
	conn   *pgconn.PgConn
	dialer *dialer
	meter  *meter
	// panicked reports whether pgconn, or what reads its results, panicked on what the server sent.
	panicked bool
	// fatal is the error with which the server ended the session.
	fatal *pgconn.PgError
	// notice is the SQLSTATE of the last notice of class 57P: a server that goes down in a hurry tells its sessions so
	// in a notice (quickdie in src/backend/tcop/postgres.c).
	notice string
	// pooled says that the other side is a pooler: it needs no request to cancel what we leave, which PgBouncer 1.18 may crash
	// of, and does not say why it ends a session.
	pooled bool
	// hasStatementTimeout says that what we leave ends by itself, so that no request to cancel is needed either.
	hasStatementTimeout bool
	// syncWaitCancelled says that a commit did not wait for its synchronous standbys.
	syncWaitCancelled bool
}

// readOnlyByDefault says whether transactions of a session that begins now cannot write unless they say so. An older
// session does not learn of it when the role's or the database's default is changed. It reports false where it could not
// be read.
func (s *session) readOnlyByDefault(ctx context.Context) (readOnly, ok bool) {
	const setting = "default_transaction_read_only"
	value := s.conn.ParameterStatus(setting)
	if value == "" { // reported from 14 on (GUC_REPORT in src/backend/utils/misc/guc.c)
		results, err := s.query(ctx, "SHOW "+setting, smallBudget)
		if err == nil && len(results) == 1 && len(results[0].Rows) == 1 && len(results[0].Rows[0]) == 1 {
			value = string(results[0].Rows[0][0])
		}
	}
	return value == "on", value != ""
}

// address is where the server was found.
func (s *session) address() string { return s.conn.Conn().RemoteAddr().String() }

// query runs sql by the simple protocol, which poolers take as well. budget bounds what the reply may cost. When ctx ends, a
// cancel request goes out behind the answer and the session is closed.
func (s *session) query(ctx context.Context, sql string, budget int) ([]*pgconn.Result, error) {
	var results []*pgconn.Result
	s.dialer.busy.Store(!s.pooled && !s.hasStatementTimeout)
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

// run guards a statement, whose reply may cost as much as budget. pgconn does not watch ctx any more once it has read
// ReadyForQuery, and goes on reading where CommandComplete was missing before it: the sockets are closed then.
func (s *session) run(ctx context.Context, budget int, statement func() error) error {
	finished, finish := context.WithCancel(context.Background())
	defer finish()
	defer context.AfterFunc(ctx, func() {
		timer := time.NewTimer(replyGrace)
		defer timer.Stop()
		select {
		case <-timer.C:
			s.dialer.sockets.closeAll()
		case <-finished.Done():
		}
	})()
	s.meter.grant(budget)
	err := s.guard(statement)
	var pgErr *pgconn.PgError
	switch {
	case err == nil, errors.As(err, &pgErr):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case s.meter.err != nil:
		return s.meter.err // ReadAll looks ahead, and says of what it met there only that the connection is closed
	}
	return err
}

// queryRows runs sql, which returns a row for each of some things that a server has many of.
func (s *session) queryRows(ctx context.Context, sql string) ([]*pgconn.Result, error) {
	return s.query(ctx, sql, largeBudget)
}

// abortedByUs reports whether this side ended the session because of what the server sent.
func (s *session) abortedByUs() bool { return s.panicked || s.meter.exceeded() }

// guard runs something that parses what the server sends, and returns its error. A panic ends the session and not the
// process: pgconn panics on some orders of messages that no server sends (jackc/pgx#1833). The goroutine that owns the
// session calls it.
func (s *session) guard(parse func() error) error {
	err := contain(s.dialer, parse)
	var panicErr *panicError
	if errors.As(err, &panicErr) && !s.panicked {
		s.panicked = true
		if s.conn != nil {
			_ = contain(s.dialer, func() error { return s.conn.Close(context.Background()) }) // the sockets are closed by now
		}
	}
	return err
}

// panicError is a panic that was contained.
type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// contain runs f and turns a panic into a *panicError. It closes all sockets of the session then, since pgconn's own state
// cannot be trusted any more.
func contain(d *dialer, f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			d.sockets.closeAll()
			d.logger.Debug("what the server sent made the driver panic, and the session was closed", "panic", fmt.Sprint(value),
				"stack", string(debug.Stack()))
			err = &panicError{value}
		}
	}()
	return f()
}

// close ends the session with a Terminate message (without one the server counts it as abandoned), and whatever is left
// of it within closeGrace, also when pgconn is still busy with a query that was given up.
func (s *session) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	_ = s.guard(func() error { return s.conn.Close(ctx) }) // closes the socket whatever happens
	select {
	case <-s.conn.CleanupDone():
	case <-ctx.Done():
	}
	s.dialer.sockets.closeAll()
	<-s.conn.CleanupDone()
}

// isFatal says whether the server ended the session with this error.
func isFatal(e *pgconn.PgError) bool {
	severity := e.SeverityUnlocalized // the other one is translated; absent before 9.6 and in poolers
	if severity == "" {
		severity = e.Severity
	}
	return severity == "FATAL" || severity == "PANIC"
}

// isRefusal says whether the server answered with an error after which the session goes on.
func isRefusal(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && !isFatal(pgErr)
}
