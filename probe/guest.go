// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"pg_liveness_exporter/config"
)

// The exporter is a guest: the kept session must not take a place that an application needs, and must not keep anything
// from stopping.

// isRelayed reports whether a proxy or a pooler is between the exporter and the server, as far as is known.
func (s *session) isRelayed() bool { return s.relayed || s.pooled }

// setRelayed records what is between, from what the server says about the session: the process ID, and the client's
// port, which is unknown over a Unix socket. A proxy has a port of its own, and most poolers report a process ID of
// their own at the login.
func (s *session) setRelayed(pid, port Number) {
	local, isTCP := s.conn.Conn().LocalAddr().(*net.TCPAddr)
	s.pooled = pid.Known && pid.Value != float64(s.conn.PID())
	s.relayed = isTCP && port.Known && port.Value != float64(local.Port)
}

// mayKeep reports whether a session may be kept. A PgBouncer that is stopped (SIGTERM from 1.23 on) waits for its
// clients to leave. Over TCP it closes its port, which the next probe notices, but it goes on accepting over a Unix
// socket.
func (p *Prober) mayKeep(s *session) bool {
	return p.keeps.Load() && !p.stopKeeping.Load() && !(s.isRelayed() && s.conn.Conn().RemoteAddr().Network() == "unix")
}

// mayBlockShutdown reports whether new logins are refused as during a shutdown, so that the server may be waiting for the
// kept session to end. It blocks a smart shutdown of PostgreSQL. It also blocks a PgBouncer (SIGTERM from 1.23 on) or a
// HAProxy (SIGUSR1) that has closed its port.
func (k *kept) mayBlockShutdown(r *Result) bool {
	return r.Failure != nil && (r.Failure.Reason == ReasonNotAccepting || r.Failure.Reason == ReasonRefused && k.isRelayed())
}

// ranOutOfTime reports whether the deadline ended the login.
func (r *Result) ranOutOfTime() bool {
	return r.Failure != nil && r.Failure.Reason == ReasonTimeout && r.Failure.SQLState == ""
}

// isTurnedAway reports whether a proxy or a pooler may have had no place for the new session. Poolers say so, for all
// clients or for those of one user. Proxies just end the connection.
func (r *Result) isTurnedAway() bool {
	f := r.Failure
	switch {
	case f == nil:
		return false
	case f.SQLState == "":
		return f.Reason == ReasonTerminated
	}
	return f.Reason == ReasonPooler && f.State == StateConnectionLimit || f.Reason == ReasonRoleLimit && f.Routine == ""
}

// maxHandover is how long after the kept session has given way a login may succeed because of that. pgagroal looks for a
// free place about once a second.
const maxHandover = 2 * time.Second

// loginWatch makes the kept session give way to a new login. A nil *loginWatch does nothing.
type loginWatch struct {
	prober  *Prober
	timer   *time.Timer
	login   atomic.Pointer[trace] // of the current attempt
	gaveWay atomic.Int64          // when the kept session gave way, in nanoseconds since the epoch; 0 if it has not
}

// watchLogin makes the kept session k give way if, at half of the time until ctx's deadline, a new login waits for a
// place and a proxy or a pooler is between: k may hold that place. If the login succeeds soon after that, no session is
// kept from then on. A direct session stays, since it is the only way to read the statistics of a server that accepts
// no login. So does one with PgBouncer's console, for which PgBouncer always has a place: a login that waits there waits
// for a server (auth_query). k is nil if no session is kept.
func (p *Prober) watchLogin(ctx context.Context, k *kept) *loginWatch {
	deadline, ok := ctx.Deadline()
	if k == nil || !k.isRelayed() || p.target.Kind == config.KindPgBouncer || !ok {
		return nil
	}
	w := &loginWatch{prober: p}
	w.timer = time.AfterFunc(time.Until(deadline)/2, func() {
		// A session that is busy has not replied to this probe.
		if login := w.login.Load(); login != nil && login.waitsForPlace() && k.listening.Load() {
			w.gaveWay.Store(time.Now().UnixNano())
			p.release(k)
		}
	})
	return w
}

// follow tells the loginWatch which login is under way.
func (w *loginWatch) follow(login *trace) {
	if w != nil {
		w.login.Store(login)
	}
}

// end ends the watch. succeeded reports whether the login got in.
func (w *loginWatch) end(succeeded bool) {
	if w == nil {
		return
	}
	w.timer.Stop()
	at := w.gaveWay.Load()
	if succeeded && at != 0 && time.Since(time.Unix(0, at)) < maxHandover {
		w.prober.keepNoMore()
	}
}

// keepNoMore releases the kept session, if there is one, and makes the prober keep none from then on.
func (p *Prober) keepNoMore() {
	p.stopKeeping.Store(true)
	p.releaseKept()
}

// releaseKept releases the kept session, if there is one.
func (p *Prober) releaseKept() {
	p.mu.Lock()
	k := p.kept
	p.mu.Unlock()
	if k != nil {
		p.release(k)
	}
}

// giveWay makes the kept session k, which has replied, give way after a new login has failed, if k may be in its way. If
// the login was turned away, giveWay tries it again and returns the session as retry does.
func (p *Prober) giveWay(ctx context.Context, r *Result, k *kept) *session {
	switch {
	case k.mayBlockShutdown(r):
		p.release(k)
	case r.isTurnedAway() && k.isRelayed():
		p.release(k)
		return p.retry(ctx, r)
	}
	return nil
}

// retry logs in again for up to maxReopen after a new login was turned away and the kept session has given way: a pooler may
// need a moment to notice that it has ended. If the login succeeds, retry returns the session, and no session is kept from
// then on. If it runs out of time, the first finding stands.
func (p *Prober) retry(ctx context.Context, r *Result) *session {
	first := *r
	for start := time.Now(); time.Since(start) < maxReopen && r.isTurnedAway(); {
		select {
		case <-time.After(reopenInterval):
		case <-ctx.Done():
			return nil
		}
		if s := p.openAndPing(ctx, r, nil); s != nil {
			p.keepNoMore()
			return s
		}
	}
	if r.ranOutOfTime() {
		r.Failure, r.Phases, r.Connect, r.TLS = first.Failure, first.Phases, first.Connect, first.TLS
	}
	return nil
}
