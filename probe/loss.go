// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"time"
)

const (
	// maxReopen and reopenInterval bound how long and how often the prober tries to log in after a session was lost, or
	// after it has given way to a new login.
	maxReopen      = time.Second
	reopenInterval = 50 * time.Millisecond

	// crashGrace is how long after an unexplained end the reopened session may end for the same reason, a crash. The
	// postmaster accepts logins until it notices that a process has died.
	crashGrace = 100 * time.Millisecond

	// idleTolerance and idleTolerancePercent are by how much two idle times may differ to count as one limit. The
	// percentage is of the longer one.
	idleTolerance        = 20 * time.Millisecond
	idleTolerancePercent = 10
)

// Loss is the end of a kept session by the other side: the server, the network, or a proxy or pooler.
type Loss struct {
	Reason LossReason
	// At is when the prober noticed the end.
	At time.Time
	// IdleLimit is how long the session had been idle, if an idle limit ended it. Otherwise it is 0.
	IdleLimit time.Duration
}

// LossReason is how the other side ended a kept session.
type LossReason string

// The reasons for the loss of a kept session.
const (
	LossShutdown   LossReason = "shutdown"
	LossCrash      LossReason = "crash"
	LossTerminated LossReason = "terminated"
	LossNetwork    LossReason = "network"
)

// LossReasons returns all loss reasons.
func LossReasons() []LossReason {
	return []LossReason{LossShutdown, LossCrash, LossTerminated, LossNetwork}
}

// startTimes are what distinguishes a crash from a restart, in seconds since the epoch, by the server's clock.
type startTimes struct {
	postmaster, checkpointer Number
	read                     Number // when the server was asked
}

// sessionEnd is how the other side ended a kept session, as far as that session shows it.
type sessionEnd struct {
	code, routine string // SQLSTATE and routine of the fatal error, empty if there was none
	notice        string // SQLSTATE of the last notice of class 57P
	at            time.Time
	idle          time.Duration // how long it had been idle, 0 if a request was under way
	survived      time.Duration // the longest time that it had been idle before
	asked         bool          // it had replied to a probe
	relayed       bool
	started       startTimes
	byIdleLimit   bool // something ends idle sessions
}

// end returns how the other side ended the session. The session's goroutine calls it.
func (k *kept) end(at time.Time) *sessionEnd {
	e := &sessionEnd{notice: k.notice, at: at, asked: k.asked, survived: k.survived, relayed: k.isRelayed(), started: k.started}
	if !k.idleSince.IsZero() {
		e.idle = at.Sub(k.idleSince)
	}
	if k.fatal != nil {
		e.code, e.routine = k.fatal.Code, k.fatal.Routine
	}
	// idle_session_timeout: ProcessInterrupts in src/backend/tcop/postgres.c
	e.byIdleLimit = e.code == "57P05"
	return e
}

// announced reports whether the server said that an administrator ended the session. It says the same in a shutdown and
// after pg_terminate_backend.
func (e *sessionEnd) announced() bool { return e.code == "57P01" || e.notice == "57P01" }

// isUnexplained reports whether the server said nothing.
func (e *sessionEnd) isUnexplained() bool { return e.code == "" && e.notice == "" }

// reason returns the reason if the end of the session alone determines it. The cases were tested on PostgreSQL 13 to
// 19. The routines are those of src/backend/libpq/be-secure.c and src/backend/tcop/postgres.c.
func (e *sessionEnd) reason() (LossReason, bool) {
	switch {
	// crash_shutdown, or the postmaster has died
	case e.code == "57P02", e.notice == "57P02", e.routine == "secure_read":
		return LossCrash, true
	case e.code == "57P05", e.code == "25P03", e.code == "25P04": // time-outs of idle sessions and transactions
		return LossTerminated, true
	}
	return "", false
}

// reasonFromLogin determines the reason from the end of the session and a new login. f is the login's failure, nil if it
// succeeded. after has the start times that the new session read, as far as they are known. If the second result is
// false, another login may find a better reason.
func (e *sessionEnd) reasonFromLogin(f *Failure, after startTimes) (LossReason, bool) {
	if f == nil {
		sameServer := e.started.postmaster.Known && e.started.postmaster == after.postmaster
		switch {
		// If the start was earlier, the new session has reached another server, and nothing is known of the old one.
		case e.announced() && increased(e.started.read, after.postmaster):
			return LossShutdown, true
		case sameServer && increased(e.started.checkpointer, after.checkpointer):
			return LossCrash, true
		case e.announced(), e.code != "", e.byIdleLimit:
			return LossTerminated, true
		}
		return LossNetwork, true
	}
	switch {
	case e.byIdleLimit:
		return LossTerminated, true
	case f.Reason == ReasonNotAccepting && e.announced():
		return LossShutdown, true
	case f.Reason == ReasonNotAccepting && e.code == "":
		return LossCrash, true
	case e.announced() && (f.Reason == ReasonRefused || f.Reason == ReasonTerminated):
		return LossShutdown, true
	case e.announced() && f.SQLState != "": // the server is alive and refuses the login for another reason
		return LossTerminated, true
	case f.SQLState != "":
		return LossNetwork, true
	}
	return LossNetwork, false
}

// increased reports whether both numbers are known and after is larger.
func increased(before, after Number) bool {
	return before.Known && after.Known && after.Value > before.Value
}

// similar reports whether two idle times may be due to one limit.
func similar(a, b time.Duration) bool {
	return (a - b).Abs() <= idleTolerance+max(a, b)*idleTolerancePercent/100
}

// lose is called when the other side has ended a kept session. It finds the reason, if necessary by logging in again,
// and reports the loss. If it must not log in, the next probe finds the reason.
func (p *Prober) lose(end *sessionEnd) {
	reason, decided := end.reason()
	if !decided {
		if !p.mayReopen(end) {
			return
		}
		if reason, decided = p.reopen(end); !decided {
			return
		}
	}
	p.report(end, reason)
}

// mayReopen reports whether the prober may log in again before anybody asks. It may do so once for each time that a
// probe asked the kept session. It may not if something ends idle sessions, which shows at the second unexplained end
// after a similar idle time, or if a proxy or pooler may have passed on an administrator's command, as when a server is
// suspended: the login would wake it up.
func (p *Prober) mayReopen(end *sessionEnd) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if end.idle > 0 && end.isUnexplained() {
		end.byIdleLimit = p.lastIdle > 0 && similar(p.lastIdle, end.idle) && end.survived <= end.idle
		p.lastIdle = end.idle
	}
	if end.asked && !end.byIdleLimit && !(end.relayed && end.announced()) {
		return true
	}
	p.undecided = append(p.undecided, end)
	return false
}

// reopen logs in again right after a session was lost, to find the reason, and keeps the new session. maxReopen bounds
// it. It returns false if the reason is that of the new session, which has ended too and reports it. The server may have
// changed since it refused parts of the statistics.
func (p *Prober) reopen(end *sessionEnd) (LossReason, bool) {
	p.refusals.forget(0)
	ctx, cancel := context.WithTimeout(p.ctx, maxReopen)
	defer cancel()
	for {
		k, after, f := p.loginAgain(ctx)
		reason, decided := end.reasonFromLogin(f, after)
		if reason == LossNetwork && k != nil && end.isUnexplained() && k.isLostWithin(crashGrace) {
			return "", false
		}
		if decided {
			return reason, true
		}
		select {
		case <-time.After(reopenInterval):
		case <-ctx.Done():
			return reason, true
		}
	}
}

// loginAgain opens a session, reads the start times, and keeps the session if it may. It returns the kept session, nil
// if the new one is not kept, and the failure of the login. A session that has ended already counts as a failed login.
func (p *Prober) loginAgain(ctx context.Context) (*kept, startTimes, *Failure) {
	s, err := p.logins.open(ctx, &trace{}, false)
	if err != nil {
		return nil, startTimes{}, classify(err, PhaseStartup)
	}
	s.pooled = p.pooled.Load()
	var after startTimes
	_ = s.guard(func() error {
		_, _ = p.kind.pingWithRole(ctx, s) // shows what is between
		after = p.kind.readStartTimes(ctx, s)
		return nil
	})
	k, isNew := p.keep(s, after) // a session that has ended is not kept, so its end is no loss
	if isNew {
		return k, after, nil
	}
	defer p.closeInBackground(s)
	if s.conn.IsClosed() {
		return nil, startTimes{}, &Failure{State: StateNoResponse, Reason: ReasonOther, Phase: PhaseQuery}
	}
	return nil, after, nil
}

// isLostWithin waits for grace, and reports whether the other side ends the session in that time. A server that crashes
// may not say so: it drops the message while it sends another (PqCommBusy in src/backend/libpq/pqcomm.c).
func (k *kept) isLostWithin(grace time.Duration) bool {
	select {
	case <-time.After(grace):
		return false
	case <-k.ended:
		return k.loss != nil
	}
}

// takeUndecided returns the ends of kept sessions whose reasons are not known yet.
func (p *Prober) takeUndecided() []*sessionEnd {
	p.mu.Lock()
	defer p.mu.Unlock()
	ends := p.undecided
	p.undecided = nil
	return ends
}

// decide finds the reason for the end of a session from the result of the next probe, and reports the loss.
func (p *Prober) decide(end *sessionEnd, r *Result) {
	after := startTimes{postmaster: r.postmasterStart}
	if r.ServerStats != nil {
		after.checkpointer = r.ServerStats.CheckpointerStart
	}
	reason, _ := end.reasonFromLogin(r.Failure, after)
	if reason == LossCrash && r.Failure != nil {
		reason = LossNetwork // the server may have been restarted since
	}
	p.report(end, reason)
}

// report reports a loss, unless the prober is closed.
func (p *Prober) report(end *sessionEnd, reason LossReason) {
	if p.ctx.Err() != nil {
		return
	}
	loss := Loss{Reason: reason, At: end.at}
	if end.byIdleLimit && reason == LossTerminated {
		loss.IdleLimit = end.idle
	}
	p.options.OnSessionLost(loss)
}
