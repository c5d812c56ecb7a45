// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/config"
)

const (
	// closeGrace is how long a session may take to end politely before its sockets are closed.
	closeGrace = 500 * time.Millisecond
	// largestMessage bounds what a server, or what only looks like one, can make us allocate.
	largestMessage = 4 << 20
)

// session is an open connection. It belongs to one goroutine at a time.
type session struct {
	conn   *pgconn.PgConn
	dialer *dialer
	// fatal is the error with which the server ended the session.
	fatal *pgconn.PgError
	// notice is the SQLSTATE of the last notice of class 57P: a server that goes down in a hurry tells its sessions so
	// in a notice (quickdie in src/backend/tcop/postgres.c).
	notice string
	// pooled says that the other side is a pooler: it needs no request to cancel what we leave, which PgBouncer 1.18 may crash
	// of, and does not say why it ends a session.
	pooled bool
	// uncancelled says that what we leave ends by itself, so that no request to cancel is needed either.
	uncancelled bool
	// unreplicated says that a commit did not wait for its synchronous standbys.
	unreplicated bool
}

// loginError is a login's failure and the phase that failed.
type loginError struct {
	err      error
	phase    Phase
	password config.Secret // that was sent, if it came so far
	// cutOff says that the server ended the session just after it was sent a client certificate.
	cutOff bool
}

func (e *loginError) Error() string { return e.phase.String() + ": " + e.err.Error() }
func (e *loginError) Unwrap() error { return e.err }

// login opens a session. ctx bounds the login as a whole, bounded the part before the server holds a slot for it.
// An error is a *loginError.
func login(ctx, bounded context.Context, target *config.Target, r resolver, sessions *Sessions, t *trace) (*session, error) {
	defer t.done()
	t.enter(PhaseCredentials)
	cfg, err := target.ConnConfig(ctx)
	if err != nil {
		return nil, &loginError{err: &configError{err}, phase: PhaseCredentials}
	}
	s := &session{dialer: newDialer(bounded, cfg, target.Permits, r, sessions, t)}
	cfg.ValidateConnect, cfg.AfterConnect = nil, nil // target_session_attrs picks one server of several; here is one
	cfg.MaxProtocolMessageBodyLen = largestMessage
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if len(n.Code) == 5 && n.Code[:3] == "57P" {
			s.notice = n.Code
		}
		s.unreplicated = s.unreplicated || n.Routine == waitCancelled
	}
	cfg.OnPgError = func(_ *pgconn.PgConn, e *pgconn.PgError) bool {
		if isFatal(e) {
			s.fatal = e
		}
		return s.fatal == nil
	}
	s.conn, err = pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		s.dialer.sockets.closeAll()
		_, phase := t.read()
		ended := phase == PhaseStartup && classify(err, phase).Reason == ReasonTerminated
		cutOff := ended && s.dialer.refusedCertificate()
		if alert := s.dialer.shaken.alert(); ended && alert != nil {
			err = alert
		}
		return nil, &loginError{err, phase, config.Secret(cfg.Password), cutOff}
	}
	target.Accepted()
	return s, nil
}

// readOnlyByDefault says whether transactions of a session that begins now cannot write unless they say so. An older
// session does not learn of it when the role's or the database's default is changed. It reports false where it could not
// be read.
func (s *session) readOnlyByDefault(ctx context.Context) (readOnly, ok bool) {
	const setting = "default_transaction_read_only"
	value := s.conn.ParameterStatus(setting)
	if value == "" { // reported from 14 on (GUC_REPORT in src/backend/utils/misc/guc.c)
		results, err := s.query(ctx, "SHOW "+setting)
		if err == nil && len(results) == 1 && len(results[0].Rows) == 1 && len(results[0].Rows[0]) == 1 {
			value = string(results[0].Rows[0][0])
		}
	}
	return value == "on", value != ""
}

// address is where the server was found.
func (s *session) address() string { return s.conn.Conn().RemoteAddr().String() }

// query runs sql by the simple protocol, which poolers take as well. When ctx ends, a cancel request goes out behind
// the answer and the session is closed.
func (s *session) query(ctx context.Context, sql string) ([]*pgconn.Result, error) {
	s.dialer.busy.Store(!s.pooled && !s.uncancelled)
	results, err := s.conn.Exec(ctx, sql).ReadAll()
	if !s.conn.IsClosed() {
		s.dialer.busy.Store(false)
	}
	return results, err
}

// close ends the session with a Terminate message (without one the server counts it as abandoned), and whatever is left
// of it within closeGrace, also when pgconn is still busy with a query that was given up.
func (s *session) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	_ = s.conn.Close(ctx) // closes the socket whatever happens
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
