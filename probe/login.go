// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"context"
	"io"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/neterr"
)

// loginError is why a login failed, and in which phase.
type loginError struct {
	err      error
	phase    Phase
	password config.Sealed // the password that was sent, empty if the login did not get that far
	// endedAfterCertificate reports whether the server ended the session right after the client certificate was sent.
	endedAfterCertificate bool
}

func (e *loginError) Error() string { return e.phase.String() + ": " + e.err.Error() }
func (e *loginError) Unwrap() error { return e.err }

// login opens a session. probeCtx is the context of the caller of loginQueue.open. It bounds resolving and dialling, before the
// server holds a slot for the login. loginCtx bounds the whole login. A non-nil error is a *loginError.
func (p *Prober) login(probeCtx, loginCtx context.Context, t *trace) (*session, error) {
	defer t.done()
	t.enter(PhaseCredentials)
	cfg, err := p.credentials.ConnConfig(loginCtx)
	if err != nil {
		return nil, &loginError{err: &configError{err}, phase: PhaseCredentials}
	}
	s := &session{dialer: newDialer(probeCtx, cfg, p.target.Permits, &p.options, t), refusals: &p.refusals, parameters: cfg.RuntimeParams}
	password, requireAuth := config.Secret(cfg.Password), cfg.RequireAuth
	held := p.refusedPassword.holdsBack(password)
	if held != nil {
		cfg.RequireAuth = "none"
	}
	s.watch(cfg, t)
	err = s.guard(func() error {
		var err error
		s.conn, err = pgconn.ConnectConfig(loginCtx, cfg)
		return err
	})
	if err != nil {
		return nil, p.loginFailed(s, t, err, password, held)
	}
	if held != nil && !allowsNoPassword(requireAuth) {
		s.close(p.ctx)
		return nil, &loginError{err: errNotAsked, phase: PhaseStartup}
	}
	p.refusedPassword.forget()
	p.credentials.Accepted()
	return s, nil
}

// watch makes a login bound what the server sends, and record in the session and in t what it sends besides replies.
func (s *session) watch(cfg *pgconn.Config, t *trace) {
	cfg.ValidateConnect, cfg.AfterConnect = nil, nil // target_session_attrs chooses among several servers; here is one
	cfg.MaxProtocolMessageBodyLen = maxMessage
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		if s.meter == nil {
			s.meter = newMeter(s.dialer.metered)
		}
		s.meter.reader = r
		return pgproto3.NewFrontend(s.meter, passwordWriter{w, t})
	}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if len(n.Code) == 5 && n.Code[:3] == "57P" {
			s.notice = n.Code
		}
		s.syncWaitCancelled = s.syncWaitCancelled || n.Routine == syncWaitCancelledRoutine
	}
	cfg.OnPgError = func(_ *pgconn.PgConn, e *pgconn.PgError) bool {
		if isFatal(e) {
			s.fatal = e
		}
		return s.fatal == nil
	}
}

// loginFailed closes the sockets of a login that failed with err, and returns what the failure means. It records a password
// that the server refused. held is why the login held the password back, nil if it did not.
func (p *Prober) loginFailed(s *session, t *trace, err error, password config.Secret, held error) *loginError {
	s.dialer.sockets.closeAll()
	if neterr.Ended(err) && s.meter != nil {
		err = cmp.Or(s.meter.unterminatedError(), err)
	}
	_, phase := t.read()
	failed := &loginError{err: s.explainBySettings(err), phase: phase, password: config.Seal(password)}
	switch f := classify(err, phase); {
	case phase != PhaseStartup:
	case f.Reason == ReasonTerminated:
		failed.endedAfterCertificate = s.dialer.mayHaveRefusedCertificate()
		if alert := s.dialer.loginHandshake.alert(); alert != nil {
			failed.err = alert
		}
	case held != nil && isAuthText(err.Error()): // the server requested the password
		failed.err = held
	case f.Routine == roleRoutine: // the server accepted the password
	case f.isRefusalOfCredentials() && t.hasSentPassword():
		p.refusedPassword.record(password, err)
	case f.SQLState == "" && (f.Reason == ReasonProtocol || f.Reason == ReasonAuth):
		failed.err = s.meter.authError(err)
		if hasRefusedToken(failed.err) {
			p.refusedPassword.record(password, failed.err)
		}
	}
	if isAlert(failed.err) && s.dialer.loginHandshake.lacksCertificate() {
		failed.err = errNoCertificate
	}
	return failed
}
