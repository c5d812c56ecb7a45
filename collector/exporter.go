// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

// Name is the program's, and the prefix of its own metrics.
const Name = "pg_liveness_exporter"

const (
	timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"
	leastBudget   = 100 * time.Millisecond
	// pace is the time between the starts of two probes of one scrape: without, they would begin by waiting for each other
	// (see Limiter).
	pace = 2500 * time.Microsecond
	// writeTimeout is how long a client may take to read an answer.
	writeTimeout = 10 * time.Second
)

// Exporter shows its targets, its checks and itself to Prometheus.
type Exporter struct {
	options   Options
	targets   *Targets
	checks    *checks
	table     *Table
	registry  *prometheus.Registry // the exporter's own metrics
	process   atomic.Pointer[process]
	measuring atomic.Bool   // by one of those who ask
	shared    atomic.Uint64 // probes with several callers
	limiter   *Limiter      // for probes of configured targets
	adHoc     *Limiter      // for those of ad-hoc ones

	rendering atomic.Int64 // how many nanoseconds showing all targets took last

	mu       sync.Mutex // protects what follows
	reloaded bool       // the last reload succeeded
	at       time.Time  // when one last did
}

// NewProber makes a prober of a target, which tells of events.
type NewProber func(target *config.Target, events Events) Prober

// Options of an Exporter.
type Options struct {
	// TimeoutOffset is taken off what Prometheus says, for the way back.
	TimeoutOffset time.Duration
	// MaxInFlight bounds the probes at once: of configured targets, and of ad-hoc ones.
	MaxInFlight int
	// HideTargets leaves the targets' series away from /metrics.
	HideTargets bool
	// Compat also shows what postgres_exporter shows under other names.
	Compat bool
	// Keeps says that probers keep a session.
	Keeps bool
	// NewProber makes the probers.
	NewProber NewProber
	// Sessions are the connections to count.
	Sessions *probe.Sessions
	Logger   *slog.Logger
}

// NewExporter returns an exporter that watches nothing until Apply says what.
func NewExporter(options Options) *Exporter {
	e := &Exporter{
		options: options, table: NewTable(options.Compat), registry: prometheus.NewRegistry(),
		limiter: NewLimiter(options.MaxInFlight), adHoc: NewLimiter(options.MaxInFlight),
	}
	e.targets = newTargets(e.watch)
	e.checks = &checks{targets: e.targets.Configured, logger: options.Logger}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: Name + name, Help: help}, value)
	}
	sessions := func(state string, count func() int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: Name + "_sessions", Help: "Connections to the targets, by state.", ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(count()) })
	}
	e.registry.MustRegister(
		version.NewCollector(Name),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("_targets", "Configured targets.", func() float64 { return float64(e.targets.Len()) }),
		gauge("_config_last_reload_successful", "Whether the last try to load the configuration succeeded.", func() float64 {
			if ok, _ := e.reload(); ok {
				return 1
			}
			return 0
		}),
		gauge("_config_last_reload_success_timestamp_seconds", "When the configuration was last loaded.", func() float64 {
			_, at := e.reload()
			return float64(at.UnixMilli()) / 1e3
		}),
		sessions("idle", options.Sessions.Idle),
		sessions("in_use", options.Sessions.InUse),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: Name + "_shared_probes_total", Help: "Probes that answered more than one caller.",
		}, func() float64 { return float64(e.shared.Load()) }),
	)
	e.process.Store(measure(e.registry))
	return e
}

// watch begins to watch a target. No log line names an ad-hoc target: its name is an address.
func (e *Exporter) watch(t *config.Target, adHoc bool) *Target {
	logger, limiter := e.options.Logger, e.limiter
	switch {
	case adHoc:
		limiter = e.adHoc
		logger = logger.With("ad_hoc_module", t.Module)
	case t.Name != "":
		logger = logger.With("target", t.Name)
	}
	return NewTarget(
		TargetOptions{
			Name: t.Name, Kind: t.Kind, Probing: t.Probing, Keeps: e.options.Keeps, Logger: logger, Shared: &e.shared, Limiter: limiter,
		},
		func(events Events) Prober { return e.options.NewProber(t, events) })
}

// Apply makes the exporter watch what file says, and keeps what has not changed.
func (e *Exporter) Apply(file *config.File) {
	e.targets.Apply(file)
	e.checks.apply(file)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reloaded, e.at = true, time.Now()
}

// Failed records that a configuration could not be loaded; the one before stays.
func (e *Exporter) Failed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reloaded = false
}

func (e *Exporter) reload() (bool, time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reloaded, e.at
}

// Close closes all targets and checks, until ctx ends.
func (e *Exporter) Close(ctx context.Context) error {
	return sideBySide([]func() error{
		func() error { return e.checks.close(ctx) },
		func() error { return e.targets.Close(ctx) },
	})
}

// ServeHTTP answers a scrape of /metrics: it probes every target, side by side, and shows the results and the
// exporter's own metrics. It answers with 200 by the deadline, whatever the targets do; that is the least of what
// Prometheus waits for less the offset, and each target's timeout. A client that hangs up gets nothing, and so does one
// whose request the server ends; an empty answer would pass for a scrape of nothing.
func (e *Exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var snapshots []Snapshot
	if !e.options.HideTargets {
		snapshots = e.probeAll(r)
	}
	start := time.Now()
	found := e.checks.findings(func(target string) bool { return !e.options.HideTargets || target == "" })
	e.show(w, r, gatherers{e.table.LabelledView(snapshots), checkView{found, true}, e.registry}, e.registry)
	e.rendering.Store(int64(time.Since(start)))
}

// probeAll probes every configured target. One that is not configured any more when its turn comes is left out.
func (e *Exporter) probeAll(r *http.Request) []Snapshot {
	targets := e.targets.All()
	var longest time.Duration
	for _, t := range targets {
		longest = max(longest, t.options.Timeout)
	}
	budget := e.budget(r.Header.Get(timeoutHeader), longest)
	// Showing very many targets takes a while, which must fit in as well. A slow client does not count without limit.
	budget -= min(time.Duration(e.rendering.Load()), budget/4)
	deadline := time.Now().Add(budget)
	step := min(pace, budget/4/time.Duration(max(1, len(targets))))
	found := make([]*Snapshot, len(targets))
	probes := make([]func() error, len(targets))
	for i, t := range targets {
		probes[i] = func() error {
			if err := sleep(r.Context(), time.Duration(i)*step); err != nil {
				return err
			}
			s, err := t.Probe(r.Context(), deadline)
			for errors.Is(err, ErrClosed) { // a reload has dropped it, or put another one in its place
				if t = e.targets.Configured(t.options.Name); t == nil {
					return nil
				}
				s, err = t.Probe(r.Context(), deadline)
			}
			if err != nil {
				return err
			}
			found[i] = &s
			return nil
		}
	}
	if sideBySide(probes) != nil {
		panic(http.ErrAbortHandler)
	}
	snapshots := make([]Snapshot, 0, len(found))
	for _, s := range found {
		if s != nil {
			snapshots = append(snapshots, *s)
		}
	}
	return snapshots
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// show answers with what g gathers; errors of it are counted in own, if that is given.
func (e *Exporter) show(w http.ResponseWriter, r *http.Request, g prometheus.Gatherer, own prometheus.Registerer) {
	// From here on only the client can be slow. A writer without deadlines has its own way to give up.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorHandling:     promhttp.ContinueOnError,
		ErrorLog:          errorLog{e.options.Logger},
		Registry:          own,
		EnableOpenMetrics: true,
	}).ServeHTTP(w, r)
}

// budget is how long a probe may take, of a target with this timeout. A header that makes no sense counts as none.
func (e *Exporter) budget(header string, timeout time.Duration) time.Duration {
	seconds, err := strconv.ParseFloat(header, 64)
	if err != nil || !(seconds > 0 && seconds < time.Hour.Seconds()) {
		return timeout
	}
	waits := time.Duration(seconds * float64(time.Second))
	return min(timeout, max(waits-e.options.TimeoutOffset, leastBudget))
}

// sideBySide runs all functions at once and returns the first error of the list.
func sideBySide(functions []func() error) error {
	if len(functions) == 1 {
		return functions[0]()
	}
	errs := make([]error, len(functions))
	var all sync.WaitGroup
	for i, f := range functions {
		all.Go(func() { errs[i] = f() })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// gatherers puts what several gather one behind the other. Unlike prometheus.Gatherers it does not look for names that
// meet: a test does.
type gatherers []prometheus.Gatherer

// Gather gathers from all, and what it could also beside an error.
func (gs gatherers) Gather() ([]*dto.MetricFamily, error) {
	var (
		all  []*dto.MetricFamily
		errs prometheus.MultiError
	)
	for _, g := range gs {
		families, err := g.Gather()
		all = append(all, families...)
		errs.Append(err)
	}
	return all, errs.MaybeUnwrap()
}

// errorLog lets promhttp log through slog.
type errorLog struct{ logger *slog.Logger }

func (l errorLog) Println(v ...any) {
	l.logger.Error("cannot show all metrics", "err", fmt.Sprint(v...))
}

// Targets returns the configured targets, sorted by name.
func (e *Exporter) Targets() []*Target { return e.targets.All() }

// Checks returns the configured checks, sorted by name.
func (e *Exporter) Checks() []*Check { return e.checks.list() }

// Health is how the health endpoints answer.
func (e *Exporter) Health() config.Health { return e.targets.Health() }

// process are figures of this process at a time.
type process struct {
	memory, cpu probe.Number
	at          time.Time
}

// measureEvery is how long these figures are good for: measuring them for each of many requests would cost more than the
// requests.
const measureEvery = time.Second

// Process returns this process's resident memory in bytes and its CPU time in seconds, where the system tells. Those who ask
// while somebody measures get what was measured before.
func (e *Exporter) Process() (memory, cpu probe.Number) {
	if time.Since(e.process.Load().at) > measureEvery && e.measuring.CompareAndSwap(false, true) {
		e.process.Store(measure(e.registry))
		e.measuring.Store(false)
	}
	last := e.process.Load()
	return last.memory, last.cpu
}

func measure(registry prometheus.Gatherer) *process {
	p := &process{at: time.Now()}
	families, err := registry.Gather()
	if err != nil {
		return p
	}
	for _, family := range families {
		switch family.GetName() {
		case "process_resident_memory_bytes":
			p.memory = probe.Number{Value: family.GetMetric()[0].GetGauge().GetValue(), Known: true}
		case "process_cpu_seconds_total":
			p.cpu = probe.Number{Value: family.GetMetric()[0].GetCounter().GetValue(), Known: true}
		}
	}
	return p
}
