// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"pg_liveness_exporter/probe"
)

// resultGrace is how long a caller keeps waiting for a result after its deadline if the probe has the same deadline.
const resultGrace = 200 * time.Millisecond

// deadlineSlack is how far apart two deadlines may be to count as the same. Callers read the clock at slightly
// different times.
const deadlineSlack = 50 * time.Millisecond

// ErrClosed is the error of a target that has been closed.
var ErrClosed = errors.New("the target is not watched any more")

// errAbandoned is the cause that ends a probe when all callers have left it. Such a probe is not counted.
var errAbandoned = errors.New("all callers of this probe have left")

// sharedProbe is one probe and the callers that wait for it. It ends when it has a result, at the target's timeout, or
// at the latest deadline of its callers, whichever comes first.
type sharedProbe struct {
	ctx      *probeContext
	start    time.Time
	done     chan struct{} // closed once snapshot is set
	snapshot Snapshot

	// protected by the target's mu
	deadlines []time.Time // one for each caller
	timer     *time.Timer
	sampled   bool // one of the callers is the sampler
}

// probeContext is the context of a shared probe. Its deadline changes when callers join or leave.
type probeContext struct {
	context.Context //nolint:containedctx // this type is a context
	end             context.CancelCauseFunc

	mu       sync.Mutex // protects deadline
	deadline time.Time
}

// Deadline returns the current deadline.
func (c *probeContext) Deadline() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deadline, true
}

// Err returns context.DeadlineExceeded if the deadline ended the context, and context.Canceled otherwise.
func (c *probeContext) Err() error {
	err := c.Context.Err()
	if err != nil && errors.Is(context.Cause(c.Context), context.DeadlineExceeded) {
		return context.DeadlineExceeded
	}
	return err
}

// Probe probes the server, or joins the probe under way, and returns the result. It returns at most deadlineSlack and
// resultGrace after deadline. If ctx ends first, the error is ctx's cause. If the target is closed, the error is
// ErrClosed. Any goroutine may call Probe at any time.
//
// If the deadline passes before the probe ends, the result is a timeout that is not counted.
//
// If the target has the commit probe, the result is counted as soon as it is known. Probe then waits until deadline for
// the commit that the probe started.
func (t *Target) Probe(ctx context.Context, deadline time.Time) (Snapshot, error) {
	s, err := t.probeShared(ctx, deadline, false)
	if err != nil || s.Result.Commit == nil {
		return s, err
	}
	over := time.NewTimer(time.Until(deadline))
	defer over.Stop()
	select {
	case <-s.Result.Commit.Done():
	case <-over.C:
	case <-ctx.Done():
		return Snapshot{}, context.Cause(ctx)
	}
	s.CommitResult = s.Result.Commit.Result()
	return s, nil
}

// probeShared is Probe without the wait for the commit. sampler reports whether the caller is the sampler.
func (t *Target) probeShared(ctx context.Context, deadline time.Time, sampler bool) (Snapshot, error) {
	start := time.Now()
	over := time.NewTimer(time.Until(deadline))
	defer over.Stop()
	for {
		p, joined := t.join(deadline, sampler)
		if p == nil {
			return Snapshot{}, ErrClosed
		}
		if !joined {
			// The probe is about to end: its deadline has passed, or all callers have left it.
			select {
			case <-p.done:
				continue
			case <-over.C:
				return t.unanswered(start), nil
			case <-ctx.Done():
				return Snapshot{}, context.Cause(ctx)
			}
		}
		select {
		case <-p.done:
			return p.snapshot, nil
		case <-ctx.Done():
			t.leave(p, deadline)
			return Snapshot{}, context.Cause(ctx)
		case <-over.C:
		}
		if latest, _ := p.ctx.Deadline(); latest.Sub(deadline) < deadlineSlack {
			select {
			case <-p.done:
				return p.snapshot, nil
			case <-time.After(deadlineSlack + resultGrace):
			}
		}
		t.leave(p, deadline)
		return t.unanswered(start), nil
	}
}

// unanswered returns a snapshot with a timeout, for a caller that has waited since start.
func (t *Target) unanswered(start time.Time) Snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.snapshotLocked(probe.Unanswered(start, time.Since(start), t.options.keep))
}

// snapshotLocked returns a snapshot with the result r and everything that has been counted so far.
func (t *Target) snapshotLocked(r *probe.Result) Snapshot {
	return Snapshot{
		Target: t.options.name, Implied: t.options.implied, Kind: t.options.kind, Result: r, History: t.history.clone(), Histograms: t.histograms,
	}
}

// join adds a caller to the probe under way, or starts a probe. It reports false if the caller could not join because
// the probe under way is about to end. It returns nil if the target is closed.
func (t *Target) join(deadline time.Time, sampler bool) (*sharedProbe, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.current
	switch {
	case t.closed:
		return nil, false
	case p == nil:
		now := time.Now()
		p = &sharedProbe{start: now, done: make(chan struct{}), deadlines: []time.Time{deadline}, sampled: sampler}
		p.ctx = &probeContext{deadline: earlier(deadline, now.Add(t.options.Timeout))}
		p.ctx.Context, p.ctx.end = context.WithCancelCause(context.Background())
		p.timer = time.AfterFunc(p.ctx.deadline.Sub(now), func() { p.ctx.end(context.DeadlineExceeded) })
		t.current = p
		go t.run(p)
		return p, true
	case p.ctx.Err() != nil:
		return p, false
	}
	p.sampled = p.sampled || sampler
	p.deadlines = append(p.deadlines, deadline)
	if len(p.deadlines) == 2 {
		t.options.sharedCount.Add(1)
	}
	t.rescheduleLocked(p)
	return p, true
}

// leave removes a caller from the probe. The probe ends when the last caller leaves.
func (t *Target) leave(p *sharedProbe, deadline time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(p.deadlines, deadline)
	p.deadlines = slices.Delete(p.deadlines, i, i+1)
	if len(p.deadlines) == 0 {
		p.ctx.end(errAbandoned)
		return
	}
	t.rescheduleLocked(p)
}

// rescheduleLocked sets the probe's deadline to the latest deadline of its callers, at most the target's timeout.
func (t *Target) rescheduleLocked(p *sharedProbe) {
	deadline := earlier(slices.MaxFunc(p.deadlines, time.Time.Compare), p.start.Add(t.options.Timeout))
	if !p.timer.Stop() {
		return // the deadline has just passed
	}
	p.ctx.mu.Lock()
	p.ctx.deadline = deadline
	p.ctx.mu.Unlock()
	p.timer.Reset(time.Until(deadline))
}

// run runs the probe, and counts the result before any caller gets it. It runs in a goroutine of its own.
func (t *Target) run(p *sharedProbe) {
	t.mu.Lock()
	responded := t.history.last == nil || t.history.last.Up()
	t.mu.Unlock()
	r := t.limitedProbe(p, responded)
	t.mu.Lock()
	p.timer.Stop()
	counts := !errors.Is(context.Cause(p.ctx), errAbandoned)
	var before History
	if counts {
		before = t.history
		t.recordLocked(r, p.sampled || t.options.Interval == 0)
	}
	p.ctx.end(nil)
	p.snapshot = t.snapshotLocked(r)
	t.current = nil
	close(p.done)
	t.mu.Unlock()
	if counts {
		t.logChanges(before, r)
	}
}

// limitedProbe waits for a place in the limiter and then probes. The wait counts towards the timeout of the probe.
func (t *Target) limitedProbe(p *sharedProbe, responded bool) *probe.Result {
	leave, ok := t.options.limiter.enter(p.ctx, responded)
	if !ok {
		return probe.Overloaded(p.start, time.Since(p.start), t.options.keep)
	}
	defer leave()
	return t.prober.Probe(p.ctx)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
