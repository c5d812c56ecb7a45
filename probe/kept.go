// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// answerGrace is how long after the deadline the part of an answer that came in time may take to arrive.
const answerGrace = 50 * time.Millisecond

// request asks a kept session: whether the server is alive, and then what it says of itself.
type request struct {
	ctx   context.Context //nolint:containedctx // travels to the goroutine that owns the session
	reply chan<- reply
}

type reply struct {
	up    bool
	query time.Duration
	stats
	failure *Failure // why there is no reading
}

// take reads what the server says of itself.
func (a *reply) take(ctx context.Context, s *session, asked kind) error {
	return s.guard(func() error {
		var err error
		a.stats, err = asked.readStats(ctx, s)
		return err
	})
}

// kept is the session that stays open between probes. Its goroutine owns it: it answers questions, and listens while
// there is none, so that the end of the session is noticed as it happens.
type kept struct {
	*session
	ctx       context.Context //nolint:containedctx // the session's life: ends when it is released, given up or lost
	cancel    context.CancelFunc
	requests  chan request
	started   startTimes
	listening atomic.Bool // it waits for a question

	mu   sync.Mutex // protects wake
	wake context.CancelFunc
}

// startTimes tell a crash from a restart.
type startTimes struct{ postmaster, checkpointer Number }

func newKept(ctx context.Context, s *session) *kept {
	k := &kept{session: s, requests: make(chan request, 1)}
	k.ctx, k.cancel = context.WithCancel(ctx)
	return k
}

// send puts a question to the session and returns where the answer will be. There is none when the session's life ends
// before. One goroutine asks at a time.
func (k *kept) send(ctx context.Context) <-chan reply {
	a := make(chan reply, 1)
	select {
	case <-k.requests: // its caller gave up before it was read
	default:
	}
	k.requests <- request{ctx, a}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wake != nil {
		k.wake()
	}
	return a
}

// wait returns the answer, an empty one when the session's life or ctx ended before.
func (k *kept) wait(ctx context.Context, answers <-chan reply) reply {
	select {
	case a := <-answers:
		return a
	case <-k.ctx.Done():
	case <-ctx.Done():
	}
	late := time.NewTimer(answerGrace)
	defer late.Stop()
	select {
	case a := <-answers:
		return a
	case <-late.C:
		return reply{}
	}
}

// listen waits for a question, the end of the session or its release. It returns the question, if there is one.
func (k *kept) listen() *request {
	ctx, cancel := context.WithCancel(k.ctx)
	defer cancel()
	k.mu.Lock()
	k.wake = cancel // before the look at the questions: one that comes after it cancels ctx
	k.mu.Unlock()
	select {
	case q := <-k.requests:
		return &q
	default:
	}
	idle := &k.dialer.sockets.sessions.idle
	idle.Add(1)
	k.listening.Store(true)
	_ = k.guard(func() error { // why it ended is told by the connection: still open, or closed
		k.meter.grant(idleBudget)
		return k.conn.WaitForNotification(ctx)
	})
	k.listening.Store(false)
	idle.Add(-1)
	if k.conn.IsClosed() {
		return nil
	}
	select {
	case q := <-k.requests:
		return &q
	default:
		return nil
	}
}

// handle answers a question. It reports whether the session was given up because it did not answer in time.
//
// The deadline of the one who asks ends the query, and with it the session. A caller who only hangs up does not: the
// query goes on, up to the deadline that he had.
func (k *kept) handle(q *request, asked kind) (overrun bool) {
	ctx, cancel := context.WithCancel(k.ctx)
	defer cancel()
	stop := context.AfterFunc(q.ctx, func() {
		if deadline, ok := q.ctx.Deadline(); ok && !errors.Is(context.Cause(q.ctx), context.DeadlineExceeded) {
			timer := time.NewTimer(time.Until(deadline))
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		}
		cancel()
	})
	defer stop()

	var a reply
	start := time.Now()
	err := k.guard(func() error { return asked.ping(ctx, k.session) })
	if err == nil {
		a.up, a.query = true, time.Since(start)
		err = a.take(ctx, k.session, asked)
	}
	if err != nil {
		a.failure = classify(err, PhaseQuery)
	} else if a.server != nil {
		k.started = a.server.startTimes()
	}
	overrun = ctx.Err() != nil && k.conn.IsClosed() && k.fatal == nil
	q.reply <- a
	return overrun
}

// loss is what is known of a session that the other side ended, before it is opened anew.
type loss struct{ code, routine, notice string }

func (k *kept) loss() loss {
	l := loss{notice: k.notice}
	if k.fatal != nil {
		l.code, l.routine = k.fatal.Code, k.fatal.Routine
	}
	return l
}

// certain decides what the end of the session alone tells. The facts were tried on PostgreSQL 13 to 18; the routines
// are those of src/backend/libpq/be-secure.c and src/backend/tcop/postgres.c.
func (l loss) certain() (LossReason, bool) {
	switch {
	case l.code == "57P02", l.notice == "57P02", l.routine == "secure_read": // crash_shutdown; the postmaster is gone
		return LossCrash, true
	case l.code == "57P05": // idle_session_timeout
		return LossTerminated, true
	}
	return "", false
}

// reason decides from how the session ended and from what a new login met: its error, or the start times that the new
// session read. It is not decided yet when the second result is false: another try may tell more.
func (l loss) reason(before, after startTimes, err error) (LossReason, bool) {
	told := l.code == "57P01" || l.notice == "57P01" // admin_shutdown: a shutdown and a terminate look the same
	if err == nil {
		switch {
		case newer(before.postmaster, after.postmaster):
			if told {
				return LossShutdown, true
			}
		case newer(before.checkpointer, after.checkpointer):
			return LossCrash, true
		case told:
			return LossTerminated, true
		}
		return LossNetwork, true
	}
	f := classify(err, PhaseStartup)
	switch {
	case f.Reason == ReasonNotAccepting && told:
		return LossShutdown, true
	case f.Reason == ReasonNotAccepting && l.code == "":
		return LossCrash, true
	case told && (f.Reason == ReasonRefused || f.Reason == ReasonTerminated):
		return LossShutdown, true
	case told && f.SQLState != "": // alive, and it refuses us for another reason
		return LossTerminated, true
	case f.SQLState != "":
		return LossNetwork, true
	}
	return LossNetwork, false
}

func newer(before, after Number) bool {
	return before.Known && after.Known && after.Value > before.Value
}
