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
	joined joined
	late   joined    // those for whom a failure at the deadline is too old
	until  time.Time // the latest time until which one of these waits

	done chan struct{} // closed once what follows is set
	// err is ErrClosed if Close ended the probe. Otherwise snapshot is set.
	err      error
	snapshot Snapshot
	// next is the probe for the late callers. It is nil if there are none, or if the probe did not fail at its deadline.
	next *sharedProbe
}

// joined are callers of a probe.
type joined struct {
	callers int
	sampled bool // one of them is the sampler
}

func (j *joined) add(sampler bool) {
	j.callers++
	j.sampled = j.sampled || sampler
}

// isLateFor reports whether a failure of the probe at its deadline is too old for a caller that called at that moment: it
// called in the second half of the probe's time. Scrapes that come as often as the timeout call shortly before that
// deadline. If they took this result, every second scrape would not start a probe.
func (p *sharedProbe) isLateFor(called time.Time) bool {
	return called.Sub(p.start) > p.deadline.Sub(called)
}

// Probe probes the server, or joins the probe under way, and returns the result. deadline and ctx bound how long the
// caller waits. They do not bound the probe, which ends when it has a result or at the target's timeout and is counted then.
// The caller waits for at most the target's timeout too. It waits longer, until deadline, only if the probe is about to end.
//
// Probe returns at most deadlineSlack and resultGrace after deadline. If that passes first, the result is a timeout that
// is not counted. If ctx ends first, the error is ctx's cause. If the target is closed, the error is ErrClosed. Any
// goroutine may call Probe at any time.
//
// If the target has the commit probe, the result is counted as soon as it is known. Probe then waits for the commit that
// the probe started.
func (t *Target) Probe(ctx context.Context, deadline time.Time) (Snapshot, error) {
	w, err := t.begin(deadline, false)
	if err != nil {
		return Snapshot{}, err
	}
	return w.resultWithCommit(ctx)
}

// wait is one caller's wait for a probe. Only the caller may use it. It takes no goroutine, so that one caller can wait for
// thousands of targets.
type wait struct {
	target           *Target
	probe            *sharedProbe
	called, deadline time.Time
}

// begin starts a probe, or joins the one under way, without waiting for it. deadline is how long the caller is going to wait.
// sampler reports whether the caller is the sampler. If the target is closed, the error is ErrClosed.
func (t *Target) begin(deadline time.Time, sampler bool) (wait, error) {
	w := wait{target: t, called: time.Now(), deadline: deadline}
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.probe = t.joinLocked(sampler); w.probe == nil {
		return wait{}, ErrClosed
	}
	if p := w.probe; p.isLateFor(w.called) {
		p.late.add(sampler)
		if p.until.Before(w.latest()) {
			p.until = w.latest()
		}
	}
	return w, nil
}

// latest returns how long the caller waits for a probe that is not about to end.
func (w *wait) latest() time.Time { return earlier(w.deadline, w.called.Add(w.target.options.Timeout)) }

// result waits for the result of the probe, as Probe does, but not for its commit.
func (w *wait) result(ctx context.Context) (Snapshot, error) {
	latest := w.latest()
	var late *sharedProbe
	for p := w.probe; ; p = p.next {
		until := latest
		if p.deadline.Sub(latest) < deadlineSlack { // it is about to end then
			until = w.deadline.Add(deadlineSlack + resultGrace)
		}
		switch ended, err := waitUntil(ctx, p.done, until); {
		case err != nil:
			return Snapshot{}, err
		case !ended && late != nil:
			return late.snapshot, nil
		case !ended:
			return w.target.unanswered(w.called), nil
		case p.next == nil || !p.isLateFor(w.called):
			return p.snapshot, p.err
		}
		late = p
	}
}

// resultWithCommit is result. It also waits for the commit that the probe started.
func (w *wait) resultWithCommit(ctx context.Context) (Snapshot, error) {
	s, err := w.result(ctx)
	if err != nil || s.Result.Commit == nil {
		return s, err
	}
	if _, err := waitUntil(ctx, s.Result.Commit.Done(), w.latest()); err != nil {
		return Snapshot{}, err
	}
	s.CommitResult = s.Result.Commit.Result()
	return s, nil
}

// waitUntil waits until done is closed, and reports false if the time until comes first. If ctx ends before both, it returns
// ctx's cause.
func waitUntil(ctx context.Context, done <-chan struct{}, until time.Time) (closed bool, err error) {
	select {
	case <-done:
		return true, nil
	default:
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-done:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
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
		Target: t.options.name, Implied: t.options.implied, Kind: t.options.kind, Labels: t.labels, Interval: t.options.Interval,
		Result: r, History: t.history, Histograms: t.histograms,
	}
}

// joinLocked returns the probe under way, or starts one. It returns nil if the target is closed.
func (t *Target) joinLocked(sampler bool) *sharedProbe {
	if t.closed {
		return nil
	}
	if t.current == nil {
		t.startLocked(joined{})
	}
	p := t.current
	p.joined.add(sampler)
	if p.joined.callers == 2 {
		t.options.sharedCount.Add(1)
	}
	return p
}

// startLocked starts a probe with the callers j. No probe must be under way.
func (t *Target) startLocked(j joined) *sharedProbe {
	now := time.Now()
	p := &sharedProbe{start: now, deadline: now.Add(t.options.Timeout), joined: j, done: make(chan struct{})}
	if j.callers > 1 {
		t.options.sharedCount.Add(1)
	}
	t.current = p
	t.background.Go(func() { t.run(p) })
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
		t.recordLocked(r, p.joined.sampled || t.options.Interval == 0)
		p.snapshot = t.snapshotLocked(r)
		if overran := !r.Up() && ctx.Err() != nil; overran && !t.closed && time.Now().Before(p.until) {
			p.next = t.startLocked(p.late)
		}
		if p.joined.sampled && (p.next == nil || !p.late.sampled) {
			t.scheduleSampleLocked(r)
		}
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
