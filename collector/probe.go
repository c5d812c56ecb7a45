// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// ServeProbe serves /probe. It probes the target named by the parameter target, waits as for /metrics,
// and renders the result without the label target. If it refuses a request, it responds with 400 and a sentence, or with
// 503 if there are too many ad-hoc targets. If debug is true, the response is a report in plain text. It aborts the
// request if the client leaves or the server shuts down.
func (e *Exporter) ServeProbe(w http.ResponseWriter, r *http.Request) {
	name, module, debug, err := probeParameters(r.URL.RawQuery)
	if err != nil {
		refuse(w, err)
		return
	}
	for {
		target, err := e.monitor.FindTarget(name, module)
		if err != nil {
			refuse(w, err)
			return
		}
		deadline := time.Now().Add(e.maxWait(r.Header.Get(timeoutHeader), target.Timeout()))
		s, err := target.Probe(r.Context(), deadline)
		switch {
		case errors.Is(err, monitor.ErrClosed): // a reload has closed the target
			continue
		case err != nil:
			panic(http.ErrAbortHandler)
		case s.Result.Failure != nil && s.Result.Failure.Forbidden:
			refuse(w, errors.New(s.Result.Failure.Detail))
		case debug:
			e.renderSteps(w, &s, target.LogLines())
		default:
			e.send(w, r, e.renderOne(r, s))
		}
		return
	}
}

// renderOne renders the metrics of a target and of its checks when there is a place. It aborts the request if the client
// leaves before.
func (e *Exporter) renderOne(r *http.Request, s monitor.Snapshot) *response {
	if e.places.Acquire(r.Context(), 1) != nil {
		panic(http.ErrAbortHandler)
	}
	defer e.places.Release(1)
	return e.render(r, e.view(s), nil, acceptsGzip(r.Header.Get("Accept-Encoding")))
}

// view returns the metrics of a target and of its checks.
func (e *Exporter) view(s monitor.Snapshot) prometheus.Gatherer {
	results := e.monitor.CheckResults(func(target string) bool { return s.Target != "" && target == s.Target })
	return gatherers{e.table.View(s), checkView{results, false}}
}

// probeParameters parses the query string. auth_module is postgres_exporter's name for module.
func probeParameters(raw string) (target, module string, debug bool, err error) {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return "", "", false, errors.New("the parameters are not well-formed")
	}
	for _, key := range []string{"target", "module", "auth_module", "debug"} {
		if len(query[key]) > 1 {
			return "", "", false, fmt.Errorf("the parameter %s is given several times", key)
		}
	}
	module = query.Get("module")
	if query.Has("auth_module") {
		if query.Has("module") && module != query.Get("auth_module") {
			return "", "", false, errors.New("module and auth_module differ")
		}
		module = query.Get("auth_module")
	}
	if query.Has("debug") {
		if debug, err = strconv.ParseBool(query.Get("debug")); err != nil {
			return "", "", false, errors.New("the parameter debug is neither true nor false")
		}
	}
	return query.Get("target"), module, debug, nil
}

func refuse(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if errors.Is(err, monitor.ErrTooManyTargets) {
		status = http.StatusServiceUnavailable
	}
	http.Error(w, err.Error(), status)
}

// renderSteps responds with the report for debug=true: the steps of the probe, log lines and metrics. Neither a
// snapshot nor a log line contains the address of a target or a secret.
func (e *Exporter) renderSteps(w http.ResponseWriter, s *monitor.Snapshot, lines []string) {
	var text bytes.Buffer
	if s.Counted() {
		describeSteps(&text, s.Result)
	} else {
		fmt.Fprintf(&text, "The probe had no result in the %s that this request could wait. "+
			"It continues, and is counted when it ends.\n", s.Result.Duration)
	}
	switch {
	case s.CommitResult == nil:
	case s.CommitResult.Failure == nil:
		fmt.Fprintf(&text, "The commit that followed took %s\n",
			s.CommitResult.Took.Value)
	default:
		fmt.Fprintf(&text, "The commit that followed failed: %s %s\n",
			s.CommitResult.Failure.Reason, s.CommitResult.Failure.Detail)
	}
	fmt.Fprintln(&text, "\nLog lines of this target, the latest last")
	for _, line := range lines {
		fmt.Fprint(&text, "  ", line)
	}
	fmt.Fprintln(&text, "\nMetrics")
	families, err := e.view(*s).Gather()
	for _, family := range families {
		if err == nil {
			_, err = expfmt.MetricFamilyToText(&text, family)
		}
	}
	if err != nil {
		e.options.Logger.Error("Cannot show all metrics", "err", err)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(text.Bytes()) // ignored: the client may have gone
}

func describeSteps(w io.Writer, r *probe.Result) {
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("Probe of %s, which took %s of the %s that it had",
		r.Start.UTC().Format(time.RFC3339Nano), r.Duration, r.Deadline)
	line("\nSteps of the new session")
	for _, phase := range append([]probe.Phase{probe.PhaseCredentials}, probe.AllPhases()...) {
		if took := r.Phases[phase]; took.Known {
			line("  %-12s%s", phase, took.Value)
		}
	}
	if f := r.Failure; f == nil {
		line("  SELECT 1 answered")
	} else {
		if f.Phase == probe.PhaseNone {
			line("  no step began in time: another login is under way, or too many probes are")
		} else {
			line("  failed in phase %s", f.Phase)
		}
		if f.SQLState != "" {
			line("  the server's SQLSTATE is %s, from its routine %q", f.SQLState, f.Routine)
		}
		if f.Detail != "" {
			line("  %s", f.Detail)
		}
	}
	switch {
	case !r.Keep:
	case r.KeptUp:
		line("\nThe kept session answered SELECT 1 in %s", r.Query.Value)
	default:
		line("\nThe kept session did not answer, or there is none")
	}
	for _, refusal := range r.Refusals {
		line("The server refuses the %s", refusal)
	}
	switch f := r.StatsFailure; {
	case f != nil:
		line("The connection figures could not be read: %s %s", f.Reason, f.SQLState)
	case r.ServerStats != nil && !r.ServerStats.Used.Known:
		line("The server does not show its connections")
	case r.ServerStats != nil:
		line("The connection figures were read")
	default:
		line("No session could read the connection figures")
	}
	line("\nVerdict: %s", r.State())
	if r.Failure != nil {
		line("Reason: %s", r.Failure.Reason)
	}
}
