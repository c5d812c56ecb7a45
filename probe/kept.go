// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
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
	listening atomic.Bool   // it waits for a request
	ended     chan struct{} // closed when the session has ended
	loss      *sessionEnd   // how the other side ended it, nil if it did not; set before ended is closed

	// These belong to the session's goroutine.
	started   startTimes    // as last read
	asked     bool          // it has replied to a probe
	idleSince time.Time     // the zero time while a request is under way
	survived  time.Duration // the longest time between two requests

	mu   sync.Mutex // protects wake
	wake context.CancelFunc
}

func newKept(ctx context.Context, s *session, started startTimes) *kept {
	k := &kept{session: s, requests: make(chan request, 1), ended: make(chan struct{}), started: started}
	k.ctx, k.cancel = context.WithCancel(ctx)
	return k
}

// hasEnded reports whether the session's goroutine has stopped using it.
func (k *kept) hasEnded() bool {
	select {
	case <-k.ended:
		return true
	default:
		return false
	}
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
	k.idleSince = time.Now()
	k.listening.Store(true)
	_ = k.guard(func() error { // IsClosed shows how it ended
		k.meter.grant(idleBudget)
		if err := k.rest(ctx); err != nil {
			return err
		}
		return k.conn.WaitForNotification(ctx)
	})
	k.listening.Store(false)
	idle.Add(-1)
	if k.conn.IsClosed() {
		return nil
	}
	k.survived = max(k.survived, time.Since(k.idleSince))
	k.idleSince = time.Time{}
	select {
	case req := <-k.requests:
		return &req
	default:
		return nil
	}
}

// rest waits until the server sends something, the connection breaks or ctx ends. Meanwhile the session has no driver: that
// takes 15 KiB of buffers, and reading through it takes a larger stack. rest returns at once if the driver may hold a part of
// what the server has sent.
func (k *kept) rest(ctx context.Context) error {
	if k.meter.mayReadAhead() || k.conn.Frontend().ReadBufferLen() > 0 {
		return nil
	}
	idle, err := k.conn.Hijack()
	if err != nil {
		return err
	}
	k.conn, k.meter.reader, idle.Frontend = nil, nil, nil
	k.dialer.metered.awaitData(ctx)
	k.conn, err = pgconn.Construct(idle)
	return err
}

// handle runs a request and sends the reply. It reports whether it closed the session because the server did not reply
// in time. The end of req.ctx ends the query, and with it the session.
func (k *kept) handle(req *request, kind kind) (overrun bool) {
	ctx, cancel := context.WithCancel(k.ctx)
	defer cancel()
	defer context.AfterFunc(req.ctx, cancel)()

	var rep reply
	start := time.Now()
	err := k.guard(func() error { return kind.ping(ctx, k.session) })
	if err == nil {
		rep.up, rep.query = true, time.Since(start)
		k.asked = true
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
