// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"pg_liveness_exporter/probe"
)

// endGrace is how long a caller waits for a flight whose deadline has come to tell what it found.
const endGrace = 200 * time.Millisecond

// deadlineSlack is how far apart deadlines may be that count as one: each is taken from a clock a little later.
const deadlineSlack = 50 * time.Millisecond

// ErrClosed says that a target is not watched any more.
var ErrClosed = errors.New("the target is not watched any more")

// errNobodyWaits ends a flight that all callers left. It was no probe.
var errNobodyWaits = errors.New("nobody waits for this probe any more")

// flight is one probe with all who wait for it. It ends at its answer, at the target's timeout, or when the deadline of
// its last caller has passed.
type flight struct {
	ctx      *flightContext
	start    time.Time
	done     chan struct{} // closed when snapshot is there
	snapshot Snapshot

	// protected by the target's mu
	callers []time.Time // their deadlines
	timer   *time.Timer
	sampled bool // one of them is the sampler
}

// flightContext is the context of a flight, whose deadline moves when callers with a later one come aboard.
type flightContext struct {
	context.Context //nolint:containedctx // it is one
	end             context.CancelCauseFunc

	mu       sync.Mutex // protects deadline
	deadline time.Time
}

// Deadline returns the deadline as it is now.
func (c *flightContext) Deadline() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deadline, true
}

// Err tells the deadline from a cancellation.
func (c *flightContext) Err() error {
	err := c.Context.Err()
	if err != nil && errors.Is(context.Cause(c.Context), context.DeadlineExceeded) {
		return context.DeadlineExceeded
	}
	return err
}

// Probe asks the server, or waits for the probe that is under way, and returns what it found. It returns by deadline,
// give or take some milliseconds, or when ctx ends, and then with its cause: the caller has gone. A target that was
// closed gives ErrClosed.
//
// A caller whose deadline passes before that of the probe gets a result without an answer, which is not counted.
//
// Where commits are probed, the verdict is counted at once, and the caller waits for the commit that began with it, up to
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
	s.commit = s.Result.Commit.Outcome()
	return s, nil
}

// wait waits for the verdict, for the sampler too.
func (t *Target) wait(ctx context.Context, deadline time.Time, samples bool) (Snapshot, error) {
	start := time.Now()
	over := time.NewTimer(time.Until(deadline))
	defer over.Stop()
	for {
		f, joined := t.board(deadline, samples)
		if f == nil {
			return Snapshot{}, ErrClosed
		}
		if !joined {
			// The flight was left by everyone and is about to end.
			select {
			case <-f.done:
				continue
			case <-over.C:
				return t.unanswered(start), nil
			case <-ctx.Done():
				return Snapshot{}, context.Cause(ctx)
			}
		}
		select {
		case <-f.done:
			return f.snapshot, nil
		case <-ctx.Done():
			t.leave(f, deadline)
			return Snapshot{}, context.Cause(ctx)
		case <-over.C:
		}
		if latest, _ := f.ctx.Deadline(); latest.Sub(deadline) < deadlineSlack {
			select {
			case <-f.done:
				return f.snapshot, nil
			case <-time.After(deadlineSlack + endGrace):
			}
		}
		t.leave(f, deadline)
		return t.unanswered(start), nil
	}
}

func (t *Target) unanswered(start time.Time) Snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.snapshot(probe.Unanswered(start, time.Since(start), t.options.Keeps))
}

// snapshot makes r and what was counted up to now fit to be shown. The caller holds t.mu.
func (t *Target) snapshot(r *probe.Result) Snapshot {
	return Snapshot{
		Target: t.options.Name, Kind: t.options.Kind, Result: r, history: t.seen.clone(),
		connect: t.connect, query: t.query, commits: t.commits,
	}
}

// board gets a caller aboard the flight under way, or starts one. It reports false for a flight that ends already, and
// returns none once the target is closed.
func (t *Target) board(deadline time.Time, samples bool) (*flight, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.flight
	switch {
	case t.closed:
		return nil, false
	case f == nil:
		now := time.Now()
		f = &flight{start: now, done: make(chan struct{}), callers: []time.Time{deadline}, sampled: samples}
		f.ctx = &flightContext{deadline: earlier(deadline, now.Add(t.options.Timeout))}
		f.ctx.Context, f.ctx.end = context.WithCancelCause(context.Background())
		f.timer = time.AfterFunc(f.ctx.deadline.Sub(now), func() { f.ctx.end(context.DeadlineExceeded) })
		t.flight = f
		go t.fly(f)
		return f, true
	case f.ctx.Err() != nil:
		return f, false
	}
	f.sampled = f.sampled || samples
	f.callers = append(f.callers, deadline)
	if len(f.callers) == 2 {
		t.options.Shared.Add(1)
	}
	t.reschedule(f)
	return f, true
}

// leave takes a caller off the flight. The last one to go ends it.
func (t *Target) leave(f *flight, deadline time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(f.callers, deadline)
	f.callers = slices.Delete(f.callers, i, i+1)
	if len(f.callers) == 0 {
		f.ctx.end(errNobodyWaits)
		return
	}
	t.reschedule(f)
}

// reschedule makes the flight end with the last of its callers. The caller holds t.mu.
func (t *Target) reschedule(f *flight) {
	deadline := earlier(slices.MaxFunc(f.callers, time.Time.Compare), f.start.Add(t.options.Timeout))
	if !f.timer.Stop() {
		return // it ends right now
	}
	f.ctx.mu.Lock()
	f.ctx.deadline = deadline
	f.ctx.mu.Unlock()
	f.timer.Reset(time.Until(deadline))
}

// fly probes and counts the result before anybody sees it.
func (t *Target) fly(f *flight) {
	t.mu.Lock()
	answered := t.seen.last == nil || t.seen.last.Up()
	t.mu.Unlock()
	r := t.ask(f, answered)
	t.mu.Lock()
	f.timer.Stop()
	counts := !errors.Is(context.Cause(f.ctx), errNobodyWaits)
	var before history
	if counts {
		before = t.seen
		t.record(r, f.sampled || t.options.Interval == 0)
	}
	f.ctx.end(nil)
	f.snapshot = t.snapshot(r)
	t.flight = nil
	close(f.done)
	t.mu.Unlock()
	if counts {
		t.logChanges(before, r)
	}
}

// ask probes when there is room. The time to wait for it is part of the probe's.
func (t *Target) ask(f *flight, answered bool) *probe.Result {
	leave, ok := t.options.Limiter.enter(f.ctx, answered)
	if !ok {
		return probe.Overloaded(f.start, time.Since(f.start), t.options.Keeps)
	}
	defer leave()
	return t.prober.Probe(f.ctx)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
