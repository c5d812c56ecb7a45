// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"pg_liveness_exporter/check"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/bounded"
	"pg_liveness_exporter/internal/credentials"
)

// Check is a check with its last result. It runs in the background, again each time that its last result has expired.
// Callers wait only for the first result. Any goroutine may call its exported methods.
type Check struct {
	settings *config.Check
	target   *Target // nil if the check has no target
	checker  *check.Checker
	logger   *slog.Logger

	onOutOfDescriptors func() // Options.OnOutOfDescriptors

	life  context.Context //nolint:containedctx // ends with Close
	end   context.CancelFunc
	ended chan struct{}
	first chan struct{} // closed once there is a result

	// Only the check's own goroutine uses these two.
	maxDuration time.Duration // how long a statement may take
	overran     bool          // the last statement took longer

	mu         sync.Mutex // protects what follows
	last       check.Result
	changed    time.Time // when the first run ended that had the present status
	hysteresis hysteresis
}

// newCheck returns a check. The caller must start run in a goroutine.
func newCheck(settings *config.Check, target *Target, onOutOfDescriptors func(), logger *slog.Logger) *Check {
	c := &Check{
		settings: settings, target: target, logger: logger.With("check", settings.Name), onOutOfDescriptors: onOutOfDescriptors,
		ended: make(chan struct{}), first: make(chan struct{}), hysteresis: newHysteresis(),
	}
	var query check.Query
	if target != nil {
		query = func(ctx context.Context, sql string) (check.Scalar, error) {
			result, err := target.execute(ctx, sql, c.maxDuration)
			c.overran = errors.Is(err, errTooLong)
			return result, err
		}
	}
	c.checker = check.New(settings, credentials.ForCheck(settings), query)
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// run runs the check repeatedly until the check is closed.
func (c *Check) run() {
	defer close(c.ended)
	for {
		r, ok := c.runOnce()
		if !ok {
			return
		}
		c.record(r)
		wait := time.NewTimer(time.Until(c.expires(r)))
		select {
		case <-wait.C:
		case <-c.life.Done():
			wait.Stop()
			return
		}
	}
}

// runOnce runs the check once, in turn with the other checks of its target. It reports false if the check or its target has
// been closed. The result is then meaningless.
func (c *Check) runOnce() (check.Result, bool) {
	if c.target == nil {
		r := c.checker.Run(c.life)
		return r, c.life.Err() == nil
	}
	var r check.Result
	ran := c.target.turns.run(c.life, c.last.Took >= slowTime, c.settings.Timeout, func(maxDuration time.Duration) bool {
		c.maxDuration, c.overran = maxDuration, false
		r = c.checker.Run(c.life)
		return c.overran && c.life.Err() == nil && c.target.life.Err() == nil
	})
	return r, ran && c.life.Err() == nil && c.target.life.Err() == nil
}

// expires returns when the check runs again after the result r.
func (c *Check) expires(r check.Result) time.Time {
	if r.Status == check.Fail {
		return r.At.Add(c.settings.TTLFailed)
	}
	return r.At.Add(c.settings.TTL)
}

// record stores a result, and logs it if the status or its reason has changed.
func (c *Check) record(r check.Result) {
	c.mu.Lock()
	before := c.last
	if before.At.IsZero() || before.Status != r.Status {
		c.changed = r.At
	}
	c.last = r
	c.hysteresis.count(r.Status != check.Fail)
	c.mu.Unlock()
	if r.OutOfDescriptors {
		c.onOutOfDescriptors()
	}
	select {
	case <-c.first:
		// A number that stays outside the limits is not logged again when it changes.
		if before.Status == r.Status && (before.Output == r.Output || before.HasValue && r.HasValue) {
			return
		}
	default:
		close(c.first)
	}
	switch r.Status {
	case check.Pass:
		c.logger.Info("Check passed")
	case check.Warn:
		c.logger.Warn("Check is in warning state", "output", r.Output)
	case check.Fail:
		c.logger.Warn("Check failed", "output", r.Output)
	}
}

// inherit copies the last result of a check of the same dependency. It must be called before run starts.
func (c *Check) inherit(old *Check) {
	old.mu.Lock()
	defer old.mu.Unlock()
	select {
	case <-old.first:
		c.last, c.changed, c.hysteresis = old.last, old.changed, old.hysteresis
		close(c.first)
	default:
	}
}

// setHysteresis sets how many failures in a row make the check fail, and how many successes make it pass again.
func (c *Check) setHysteresis(failAfter, passAfter uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hysteresis.failAfter, c.hysteresis.passAfter = failAfter, passAfter
}

// Close ends the run under way and waits until it has ended. If ctx ends first, Close returns ctx's error.
func (c *Check) Close(ctx context.Context) error {
	c.end()
	return bounded.Done(ctx, c.ended)
}

// CheckResult is the last result of a check.
type CheckResult struct {
	check.Result
	// Check is the name of the check. Target is the name of its target, empty if it has none. Labels are those of the
	// target, as config.Target.Labels.
	Check, Target string
	Labels        []config.Label
	// Expires is when the check runs again.
	Expires time.Time
	// Changed is when the first run ended that had this status.
	Changed time.Time
	// Failing reports whether the check fails with hysteresis (Health.FailAfter and Health.PassAfter).
	Failing bool
}

// Name returns the name of the check.
func (c *Check) Name() string { return c.settings.Name }

// Target returns the name of the check's target, empty if it has none.
func (c *Check) Target() string { return c.settings.Target }

// Labels returns the labels of the check's target, as config.Target.Labels. A check without a target has none.
func (c *Check) Labels() []config.Label {
	if c.target == nil {
		return nil
	}
	return c.target.Labels()
}

// Kind returns the kind of the check.
func (c *Check) Kind() config.CheckKind { return c.settings.Kind }

// Timeout returns how long a run may take.
func (c *Check) Timeout() time.Duration { return c.settings.Timeout }

// Wait waits for the first result until ctx ends or the check is closed.
func (c *Check) Wait(ctx context.Context) {
	select {
	case <-c.first:
	case <-ctx.Done():
	case <-c.ended:
	}
}

// Latest returns the last result, without waiting. It reports false if there is none yet.
func (c *Check) Latest() (CheckResult, bool) {
	select {
	case <-c.first:
		return c.result(), true
	default:
		return CheckResult{}, false
	}
}

func (c *Check) result() CheckResult {
	labels := c.Labels()
	c.mu.Lock()
	defer c.mu.Unlock()
	return CheckResult{c.last, c.settings.Name, c.settings.Target, labels, c.expires(c.last), c.changed, c.hysteresis.failing}
}

// checks has the checks of the configuration.
type checks struct {
	target             func(name string) *Target // returns a configured target, or nil
	onOutOfDescriptors func()                    // Options.OnOutOfDescriptors
	logger             *slog.Logger
	retiring           sync.WaitGroup

	mu     sync.Mutex // protects what follows
	closed bool
	all    []*Check // sorted by name
}

// apply applies the configuration file. The targets must have been applied before. A check keeps running if neither its
// settings nor its target has changed. If only its times or limits have changed, its replacement starts with its last
// result.
func (cs *checks) apply(file *config.File) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		return
	}
	var dropped []*Check
	cs.all, dropped = reconcile(file.Checks, cs.all,
		func(settings *config.Check) string { return settings.Name },
		(*Check).Name,
		func(c *Check, settings *config.Check) bool {
			return c.target == cs.target(settings.Target) && c.settings.Equal(settings)
		},
		func(settings *config.Check, replaced *Check) *Check {
			c := newCheck(settings, cs.target(settings.Target), cs.onOutOfDescriptors, cs.logger)
			if replaced != nil && replaced.target == c.target && replaced.settings.SameDependency(settings) {
				c.inherit(replaced)
			}
			c.setHysteresis(file.Health.FailAfter, file.Health.PassAfter) // before its first result
			go c.run()
			return c
		})
	for _, c := range cs.all {
		c.setHysteresis(file.Health.FailAfter, file.Health.PassAfter)
	}
	for _, c := range dropped {
		c.end()
		cs.retiring.Go(func() { <-c.ended })
	}
}

// list returns all checks, sorted by name.
func (cs *checks) list() []*Check {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return slices.Clone(cs.all)
}

// close closes all checks. If ctx ends first, it returns ctx's error. apply has no effect after close.
func (cs *checks) close(ctx context.Context) error {
	cs.mu.Lock()
	closing := cs.all
	cs.all, cs.closed = nil, true
	cs.mu.Unlock()
	return closeAll(ctx, closing, &cs.retiring)
}
