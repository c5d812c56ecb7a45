package probe

import (
	"context"
	"sync/atomic"
	"time"
)

// Commit is what the commit probe found.
type Commit struct {
	// Took is how many seconds the transaction took, unknown when it failed.
	Took Number
	// Failure is nil when the transaction was committed, on the synchronous standbys too if there are any.
	Failure *Failure
}

// Up says whether the server commits; it is unknown when it did not let us try.
func (c *Commit) Up() Number {
	switch {
	case c == nil, c.Failure != nil && c.Failure.State == StateMisconfigured:
		return Number{}
	case c.Failure != nil:
		return known(0)
	}
	return known(1)
}

// commitSQL is a transaction that writes, but neither a table nor anything that needs a privilege, and is committed as
// every other one. On a replica it is NULL.
const commitSQL = `SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery()
  THEN pg_catalog.pg_logical_emit_message(true, 'pg_liveness_exporter', '') END`

// waitCancelled is the routine that warns of a commit that does not wait for its standbys any more
// (src/backend/replication/syncrep.c). The statement succeeds all the same.
const waitCancelled = "SyncRepWaitForLSN"

// cancelFirst and cancelLast are how long a request to cancel may take, and how long its effect is waited for, at first
// and after several.
const (
	cancelFirst = time.Second
	cancelLast  = 15 * time.Second
)

// commits runs one commit at a time. No timeout of the server's bounds the wait for a synchronous standby, and no closed
// socket ends it: one that does not end in time keeps its session, and is cancelled until it does.
type commits struct{ busy atomic.Bool }

// overrun is a commit that has not ended in time.
func (*commits) overrun() *Commit {
	return &Commit{Failure: &Failure{Reason: ReasonTimeout, State: StateRejecting, Phase: PhaseCommit}}
}

// commit commits a transaction on s, which it takes over; nil is a session of its own. It returns by the end of ctx.
// What has not ended by then is cancelled behind the caller's back, and no other one starts before it has ended. It
// returns nil where there is nothing to say: on a replica, or where no session could be opened.
func (p *Prober) commit(ctx context.Context, s *session) *Commit {
	if !p.commits.busy.CompareAndSwap(false, true) {
		if s != nil {
			p.end(s)
		}
		return p.commits.overrun()
	}
	if s == nil {
		var err error
		if s, err = p.open(ctx, &trace{}); err != nil {
			p.commits.busy.Store(false)
			return nil
		}
	}
	life, ended := context.WithCancel(p.ctx)
	found := make(chan *Commit, 1)
	p.work.Go(func() {
		defer ended()
		c := s.commit(life)
		p.commits.busy.Store(false)
		found <- c
		s.close(life)
	})
	select {
	case c := <-found:
		return c
	case <-ctx.Done():
	}
	p.work.Go(func() { s.cancel(life) })
	return p.commits.overrun()
}

// commit runs the transaction.
func (s *session) commit(ctx context.Context) *Commit {
	start := time.Now()
	results, err := s.query(ctx, commitSQL)
	switch {
	case err != nil:
		f := classify(err, PhaseCommit)
		if unsupported(err) {
			f.Reason, f.State = ReasonPermission, StateMisconfigured
		}
		return &Commit{Failure: f}
	case s.unreplicated:
		return &Commit{Failure: &Failure{
			Reason: ReasonOther, State: StateRejecting, Phase: PhaseCommit, Routine: waitCancelled,
			Detail: "the wait for a synchronous standby was cancelled",
		}}
	case len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1:
		return &Commit{Failure: &Failure{Reason: ReasonProtocol, State: StateNoResponse, Phase: PhaseCommit}}
	case results[0].Rows[0][0] == nil:
		return nil
	}
	return &Commit{Took: knownDuration(time.Since(start))}
}

// cancel asks the server again and again to cancel what the session runs, until ctx says that it has ended.
func (s *session) cancel(ctx context.Context) {
	for wait := cancelFirst; ctx.Err() == nil; wait = min(2*wait, cancelLast) {
		asking, asked := context.WithTimeout(ctx, wait)
		_ = s.conn.CancelRequest(asking) // whether it helped shows by what it ends
		<-asking.Done()
		asked()
	}
}
