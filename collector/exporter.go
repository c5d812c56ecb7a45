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
	"fmt"
	"io"
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

// Name is the name of the program and the prefix of its own metrics.
const Name = "pg_liveness_exporter"

// Paths of the handlers.
const (
	ProbePath     = "/probe"
	DiscoveryPath = "/sd"
)

const (
	timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"
	// minWait is the minimum time that a caller waits for a probe, even if its scrape timeout is shorter.
	minWait = 100 * time.Millisecond
	// writeTimeout is how long writing a response may take.
	writeTimeout = 10 * time.Second
)

// Exporter serves the metrics of targets, of checks and of the exporter itself. Any goroutine may call its methods.
type Exporter struct {
	options  Options
	monitor  *monitor.Monitor
	table    *Table
	registry *prometheus.Registry // the exporter's own metrics

	rendering atomic.Int64 // duration of the last rendering of all targets, in nanoseconds
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
	}
}

// ServeHTTP serves /metrics. It probes all targets in parallel and renders the results, the results of the checks and
// the exporter's own metrics. It responds with 200 by the deadline, even if targets fail or hang. It aborts the request
// if the client leaves or the server shuts down: Prometheus would take an empty response for a scrape without targets.
func (e *Exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var snapshots []monitor.Snapshot
	if !e.options.HideTargets {
		// Without a scrape timeout, a third of the longest timeout is for probes that start later than others.
		wait := e.maxWait(r.Header.Get(timeoutHeader), e.monitor.MaxTimeout()*4/3)
		// Reserve time for rendering, which takes long if there are very many targets. Reserve at most a quarter,
		// because the last measurement includes the time that a slow client took to read.
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

// render responds with the metrics of g. If own is not nil, it has a metric that counts errors.
func (e *Exporter) render(w http.ResponseWriter, r *http.Request, g prometheus.Gatherer, own prometheus.Registerer) {
	// From now on only the client can be slow. The error is ignored: the response writers of tests have no deadlines.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	client := &clientWriter{ResponseWriter: w, logger: e.options.Logger}
	promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorHandling:     promhttp.ContinueOnError,
		ErrorLog:          errorLog{e.options.Logger, client},
		Registry:          own,
		EnableOpenMetrics: true,
	}).ServeHTTP(client, r)
}

// clientWriter writes until the client hangs up, and then nothing more. promhttp would try, and log an error, for each
// metric.
type clientWriter struct {
	http.ResponseWriter
	logger *slog.Logger
	gone   bool
}

func (w *clientWriter) Write(p []byte) (int, error) {
	if w.gone {
		return 0, io.ErrClosedPipe
	}
	n, err := w.ResponseWriter.Write(p)
	if err != nil {
		w.gone = true
		w.logger.Debug("Client hung up before it had read all metrics")
	}
	return n, err
}

// Unwrap returns the writer for http.ResponseController.
func (w *clientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

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

// errorLog implements promhttp.Logger with slog. It says nothing about a client that has hung up.
type errorLog struct {
	logger *slog.Logger
	client *clientWriter
}

func (l errorLog) Println(v ...any) {
	if l.client.gone {
		return
	}
	l.logger.Error("Cannot show all metrics", "err", fmt.Sprint(v...))
}
