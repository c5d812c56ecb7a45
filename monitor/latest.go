// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"time"

	"pg_liveness_exporter/probe"
)

// Latest returns the last result of a target if it is at most maxAge old. Otherwise it has the target probed, within the
// target's own timeout, and returns that result if it is there within maxWait. If not, the last result stands in.
// Concurrent callers share one probe, which goes on when they leave. A server that refused our credentials is left alone for
// authPause.
//
// A target whose first probe has not ended gives a timeout that is not counted. One that is closed gives ErrClosed.
func (t *Target) Latest(ctx context.Context, maxAge, maxWait time.Duration) (Snapshot, error) {
	if s, ok := t.latest(); ok {
		if locksOut(s.Result.Failure) {
			maxAge = max(maxAge, authPause)
		}
		if time.Since(s.At()) <= maxAge {
			return s, nil
		}
	}
	start := time.Now()
	over := time.NewTimer(maxWait)
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

// latest returns what the last counted probe found. It reports false before there is one.
func (t *Target) latest() (Snapshot, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.history.last
	if r == nil {
		return Snapshot{}, false
	}
	return t.snapshotLocked(r), true
}

// refresh starts a probe in the background, unless one of refresh's is under way. It returns a channel that is closed when
// the probe has ended.
func (t *Target) refresh() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refreshing == nil && !t.closed {
		ended := make(chan struct{})
		t.refreshing = ended
		t.sampling.Go(func() {
			_, _ = t.wait(t.life, time.Now().Add(t.options.Timeout), false) // what it finds becomes the last result
			t.mu.Lock()
			t.refreshing = nil
			t.mu.Unlock()
			close(ended)
		})
	}
	return t.refreshing
}

// setHysteresis sets how many results in a row make the target fail, and pass again.
func (t *Target) setHysteresis(failAfter, passAfter uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.history.hysteresis.failAfter, t.history.hysteresis.passAfter = failAfter, passAfter
}

// Failing reports whether the target counts as failing after Health.FailAfter and Health.PassAfter.
func (s *Snapshot) Failing() bool { return s.hysteresis.failing }

// ConsecutiveFailures is the number of failed probes since the last one that succeeded.
func (s *Snapshot) ConsecutiveFailures() uint64 { return s.hysteresis.failures }

// CommitFailure returns why the last commit failed. It is nil if it did not fail, if none was tried, or if the server did not
// let us try.
func (s *Snapshot) CommitFailure() *probe.Failure {
	if s.commitFailure == nil || s.commitFailure.State == probe.StateMisconfigured {
		return nil
	}
	return s.commitFailure
}

// Counted reports whether the result was counted. One that stands for a caller's own deadline is not.
func (s *Snapshot) Counted() bool { return s.last == s.Result }

// At returns when the result was there.
func (s *Snapshot) At() time.Time {
	if s.Counted() {
		return s.counted
	}
	return s.Result.Start.Add(s.Result.Duration)
}

// Name is what the configuration calls the target, empty for the one from the environment.
func (t *Target) Name() string { return t.options.name }

// Timeout is the most that a probe of the target may take.
func (t *Target) Timeout() time.Duration { return t.options.Timeout }

// LogLines returns the target's last log lines, the latest last.
func (t *Target) LogLines() []string { return t.log.read() }
