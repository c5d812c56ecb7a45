// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package collector is the Prometheus view: /metrics, /probe and /sd. A handler has the monitor probe, within the request's
// deadline, and then renders the snapshots that it gets. Rendering does no I/O.
//
// What is rendered is a prometheus.Gatherer and not a prometheus.Collector. A Collector would need a registry made for each
// scrape, which checks again and again what a test checks once (that names, labels and series are sound), and costs twice as
// much as all the rest of rendering a target.
package collector

import (
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// Name is the program's name, and the prefix of its own metrics.
const Name = "pg_liveness_exporter"

// Paths that are served.
const (
	ProbePath     = "/probe"
	DiscoveryPath = "/sd"
)

const (
	timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"
	// minWait is how long a caller waits at least, however little time its scrape timeout leaves.
	minWait = 100 * time.Millisecond
	// writeTimeout is how long a client may take to read a response.
	writeTimeout = 10 * time.Second
)

// Exporter shows targets, checks and itself to Prometheus.
type Exporter struct {
	options  Options
	monitor  *monitor.Monitor
	table    *Table
	registry *prometheus.Registry // the exporter's own metrics

	rendering atomic.Int64 // how many nanoseconds rendering all targets took the last time
}

// Options of an Exporter.
type Options struct {
	// TimeoutOffset is taken off the scrape timeout that Prometheus announces, for the way back.
	TimeoutOffset time.Duration
	// HideTargets leaves the targets' series out of /metrics.
	HideTargets bool
	// Compat also shows postgres_exporter's names of the same facts.
	Compat bool
	// Sessions are the connections to count.
	Sessions *probe.Sessions
	Logger   *slog.Logger
}

// New returns an exporter of what m watches.
func New(m *monitor.Monitor, options Options) *Exporter {
	return &Exporter{options: options, monitor: m, table: NewTable(options.Compat), registry: newRegistry(m, options.Sessions)}
}

// ServeHTTP serves /metrics: it has every target probed, side by side, and renders the results and the exporter's own metrics.
// It responds with 200 by the deadline, whatever the targets do. A client that hangs up gets nothing, and neither does one
// whose request the server ends: an empty response would pass for a scrape without targets.
func (e *Exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var snapshots []monitor.Snapshot
	if !e.options.HideTargets {
		wait := e.maxWait(r.Header.Get(timeoutHeader), e.monitor.MaxTimeout())
		// Rendering very many targets takes a while, and is part of the time. A slow client does not count without limit.
		wait -= min(time.Duration(e.rendering.Load()), wait/4)
		var err error
		if snapshots, err = e.monitor.ProbeAll(r.Context(), time.Now().Add(wait)); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	start := time.Now()
	results := e.monitor.CheckResults(func(target string) bool { return !e.options.HideTargets || target == "" })
	e.render(w, r, gatherers{e.table.LabelledView(snapshots), checkView{results, true}, e.registry}, e.registry)
	e.rendering.Store(int64(time.Since(start)))
}

// render responds with what g gathers. Its errors are counted in own, if that is not nil.
func (e *Exporter) render(w http.ResponseWriter, r *http.Request, g prometheus.Gatherer, own prometheus.Registerer) {
	// From here on only the client can be slow. A writer without deadlines, as tests have it, gives up by itself.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorHandling:     promhttp.ContinueOnError,
		ErrorLog:          errorLog{e.options.Logger},
		Registry:          own,
		EnableOpenMetrics: true,
	}).ServeHTTP(w, r)
}

// maxWait is how long a caller with a scrape timeout header waits for a probe with a timeout. A header that is no number of
// seconds is ignored.
func (e *Exporter) maxWait(header string, timeout time.Duration) time.Duration {
	seconds, err := strconv.ParseFloat(header, 64)
	if err != nil || !(seconds > 0 && seconds < time.Hour.Seconds()) {
		return timeout
	}
	announced := time.Duration(seconds * float64(time.Second))
	return min(timeout, max(announced-e.options.TimeoutOffset, minWait))
}

// gatherers concatenates what several gatherers gather. Unlike prometheus.Gatherers it does not look for names that clash: a
// test does.
type gatherers []prometheus.Gatherer

// Gather gathers from all of them, and returns what it got beside an error.
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
