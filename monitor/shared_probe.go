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

// resultGrace is how long a caller still waits for the result of a probe whose deadline has come.
const resultGrace = 200 * time.Millisecond

// deadlineSlack is the difference up to which two deadlines count as one: each was taken from the clock a little later.
const deadlineSlack = 50 * time.Millisecond

// ErrClosed is returned for a target that is not watched any more.
var ErrClosed = errors.New("the target is not watched any more")

// errAbandoned ends a probe that all callers have left. It is not counted.
var errAbandoned = errors.New("all callers of this probe have left")

// sharedProbe is one probe and the callers who wait for it. It ends with its result, at the target's timeout, or at the
// latest deadline of its callers.
type sharedProbe struct {
	ctx      *probeContext
	start    time.Time
	done     chan struct{} // closed when snapshot is set
	snapshot Snapshot

	// protected by the target's mu
	deadlines []time.Time // one for each caller
	timer     *time.Timer
	sampled   bool // one of the callers is the sampler
}

// probeContext is the context of a shared probe. Its deadline moves when callers with a later one join.
type probeContext struct {
	context.Context //nolint:containedctx // it is one
	end             context.CancelCauseFunc

	mu       sync.Mutex // protects deadline
	deadline time.Time
}

// Deadline returns the deadline as it is now.
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

// Probe probes the server, or joins the probe that is under way, and returns what it found. It returns within milliseconds of
// deadline, or when ctx ends, with ctx's cause as the error: the caller has gone. A target that was closed gives ErrClosed.
//
// If the deadline passes before the probe ends, the result is a timeout that is not counted.
//
// If commits are probed, the verdict is counted at once. The caller then waits for the commit that began with it, up to
// deadline.
func (t *Target) Probe(ctx context.Context, deadline time.Time) (Snapshot, error) {
	s, err := t.wait(ctx, deadline, false)
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

// wait waits for the verdict. sampler is set if the sampler calls.
func (t *Target) wait(ctx context.Context, deadline time.Time, sampler bool) (Snapshot, error) {
	start := time.Now()
	over := time.NewTimer(time.Until(deadline))
	defer over.Stop()
	for {
		p, joined := t.join(deadline, sampler)
		if p == nil {
			return Snapshot{}, ErrClosed
		}
		if !joined {
			// All callers have left the probe, and it is about to end.
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

// unanswered returns the snapshot for a caller whose deadline has passed.
func (t *Target) unanswered(start time.Time) Snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.snapshotLocked(probe.Unanswered(start, time.Since(start), t.options.keep))
}

// snapshotLocked joins r with what was counted up to now.
func (t *Target) snapshotLocked(r *probe.Result) Snapshot {
	return Snapshot{
		Target: t.options.name, Kind: t.options.kind, Result: r, History: t.history.clone(), Histograms: t.histograms,
	}
}

// join adds a caller to the probe under way, or starts one. It reports false for a probe that is about to end, and returns
// nil once the target is closed.
func (t *Target) join(deadline time.Time, sampler bool) (*sharedProbe, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.shared
	switch {
	case t.closed:
		return nil, false
	case p == nil:
		now := time.Now()
		p = &sharedProbe{start: now, done: make(chan struct{}), deadlines: []time.Time{deadline}, sampled: sampler}
		p.ctx = &probeContext{deadline: earlier(deadline, now.Add(t.options.Timeout))}
		p.ctx.Context, p.ctx.end = context.WithCancelCause(context.Background())
		p.timer = time.AfterFunc(p.ctx.deadline.Sub(now), func() { p.ctx.end(context.DeadlineExceeded) })
		t.shared = p
		go t.run(p)
		return p, true
	case p.ctx.Err() != nil:
		return p, false
	}
	p.sampled = p.sampled || sampler
	p.deadlines = append(p.deadlines, deadline)
	if len(p.deadlines) == 2 {
		t.options.shared.Add(1)
	}
	t.rescheduleLocked(p)
	return p, true
}

// leave removes a caller from the probe. The last one to leave ends it.
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

// rescheduleLocked moves the probe's deadline to the latest one of its callers.
func (t *Target) rescheduleLocked(p *sharedProbe) {
	deadline := earlier(slices.MaxFunc(p.deadlines, time.Time.Compare), p.start.Add(t.options.Timeout))
	if !p.timer.Stop() {
		return // it has just ended
	}
	p.ctx.mu.Lock()
	p.ctx.deadline = deadline
	p.ctx.mu.Unlock()
	p.timer.Reset(time.Until(deadline))
}

// run probes, and counts the result before any caller sees it.
func (t *Target) run(p *sharedProbe) {
	t.mu.Lock()
	answered := t.history.last == nil || t.history.last.Up()
	t.mu.Unlock()
	r := t.limitedProbe(p, answered)
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
	t.shared = nil
	close(p.done)
	t.mu.Unlock()
	if counts {
		t.logChanges(before, r)
	}
}

// limitedProbe probes once the limiter has a place. The time it waits is part of the probe's.
func (t *Target) limitedProbe(p *sharedProbe, answered bool) *probe.Result {
	leave, ok := t.options.limiter.enter(p.ctx, answered)
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
