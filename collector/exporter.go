// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package collector is the Prometheus view: /metrics, /probe and /sd. A handler calls the monitor to probe targets
// within the request's deadline, and then renders the snapshots that the monitor returns. Rendering does no I/O.
//
// The views implement prometheus.Gatherer instead of prometheus.Collector. Collectors would need a new registry for
// each scrape, and the registry would check all names, labels and series again. That costs twice as much as the rest of
// the rendering. A test checks them instead.
package collector

import (
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sync/semaphore"

	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// Name is the name of the program and the prefix of its own metrics.
const Name = "pg_liveness_exporter"

// Paths of the handlers.
const (
	ProbePath     = "/probe"
	DiscoveryPath = "/sd"
	ConfigPath    = "/config"
)

const (
	timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"
	// minWait is the minimum time that a caller waits for a probe, even if its scrape timeout is shorter.
	minWait = 100 * time.Millisecond
)

// Exporter serves the metrics of targets, of checks and of the exporter itself. Any goroutine may call its methods.
type Exporter struct {
	options  Options
	monitor  *monitor.Monitor
	table    *Table
	registry *prometheus.Registry // the exporter's own metrics

	rendering atomic.Int64 // how long the last rendering of all targets took, in nanoseconds
	batches   batches
	places    *semaphore.Weighted // for the rendering of single targets; there are maxRendering
	zips      sync.Pool           // of *gzip.Writer
	config    configText
}

// Options has the parameters of New.
type Options struct {
	// TimeoutOffset is subtracted from the scrape timeout that Prometheus announces, so that the response arrives in
	// time.
	TimeoutOffset time.Duration
	// HideTargets reports whether to leave the targets, and the checks of targets, out of /metrics.
	HideTargets bool
	// Compat reports whether to show metrics under postgres_exporter's names as well.
	Compat bool
	// Sessions counts the connections to targets.
	Sessions *probe.Sessions
	Logger   *slog.Logger
}

// New returns an exporter of the targets and checks of m.
func New(m *monitor.Monitor, options Options) *Exporter {
	return &Exporter{
		options: options, monitor: m, table: NewTable(options.Compat), registry: newRegistry(m, options.Sessions),
		batches: newBatches(), places: semaphore.NewWeighted(maxRendering), zips: sync.Pool{New: newZip},
	}
}

// ServeHTTP serves /metrics. It probes all targets in parallel and renders the results, the results of the checks and
// the exporter's own metrics. Scrapes that wait to be rendered at the same time share one rendering. It responds with 200 by
// the deadline, even if targets fail or hang. It aborts the request if the client leaves or the server shuts down: Prometheus
// would take an empty response for a scrape without targets.
func (e *Exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var snapshots []monitor.Snapshot
	if !e.options.HideTargets {
		// Without a scrape timeout, a third of the longest timeout is for probes that start later than others.
		wait := e.maxWait(r.Header.Get(timeoutHeader), e.monitor.MaxTimeout()*4/3)
		// Reserve time for rendering, which takes long if there are very many targets, but at most a quarter.
		wait -= min(time.Duration(e.rendering.Load()), wait/4)
		var err error
		if snapshots, err = e.monitor.ProbeAll(r.Context(), time.Now().Add(wait)); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	rendered, err := e.batches.share(r.Context(), keyOf(r), snapshots, func(snapshots []monitor.Snapshot) *response {
		start := time.Now()
		defer func() { e.rendering.Store(int64(time.Since(start))) }()
		results := e.monitor.CheckResults(func(target string) bool { return !e.options.HideTargets || target == "" })
		return e.render(r, gatherers{e.table.LabelledView(snapshots), checkView{results, true}, e.registry}, e.registry, true)
	})
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	e.send(w, r, rendered)
}

// maxWait returns how long a caller may wait for probes: the scrape timeout in header minus the offset, or otherwise if
// header is not a valid number of seconds.
func (e *Exporter) maxWait(header string, otherwise time.Duration) time.Duration {
	seconds, err := strconv.ParseFloat(header, 64)
	if err != nil || !(seconds > 0 && seconds < time.Hour.Seconds()) {
		return otherwise
	}
	announced := time.Duration(seconds * float64(time.Second))
	return max(announced-e.options.TimeoutOffset, minWait)
}

// gatherers concatenates the metrics of several gatherers. Unlike prometheus.Gatherers, it does not check for duplicate
// names: a test does.
type gatherers []prometheus.Gatherer

// Gather gathers from all gatherers. If some fail, it returns the metrics of the others and the errors.
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
