package collector

import (
	"context"
	"time"

	"pg_liveness_exporter/probe"
)

// Recent returns the last result of a target while it is not older than maxAge. Else it has the target probed, in the
// time that its settings give a probe, and returns that result if it is there within patience; if not, what was found
// last stands in. However many ask, there is one probe, which goes on when they leave.
//
// The second result is how old the first one is. A target that was never probed to an end gives a result without an
// answer, and one that is closed ErrClosed.
func (t *Target) Recent(ctx context.Context, maxAge, patience time.Duration) (Snapshot, time.Duration, error) {
	if s, age, ok := t.latest(); ok && age <= maxAge {
		return s, age, nil
	}
	start := time.Now()
	over := time.NewTimer(patience)
	defer over.Stop()
	select {
	case <-t.refresh():
	case <-over.C:
	case <-ctx.Done():
	case <-t.life.Done():
		return Snapshot{}, 0, ErrClosed
	}
	if s, age, ok := t.latest(); ok {
		return s, age, nil
	}
	return t.unanswered(start), 0, nil
}

// latest is what the last probe that was counted found.
func (t *Target) latest() (Snapshot, time.Duration, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.seen.last
	if r == nil {
		return Snapshot{}, 0, false
	}
	return t.snapshot(r), time.Since(t.seen.counted), true
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
	t.failAfter, t.passAfter = failAfter, passAfter
}

// count adds a result to the run of equal ones. The caller holds t.mu.
func (t *Target) count(r *probe.Result) {
	h := &t.seen
	if r.Up() {
		h.consecutiveFailures = 0
		h.consecutiveSuccesses++
		h.failing = h.failing && h.consecutiveSuccesses < t.passAfter
		return
	}
	h.consecutiveSuccesses = 0
	h.consecutiveFailures++
	h.failing = h.failing || h.consecutiveFailures >= t.failAfter
}

// Failing says whether so many probes in a row have failed, and not so many succeeded since, that the target counts as
// failing: what Health.FailAfter and PassAfter say.
func (s *Snapshot) Failing() bool { return s.failing }

// CommitFailure is why the last commit failed, nil where it did not or none was tried; not being let try is no failure.
func (s *Snapshot) CommitFailure() *probe.Failure {
	if s.commitFailure == nil || s.commitFailure.State == probe.StateMisconfigured {
		return nil
	}
	return s.commitFailure
}

// Counted says whether the result is one that was counted, and not only that somebody could not wait for one.
func (s *Snapshot) Counted() bool { return s.last == s.Result }

// Name is what the configuration calls the target, empty for the one from the environment.
func (t *Target) Name() string { return t.options.Name }

// Timeout is the most a probe of the target may take.
func (t *Target) Timeout() time.Duration { return t.options.Timeout }
