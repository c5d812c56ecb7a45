// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"slices"
	"sync"
	"time"
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
	started   time.Time
	trace     *trace
	fetches   bool // a command or a cloud may have to give the password first
	forQuery  bool // started by Query; probes wait for it only if it was abandoned
	done      chan struct{}
	session   *session
	err       error
	abandoned bool // no caller waits for it; protected by loginQueue.mu
}

// loginQueue runs the logins of a prober. Each has a goroutine of its own, and may outlive the caller that started it. Any
// goroutine may call open.
type loginQueue struct {
	limits limits
	// login runs one login, as Prober.login. fetches is Credentials.FetchesPassword.
	login   func(probeCtx, loginCtx context.Context, t *trace) (*session, error)
	fetches func() bool
	ctx     context.Context //nolint:containedctx // ends all logins; that of the prober
	work    *sync.WaitGroup // of the prober

	mu      sync.Mutex      // protects what follows
	pending []*pendingLogin // logins under way, youngest last
	ended   chan struct{}   // closed and replaced when one of them ends
}

// open opens a session. ctx bounds how long it waits. If ctx ends while the server already holds a slot for the login,
// the login continues without its caller. If other logins are under way, open waits until one of them ends or limits
// allow another one. A non-nil error is a *loginError or the cause of ctx. Query sets forQuery, and probes do not wait
// for its logins unless they were abandoned.
func (q *loginQueue) open(ctx context.Context, t *trace, forQuery bool) (*session, error) {
	for {
		l, obstacle := q.admit(ctx, t, forQuery)
		if l != nil {
			return q.await(ctx, l)
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
	if _, phase := l.trace.read(); phase == PhaseCredentials && l.fetches {
		return &loginError{err: &configError{errNoCredentials}, phase: phase} // nothing was sent to the server
	}
	return context.Cause(ctx)
}

// admit starts a login and returns it, or returns nil and the obstacle to wait for.
func (q *loginQueue) admit(probeCtx context.Context, t *trace, forQuery bool) (*pendingLogin, obstacle) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	pending := slices.DeleteFunc(slices.Clone(q.pending), func(l *pendingLogin) bool {
		return l.forQuery && !l.abandoned && !forQuery
	})
	if n := len(pending); n > 1 {
		youngest := pending[n-1]
		if age := now.Sub(youngest.started); age < q.limits.minAge {
			return nil, obstacle{youngest, q.ended, q.limits.minAge - age}
		}
		if n >= q.limits.maxLogins {
			return nil, obstacle{youngest, q.ended, q.limits.maxPending}
		}
	}
	l := &pendingLogin{
		started: now, trace: t, fetches: q.fetches(), forQuery: forQuery,
		done: make(chan struct{}),
	}
	q.pending = append(q.pending, l)
	q.work.Go(func() { q.run(probeCtx, l) })
	return l, obstacle{}
}

// run runs a login until it ends. The login may continue long after probeCtx has ended, but at most for limits.maxPending. If
// it was abandoned, run closes its session.
func (q *loginQueue) run(probeCtx context.Context, l *pendingLogin) {
	loginCtx, cancel := context.WithTimeout(q.ctx, q.limits.maxPending)
	defer cancel()
	l.session, l.err = q.login(probeCtx, loginCtx, l.trace)
	q.mu.Lock()
	q.pending = slices.DeleteFunc(q.pending, func(other *pendingLogin) bool { return other == l })
	abandoned := l.abandoned
	close(l.done)
	close(q.ended)
	q.ended = make(chan struct{})
	q.mu.Unlock()
	if abandoned && l.session != nil {
		l.session.close(loginCtx)
	}
}

// await waits until the login or ctx ends. If ctx ends first, it marks the login as abandoned.
func (q *loginQueue) await(ctx context.Context, l *pendingLogin) (*session, error) {
	select {
	case <-l.done:
		return l.session, l.err
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-l.done:
		return l.session, l.err
	default:
		l.abandoned = true
		return nil, l.timeoutError(ctx)
	}
}
