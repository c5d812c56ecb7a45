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

// replyGrace is how long to wait after the deadline for a reply that was complete in time.
const replyGrace = 50 * time.Millisecond

// request makes the kept session's goroutine ping the server and read its statistics.
type request struct {
	ctx   context.Context //nolint:containedctx // passed to the goroutine that owns the session
	reply chan<- reply
}

// reply is the result of a request.
type reply struct {
	up    bool
	query time.Duration
	stats
	failure *Failure // why stats is empty
}

// readStats reads the server's statistics on s into the reply. The goroutine that owns s calls it.
func (r *reply) readStats(ctx context.Context, s *session, kind kind) error {
	return s.guard(func() error {
		var err error
		r.stats, err = kind.readStats(ctx, s)
		return err
	})
}

// kept is the session that stays open between probes. Its goroutine owns it. The goroutine handles requests. Between
// requests it listens, so that it notices the end of the session at once.
type kept struct {
	*session
	ctx       context.Context //nolint:containedctx // ends when the session is released or lost, or the prober is closed
	cancel    context.CancelFunc
	requests  chan request
	started   startTimes
	listening atomic.Bool // it waits for a request

	mu   sync.Mutex // protects wake
	wake context.CancelFunc
}

// startTimes distinguish a crash from a restart. They are in seconds since the epoch.
type startTimes struct{ postmaster, checkpointer Number }

func newKept(ctx context.Context, s *session) *kept {
	k := &kept{session: s, requests: make(chan request, 1)}
	k.ctx, k.cancel = context.WithCancel(ctx)
	return k
}

// send passes a request to the session's goroutine and returns the channel of the reply. If the session ends first, no
// reply arrives. One goroutine at a time may call it.
func (k *kept) send(ctx context.Context) <-chan reply {
	replies := make(chan reply, 1)
	select {
	case <-k.requests: // drop an unread request whose caller no longer waits
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

// wait returns the reply. If k.ctx or ctx ends first, it waits for replyGrace and then returns an empty reply.
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

// listen waits until a request arrives, the session ends or it is released. It returns the request, or nil if there is
// none.
func (k *kept) listen() *request {
	ctx, cancel := context.WithCancel(k.ctx)
	defer cancel()
	k.mu.Lock()
	k.wake = cancel // set before the check for requests: one that arrives later cancels ctx
	k.mu.Unlock()
	select {
	case req := <-k.requests:
		return &req
	default:
	}
	idle := &k.dialer.sockets.sessions.idle
	idle.Add(1)
	k.listening.Store(true)
	_ = k.guard(func() error { // IsClosed shows how it ended
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

// handle runs a request and sends the reply. It reports whether it closed the session because the server did not reply
// in time.
//
// The deadline of req.ctx ends the query, and with it the session. Cancelling req.ctx before that deadline does not:
// the query continues until the deadline.
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

// loss is how the other side ended a session, as far as the old session shows it: SQLSTATE and routine of the fatal
// error, and SQLSTATE of the notice.
type loss struct{ code, routine, notice string }

func (k *kept) loss() loss {
	l := loss{notice: k.notice}
	if k.fatal != nil {
		l.code, l.routine = k.fatal.Code, k.fatal.Routine
	}
	return l
}

// reasonFromEnd returns the reason if the end of the session alone determines it. The cases were tested on PostgreSQL
// 13 to 18. The routines are those of src/backend/libpq/be-secure.c and src/backend/tcop/postgres.c.
func (l loss) reasonFromEnd() (LossReason, bool) {
	switch {
	// crash_shutdown, or the postmaster has died
	case l.code == "57P02", l.notice == "57P02", l.routine == "secure_read":
		return LossCrash, true
	case l.code == "57P05": // idle_session_timeout
		return LossTerminated, true
	}
	return "", false
}

// reasonFromLogin determines the reason from the end of the session and a new login: err is the login's error, or after
// has the start times that the new session read. If the second result is false, another login may find a better reason.
func (l loss) reasonFromLogin(before, after startTimes, err error) (LossReason, bool) {
	// admin_shutdown: the same for a shutdown and for pg_terminate_backend
	announced := l.code == "57P01" || l.notice == "57P01"
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
	case announced && f.SQLState != "": // the server is alive and refuses the login for another reason
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
