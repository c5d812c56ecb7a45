// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/config"
)

// Commit is one run of the commit probe. It starts after a probe's verdict and runs in the background.
type Commit struct {
	// onPrimary reports whether the server is known to be a primary. If so, a commit that is still running is late.
	onPrimary bool
	done      chan struct{}
	result    *CommitResult // set before done is closed
}

// CommitResult is the result of a commit. It is nil if there is none: the server is a replica, or no commit was tried.
type CommitResult struct {
	// Took is how long the transaction took. It is unknown if the transaction failed.
	Took Duration
	// Failure is nil if the transaction was committed, including on the synchronous standbys if the server waits for
	// any.
	Failure *Failure
}

// Done returns a channel that is closed when the commit has ended or has exceeded its timeout.
func (c *Commit) Done() <-chan struct{} { return c.done }

// Result returns the commit's result without waiting. If the commit is still running, it returns a timeout if the
// server is known to be a primary, and nil otherwise.
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

// NewCommit returns a running commit. onPrimary reports whether the server is known to be a primary. If it is set,
// Result returns a timeout until End is called.
func NewCommit(onPrimary bool) *Commit {
	return &Commit{onPrimary: onPrimary, done: make(chan struct{})}
}

// End sets the result and closes Done. It must be called once.
func (c *Commit) End(result *CommitResult) {
	c.result = result
	close(c.done)
}

// commitTimeout returns the result of a commit that exceeded its timeout.
func commitTimeout() *CommitResult {
	return &CommitResult{Failure: &Failure{Reason: ReasonTimeout, State: StateRejecting, Phase: PhaseCommit}}
}

// Up returns 1 if the server commits and 0 if it does not. It is unknown if there is no result or the failure's state
// is StateMisconfigured, such as a denied permission.
func (r *CommitResult) Up() Number {
	switch {
	case r == nil, r.Failure != nil && r.Failure.State == StateMisconfigured:
		return Number{}
	case r.Failure != nil:
		return known(0)
	}
	return known(1)
}

// commitSQL is a transaction that writes to the WAL. It writes to no table, needs no privilege, and commits like any
// other. On a replica it returns NULL.
const commitSQL = `SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery()
  THEN pg_catalog.pg_logical_emit_message(true, 'pg_liveness_exporter', '') END`

// syncWaitCancelledRoutine is the routine that warns that a commit stopped waiting for its synchronous standbys
// (src/backend/replication/syncrep.c). The statement succeeds nevertheless.
const syncWaitCancelledRoutine = "SyncRepWaitForLSN"

// minCancelTime and maxCancelTime bound the time for one cancel request and its effect. The first request gets
// minCancelTime. The time doubles with each request, up to maxCancelTime.
const (
	minCancelTime = time.Second
	maxCancelTime = 15 * time.Second
)

// committer runs at most one commit at a time. No timeout setting of the server bounds the wait for a synchronous
// standby, and closing the socket does not end it. A commit that exceeds its timeout keeps its session and is cancelled
// repeatedly until it ends.
type committer struct {
	target *config.Target // a commit counts as failed after its timeout
	// open opens a session, and onCommit is Options.OnCommit.
	open     func(ctx context.Context) (*session, error)
	onCommit func(*CommitResult)
	ctx      context.Context //nolint:containedctx // ends all commits; that of the prober
	work     *sync.WaitGroup // of the prober

	current atomic.Pointer[Commit] // nil while no commit runs
}

// start starts a commit after the probe r, which succeeded. The commit owns s, the session of the probe. If s is nil, the
// commit opens one of its own. start returns the commit, and s if the commit does not need it: if a commit is still running,
// start returns that one, and on a replica it returns no commit. One goroutine at a time may call it.
func (c *committer) start(s *session, r *Result) (commit *Commit, spare *session) {
	isReplica := r.Role != nil && r.Role.Replica
	if running := c.current.Load(); running != nil || isReplica {
		return running, s
	}
	commit = NewCommit(r.Role != nil)
	c.current.Store(commit)
	c.work.Go(func() { c.run(commit, s) })
	return commit, nil
}

// run runs a commit until it ends, and closes its session. It reports the result when the commit has ended, or
// after the target's timeout.
func (c *committer) run(commit *Commit, s *session) {
	waitCtx, cancel := context.WithTimeout(c.ctx, c.target.Timeout)
	defer cancel()
	if s == nil {
		var err error
		if s, err = c.open(waitCtx); err != nil {
			c.current.Store(nil)
			commit.End(nil) // the next probe reports the reason
			return
		}
	}
	// Closing the prober does not end this context: the commit must be cancelled on the server first.
	commitCtx, cancelCommit := context.WithCancel(context.WithoutCancel(c.ctx))
	defer cancelCommit()
	results, returned := make(chan *CommitResult, 1), make(chan struct{})
	c.work.Go(func() {
		defer close(returned)
		results <- s.commit(commitCtx)
	})
	var result *CommitResult
	late := false
	select {
	case result = <-results:
		c.current.Store(nil)
	case <-waitCtx.Done():
		late = true
		if c.ctx.Err() == nil { // a closed prober reports nothing
			result = commitTimeout()
		}
	}
	if result != nil && c.ctx.Err() == nil {
		c.onCommit(result)
	}
	commit.End(result)
	if late {
		if s.cancelCommit(c.ctx, results) {
			<-returned
			s.cancelLeftovers(c.ctx)
		}
		c.current.Store(nil)
	}
	cancelCommit()
	<-returned // that goroutine owns the session until it returns
	s.close(c.ctx)
}

// commit runs the transaction. ctx bounds it. The result is nil on a replica and on a closed session.
func (s *session) commit(ctx context.Context) *CommitResult {
	if s.conn.IsClosed() {
		return nil
	}
	s.pooled = false // a commit needs a cancel request, even through a pooler
	var results []*pgconn.Result
	start := time.Now()
	err := s.refusals.refused(PartCommit)
	if err == nil {
		results, err = s.query(ctx, s.pingPrefix()+commitSQL, smallBudget)
		if err == nil || isUnsupported(err) {
			s.refusals.record(PartCommit, err)
		}
	}
	switch {
	case err != nil:
		f := classify(err, PhaseCommit)
		if isUnsupported(err) {
			f.Reason, f.State = ReasonPermission, StateMisconfigured
		}
		return &CommitResult{Failure: f}
	case s.syncWaitCancelled:
		return &CommitResult{Failure: &Failure{
			Reason: ReasonOther, State: StateRejecting, Phase: PhaseCommit, Detail: "the wait for a synchronous standby was cancelled",
		}}
	}
	data := dataOf(results)
	switch {
	case len(data) == 0 || len(data[len(data)-1].Rows) != 1:
		return &CommitResult{Failure: &Failure{Reason: ReasonProtocol, State: StateNoResponse, Phase: PhaseCommit}}
	case firstRow(data[len(data)-1], 0) == nil:
		return nil
	}
	return &CommitResult{Took: knownDuration(time.Since(start))}
}

// isUnsupported reports whether a statement failed because the server does not have a function or the role may not call
// it.
func isUnsupported(err error) bool {
	return slices.Contains([]string{"0A000", "42501", "42883"}, sqlState(err))
}

// cancelCommit sends cancel requests until results delivers the commit's result, and then returns true. After ctx has
// ended it sends one more and returns false. It lets each cancel request finish within its time, because PgBouncer 1.18
// crashes if the connection of a cancel request is closed while PgBouncer forwards it.
func (s *session) cancelCommit(ctx context.Context, results <-chan *CommitResult) (ended bool) {
	s.dialer.callerBoundsCancel.Store(true)
	for wait := minCancelTime; ; wait = min(2*wait, maxCancelTime) {
		last := ctx.Err() != nil
		if last {
			wait = closeGrace
		}
		requestCtx, cancelRequest := context.WithTimeout(context.WithoutCancel(ctx), wait)
		stopTimer := context.AfterFunc(ctx, func() { time.AfterFunc(closeGrace, cancelRequest) })
		// An error is of no use here: results shows whether the request worked.
		_ = contain(s.dialer, func() error { return s.conn.CancelRequest(requestCtx) })
		var stop <-chan struct{}
		if !last {
			stop = ctx.Done()
		}
		select {
		case <-results:
			cancelRequest()
			return true
		case <-requestCtx.Done():
		case <-stop:
		}
		stopTimer()
		cancelRequest()
		if last {
			return false
		}
	}
}

// cancelLeftoversSQL cancels the commits of an exporter that was killed: the server goes on waiting for a standby for
// them. They are those of this role with the same statement that have waited for more than 60 seconds. A running exporter
// cancels its own earlier, since config.MaxTimeout is not longer. A setting of the role may make another role the current
// one, which may not cancel them. A role sees its own statements without any privilege.
const cancelLeftoversSQL = `SET LOCAL ROLE NONE;
SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_get_activity(NULL)
WHERE NOT pg_catalog.pg_is_in_recovery() AND wait_event = 'SyncRep'
  AND query LIKE '%pg_logical_emit_message(true, ''pg_liveness_exporter''%'
  AND pg_catalog.clock_timestamp() - query_start > '60 s'
  AND usesysid = (SELECT usesysid FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()))`

// cancelLeftovers runs cancelLeftoversSQL after a commit of this session was cancelled: as long as commits succeed, none
// is left. It takes at most minCancelTime. An error is of no use: the next commit that exceeds its timeout tries again.
func (s *session) cancelLeftovers(ctx context.Context) {
	if s.conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, minCancelTime)
	defer cancel()
	_, _ = s.query(ctx, s.pingPrefix()+cancelLeftoversSQL, smallBudget)
}
