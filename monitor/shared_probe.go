// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
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

// sharedProbe is one probe and the callers that wait for it. It ends when it has a result or at the target's timeout,
// no matter how many callers still wait. Only Close ends it earlier.
type sharedProbe struct {
	start, deadline time.Time

	// protected by the target's mu
	callers int  // that have joined, including the first one
	sampled bool // one of the callers is the sampler

	done chan struct{} // closed once what follows is set
	// err is ErrClosed if Close ended the probe. Otherwise snapshot is set.
	err      error
	snapshot Snapshot
	overran  bool // it failed at its deadline
}

// endedLate reports whether the probe failed at its deadline and is too old for a caller that joined it at that moment:
// the caller joined in the second half of the probe's time. Scrapes that come as often as the timeout join shortly
// before that deadline. If they took this result, every second scrape would not start a probe.
func (p *sharedProbe) endedLate(joined time.Time) bool {
	return p.overran && joined.Sub(p.start) > p.deadline.Sub(joined)
}

// Probe probes the server, or joins the probe under way, and returns the result. deadline and ctx bound how long the
// caller waits, and never the probe: it ends when it has a result or at the target's timeout, and is counted then. The
// caller, too, waits for at most the target's timeout. It waits longer, until deadline, only for the result of a probe
// that is about to end.
//
// Probe returns at most deadlineSlack and resultGrace after deadline. If that passes first, the result is a timeout that
// is not counted. If ctx ends first, the error is ctx's cause. If the target is closed, the error is ErrClosed. Any
// goroutine may call Probe at any time.
//
// If the target has the commit probe, the result is counted as soon as it is known. Probe then waits for the commit that
// the probe started.
func (t *Target) Probe(ctx context.Context, deadline time.Time) (Snapshot, error) {
	latest := earlier(deadline, time.Now().Add(t.options.Timeout))
	s, err := t.probeShared(ctx, deadline, false)
	if err != nil || s.Result.Commit == nil {
		return s, err
	}
	over := time.NewTimer(time.Until(latest))
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
	called := time.Now()
	latest := earlier(deadline, called.Add(t.options.Timeout))
	var late *sharedProbe
	for {
		p := t.join(sampler)
		if p == nil {
			return Snapshot{}, ErrClosed
		}
		until := latest
		if p.deadline.Sub(latest) < deadlineSlack { // it is about to end then
			until = deadline.Add(deadlineSlack + resultGrace)
		}
		select {
		case <-p.done:
			if !p.endedLate(called) {
				return p.snapshot, p.err
			}
			late = p
		case <-time.After(time.Until(until)):
			if late != nil {
				return late.snapshot, nil
			}
			return t.unanswered(called), nil
		case <-ctx.Done():
			return Snapshot{}, context.Cause(ctx)
		}
	}
}

// unanswered returns a snapshot with a timeout, for a caller that has waited since start.
func (t *Target) unanswered(start time.Time) Snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.snapshotLocked(probe.Unanswered(start, time.Since(start), t.keeps()))
}

// snapshotLocked returns a snapshot with the result r and everything that has been counted so far.
func (t *Target) snapshotLocked(r *probe.Result) Snapshot {
	return Snapshot{
		Target: t.options.name, Implied: t.options.implied, Kind: t.options.kind, Labels: t.labels,
		Result: r, History: t.history.clone(), Histograms: t.histograms,
	}
}

// join returns the probe under way, or starts one. It returns nil if the target is closed.
func (t *Target) join(sampler bool) *sharedProbe {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	p := t.current
	if p == nil {
		now := time.Now()
		p = &sharedProbe{start: now, deadline: now.Add(t.options.Timeout), done: make(chan struct{})}
		t.current = p
		t.background.Go(func() { t.run(p) })
	}
	p.sampled = p.sampled || sampler
	p.callers++
	if p.callers == 2 {
		t.options.sharedCount.Add(1)
	}
	return p
}

// run runs the probe, and counts the result before any caller gets it. It runs in a goroutine of its own.
func (t *Target) run(p *sharedProbe) {
	ctx, cancel := context.WithDeadline(t.life, p.deadline)
	defer cancel()
	t.mu.Lock()
	before := t.history
	t.mu.Unlock()
	t.keeper.begin()
	r := t.limitedProbe(ctx, p.start, before.last == nil || before.last.Up())
	t.keeper.end(r.Up())
	neverBefore := before.last == nil || t.unresolved.Load()
	t.unresolved.Store(neverBefore && !r.Up() && r.Failure.Phase == probe.PhaseResolve)
	t.mu.Lock()
	t.current = nil
	if t.life.Err() == nil {
		p.overran = !r.Up() && ctx.Err() != nil
		t.recordLocked(r, p.sampled || t.options.Interval == 0)
		p.snapshot = t.snapshotLocked(r)
	} else {
		p.err = ErrClosed
	}
	close(p.done)
	t.mu.Unlock()
	if p.err != nil {
		return
	}
	t.reportShortage(r.Failure)
	t.logChanges(before, r)
}

// limitedProbe waits for a place in the limiter and then probes. The wait counts towards the timeout of the probe.
// start is when the wait began. responded reports whether the target responded the last time.
func (t *Target) limitedProbe(ctx context.Context, start time.Time, responded bool) *probe.Result {
	leave, ok := t.options.limiter.enter(ctx, responded)
	if !ok {
		return probe.Overloaded(start, time.Since(start), t.keeps())
	}
	defer leave()
	waited := time.Since(start)
	r := t.prober.Probe(ctx)
	if !r.Up() && r.Failure.Reason == probe.ReasonTimeout && waited > time.Since(start)/2 {
		// The wait left too little time for the server.
		return probe.Overloaded(start, time.Since(start), t.keeps())
	}
	return r
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
