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

// Check is a dependency with what is kept of it. It runs in the background, again whenever its last result has expired. Callers
// wait only for the first result.
type Check struct {
	settings *config.Check
	target   *Target // nil if the check is about no target
	checker  *check.Checker
	logger   *slog.Logger

	life  context.Context //nolint:containedctx // ends with Close
	end   context.CancelFunc
	ended chan struct{}
	first chan struct{} // closed when there is a result

	// Used by the check's own goroutine alone: how long a statement may take, and whether the last one took longer.
	maxDuration time.Duration
	overran     bool

	mu         sync.Mutex // protects what follows
	last       check.Result
	hysteresis hysteresis
}

// newCheck returns a check that runs once it is started.
func newCheck(settings *config.Check, target *Target, logger *slog.Logger) *Check {
	c := &Check{
		settings: settings, target: target, logger: logger.With("check", settings.Name),
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

// run runs the check again and again until it is closed.
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

// slowTime is how long a statement may take while the other checks of its target wait for it.
const slowTime = time.Second

// runOnce runs the check once. Checks of one target take turns, since they share one session's worth of the server's slots. A
// statement that takes longer than slowTime is ended and run again once the other slow ones of its target have ended: so the
// others wait for at most one of them, and for slowTime if one begins to hang. It reports false if the check or its target was
// closed, which is all that the result would say.
func (c *Check) runOnce() (check.Result, bool) {
	if c.target == nil {
		r := c.checker.Run(c.life)
		return r, c.life.Err() == nil
	}
	if c.last.Took < slowTime {
		c.maxDuration = min(slowTime, c.settings.Timeout)
		if r, ok := c.runInTurn(c.target.statement); !ok || !c.overran || c.settings.Timeout <= slowTime {
			return r, ok
		}
	}
	c.maxDuration = c.settings.Timeout
	return c.runInTurn(c.target.slowStatement, c.target.statement)
}

// runInTurn runs the check once it has all the turns.
func (c *Check) runInTurn(turns ...chan struct{}) (check.Result, bool) {
	for _, turn := range turns {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-c.life.Done():
			return check.Result{}, false
		}
	}
	r := c.checker.Run(c.life)
	return r, c.life.Err() == nil && c.target.life.Err() == nil
}

// expires returns when the check runs again after a result.
func (c *Check) expires(r check.Result) time.Time {
	if r.Status == check.Fail {
		return r.At.Add(c.settings.TTLFailed)
	}
	return r.At.Add(c.settings.TTL)
}

// record keeps a result, and logs a change.
func (c *Check) record(r check.Result) {
	c.mu.Lock()
	before := c.last
	c.last = r
	c.hysteresis.count(r.Status != check.Fail)
	c.mu.Unlock()
	select {
	case <-c.first:
		// A number outside the limits is logged once, not again for each new number.
		if before.Status == r.Status && (before.Output == r.Output || before.HasValue && r.HasValue) {
			return
		}
	default:
		close(c.first)
	}
	switch r.Status {
	case check.Pass:
		c.logger.Info("the check passes")
	case check.Warn:
		c.logger.Warn("the check nearly fails", "output", r.Output)
	case check.Fail:
		c.logger.Warn("the check fails", "output", r.Output)
	}
}

// inherit takes over the last result of a check that does the same.
func (c *Check) inherit(old *Check) {
	old.mu.Lock()
	defer old.mu.Unlock()
	select {
	case <-old.first:
		c.last, c.hysteresis = old.last, old.hysteresis
		close(c.first)
	default:
	}
}

// setHysteresis sets how many results in a row make the check fail, and pass again.
func (c *Check) setHysteresis(failAfter, passAfter uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hysteresis.failAfter, c.hysteresis.passAfter = failAfter, passAfter
}

// Close ends the run under way, and waits for that until ctx ends.
func (c *Check) Close(ctx context.Context) error {
	c.end()
	return bounded.Done(ctx, c.ended)
}

// CheckResult is the last result of a check.
type CheckResult struct {
	check.Result
	// Check is the check's name. Target is the name of the server that it is about, empty if there is none.
	Check, Target string
	// Expires is when the check runs again.
	Expires time.Time
	// Failing reports whether the check counts as failing after Health.FailAfter and Health.PassAfter.
	Failing bool
}

// Name is what the configuration calls the check.
func (c *Check) Name() string { return c.settings.Name }

// Target is the name of the server that the check is about, empty if there is none.
func (c *Check) Target() string { return c.settings.Target }

// Kind is the kind of dependency.
func (c *Check) Kind() config.CheckKind { return c.settings.Kind }

// Timeout is the most that a run may take.
func (c *Check) Timeout() time.Duration { return c.settings.Timeout }

// Latest returns the last result. Before the first one it waits for it, for at most maxWait or until ctx ends, and reports
// false if there is still none.
func (c *Check) Latest(ctx context.Context, maxWait time.Duration) (CheckResult, bool) {
	select {
	case <-c.first:
		return c.result(), true
	default:
	}
	over := time.NewTimer(maxWait)
	defer over.Stop()
	select {
	case <-c.first:
		return c.result(), true
	case <-over.C:
	case <-ctx.Done():
	case <-c.ended:
	}
	return CheckResult{}, false
}

func (c *Check) result() CheckResult {
	c.mu.Lock()
	defer c.mu.Unlock()
	return CheckResult{c.last, c.settings.Name, c.settings.Target, c.expires(c.last), c.hysteresis.failing}
}

// checks are the checks of the configuration.
type checks struct {
	target   func(name string) *Target
	logger   *slog.Logger
	retiring sync.WaitGroup

	mu     sync.Mutex // protects what follows
	closed bool
	all    []*Check // sorted by name
}

// apply replaces the configuration, after that of the targets. A check stays if neither it nor its target has changed. One that
// does the same at other times, or has other limits, begins with the last result.
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
			c := newCheck(settings, cs.target(settings.Target), cs.logger)
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

// close ends all checks, until ctx ends.
func (cs *checks) close(ctx context.Context) error {
	cs.mu.Lock()
	closing := cs.all
	cs.all, cs.closed = nil, true
	cs.mu.Unlock()
	return closeAll(ctx, closing, &cs.retiring)
}
