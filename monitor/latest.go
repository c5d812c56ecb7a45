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

// overrunGrace is how long after its deadline a probe counts as under way. A probe ends within milliseconds of its deadline,
// unless this process or its machine is overloaded.
const overrunGrace = time.Second

// Renewal is one caller's wait for a recent result. Only the caller may use it. It takes no goroutine.
type Renewal struct {
	target *Target
	probe  *sharedProbe // nil if the last result is recent enough
}

// Renew returns a Renewal without waiting. If the last result is older than maxAge, or if there is none, Renew joins the
// probe under way or starts one. The probe continues even if no caller waits for it.
//
// If the server refused the exporter's credentials, that result is recent enough until it is older than authPause. If the target is
// closed, the error is ErrClosed.
func (t *Target) Renew(maxAge time.Duration) (Renewal, error) {
	r := Renewal{target: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	if last := t.history.last; last != nil {
		if locksOut(last.Failure) {
			maxAge = max(maxAge, authPause)
		}
		if time.Since(t.history.countedAt) <= maxAge {
			return r, nil
		}
	}
	if r.probe = t.joinLocked(false); r.probe == nil {
		return Renewal{}, ErrClosed
	}
	return r, nil
}

// Wait waits for the probe until ctx ends.
func (r *Renewal) Wait(ctx context.Context) {
	if r.probe == nil {
		return
	}
	select {
	case <-r.probe.done:
	case <-ctx.Done():
	}
}

// Result returns the last result, which is that of the probe if it has ended. It does not wait. If no probe of the target
// has ended yet, the result is a timeout that is not counted. If the target was closed meanwhile, the error is ErrClosed.
//
// overdue reports whether the result should have been replaced by now: the probe has not ended, although its deadline has
// passed.
func (r *Renewal) Result() (s Snapshot, overdue bool, err error) {
	if p := r.probe; p != nil {
		select {
		case <-p.done:
			return p.snapshot, false, p.err
		default:
			overdue = time.Since(p.deadline) > overrunGrace
		}
	}
	if s, ok := r.target.lastCounted(); ok {
		return s, overdue, nil
	}
	return r.target.unanswered(r.probe.start), overdue, nil
}

// Newest returns the last result, however old it is. If there is none yet, it waits for one until maxWait has passed or ctx
// ends, and returns as Renewal.Result does.
func (t *Target) Newest(ctx context.Context, maxWait time.Duration) (Snapshot, error) {
	r, err := t.Renew(math.MaxInt64)
	if err != nil {
		return Snapshot{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	r.Wait(ctx)
	s, _, err := r.Result()
	return s, err
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

// Timeline returns the target's timeline. It is empty if Options.Timelines is not set, and for an ad-hoc target.
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
