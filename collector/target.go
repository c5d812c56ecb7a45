// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package collector keeps what outlives a probe (counters, histograms, the probe under way) and shows results to
// Prometheus. Showing does no I/O: a handler probes first, under the request's deadline, and then renders values.
package collector

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pg_liveness_exporter/check"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

// Prober asks one server. Probe must return soon after the end of ctx, and is called by one goroutine at a time.
type Prober interface {
	Probe(ctx context.Context) *probe.Result
	// Query runs a statement of a check's; any goroutine may call it at any time.
	Query(ctx context.Context, sql string, most time.Duration) (probe.Scalar, *probe.Failure)
	Close(ctx context.Context) error
}

// Target is a server with everything that is kept of it between two probes.
type Target struct {
	options TargetOptions
	prober  Prober
	logger  *slog.Logger
	lines   *lines // what was logged of it last

	connect, query, commits prometheus.Histogram // the last is nil where there are none

	// statement holds something while a check runs a statement, one at a time; slowStatement also while one that was slow the
	// last time waits for that.
	statement, slowStatement chan struct{}

	life     context.Context //nolint:containedctx // ends with Close, and ends sampling
	end      context.CancelFunc
	sampling sync.WaitGroup // the sampler, and the probe that Recent began

	mu         sync.Mutex // protects what follows
	closed     bool
	flight     *flight
	seen       history
	refreshing chan struct{}  // closed when the probe ends that Recent began; nil while there is none
	refused    *probe.Failure // why the last statement got no session, where our credentials were refused
	refusedAt  time.Time
}

// history is what has been counted up to now.
type history struct {
	last          *probe.Result // nil before the first probe ended
	probes        uint64
	counted       time.Time // when last was
	failures      map[probe.Reason]uint64
	streak        streak
	lastSuccess   time.Time
	losses        map[probe.LossReason]uint64
	lastLoss      time.Time
	changed       time.Time      // of the verdict
	figures       *probe.Failure // of the last try to read them, nil when it succeeded
	commitFailure *probe.Failure // of the last commit, likewise
}

func (h history) clone() history {
	h.failures, h.losses = maps.Clone(h.failures), maps.Clone(h.losses)
	return h
}

// Snapshot is a target at one moment: the result that the caller of Probe shows, and what was counted with it. It does
// not change, but for the histograms, which are shared with later probes.
type Snapshot struct {
	// Target is the target's name, empty for one that has none, and Kind the kind of server.
	Target string
	Kind   config.Kind
	Result *probe.Result
	history
	connect, query, commits prometheus.Histogram
	// commit is what became of the commit that began with the probe, in the time that the caller had.
	commit *probe.Outcome
}

// TargetOptions say how a target is probed and shown.
type TargetOptions struct {
	Name string
	Kind config.Kind
	config.Probing
	// Keeps says that the prober keeps a session.
	Keeps bool
	// Logger gets a line for each change of the verdict; its attributes should name the target.
	Logger *slog.Logger
	// Shared counts probes that had more than one caller.
	Shared *atomic.Uint64
	// Limiter bounds the probes that are under way at once, over all targets that share it.
	Limiter *Limiter
}

// Events are what a prober tells of by itself.
type Events struct {
	// Lost is told when and why a kept session was ended by the other side, Committed what became of a commit.
	Lost      func(probe.LossReason, time.Time)
	Committed func(*probe.Outcome)
	// Logger names the target.
	Logger *slog.Logger
}

// NewTarget returns a target that asks through a prober made by newProber, which gets the functions to tell of events.
// Close must be called when it is not needed any more.
func NewTarget(options TargetOptions, newProber func(Events) Prober) *Target {
	t := &Target{
		options: options, lines: &lines{next: options.Logger.Handler()},
		connect: newConnectHistogram(), query: newQueryHistogram(),
		seen: history{
			failures: make(map[probe.Reason]uint64), losses: make(map[probe.LossReason]uint64), streak: newStreak(),
		},
		statement: make(chan struct{}, 1), slowStatement: make(chan struct{}, 1),
	}
	t.logger = slog.New(t.lines)
	if options.Commit {
		t.commits = newCommitHistogram()
	}
	t.life, t.end = context.WithCancel(context.Background())
	t.prober = newProber(Events{t.lost, t.committed, t.logger})
	if options.Interval > 0 {
		t.sampling.Go(t.sample)
	}
	return t
}

// Close waits for the probe under way, if there is one, and ends the target's sessions, until ctx ends. Nobody can board
// a probe any more; those who are aboard get its result.
func (t *Target) Close(ctx context.Context) error {
	t.end()
	t.mu.Lock()
	t.closed = true
	f := t.flight
	t.mu.Unlock()
	if f != nil {
		select {
		case <-f.done:
		case <-ctx.Done():
		}
	}
	err := t.prober.Close(ctx)
	t.sampling.Wait()
	return err
}

// execute runs a statement, which may take so long at most. A target that was closed gives ErrClosed. A server that refused our credentials a moment ago, be it
// to a probe or to a statement, is not asked.
func (t *Target) execute(ctx context.Context, sql string, most time.Duration) (check.Scalar, error) {
	var result probe.Scalar
	failure := t.refusal()
	if failure == nil {
		result, failure = t.prober.Query(ctx, sql, most)
		t.refusedStatement(failure)
	}
	if failure != nil && t.life.Err() != nil {
		return check.Scalar{}, ErrClosed
	}
	return check.Scalar(result), StatementError(failure)
}

// errTooLong is a statement that the server was told to end.
const errTooLong = check.Problem("the statement did not end in time")

// StatementError says why a statement failed; nil where it did not.
func StatementError(f *probe.Failure) error {
	switch {
	case f == nil:
		return nil
	case f.Phase != probe.PhaseQuery:
		return check.Problem("no session with its target: " + f.String())
	case f.Reason == probe.ReasonTimeout:
		return errTooLong
	}
	why, ok := map[string]string{ // the usual ones, which few know by heart
		"25006": "it tries to write", "42501": "the role lacks a privilege", "42601": "a syntax error, or several statements",
		"42703": "there is no such column", "42P01": "there is no such table", "3F000": "there is no such schema",
	}[f.SQLState]
	switch {
	case ok:
		why += ", SQLSTATE " + f.SQLState
	case f.SQLState != "":
		why = "SQLSTATE " + f.SQLState
	default:
		why = string(f.Reason)
	}
	return check.Problem("the statement failed: " + why)
}

// refusal is why a statement had better not be tried.
func (t *Target) refusal() *probe.Failure {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.seen.last
	if last != nil && locksOut(last.Failure) && time.Since(t.seen.counted) < authPause {
		return last.Failure
	}
	if t.refused != nil && time.Since(t.refusedAt) < authPause && (last == nil || !last.Up() || t.seen.counted.Before(t.refusedAt)) {
		return t.refused
	}
	return nil
}

// refusedStatement remembers that our credentials were refused to a statement.
func (t *Target) refusedStatement(f *probe.Failure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refused, t.refusedAt = nil, time.Now()
	if locksOut(f) {
		t.refused = f
	}
}

// lost counts the end of a kept session by the other side.
func (t *Target) lost(reason probe.LossReason, at time.Time) {
	t.mu.Lock()
	t.seen.losses[reason]++
	t.seen.lastLoss = at
	t.mu.Unlock()
	t.logger.Warn("the kept session was lost", "reason", string(reason))
}

// committed counts what became of a commit, and logs a change.
func (t *Target) committed(o *probe.Outcome) {
	t.mu.Lock()
	before := t.seen.commitFailure
	t.seen.commitFailure = o.Failure
	t.mu.Unlock()
	if o.Took.Known {
		t.commits.Observe(o.Took.Value)
	}
	switch failed := o.Failure; {
	case failed == nil && before != nil:
		t.logger.Info("the commit probe succeeds again")
	case failed != nil && (before == nil || before.Reason != failed.Reason):
		t.logger.Warn("the commit probe fails", describe(failed)...)
	}
}

// record counts a probe, and adds its times to the histograms if they are fed by such probes. The caller holds t.mu.
func (t *Target) record(r *probe.Result, feeds bool) {
	h := &t.seen
	if !sameVerdict(h.last, r) {
		h.changed = r.Start
	}
	h.last = r
	if triedFigures(r) {
		h.figures = r.FiguresFailure
	}
	if r.Figures != nil && r.Figures.Replica { // which commits nothing
		h.commitFailure = nil
	}
	h.probes++
	h.counted = time.Now()
	if r.Up() {
		h.lastSuccess = r.Start.Add(r.Duration)
	} else {
		h.failures[r.Failure.Reason]++
	}
	h.streak.count(r.Up())
	if !feeds {
		return
	}
	if r.Connect.Known {
		t.connect.Observe(r.Connect.Value)
	}
	if r.Query.Known {
		t.query.Observe(r.Query.Value)
	}
}

func sameVerdict(a, b *probe.Result) bool {
	return a != nil && a.State() == b.State() && (a.Up() || a.Failure.Reason == b.Failure.Reason)
}

// otherMistake says whether what is wrong on our side is another thing than before.
func otherMistake(a, b *probe.Result) bool {
	return a.State() == probe.StateMisconfigured && b.State() == probe.StateMisconfigured &&
		(a.Failure.SQLState != b.Failure.SQLState || a.Failure.Detail != b.Failure.Detail)
}

func triedFigures(r *probe.Result) bool {
	return r.Figures != nil || r.Pooler != nil || r.FiguresFailure != nil
}

// logChanges writes a line when the verdict or its reason changed, and one when figures begin or cease to be readable;
// none for a probe that found what the last one did.
func (t *Target) logChanges(before history, now *probe.Result) {
	if !sameVerdict(before.last, now) || otherMistake(before.last, now) {
		t.logVerdict(before, now)
	}
	switch failed := now.FiguresFailure; {
	case failed == nil && before.figures != nil && triedFigures(now):
		t.logger.Info("the connection figures can be read again")
	case failed != nil && (before.figures == nil || before.figures.Reason != failed.Reason):
		t.logger.Warn("the connection figures cannot be read", describe(failed)...)
	}
}

func (t *Target) logVerdict(before history, now *probe.Result) {
	if now.Up() {
		var attributes []any
		if before.last != nil {
			attributes = append(attributes, "after", now.Start.Sub(before.changed).Round(time.Millisecond).String())
		}
		t.logger.Info("the probe succeeds", attributes...)
		if now.Superuser {
			t.logger.Warn("the role is a superuser: it gets in where others find no slot, and pg_up stays 1")
		}
		return
	}
	t.logger.Warn("the probe fails", describe(now.Failure)...)
}

// describe returns a failure as attributes of a log line.
func describe(f *probe.Failure) []any {
	attributes := []any{"state", string(f.State), "reason", string(f.Reason), "phase", f.Phase.String()}
	if f.SQLState != "" {
		attributes = append(attributes, "sqlstate", f.SQLState, "routine", f.Routine)
	}
	if f.Detail != "" {
		attributes = append(attributes, "detail", f.Detail)
	}
	return attributes
}
