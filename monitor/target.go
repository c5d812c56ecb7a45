// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

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

// Prober probes one server.
type Prober interface {
	// Probe returns soon after the end of ctx. One goroutine calls it at a time.
	Probe(ctx context.Context) *probe.Result
	// Query runs a statement of a check, for at most maxDuration. Any goroutine may call it at any time.
	Query(ctx context.Context, sql string, maxDuration time.Duration) (probe.Scalar, *probe.Failure)
	Close(ctx context.Context) error
}

// Target is a server with everything that is kept of it between two probes.
type Target struct {
	options    targetOptions
	prober     Prober
	logger     *slog.Logger
	log        *logBuffer // the last lines that logger wrote
	histograms Histograms

	// statement holds something while a check runs a statement, one at a time; slowStatement also while one that was slow the
	// last time waits for that.
	statement, slowStatement chan struct{}

	life     context.Context //nolint:containedctx // ends with Close, and ends sampling
	end      context.CancelFunc
	sampling sync.WaitGroup // the sampler, and the probe that Latest began

	mu         sync.Mutex // protects what follows
	closed     bool
	shared     *sharedProbe // the probe under way, nil while there is none
	history    History
	refreshing chan struct{}  // closed when the probe ends that Latest began; nil while there is none
	refused    *probe.Failure // why the last statement got no session, where our credentials were refused
	refusedAt  time.Time
}

// Histograms take the durations of what succeeded, in seconds. Those that are nil are not fed.
type Histograms struct {
	// Connect takes the opening of new sessions, Query the answers to SELECT 1, and Commit the commits.
	Connect, Query, Commit prometheus.Histogram
}

// History is what has been counted of a target up to now.
type History struct {
	// Probes counts all probes, Failures those that failed, by reason.
	Probes   uint64
	Failures map[probe.Reason]uint64
	// LastSuccess is when a probe last succeeded, zero before the first one.
	LastSuccess time.Time
	// Losses counts the kept sessions that the other side ended, by reason. LastLoss is when one last was.
	Losses   map[probe.LossReason]uint64
	LastLoss time.Time

	last          *probe.Result // nil before the first probe ended
	counted       time.Time     // when last was
	hysteresis    hysteresis
	changed       time.Time      // when the verdict last changed
	figures       *probe.Failure // of the last try to read the figures, nil if it succeeded
	commitFailure *probe.Failure // of the last commit, nil if it succeeded
}

func (h History) clone() History {
	h.Failures, h.Losses = maps.Clone(h.Failures), maps.Clone(h.Losses)
	return h
}

// Snapshot is a target at one moment: the result that the caller of Probe shows, and what was counted with it. It does not
// change, except for the histograms, which are shared with later probes.
type Snapshot struct {
	// Target is the target's name, empty for one that has none, and Kind the kind of server.
	Target string
	Kind   config.Kind
	Result *probe.Result
	History
	Histograms
	// CommitResult is what became of the commit that began with the probe, within the caller's deadline; nil if there was none.
	CommitResult *probe.CommitResult
}

// targetOptions are what a target is made of.
type targetOptions struct {
	name string
	kind config.Kind
	config.Probing
	// keep reports whether the prober keeps a session.
	keep bool
	// logger gets a line for each change of the verdict. Its attributes name the target.
	logger *slog.Logger
	// shared counts the probes that had more than one caller, over all targets that share it.
	shared *atomic.Uint64
	// limiter bounds the probes under way, over all targets that share it.
	limiter *limiter
	// histograms take the target's durations.
	histograms Histograms
}

// Events are what a prober reports between probes, from goroutines of its own.
type Events struct {
	// OnSessionLost is called when the other side has ended a kept session, with the reason and the time.
	OnSessionLost func(probe.LossReason, time.Time)
	// OnCommit is called when a commit has ended, or has taken longer than a probe may.
	OnCommit func(*probe.CommitResult)
	// Logger has attributes that name the target.
	Logger *slog.Logger
}

// newTarget returns a target with the prober that newProber makes. Close must be called when it is not needed any more.
func newTarget(options targetOptions, newProber func(Events) Prober) *Target {
	t := &Target{
		options: options, log: newLogBuffer(options.logger.Handler()), histograms: options.histograms,
		history: History{
			Failures: make(map[probe.Reason]uint64), Losses: make(map[probe.LossReason]uint64), hysteresis: newHysteresis(),
		},
		statement: make(chan struct{}, 1), slowStatement: make(chan struct{}, 1),
	}
	t.logger = slog.New(t.log)
	t.life, t.end = context.WithCancel(context.Background())
	t.prober = newProber(Events{t.recordLoss, t.recordCommit, t.logger})
	if options.Interval > 0 {
		t.sampling.Go(t.sample)
	}
	return t
}

// Close waits for the probe under way, if there is one, and ends the target's sessions, until ctx ends. Nobody can join a
// probe any more; those who have joined get its result.
func (t *Target) Close(ctx context.Context) error {
	t.end()
	t.mu.Lock()
	t.closed = true
	shared := t.shared
	t.mu.Unlock()
	if shared != nil {
		select {
		case <-shared.done:
		case <-ctx.Done():
		}
	}
	err := t.prober.Close(ctx)
	t.sampling.Wait()
	return err
}

// execute runs a statement for at most maxDuration. A target that was closed gives ErrClosed. A server that refused our credentials
// less than authPause ago, to a probe or to a statement, is left alone.
func (t *Target) execute(ctx context.Context, sql string, maxDuration time.Duration) (check.Scalar, error) {
	var result probe.Scalar
	failure := t.refusal()
	if failure == nil {
		result, failure = t.prober.Query(ctx, sql, maxDuration)
		t.refusedStatement(failure)
	}
	if failure != nil && t.life.Err() != nil {
		return check.Scalar{}, ErrClosed
	}
	return check.Scalar(result), StatementError(failure)
}

// errTooLong is a statement that the server was told to end.
const errTooLong = check.PublicError("the statement did not end in time")

// StatementError says why a statement failed; nil where it did not.
func StatementError(f *probe.Failure) error {
	switch {
	case f == nil:
		return nil
	case f.Phase != probe.PhaseQuery:
		return check.PublicError("no session with its target: " + f.String())
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
	return check.PublicError("the statement failed: " + why)
}

// refusal is why a statement had better not be tried.
func (t *Target) refusal() *probe.Failure {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.history.last
	if last != nil && locksOut(last.Failure) && time.Since(t.history.counted) < authPause {
		return last.Failure
	}
	if t.refused != nil && time.Since(t.refusedAt) < authPause && (last == nil || !last.Up() || t.history.counted.Before(t.refusedAt)) {
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

// recordLoss counts the end of a kept session by the other side.
func (t *Target) recordLoss(reason probe.LossReason, at time.Time) {
	t.mu.Lock()
	t.history.Losses[reason]++
	t.history.LastLoss = at
	t.mu.Unlock()
	t.logger.Warn("the kept session was lost", "reason", string(reason))
}

// recordCommit counts what became of a commit, and logs a change.
func (t *Target) recordCommit(o *probe.CommitResult) {
	t.mu.Lock()
	before := t.history.commitFailure
	t.history.commitFailure = o.Failure
	t.mu.Unlock()
	observeKnown(t.histograms.Commit, o.Took)
	switch failed := o.Failure; {
	case failed == nil && before != nil:
		t.logger.Info("the commit probe succeeds again")
	case failed != nil && (before == nil || before.Reason != failed.Reason):
		t.logger.Warn("the commit probe fails", describe(failed)...)
	}
}

// recordLocked counts a probe, and observes its durations if observe is set.
func (t *Target) recordLocked(r *probe.Result, observe bool) {
	h := &t.history
	if !sameVerdict(h.last, r) {
		h.changed = r.Start
	}
	h.last = r
	if triedFigures(r) {
		h.figures = r.StatsFailure
	}
	if r.ServerStats != nil && r.ServerStats.Replica { // which commits nothing
		h.commitFailure = nil
	}
	h.Probes++
	h.counted = time.Now()
	if r.Up() {
		h.LastSuccess = r.Start.Add(r.Duration)
	} else {
		h.Failures[r.Failure.Reason]++
	}
	h.hysteresis.count(r.Up())
	if !observe {
		return
	}
	observeKnown(t.histograms.Connect, r.Connect)
	observeKnown(t.histograms.Query, r.Query)
}

func observeKnown(h prometheus.Observer, n probe.Number) {
	if h != nil && n.Known {
		h.Observe(n.Value)
	}
}

func sameVerdict(a, b *probe.Result) bool {
	return a != nil && a.State() == b.State() && (a.Up() || a.Failure.Reason == b.Failure.Reason)
}

// otherMisconfiguration reports whether both results are misconfigured, for different causes.
func otherMisconfiguration(a, b *probe.Result) bool {
	return a.State() == probe.StateMisconfigured && b.State() == probe.StateMisconfigured &&
		(a.Failure.SQLState != b.Failure.SQLState || a.Failure.Detail != b.Failure.Detail)
}

func triedFigures(r *probe.Result) bool {
	return r.ServerStats != nil || r.PoolerStats != nil || r.StatsFailure != nil
}

// logChanges writes a line when the verdict or its reason changed, and one when figures begin or cease to be readable;
// none for a probe that found what the last one did.
func (t *Target) logChanges(before History, now *probe.Result) {
	if !sameVerdict(before.last, now) || otherMisconfiguration(before.last, now) {
		t.logVerdict(before, now)
	}
	switch failed := now.StatsFailure; {
	case failed == nil && before.figures != nil && triedFigures(now):
		t.logger.Info("the connection figures can be read again")
	case failed != nil && (before.figures == nil || before.figures.Reason != failed.Reason):
		t.logger.Warn("the connection figures cannot be read", describe(failed)...)
	}
}

func (t *Target) logVerdict(before History, now *probe.Result) {
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
