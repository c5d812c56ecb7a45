// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"sync/atomic"
	"time"
)

// Commit is a commit of the commit probe: it begins with the verdict of a probe and goes on beside what comes next.
type Commit struct {
	// onPrimary says that the statement was sent to a server that is known to be no replica.
	onPrimary bool
	done      chan struct{}
	result    *CommitResult // there once done is closed
}

// CommitResult is what became of a commit, nil where there is nothing to say: on a replica, or where it was not tried.
type CommitResult struct {
	// Took is how many seconds the transaction took, unknown when it failed.
	Took Number
	// Failure is nil when the transaction was committed, on the synchronous standbys too if it waits for any.
	Failure *Failure
}

// Done is closed when the commit has ended, or overrun.
func (c *Commit) Done() <-chan struct{} { return c.done }

// Result returns what became of the commit. For one under way that is what its caller must make of it who cannot wait: it
// did not end in time.
func (c *Commit) Result() *CommitResult {
	select {
	case <-c.done:
		return c.result
	default:
	}
	if c.onPrimary {
		return commitTimeout()
	}
	return nil
}

// NewCommit returns a commit under way. begun says that who cannot wait for it may call it late.
func NewCommit(onPrimary bool) *Commit {
	return &Commit{onPrimary: onPrimary, done: make(chan struct{})}
}

// End says what became of the commit, once.
func (c *Commit) End(result *CommitResult) {
	c.result = result
	close(c.done)
}

func commitTimeout() *CommitResult {
	return &CommitResult{Failure: &Failure{Reason: ReasonTimeout, State: StateRejecting, Phase: PhaseCommit}}
}

// Up says whether the server commits; it is unknown when it did not let us try.
func (r *CommitResult) Up() Number {
	switch {
	case r == nil, r.Failure != nil && r.Failure.State == StateMisconfigured:
		return Number{}
	case r.Failure != nil:
		return known(0)
	}
	return known(1)
}

// commitSQL is a transaction that writes, but neither a table nor anything that needs a privilege, and is committed as
// every other one. On a replica it is NULL.
const commitSQL = `SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery()
  THEN pg_catalog.pg_logical_emit_message(true, 'pg_liveness_exporter', '') END`

// syncWaitCancelledRoutine is the routine that warns of a commit that does not wait for its standbys any more
// (src/backend/replication/syncrep.c). The statement succeeds all the same.
const syncWaitCancelledRoutine = "SyncRepWaitForLSN"

// minCancelTime and maxCancelTime are how long a request to cancel may take, and how long its effect is waited for, at first
// and after several.
const (
	minCancelTime = time.Second
	maxCancelTime = 15 * time.Second
)

// commits runs one commit at a time. No timeout of the server's bounds the wait for a synchronous standby, and no closed
// socket ends it: one that does not end in time keeps its session, and is cancelled until it does.
type commits struct{ current atomic.Pointer[Commit] }

// commit begins a commit on s, which it takes over; nil is a session of its own. One that is under way is returned
// instead, since no other starts before it has ended.
func (p *Prober) commit(s *session, r *Result) *Commit {
	c := NewCommit(r.ServerStats != nil && !r.ServerStats.Replica)
	switch running := p.commits.current.Load(); {
	case running != nil:
		c = running
	case r.ServerStats != nil && r.ServerStats.Replica:
		c = nil
	default:
		p.commits.current.Store(c)
		owned := s
		p.work.Go(func() { p.runCommit(c, owned) })
		return c
	}
	if s != nil {
		p.closeInBackground(s)
	}
	return c
}

// runCommit runs a commit to its end, and tells of it when it has ended or overrun, in the time that a probe may take.
func (p *Prober) runCommit(c *Commit, s *session) {
	waitCtx, cancel := context.WithTimeout(p.ctx, p.target.Timeout)
	defer cancel()
	if s == nil {
		var err error
		if s, err = p.open(waitCtx, &trace{}, false); err != nil {
			p.commits.current.Store(nil)
			c.End(nil) // the next probe says why
			return
		}
	}
	// It goes on when the prober is closed, until it has been cancelled.
	commitCtx, cancelCommit := context.WithCancel(context.WithoutCancel(p.ctx))
	defer cancelCommit()
	results, returned := make(chan *CommitResult, 1), make(chan struct{})
	p.work.Go(func() {
		defer close(returned)
		results <- s.commit(commitCtx)
	})
	var result *CommitResult
	select {
	case result = <-results:
		p.commits.current.Store(nil)
	case <-waitCtx.Done():
		if p.ctx.Err() == nil { // else nobody will know
			result = commitTimeout()
		}
	}
	if result != nil && p.ctx.Err() == nil {
		p.options.OnCommit(result)
	}
	c.End(result)
	if p.commits.current.Load() == c {
		s.cancelCommit(p.ctx, results)
		p.commits.current.Store(nil)
	}
	cancelCommit()
	<-returned // the session is that goroutine's until then
	s.close(p.ctx)
}

// commit runs the transaction.
func (s *session) commit(ctx context.Context) *CommitResult {
	if s.conn.IsClosed() {
		return nil
	}
	s.pooled = false // this one has to be cancelled
	start := time.Now()
	results, err := s.query(ctx, commitSQL, smallBudget)
	switch {
	case err != nil:
		f := classify(err, PhaseCommit)
		if unsupported(err) {
			f.Reason, f.State = ReasonPermission, StateMisconfigured
		}
		return &CommitResult{Failure: f}
	case s.syncWaitCancelled:
		return &CommitResult{Failure: &Failure{
			Reason: ReasonOther, State: StateRejecting, Phase: PhaseCommit, Detail: "the wait for a synchronous standby was cancelled",
		}}
	case len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1:
		return &CommitResult{Failure: &Failure{Reason: ReasonProtocol, State: StateNoResponse, Phase: PhaseCommit}}
	case results[0].Rows[0][0] == nil:
		return nil
	}
	return &CommitResult{Took: knownDuration(time.Since(start))}
}

// cancelCommit asks the server again and again to cancel the commit of the session, until that has ended, or once more when
// ctx has. It lets every request come to its own end: PgBouncer 1.18 crashes when the connection of one is cut while it
// passes the request on.
func (s *session) cancelCommit(ctx context.Context, results <-chan *CommitResult) {
	s.dialer.callerBoundsCancel.Store(true)
	for wait := minCancelTime; ; wait = min(2*wait, maxCancelTime) {
		last := ctx.Err() != nil
		if last {
			wait = closeGrace
		}
		requestCtx, cancelRequest := context.WithTimeout(context.WithoutCancel(ctx), wait)
		stopTimer := context.AfterFunc(ctx, func() { time.AfterFunc(closeGrace, cancelRequest) })
		_ = contain(s.dialer, func() error { return s.conn.CancelRequest(requestCtx) }) // whether it helped shows by what it ends
		var stop <-chan struct{}
		if !last {
			stop = ctx.Done()
		}
		select {
		case <-results:
			cancelRequest()
			return
		case <-requestCtx.Done():
		case <-stop:
		}
		stopTimer()
		cancelRequest()
		if last {
			return
		}
	}
}
