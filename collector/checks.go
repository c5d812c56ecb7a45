// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	dto "github.com/prometheus/client_model/go"

	"pg_liveness_exporter/check"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials"
)

// Check is a dependency with what is kept of it. It is asked behind everybody's back, again whenever its last result has
// become too old: nobody waits for it but those who come before the first result.
type Check struct {
	settings *config.Check
	target   *Target // that it is about; nil where it is about none
	asked    *check.Check
	logger   *slog.Logger

	life  context.Context //nolint:containedctx // ends with Close
	end   context.CancelFunc
	ended chan struct{}
	first chan struct{} // closed when there is a result

	// What its own goroutine alone uses: how long a statement may take, and whether the last one took longer.
	most    time.Duration
	overran bool

	mu     sync.Mutex // protects what follows
	last   check.Outcome
	streak streak
}

// newCheck returns a check that is asked once it is started.
func newCheck(settings *config.Check, target *Target, logger *slog.Logger) *Check {
	c := &Check{
		settings: settings, target: target, logger: logger.With("check", settings.Name),
		ended: make(chan struct{}), first: make(chan struct{}), streak: newStreak(),
	}
	var query check.Query
	if target != nil {
		query = func(ctx context.Context, sql string) (*pgconn.Result, error) {
			result, err := target.execute(ctx, sql, c.most)
			c.overran = errors.Is(err, errTooLong)
			return result, err
		}
	}
	c.asked = check.New(settings, credentials.ForCheck(settings), query)
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// run asks until the check is closed.
func (c *Check) run() {
	defer close(c.ended)
	for {
		o, ok := c.ask()
		if !ok {
			return
		}
		c.record(o)
		wait := time.NewTimer(time.Until(c.expires(o)))
		select {
		case <-wait.C:
		case <-c.life.Done():
			wait.Stop()
			return
		}
	}
}

// slow is how long a check takes that does not stand in line with the others any more.
const slow = time.Second

// ask asks, one check of a target after the other: they share one session's worth of what the server has. A statement that
// takes longer than slow is run again where those that do wait for each other first: so the others wait for one of them at
// most, and for slow where one begins to hang. It reports false where the check or its target is not wanted any more, which
// is all that an outcome would say.
func (c *Check) ask() (check.Outcome, bool) {
	if c.target == nil {
		o := c.asked.Ask(c.life)
		return o, c.life.Err() == nil
	}
	if c.last.Took < slow {
		c.most = min(slow, c.settings.Timeout)
		if o, ok := c.askInTurn(c.target.statement); !ok || !c.overran || c.settings.Timeout <= slow {
			return o, ok
		}
	}
	c.most = c.settings.Timeout // all its time, where the others need not wait for it
	return c.askInTurn(c.target.slowStatement, c.target.statement)
}

// askInTurn asks when all turns are ours.
func (c *Check) askInTurn(turns ...chan struct{}) (check.Outcome, bool) {
	for _, turn := range turns {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-c.life.Done():
			return check.Outcome{}, false
		}
	}
	o := c.asked.Ask(c.life)
	return o, c.life.Err() == nil && c.target.life.Err() == nil
}

func (c *Check) expires(o check.Outcome) time.Time {
	if o.Status == check.Fail {
		return o.At.Add(c.settings.TTLFailed)
	}
	return o.At.Add(c.settings.TTL)
}

// record keeps a result, and logs a change.
func (c *Check) record(o check.Outcome) {
	c.mu.Lock()
	before := c.last
	c.last = o
	c.streak.count(o.Status != check.Fail)
	c.mu.Unlock()
	select {
	case <-c.first:
		// What a number is held against is told once, and not again with each number.
		if before.Status == o.Status && (before.Output == o.Output || before.Measured && o.Measured) {
			return
		}
	default:
		close(c.first)
	}
	switch o.Status {
	case check.Pass:
		c.logger.Info("the check passes")
	case check.Warn:
		c.logger.Warn("the check nearly fails", "output", o.Output)
	case check.Fail:
		c.logger.Warn("the check fails", "output", o.Output)
	}
}

// inherit takes over the last result of a check that asks the same.
func (c *Check) inherit(old *Check) {
	old.mu.Lock()
	defer old.mu.Unlock()
	select {
	case <-old.first:
		c.last, c.streak = old.last, old.streak
		close(c.first)
	default:
	}
}

// judge is told how many results in a row make the check fail, and pass again.
func (c *Check) judge(failAfter, passAfter uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streak.failAfter, c.streak.passAfter = failAfter, passAfter
}

// Close ends what is being asked, and waits for that until ctx ends.
func (c *Check) Close(ctx context.Context) error {
	c.end()
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Finding is what a check found last.
type Finding struct {
	check.Outcome
	// Check is its name, and Target that of the server that it is about, empty where there is none.
	Check, Target string
	// Expires is when it is asked again.
	Expires time.Time
	// Failing says whether so many results in a row have failed, and not so many passed since, that the check counts as
	// failing: what Health.FailAfter and PassAfter say.
	Failing bool
}

// Name is what the configuration calls the check.
func (c *Check) Name() string { return c.settings.Name }

// Kind is what is asked.
func (c *Check) Kind() config.CheckKind { return c.settings.Kind }

// Timeout is the most that asking may take.
func (c *Check) Timeout() time.Duration { return c.settings.Timeout }

// Recent returns the last result. Where there is none yet it waits for one, within patience, and reports false if there is
// still none.
func (c *Check) Recent(ctx context.Context, patience time.Duration) (Finding, bool) {
	select {
	case <-c.first:
		return c.finding(), true
	default:
	}
	over := time.NewTimer(patience)
	defer over.Stop()
	select {
	case <-c.first:
		return c.finding(), true
	case <-over.C:
	case <-ctx.Done():
	case <-c.ended:
	}
	return Finding{}, false
}

func (c *Check) finding() Finding {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Finding{c.last, c.settings.Name, c.settings.Target, c.expires(c.last), c.streak.failing}
}

// checks are those of the configuration.
type checks struct {
	targets  func(name string) *Target
	logger   *slog.Logger
	retiring sync.WaitGroup

	mu     sync.Mutex // protects what follows
	closed bool
	all    []*Check // sorted by name
}

// apply replaces the configuration, after that of the targets. What has not changed stays, and neither has its target; what is
// to be asked at other times, or held against other limits, begins with the last result.
func (cs *checks) apply(file *config.File) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		return
	}
	before := make(map[string]*Check, len(cs.all))
	for _, c := range cs.all {
		before[c.settings.Name] = c
	}
	cs.all = make([]*Check, 0, len(file.Checks))
	for _, settings := range file.Checks {
		c := before[settings.Name]
		target := cs.targets(settings.Target)
		if c != nil && c.target == target && c.settings.Equal(settings) {
			delete(before, settings.Name)
			c.judge(file.Health.FailAfter, file.Health.PassAfter)
		} else {
			old := c
			c = newCheck(settings, target, cs.logger)
			if old != nil && old.target == target && old.settings.SameDependency(settings) {
				c.inherit(old)
			}
			c.judge(file.Health.FailAfter, file.Health.PassAfter) // before its first result
			go c.run()
		}
		cs.all = append(cs.all, c)
	}
	for _, c := range before {
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

// findings are the last results of those checks that have one and that are wanted.
func (cs *checks) findings(wanted func(target string) bool) []Finding {
	var found []Finding
	for _, c := range cs.list() {
		if !wanted(c.settings.Target) {
			continue
		}
		if f, ok := c.Recent(context.Background(), 0); ok {
			found = append(found, f)
		}
	}
	return found
}

// close ends all checks, until ctx ends.
func (cs *checks) close(ctx context.Context) error {
	cs.mu.Lock()
	closing := cs.all
	cs.all, cs.closed = nil, true
	cs.mu.Unlock()
	retired := make(chan struct{})
	go func() {
		cs.retiring.Wait()
		close(retired)
	}()
	ends := []func() error{func() error {
		select {
		case <-retired:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	for _, c := range closing {
		ends = append(ends, func() error { return c.Close(ctx) })
	}
	return sideBySide(ends)
}

// checkMetric is one row of the table of the checks' metrics.
type checkMetric struct {
	metric
	value func(f *Finding) (float64, bool)
}

func checkMetrics() []checkMetric {
	row := func(name, help string, value func(f *Finding) (float64, bool)) checkMetric {
		return checkMetric{metric{name: name, help: help, kind: gauge, labels: []string{"check"}}, value}
	}
	return []checkMetric{
		row("pg_liveness_check_duration_seconds", "Duration of the check's last run.", func(f *Finding) (float64, bool) {
			return f.Took.Seconds(), true
		}),
		row("pg_liveness_check_up", "Whether the check's last run did not fail.", func(f *Finding) (float64, bool) {
			if f.Status == check.Fail {
				return 0, true
			}
			return 1, true
		}),
		row("pg_liveness_check_value", "Number that the check's last run found: what the statement returned, a length, workers.",
			func(f *Finding) (float64, bool) { return f.Value, f.Measured }),
	}
}

// checkView shows what checks found, those of several targets apart by the label target, empty where a check has none.
type checkView struct {
	found    []Finding
	labelled bool
}

// Gather returns the series, and does no I/O.
func (v checkView) Gather() ([]*dto.MetricFamily, error) {
	var families []*dto.MetricFamily
	for _, m := range checkMetrics() {
		var series []*dto.Metric
		for i := range v.found {
			f := &v.found[i]
			value, ok := m.value(f)
			if !ok {
				continue
			}
			var target *dto.LabelPair
			if v.labelled {
				name := targetLabel
				target = &dto.LabelPair{Name: &name, Value: &f.Target}
			}
			series = append(series, m.sample(value, []string{strings.ToValidUTF8(f.Check, "\ufffd")}, target))
		}
		if series != nil {
			families = append(families, &dto.MetricFamily{Name: &m.name, Help: &m.help, Type: &m.kind, Metric: series})
		}
	}
	return families, nil
}
