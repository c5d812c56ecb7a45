// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"time"

	"pg_liveness_exporter/probe"
)

// Recent returns the last result of a target while it is not older than maxAge. Else it has the target probed, in the
// time that its settings give a probe, and returns that result if it is there within patience; if not, what was found
// last stands in. However many ask, there is one probe, which goes on when they leave. A server that refused our
// credentials is left alone for a while.
//
// A target that was never probed to an end gives a result without an answer, and one that is closed ErrClosed.
func (t *Target) Recent(ctx context.Context, maxAge, patience time.Duration) (Snapshot, error) {
	if s, ok := t.latest(); ok {
		if locksOut(s.Result.Failure) {
			maxAge = max(maxAge, authPause)
		}
		if time.Since(s.At()) <= maxAge {
			return s, nil
		}
	}
	start := time.Now()
	over := time.NewTimer(patience)
	defer over.Stop()
	select {
	case <-t.refresh():
	case <-over.C:
	case <-ctx.Done():
	case <-t.life.Done():
		return Snapshot{}, ErrClosed
	}
	if s, ok := t.latest(); ok {
		return s, nil
	}
	return t.unanswered(start), nil
}

// latest is what the last probe that was counted found.
func (t *Target) latest() (Snapshot, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.seen.last
	if r == nil {
		return Snapshot{}, false
	}
	return t.snapshot(r), true
}

// refresh probes behind the caller's back and returns what is closed when that has ended.
func (t *Target) refresh() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refreshing == nil && !t.closed {
		ended := make(chan struct{})
		t.refreshing = ended
		t.sampling.Go(func() {
			_, _ = t.wait(t.life, time.Now().Add(t.options.Timeout), false) // what it found is the last result
			t.mu.Lock()
			t.refreshing = nil
			t.mu.Unlock()
			close(ended)
		})
	}
	return t.refreshing
}

// judge is told how many results in a row make the target fail, and pass again.
func (t *Target) judge(failAfter, passAfter uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen.streak.failAfter, t.seen.streak.passAfter = failAfter, passAfter
}

// streak is a run of equal results: failAfter of them make what they are of fail, passAfter make it pass again. What has never
// succeeded fails at once, and passes with its first success.
type streak struct {
	failAfter, passAfter uint64
	failures, successes  uint64 // in a row; one of them is 0
	succeeded            bool   // once
	failing              bool
}

func newStreak() streak { return streak{failAfter: 1, passAfter: 1} }

func (s *streak) count(ok bool) {
	if ok {
		s.failures = 0
		s.successes++
		s.failing = s.failing && s.succeeded && s.successes < s.passAfter
		s.succeeded = true
		return
	}
	s.successes = 0
	s.failures++
	s.failing = s.failing || !s.succeeded || s.failures >= s.failAfter
}

// Failing says whether so many probes in a row have failed, and not so many succeeded since, that the target counts as
// failing: what Health.FailAfter and PassAfter say.
func (s *Snapshot) Failing() bool { return s.streak.failing }

// CommitFailure is why the last commit failed, nil where it did not or none was tried; not being let try is no failure.
func (s *Snapshot) CommitFailure() *probe.Failure {
	if s.commitFailure == nil || s.commitFailure.State == probe.StateMisconfigured {
		return nil
	}
	return s.commitFailure
}

// Counted says whether the result is one that was counted, and not only that somebody could not wait for one.
func (s *Snapshot) Counted() bool { return s.last == s.Result }

// At is when the result was there.
func (s *Snapshot) At() time.Time {
	if s.Counted() {
		return s.counted
	}
	return s.Result.Start.Add(s.Result.Duration)
}

// Name is what the configuration calls the target, empty for the one from the environment.
func (t *Target) Name() string { return t.options.Name }

// Timeout is the most a probe of the target may take.
func (t *Target) Timeout() time.Duration { return t.options.Timeout }
