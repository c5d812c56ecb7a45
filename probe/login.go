// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"context"
	"io"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/neterr"
)

const (
	// maxPendingTime is how long a login may take, even if its caller no longer waits. The server keeps a slot for it
	// for authentication_timeout, which is 60 s by default.
	maxPendingTime = time.Minute
	// minLoginAge is how old the youngest pending login must be before a third or fourth one starts. A second one may
	// start at once: behind a balancer, one login may hang while others succeed.
	minLoginAge = 15 * time.Second
	// maxPendingLogins is how many logins may be under way at once.
	maxPendingLogins = 4
)

// limits bounds the logins that are under way. Tests set shorter times than those of newLimits.
type limits struct {
	maxPending, minAge time.Duration // maxPendingTime and minLoginAge
	maxLogins          int           // maxPendingLogins
}

func newLimits() limits {
	return limits{maxPending: maxPendingTime, minAge: minLoginAge, maxLogins: maxPendingLogins}
}

// pendingLogin is a login under way. session and err are set before done is closed.
type pendingLogin struct {
	started    time.Time
	trace      *trace
	hasCommand bool // a command may have to print the password first
	forQuery   bool // started by Query; probes wait for it only if it was abandoned
	done       chan struct{}
	session    *session
	err        error
	abandoned  bool // no caller waits for it; protected by Prober.mu
}

// open opens a session. ctx bounds how long it waits. If ctx ends while the server already holds a slot for the login,
// the login continues without its caller. If other logins are under way, open waits until one of them ends or limits
// allow another one. A non-nil error is a *loginError or the cause of ctx. Query sets forQuery, and probes do not wait
// for its logins unless they were abandoned.
func (p *Prober) open(ctx context.Context, t *trace, forQuery bool) (*session, error) {
	for {
		l, obstacle := p.admit(ctx, t, forQuery)
		if l != nil {
			return p.await(ctx, l)
		}
		timer := time.NewTimer(obstacle.wait)
		select {
		case <-obstacle.ended:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil, obstacle.youngest.timeoutError(ctx)
		}
	}
}

// obstacle describes the logins that keep another one from starting.
type obstacle struct {
	youngest *pendingLogin
	ended    <-chan struct{}
	wait     time.Duration // how long they keep it from starting if none of them ends
}

// timeoutError returns the error of a caller whose ctx ended before the login did.
func (l *pendingLogin) timeoutError(ctx context.Context) error {
	if _, phase := l.trace.read(); phase == PhaseCredentials && l.hasCommand {
		return &loginError{err: &configError{errNoCredentials}, phase: phase} // nothing was sent to the server
	}
	return context.Cause(ctx)
}

// admit starts a login and returns it, or returns nil and the obstacle to wait for.
func (p *Prober) admit(probeCtx context.Context, t *trace, forQuery bool) (*pendingLogin, obstacle) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	pending := slices.DeleteFunc(slices.Clone(p.pending), func(l *pendingLogin) bool {
		return l.forQuery && !l.abandoned && !forQuery
	})
	if n := len(pending); n > 1 {
		youngest := pending[n-1]
		if age := now.Sub(youngest.started); age < p.limits.minAge {
			return nil, obstacle{youngest, p.loginEnded, p.limits.minAge - age}
		}
		if n >= p.limits.maxLogins {
			return nil, obstacle{youngest, p.loginEnded, p.limits.maxPending}
		}
	}
	l := &pendingLogin{
		started: now, trace: t, hasCommand: p.credentials.HasPasswordCommand(), forQuery: forQuery,
		done: make(chan struct{}),
	}
	p.pending = append(p.pending, l)
	p.work.Go(func() { p.runLogin(probeCtx, l) })
	return l, obstacle{}
}

// runLogin runs a login until it ends. The login may continue long after probeCtx has ended, but at most for
// limits.maxPending. If it was abandoned, runLogin closes its session.
func (p *Prober) runLogin(probeCtx context.Context, l *pendingLogin) {
	loginCtx, cancel := context.WithTimeout(p.ctx, p.limits.maxPending)
	defer cancel()
	l.session, l.err = p.login(probeCtx, loginCtx, l.trace)
	p.mu.Lock()
	p.pending = slices.DeleteFunc(p.pending, func(other *pendingLogin) bool { return other == l })
	abandoned := l.abandoned
	close(l.done)
	close(p.loginEnded)
	p.loginEnded = make(chan struct{})
	p.mu.Unlock()
	if abandoned && l.session != nil {
		l.session.close(loginCtx)
	}
}

// await waits until the login or ctx ends. If ctx ends first, it marks the login as abandoned.
func (p *Prober) await(ctx context.Context, l *pendingLogin) (*session, error) {
	select {
	case <-l.done:
		return l.session, l.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-l.done:
		return l.session, l.err
	default:
		l.abandoned = true
		return nil, l.timeoutError(ctx)
	}
}

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

// login opens a session. probeCtx is the context of the caller of open. It bounds resolving and dialling, before the
// server holds a slot for the login. loginCtx bounds the whole login. A non-nil error is a *loginError.
func (p *Prober) login(probeCtx, loginCtx context.Context, t *trace) (*session, error) {
	defer t.done()
	t.enter(PhaseCredentials)
	cfg, err := p.credentials.ConnConfig(loginCtx)
	if err != nil {
		return nil, &loginError{err: &configError{err}, phase: PhaseCredentials}
	}
	s := &session{dialer: newDialer(probeCtx, cfg, p.target.Permits, &p.options, t), refusals: &p.refusals, parameters: cfg.RuntimeParams}
	requireAuth, held := cfg.RequireAuth, p.refusedPassword.holdsBack(config.Secret(cfg.Password))
	if held != nil {
		cfg.RequireAuth = "none"
	}
	cfg.ValidateConnect, cfg.AfterConnect = nil, nil // target_session_attrs chooses among several servers; here is one
	cfg.MaxProtocolMessageBodyLen = maxMessage
	var written *passwordWriter // nil until the server is connected
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		s.meter = newMeter(r, s.dialer.metered)
		written = &passwordWriter{Writer: w, trace: t}
		return pgproto3.NewFrontend(s.meter, written)
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
	err = s.guard(func() error {
		var err error
		s.conn, err = pgconn.ConnectConfig(loginCtx, cfg)
		return err
	})
	if err != nil {
		s.dialer.sockets.closeAll()
		if neterr.Ended(err) && s.meter != nil {
			err = cmp.Or(s.meter.unterminatedError(), err)
		}
		_, phase := t.read()
		failed := &loginError{err: s.explainBySettings(err), phase: phase, password: config.Seal(config.Secret(cfg.Password))}
		switch f := classify(err, phase); {
		case phase != PhaseStartup:
		case f.Reason == ReasonTerminated:
			failed.endedAfterCertificate = s.dialer.mayHaveRefusedCertificate()
			if alert := s.dialer.loginHandshake.alert(); alert != nil {
				failed.err = alert
			}
		case held != nil && isAuthText(err.Error()): // the server requested the password
			failed.err = held
		case f.isRefusalOfCredentials() && written.sent:
			p.refusedPassword.record(failed.password.Secret(), err)
		case f.SQLState == "" && (f.Reason == ReasonProtocol || f.Reason == ReasonAuth):
			failed.err = s.meter.authError(err)
		}
		if isAlert(failed.err) && s.dialer.loginHandshake.lacksCertificate() {
			failed.err = errNoCertificate
		}
		return nil, failed
	}
	if held != nil && !allowsNoPassword(requireAuth) {
		s.close(p.ctx)
		return nil, &loginError{err: errNotAsked, phase: PhaseStartup}
	}
	p.refusedPassword.forget()
	p.credentials.Accepted()
	return s, nil
}
