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

// replyGrace is how long after the deadline the part of an answer that came in time may take to arrive.
const replyGrace = 50 * time.Millisecond

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

// readStats reads what the server says of itself.
func (r *reply) readStats(ctx context.Context, s *session, kind kind) error {
	return s.guard(func() error {
		var err error
		r.stats, err = kind.readStats(ctx, s)
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
	replies := make(chan reply, 1)
	select {
	case <-k.requests: // its caller gave up before it was read
	default:
	}
	k.requests <- request{ctx, replies}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wake != nil {
		k.wake()
	}
	return replies
}

// wait returns the answer, an empty one when the session's life or ctx ended before.
func (k *kept) wait(ctx context.Context, replies <-chan reply) reply {
	select {
	case rep := <-replies:
		return rep
	case <-k.ctx.Done():
	case <-ctx.Done():
	}
	timer := time.NewTimer(replyGrace)
	defer timer.Stop()
	select {
	case rep := <-replies:
		return rep
	case <-timer.C:
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
	case req := <-k.requests:
		return &req
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
	case req := <-k.requests:
		return &req
	default:
		return nil
	}
}

// handle answers a question. It reports whether the session was given up because it did not answer in time.
//
// The deadline of the one who asks ends the query, and with it the session. A caller who only hangs up does not: the
// query goes on, up to the deadline that he had.
func (k *kept) handle(req *request, kind kind) (overrun bool) {
	ctx, cancel := context.WithCancel(k.ctx)
	defer cancel()
	stop := context.AfterFunc(req.ctx, func() {
		if deadline, ok := req.ctx.Deadline(); ok && !errors.Is(context.Cause(req.ctx), context.DeadlineExceeded) {
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

	var rep reply
	start := time.Now()
	err := k.guard(func() error { return kind.ping(ctx, k.session) })
	if err == nil {
		rep.up, rep.query = true, time.Since(start)
		err = rep.readStats(ctx, k.session, kind)
	}
	if err != nil {
		rep.failure = classify(err, PhaseQuery)
	} else if rep.server != nil {
		k.started = rep.server.startTimes()
	}
	overrun = ctx.Err() != nil && k.conn.IsClosed() && k.fatal == nil
	req.reply <- rep
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

// reasonFromEnd decides what the end of the session alone tells. The facts were tried on PostgreSQL 13 to 18; the routines
// are those of src/backend/libpq/be-secure.c and src/backend/tcop/postgres.c.
func (l loss) reasonFromEnd() (LossReason, bool) {
	switch {
	case l.code == "57P02", l.notice == "57P02", l.routine == "secure_read": // crash_shutdown; the postmaster is gone
		return LossCrash, true
	case l.code == "57P05": // idle_session_timeout
		return LossTerminated, true
	}
	return "", false
}

// reasonFromLogin decides from how the session ended and from what a new login met: its error, or the start times that the new
// session read. It is not decided yet when the second result is false: another try may tell more.
func (l loss) reasonFromLogin(before, after startTimes, err error) (LossReason, bool) {
	announced := l.code == "57P01" || l.notice == "57P01" // admin_shutdown: a shutdown and a terminate look the same
	if err == nil {
		switch {
		case increased(before.postmaster, after.postmaster):
			if announced {
				return LossShutdown, true
			}
		case increased(before.checkpointer, after.checkpointer):
			return LossCrash, true
		case announced:
			return LossTerminated, true
		}
		return LossNetwork, true
	}
	f := classify(err, PhaseStartup)
	switch {
	case f.Reason == ReasonNotAccepting && announced:
		return LossShutdown, true
	case f.Reason == ReasonNotAccepting && l.code == "":
		return LossCrash, true
	case announced && (f.Reason == ReasonRefused || f.Reason == ReasonTerminated):
		return LossShutdown, true
	case announced && f.SQLState != "": // alive, and it refuses us for another reason
		return LossTerminated, true
	case f.SQLState != "":
		return LossNetwork, true
	}
	return LossNetwork, false
}

func increased(before, after Number) bool {
	return before.Known && after.Known && after.Value > before.Value
}
