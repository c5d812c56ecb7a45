// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"pg_liveness_exporter/check"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/bounded"
	"pg_liveness_exporter/probe"
)

// Prober probes one server. See probe.Prober.
type Prober interface {
	// Probe probes once and returns soon after ctx ends. One goroutine calls it at a time.
	Probe(ctx context.Context) *probe.Result
	// Query runs a statement of a check. The statement ends after maxDuration or when ctx ends. Any goroutine may call
	// it at any time.
	Query(ctx context.Context, sql string, maxDuration time.Duration) (probe.Scalar, *probe.Failure)
	// SetKeep sets whether the prober keeps a session between probes. It keeps none before it is called. SetKeep does not
	// block, and any goroutine may call it.
	SetKeep(keep bool)
	// ForgetRefusals makes the next probe query again what the server has refused. Any goroutine may call it.
	ForgetRefusals()
	// Close ends the sessions of the prober. If ctx ends first, it returns an error.
	Close(ctx context.Context) error
}

// Target is a server and its state between probes. Any goroutine may call its exported methods.
type Target struct {
	options    targetOptions
	prober     Prober
	keeper     *keeper // decides whether an ad-hoc target keeps a session; nil if the settings alone decide
	logger     *slog.Logger
	log        *logBuffer // the last lines of logger
	histograms Histograms
	turns      turns // of the statements of the target's checks

	unresolved atomic.Bool // no probe has found an address of the server, and the last one looked for it

	life       context.Context //nolint:containedctx // ends with Close
	end        context.CancelFunc
	background sync.WaitGroup // the probe under way

	mu         sync.Mutex     // protects what follows
	closed     bool           // no caller can start or join a probe
	labels     []config.Label // config.Target.Labels
	current    *sharedProbe   // the probe under way, nil while there is none
	sampler    *time.Timer    // calls sample; nil if only callers probe the target
	nextSample time.Time      // when sampler calls
	history    History
	timeline   *timeline      // nil if none is recorded
	refused    *probe.Failure // the failure of the last statement if the server refused the exporter's credentials
	refusedAt  time.Time
	logged     map[string]bool // the keys of isFirst
}

// Histograms has histograms of the durations of successful steps, in seconds. Each histogram may be nil.
type Histograms struct {
	// Connect has the durations of opening a new session, Query those of SELECT 1, and Commit those of the commit
	// probe.
	Connect, Query, Commit prometheus.Histogram
}

// History has everything that was counted for a target so far.
type History struct {
	// Probes is the number of probes. Failures is the number of failed probes by reason. The map does not change.
	Probes   uint64
	Failures map[probe.Reason]uint64
	// LastSuccess is when a probe last succeeded. It is the zero time if none has.
	LastSuccess time.Time
	// ConsecutiveDown is the number of probes in a row, up to the last one, that found the server down. DownFor is how long
	// it has been down as of the last probe: the time since the last probe that found it alive, or since the first probe if
	// none has. It is 0 while the server is alive.
	ConsecutiveDown uint64
	DownFor         time.Duration
	// Losses is the number of kept sessions that the other side ended, by reason. The map does not change. LastLoss is when
	// that last happened. It is the zero time if it never has.
	Losses   map[probe.LossReason]uint64
	LastLoss time.Time

	last          *probe.Result // nil before the first probe ended
	countedAt     time.Time     // when last was counted
	aliveAt       time.Time     // the start of the probe from which DownFor counts
	hysteresis    hysteresis
	changed       time.Time       // when the verdict last changed
	statsFailure  *probe.Failure  // of the last attempt to read the server statistics, nil if it succeeded
	refusals      []probe.Refusal // of the last probe that succeeded and read the server statistics
	commitFailure *probe.Failure  // of the last commit, nil if it succeeded
}

// incremented returns a copy of counts with one more of key. Snapshots share the maps of a History.
func incremented[K comparable](counts map[K]uint64, key K) map[K]uint64 {
	counts = maps.Clone(counts)
	counts[key]++
	return counts
}

// Snapshot is the state of a target at one moment: the result for the caller, and everything that had been counted by
// then, including that result. It does not change, except that later probes add to the same histograms.
type Snapshot struct {
	// Target is the name of the target, empty for an ad-hoc one. Implied reports whether it comes from the environment.
	// Kind is the kind of server.
	Target  string
	Implied bool
	Kind    config.Kind
	// Labels are the target's own, as config.Target.Labels.
	Labels []config.Label
	// Interval is the time between two probes of the target's sampler, 0 if it has none.
	Interval time.Duration
	Result   *probe.Result
	History
	Histograms
	// CommitResult is the result of the commit started by the probe, as of the caller's deadline. It is nil if there
	// was no commit.
	CommitResult *probe.CommitResult
}

// targetOptions has the parameters of newTarget.
type targetOptions struct {
	name    string
	implied bool   // it comes from the environment
	module  string // empty if the target names none
	kind    config.Kind
	config.Probing
	// logger logs each change of the verdict. Its attributes identify the target.
	logger *slog.Logger
	// sharedCount counts the probes that had more than one caller, across all targets that share it.
	sharedCount *atomic.Uint64
	// limiter limits the number of probes under way, across all targets that share it.
	limiter *limiter
	// histograms are the histograms of the target's durations.
	histograms Histograms
	// keptPlaces are for the sessions that the ad-hoc targets of a module keep. They are nil for a configured target.
	keptPlaces *semaphore.Weighted
	// timeline reports whether to record a timeline.
	timeline bool
	// onOutOfDescriptors is Options.OnOutOfDescriptors.
	onOutOfDescriptors func()
}

// Events has the functions with which a prober reports what happens between probes. Any goroutine of the prober may call them.
type Events struct {
	// OnSessionLost is called when the other side has ended a kept session.
	OnSessionLost func(probe.Loss)
	// OnCommit is called when a commit has ended or has taken longer than the target's timeout.
	OnCommit func(*probe.CommitResult)
	// Logger has attributes that identify the target.
	Logger *slog.Logger
}

// newTarget returns a target with the prober that newProber returns, and starts its sampler. The caller must close it.
func newTarget(options targetOptions, newProber func(Events) Prober) *Target {
	t := &Target{
		options: options, log: newLogBuffer(options.logger.Handler()), histograms: options.histograms,
		history: History{
			Failures: make(map[probe.Reason]uint64), Losses: make(map[probe.LossReason]uint64), hysteresis: newHysteresis(),
		},
		turns: newTurns(), logged: make(map[string]bool),
	}
	if options.timeline {
		t.timeline = newTimeline()
	}
	t.logger = slog.New(t.log)
	t.life, t.end = context.WithCancel(context.Background())
	t.prober = newProber(Events{t.recordLoss, t.recordCommit, t.logger})
	if options.Keep && options.keptPlaces != nil {
		t.keeper = newKeeper(options.keptPlaces, t.prober.SetKeep)
	} else {
		t.prober.SetKeep(options.Keep)
	}
	if options.Interval > 0 {
		t.startSampling()
	}
	return t
}

// finish waits until the probe under way has ended, if there is one, or until ctx ends. After it has been called, no
// caller can start or join a probe. Callers that have joined one get its result.
func (t *Target) finish(ctx context.Context) {
	t.mu.Lock()
	t.closed = true
	current := t.current
	t.mu.Unlock()
	if current == nil {
		return
	}
	select {
	case <-current.done:
	case <-ctx.Done():
	}
}

// Close ends the probe under way, which is not counted, and the target's sessions. Callers get ErrClosed. If ctx ends
// first, it returns an error.
func (t *Target) Close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	if t.sampler != nil {
		t.sampler.Stop()
	}
	t.mu.Unlock()
	t.end()
	err := errors.Join(t.prober.Close(ctx), bounded.Wait(ctx, &t.background))
	t.keeper.close()
	return err
}

// keeps reports whether the target keeps a session.
func (t *Target) keeps() bool {
	if t.keeper != nil {
		return t.keeper.keeps()
	}
	return t.options.Keep
}

// execute runs a statement for at most maxDuration. If the target is closed, the error is ErrClosed. If the server
// refused the exporter's credentials less than authPause ago, to a probe or to a statement, execute returns that failure
// without a login.
func (t *Target) execute(ctx context.Context, sql string, maxDuration time.Duration) (check.Scalar, error) {
	var result probe.Scalar
	failure := t.refusal()
	if failure == nil {
		result, failure = t.prober.Query(ctx, sql, maxDuration)
		t.recordRefusal(failure)
		t.reportShortage(failure)
	}
	if failure != nil && t.life.Err() != nil {
		return check.Scalar{}, ErrClosed
	}
	return check.Scalar(result), StatementError(sql, failure)
}

// reportShortage reports a failure for lack of file descriptors. f may be nil.
func (t *Target) reportShortage(f *probe.Failure) {
	if f != nil && f.OutOfDescriptors {
		t.options.onOutOfDescriptors()
	}
}

// errTooLong is the error of a statement that took longer than it was allowed to.
const errTooLong = check.PublicError("the statement did not end in time")

// StatementError returns the failure of a statement as a check.PublicError, or nil if f is nil. The text has nothing of the
// server's message, and of the statement only the name of a table, column or function that does not exist.
func StatementError(sql string, f *probe.Failure) error {
	switch {
	case f == nil:
		return nil
	case f.Phase != probe.PhaseQuery:
		return check.PublicError("no session with its target: " + f.String())
	case f.Reason == probe.ReasonTimeout:
		return errTooLong
	}
	why, ok := map[string]string{ // the most frequent ones
		"25006": "it tries to write", "42501": "the role lacks a privilege", "42601": "a syntax error, or several statements",
		"42703": "no column", "42P01": "no table", "42883": "no function", "3F000": "no schema",
	}[f.SQLState]
	if strings.HasPrefix(why, "no ") {
		if name := nameAt(sql, f.Position); name != "" {
			why += " " + name
		} else {
			why = "there is " + strings.Replace(why, "no ", "no such ", 1)
		}
	}
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

// nameAt returns the name, with that of its schema, that begins at a position of a statement, in characters from 1. It
// returns an empty text if no name begins there, or if the place is in a literal or a comment, as far as a count of quotes
// tells: a server may send any position.
func nameAt(sql string, position int) string {
	characters := []rune(sql)
	if position < 1 || position > len(characters) {
		return ""
	}
	before, rest := string(characters[:position-1]), string(characters[position-1:])
	if strings.Count(before, "'")%2 != 0 || strings.ContainsAny(before, "$") || strings.Contains(before, "--") || strings.Contains(before, "/*") ||
		regexp.MustCompile(`[\pL\pN_"]$`).MatchString(before) {
		return ""
	}
	const name = `(?:"[^"\pC]{1,63}"|[\pL_][\pL\pN_]{0,62})`
	return regexp.MustCompile("^" + name + `(?:\.` + name + `){0,2}`).FindString(rest)
}

// refusal returns the failure of the last probe, or of the last statement, if the server then refused the exporter's
// credentials and that was less than authPause ago. It returns nil if a probe has succeeded since.
func (t *Target) refusal() *probe.Failure {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.history.last
	if last != nil && locksOut(last.Failure) && time.Since(t.history.countedAt) < authPause {
		return last.Failure
	}
	succeededSince := last != nil && last.Up() && !t.history.countedAt.Before(t.refusedAt)
	if t.refused != nil && time.Since(t.refusedAt) < authPause && !succeededSince {
		return t.refused
	}
	return nil
}

// recordRefusal records whether the server refused the exporter's credentials when a statement tried to log in. f is the
// failure of the statement, nil if it succeeded.
func (t *Target) recordRefusal(f *probe.Failure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refused, t.refusedAt = nil, time.Now()
	if locksOut(f) {
		t.refused = f
	}
}

// recordLoss counts the end of a kept session by the other side. It logs only once that an idle limit ends sessions.
func (t *Target) recordLoss(l probe.Loss) {
	t.mu.Lock()
	t.history.Losses = incremented(t.history.Losses, l.Reason)
	t.history.LastLoss = l.At
	t.mu.Unlock()
	if l.IdleLimit > 0 {
		if t.isFirst("idle limit") {
			t.logger.Warn("Idle sessions are ended, so each probe opens a new kept session",
				"after", l.IdleLimit.Round(10*time.Millisecond).String())
		}
		return
	}
	t.logger.Warn("Kept session lost", "reason", string(l.Reason))
}

// isFirst reports whether this is the first call with this key for the target.
func (t *Target) isFirst(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.logged[key]
	t.logged[key] = true
	return !known
}

// recordCommit records the result of a commit, and logs it if it differs from the last one.
func (t *Target) recordCommit(r *probe.CommitResult) {
	t.mu.Lock()
	before := t.history.commitFailure
	t.history.commitFailure = r.Failure
	t.mu.Unlock()
	observeKnown(t.histograms.Commit, r.Took)
	switch failed := r.Failure; {
	case failed == nil && before != nil:
		t.logger.Info("Commit probe succeeded again")
	case failed != nil && (before == nil || before.Reason != failed.Reason):
		t.logger.Warn("Commit probe failed", describe(failed)...)
	}
}

// recordLocked counts a probe. If observe is set, it adds the durations of the probe to the histograms.
func (t *Target) recordLocked(r *probe.Result, observe bool) {
	h := &t.history
	t.timeline.record(h.last, h.changed, r)
	if !sameVerdict(h.last, r) {
		h.changed = r.Start
	}
	h.last = r
	if triedStats(r) {
		h.statsFailure = r.StatsFailure
	}
	if r.Up() && triedStats(r) {
		h.refusals = r.Refusals
	}
	if r.Role != nil && r.Role.Replica { // a replica has no commit probe
		h.commitFailure = nil
	}
	h.Probes++
	h.countedAt = time.Now()
	if r.Up() {
		h.LastSuccess = r.Start.Add(r.Duration)
	} else {
		h.Failures = incremented(h.Failures, r.Failure.Reason)
	}
	h.countDown(r)
	h.hysteresis.count(r.Up())
	if !observe {
		return
	}
	observeKnown(t.histograms.Connect, r.Connect)
	observeKnown(t.histograms.Query, r.Query)
}

// countDown counts how long the server has been down. The starts of probes have a reading of the monotonic clock, so a change
// of the system's time does not count.
func (h *History) countDown(r *probe.Result) {
	if !r.Down() {
		h.ConsecutiveDown, h.DownFor, h.aliveAt = 0, 0, r.Start
		return
	}
	if h.aliveAt.IsZero() {
		h.aliveAt = r.Start
	}
	h.ConsecutiveDown++
	h.DownFor = r.Start.Sub(h.aliveAt)
}

// observeKnown adds a duration to a histogram, unless it is unknown or h is nil.
func observeKnown(h prometheus.Observer, d probe.Duration) {
	if h != nil && d.Known {
		h.Observe(d.Value.Seconds())
	}
}

// sameVerdict reports whether both results have the same state and the same reason. It returns false if a is nil.
func sameVerdict(a, b *probe.Result) bool {
	return a != nil && a.State() == b.State() && (a.Up() || a.Failure.Reason == b.Failure.Reason)
}

// otherMisconfiguration reports whether both results are misconfigurations with different causes.
func otherMisconfiguration(a, b *probe.Result) bool {
	return a.State() == probe.StateMisconfigured && b.State() == probe.StateMisconfigured &&
		(a.Failure.SQLState != b.Failure.SQLState || a.Failure.Detail != b.Failure.Detail)
}

// triedStats reports whether the probe tried to read the server statistics.
func triedStats(r *probe.Result) bool {
	return r.ServerStats != nil || r.PoolerStats != nil || r.StatsFailure != nil
}

// logChanges logs a line if the verdict or its reason has changed. It logs another if the server statistics have become
// readable or unreadable.
func (t *Target) logChanges(before History, now *probe.Result) {
	if !sameVerdict(before.last, now) || otherMisconfiguration(before.last, now) {
		t.logVerdict(before, now)
	}
	switch failed := now.StatsFailure; {
	case failed == nil && before.statsFailure != nil && triedStats(now):
		t.logger.Info("Statistics can be read again")
	case failed != nil && (before.statsFailure == nil || before.statsFailure.Reason != failed.Reason):
		t.logger.Warn("Statistics cannot be read", describe(failed)...)
	}
	if now.Up() && triedStats(now) {
		t.logRefusals(before.refusals, now.Refusals)
	}
	t.warnOfSettings(now)
}

// logRefusals logs which statistics the server has begun to refuse, and which it has begun to provide again.
func (t *Target) logRefusals(before, now []probe.Refusal) {
	if parts := without(now, before); len(parts) > 0 {
		t.logger.Warn("Server refuses part of the statistics", "parts", strings.Join(parts, ", "))
	}
	if parts := without(before, now); len(parts) > 0 {
		t.logger.Info("Server provides these statistics again", "parts", strings.Join(parts, ", "))
	}
}

// without returns the refusals of a whose parts are not in b, as text.
func without(a, b []probe.Refusal) []string {
	var texts []string
	for _, refusal := range a {
		if !slices.ContainsFunc(b, func(other probe.Refusal) bool { return other.Part == refusal.Part }) {
			texts = append(texts, refusal.String())
		}
	}
	return texts
}

// warnOfSettings warns of what makes applications or administrators fail although the probe succeeds.
func (t *Target) warnOfSettings(r *probe.Result) {
	if r.Role != nil && r.Role.Replica && r.Role.Serializable && t.isFirst("serializable") {
		t.logger.Warn("Sessions are serializable by default, which a hot standby refuses: applications that use the default fail")
	}
	if r.KeptUp && r.ServerStats != nil && r.ServerStats.IsTemplate && t.isFirst("template") {
		t.logger.Warn("The target's database is a template: while a session is kept, no database can be created from it; set keep: false")
	}
	if r.PoolerStats != nil && r.PoolerStats.MayBeOneOfSeveral() && t.isFirst("one of several") {
		t.logger.Warn("PgBouncer has so_reuseport or peer_id: if several PgBouncers share this port, the figures are those of one of them; " +
			"give each its own address and its own target")
	}
}

func (t *Target) logVerdict(before History, now *probe.Result) {
	if now.Up() {
		var attributes []any
		if before.last != nil {
			attributes = append(attributes, "after", now.Start.Sub(before.changed).Round(time.Millisecond).String())
		}
		t.logger.Info("Probe succeeded", attributes...)
		if now.Superuser {
			t.logger.Warn("The role is a superuser: it gets in when no slot is left for others, and pg_up stays 1")
		}
		return
	}
	t.logger.Warn("Probe failed", describe(now.Failure)...)
}

// describe returns the attributes of a log line about a failure.
func describe(f *probe.Failure) []any {
	attributes := []any{"state", string(f.State), "reason", string(f.Reason), "phase", f.Phase.String()}
	if f.SQLState != "" {
		attributes = append(attributes, "sqlstate", f.SQLState, "routine", f.Routine)
	}
	if detail := f.OperatorDetail(); detail != "" {
		attributes = append(attributes, "detail", detail)
	}
	return attributes
}
