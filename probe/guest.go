// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"net"
	"sync/atomic"
	"time"
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
	return p.options.Keep && !p.stopKeeping.Load() && !(s.isRelayed() && s.conn.Conn().RemoteAddr().Network() == "unix")
}

// mayBlockShutdown reports whether new logins are refused as during a shutdown. If the kept session still replies, the
// server may be waiting for it to end. It blocks a smart shutdown of PostgreSQL, and that of a PgBouncer, which closes
// its port (SIGTERM from 1.23 on).
func (r *Result) mayBlockShutdown() bool {
	return r.Failure != nil && (r.Failure.Reason == ReasonNotAccepting || r.Failure.Reason == ReasonRefused && r.pooled())
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

// giveWayToLogin makes the kept session k give way if half of the time until ctx's deadline passes before end is
// called, k replies, and a proxy or a pooler is between: k may hold the place that the new login waits for. If the login
// succeeds after that, no session is kept from then on. A direct session stays, since it is the only way to read the
// statistics of a server that accepts no login. k is nil if no session is kept.
func (p *Prober) giveWayToLogin(ctx context.Context, k *kept) (end func(succeeded bool)) {
	deadline, ok := ctx.Deadline()
	if k == nil || !k.isRelayed() || !ok {
		return func(bool) {}
	}
	var gaveWay atomic.Bool
	timer := time.AfterFunc(time.Until(deadline)/2, func() {
		if k.listening.Load() { // it has replied
			gaveWay.Store(true)
			p.release(k)
		}
	})
	return func(succeeded bool) {
		timer.Stop()
		if succeeded && gaveWay.Load() {
			p.stopKeeping.Store(true)
		}
	}
}

// giveWayAndRetry makes the kept session k give way to a new login that was turned away, and logs in again. A pooler may
// need a moment to notice that k has ended. If the login succeeds, giveWayAndRetry returns the session,
// and no session is kept from then on.
func (p *Prober) giveWayAndRetry(ctx context.Context, r *Result, k *kept) *session {
	p.release(k)
	for start := time.Now(); time.Since(start) < maxReopen; {
		select {
		case <-time.After(reopenInterval):
		case <-ctx.Done():
			return nil
		}
		if s := p.openAndPing(ctx, r); s != nil {
			p.stopKeeping.Store(true)
			return s
		}
		if !r.isTurnedAway() {
			return nil
		}
	}
	return nil
}
