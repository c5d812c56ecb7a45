// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"math"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

// Latest returns the last result if it is at most maxAge old. Otherwise it joins the probe under way, or starts one, and
// waits for it until maxWait has passed or ctx ends. Then it returns the last result, which is that of the probe if the
// probe has ended. The probe continues after Latest has returned.
//
// If the server refused our credentials, Latest returns that result without a new probe until it is older than
// authPause. If no probe of the target has ended yet, the result is a timeout that is not counted. If the target is
// closed, the error is ErrClosed.
func (t *Target) Latest(ctx context.Context, maxAge, maxWait time.Duration) (Snapshot, error) {
	if s, ok := t.lastCounted(); ok {
		if locksOut(s.Result.Failure) {
			maxAge = max(maxAge, authPause)
		}
		if time.Since(s.At()) <= maxAge {
			return s, nil
		}
	}
	start := time.Now()
	p := t.join(false)
	if p == nil {
		return Snapshot{}, ErrClosed
	}
	over := time.NewTimer(maxWait)
	defer over.Stop()
	select {
	case <-p.done:
		return p.snapshot, p.err
	case <-over.C:
	case <-ctx.Done():
	}
	if s, ok := t.lastCounted(); ok {
		return s, nil
	}
	return t.unanswered(start), nil
}

// Newest returns the last result, however old it is. Only if there is none yet, it waits for one as Latest does.
func (t *Target) Newest(ctx context.Context, maxWait time.Duration) (Snapshot, error) {
	return t.Latest(ctx, math.MaxInt64, maxWait)
}

// HasResult reports whether a probe of the target has ended.
func (t *Target) HasResult() bool {
	_, ok := t.lastCounted()
	return ok
}

// lastCounted returns the result of the last counted probe. It reports false if there is none yet.
func (t *Target) lastCounted() (Snapshot, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.history.last
	if r == nil {
		return Snapshot{}, false
	}
	return t.snapshotLocked(r), true
}

// setHysteresis sets how many failures in a row make the target fail, and how many successes make it pass again.
func (t *Target) setHysteresis(failAfter, passAfter uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.history.hysteresis.failAfter, t.history.hysteresis.passAfter = failAfter, passAfter
}

// Failing reports whether the target fails with hysteresis (Health.FailAfter and Health.PassAfter).
func (s *Snapshot) Failing() bool { return s.hysteresis.failing }

// ConsecutiveFailures returns the number of failed probes since the last one that succeeded.
func (s *Snapshot) ConsecutiveFailures() uint64 { return s.hysteresis.failures }

// CommitFailure returns the failure of the last commit. It is nil if the commit succeeded, if none was tried, or if the
// failure is a misconfiguration.
func (s *Snapshot) CommitFailure() *probe.Failure {
	if s.commitFailure == nil || s.commitFailure.State == probe.StateMisconfigured {
		return nil
	}
	return s.commitFailure
}

// Counted reports whether the result was counted. A timeout is not counted if the caller's deadline passed before the
// probe ended.
func (s *Snapshot) Counted() bool { return s.last == s.Result }

// At returns when the result was obtained.
func (s *Snapshot) At() time.Time {
	if s.Counted() {
		return s.countedAt
	}
	return s.Result.Start.Add(s.Result.Duration)
}

// Name returns the target's name, empty for an ad-hoc one.
func (t *Target) Name() string { return t.options.name }

// Implied reports whether the target comes from the environment.
func (t *Target) Implied() bool { return t.options.implied }

// Module returns the module that the target names, empty if it names none.
func (t *Target) Module() string { return t.options.module }

// Kind returns the kind of server.
func (t *Target) Kind() config.Kind { return t.options.kind }

// Probing returns how the target is probed.
func (t *Target) Probing() config.Probing { return t.options.Probing }

// Timeline returns what happened to the target lately. It is empty if Options.Timelines is not set, and for an ad-hoc target.
func (t *Target) Timeline() Timeline {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.timeline.read(time.Now())
}

// Labels returns the target's own labels, as config.Target.Labels.
func (t *Target) Labels() []config.Label {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.labels
}

// setLabels sets the target's own labels.
func (t *Target) setLabels(labels []config.Label) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.labels = labels
}

// Timeout returns how long a probe of the target may take.
func (t *Target) Timeout() time.Duration { return t.options.Timeout }

// Changed returns when the verdict last changed, which is when the first probe began that found the present one.
func (s *Snapshot) Changed() time.Time { return s.changed }

// LogLines returns the target's last log lines, oldest first.
func (t *Target) LogLines() []string { return t.log.read() }
