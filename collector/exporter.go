package collector

import (
	"context"
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

	"pg_liveness_exporter/probe"
)

// Name is the program's, and the prefix of its own metrics.
const Name = "pg_liveness_exporter"

const (
	timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"
	leastBudget   = 100 * time.Millisecond
)

// Exporter shows its targets, and itself, to Prometheus.
type Exporter struct {
	targets  []*Target
	timeout  time.Duration // the longest of the targets'
	table    *Table
	registry *prometheus.Registry // the exporter's own metrics
	options  Options
}

// Options of an Exporter.
type Options struct {
	// TimeoutOffset is taken off what Prometheus says, for the way back.
	TimeoutOffset time.Duration
	// Sessions are the connections to count; Shared the probes with several callers.
	Sessions *probe.Sessions
	Shared   *atomic.Uint64
	Logger   *slog.Logger
}

// NewExporter returns an exporter of targets, which it closes.
func NewExporter(targets []*Target, options Options) *Exporter {
	e := &Exporter{targets: targets, table: NewTable(), registry: prometheus.NewRegistry(), options: options}
	for _, t := range targets {
		e.timeout = max(e.timeout, t.timeout)
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
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: Name + "_targets", Help: "Configured targets."},
			func() float64 { return float64(len(e.targets)) }),
		sessions("idle", options.Sessions.Idle),
		sessions("in_use", options.Sessions.InUse),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: Name + "_shared_probes_total", Help: "Probes that answered more than one caller.",
		}, func() float64 { return float64(options.Shared.Load()) }),
	)
	return e
}

// Close closes all targets, until ctx ends.
func (e *Exporter) Close(ctx context.Context) error {
	closing := make([]func() error, len(e.targets))
	for i, t := range e.targets {
		closing[i] = func() error { return t.Close(ctx) }
	}
	return sideBySide(closing)
}

// ServeHTTP answers a scrape of /metrics: it probes every target, side by side, and shows the results and the
// exporter's own metrics. It answers with 200 by the deadline, whatever the targets do; that is the least of what
// Prometheus waits for less the offset, and each target's timeout. A client that hangs up gets nothing, and so does one
// whose request the server ends; an empty answer would pass for a scrape of nothing.
func (e *Exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	deadline := time.Now().Add(e.budget(r.Header.Get(timeoutHeader)))
	snapshots := make([]Snapshot, len(e.targets))
	probes := make([]func() error, len(e.targets))
	for i, t := range e.targets {
		probes[i] = func() error { //nolint:contextcheck // a flight outlives each of its callers
			s, ok := t.Probe(r.Context(), deadline)
			if !ok {
				return context.Cause(r.Context())
			}
			snapshots[i] = s
			return nil
		}
	}
	if sideBySide(probes) != nil {
		panic(http.ErrAbortHandler)
	}
	shown := prometheus.NewRegistry()
	for _, s := range snapshots {
		if err := shown.Register(e.table.View(s)); err != nil {
			e.options.Logger.Error("cannot show a target", "err", err)
		}
	}
	promhttp.HandlerFor(prometheus.Gatherers{shown, e.registry}, promhttp.HandlerOpts{
		ErrorHandling:     promhttp.ContinueOnError,
		ErrorLog:          errorLog{e.options.Logger},
		Registry:          e.registry,
		EnableOpenMetrics: true,
	}).ServeHTTP(w, r)
}

// budget is how long a scrape may take. A header that makes no sense counts as none.
func (e *Exporter) budget(header string) time.Duration {
	seconds, err := strconv.ParseFloat(header, 64)
	if err != nil || !(seconds > 0 && seconds < time.Hour.Seconds()) {
		return e.timeout
	}
	waits := time.Duration(seconds * float64(time.Second))
	return min(e.timeout, max(waits-e.options.TimeoutOffset, leastBudget))
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

// errorLog lets promhttp log through slog.
type errorLog struct{ logger *slog.Logger }

func (l errorLog) Println(v ...any) {
	l.logger.Error("cannot show all metrics", "err", fmt.Sprint(v...))
}
