// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	checks "pg_liveness_exporter/check"
	"pg_liveness_exporter/collector"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/health"
	"pg_liveness_exporter/internal/credentials"
	"pg_liveness_exporter/probe"
)

// The exit codes of the command check are those of pg_isready (src/bin/scripts/pg_isready.c).
const (
	exitAccepting = iota
	exitRejecting
	exitNoResponse
	exitNotTried
)

const (
	styleIsReady = "pg_isready"
	styleDocker  = "docker"
	formatText   = "text"
	formatJSON   = "json"

	// askEvery is the pause between two probes of a check that waits.
	askEvery = time.Second
)

// question is what the command check was told.
type question struct {
	target, format, style string
	wait                  time.Duration
}

// answer is what one probe found, as --format=json shows it. Times are seconds.
type answer struct {
	Target   string             `json:"target,omitempty"`
	Up       bool               `json:"up"`
	State    string             `json:"state"`
	Reason   string             `json:"reason,omitempty"`
	Phase    string             `json:"phase,omitempty"`
	SQLState string             `json:"sqlstate,omitempty"`
	Detail   string             `json:"detail,omitempty"`
	Duration float64            `json:"duration_seconds"`
	Phases   map[string]float64 `json:"phase_durations_seconds"`
}

// ask probes the one target, or runs the one check, again and again while it is not well and there is time to wait, and says what
// it found. It returns the exit code.
func (q *question) ask(
	ctx context.Context, load func() (*config.File, error), store *credentials.Store, out, errs io.Writer,
) int {
	file, err := load()
	if err != nil {
		return q.notTried(err, out, errs)
	}
	for _, c := range file.Checks {
		if c.Name == q.target {
			return q.code(q.askCheck(ctx, file, c, store, out))
		}
	}
	chosen, err := q.choose(file)
	if err != nil {
		return q.notTried(err, out, errs)
	}
	target := *chosen
	target.Commit = false // what is asked is whether the server accepts sessions
	p, end := newAsker(ctx, &target, store)
	defer end()
	var r *probe.Result
	until := time.Now().Add(q.wait)
	q.repeat(ctx, until, func() bool {
		timeout := target.Timeout
		if r != nil {
			timeout = min(timeout, max(time.Until(until), config.MinTimeout))
		}
		r = probeOnce(ctx, p, timeout)
		return r.Up()
	})
	q.say(out, target.Name, r)
	return q.code(exitCode(r))
}

// notTried says why nothing was asked.
func (q *question) notTried(err error, out, errs io.Writer) int {
	fmt.Fprintln(errs, err)
	if q.format == formatJSON { // for a program that reads that alone
		_ = json.NewEncoder(out).Encode(answer{Target: q.target, State: "not_tried", Detail: err.Error(), Phases: make(map[string]float64)})
	}
	return q.code(exitNotTried)
}

// repeat asks until all is well, or there is no time left to wait.
func (q *question) repeat(ctx context.Context, until time.Time, ask func() (well bool)) {
	for !ask() {
		left := time.Until(until)
		if left <= 0 {
			return
		}
		select {
		case <-time.After(min(askEvery, left)):
		case <-ctx.Done():
			return
		}
	}
}

// newAsker returns what asks a target, and a function that ends it.
func newAsker(ctx context.Context, target *config.Target, store *credentials.Store) (*probe.Prober, func()) {
	p := probe.New(target, store.For(target), probe.Options{
		Sessions: &probe.Sessions{}, OnLoss: func(probe.LossReason, time.Time) {},
	})
	return p, func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
		defer cancel()
		_ = p.Close(closing) // the process ends anyway
	}
}

// finding is what one check found, as --format=json shows it.
type finding struct {
	Check    string   `json:"check"`
	Status   string   `json:"status"`
	Output   string   `json:"output,omitempty"`
	Value    *float64 `json:"value,omitempty"`
	Duration float64  `json:"duration_seconds"`
}

// askCheck runs a check: 0 where it passes, or nearly, else 1.
func (q *question) askCheck(
	ctx context.Context, file *config.File, settings *config.Check, store *credentials.Store, out io.Writer,
) int {
	var query checks.Query
	if i := slices.IndexFunc(file.Targets, func(t *config.Target) bool { return t.Name == settings.Target }); i >= 0 {
		p, end := newAsker(ctx, file.Targets[i], store)
		defer end()
		query = func(ctx context.Context, sql string) (*pgconn.Result, error) {
			result, failure := p.Query(ctx, sql, settings.Timeout)
			return result, collector.StatementError(failure)
		}
	}
	asked := checks.New(settings, credentials.ForCheck(settings), query)
	var o checks.Outcome
	q.repeat(ctx, time.Now().Add(q.wait), func() bool {
		o = asked.Ask(ctx)
		return o.Status != checks.Fail
	})
	f := finding{Check: settings.Name, Status: o.Status.String(), Output: o.Output, Duration: o.Took.Seconds()}
	if o.Measured {
		f.Value = &o.Value
	}
	switch {
	case q.format == formatJSON:
		_ = json.NewEncoder(out).Encode(f) // nobody is told if nobody reads
	case f.Output != "":
		fmt.Fprintf(out, "%s: %s (%.1f ms)\n", f.Status, f.Output, f.Duration*1e3)
	default:
		fmt.Fprintf(out, "%s (%.1f ms)\n", f.Status, f.Duration*1e3)
	}
	if o.Status == checks.Fail {
		return exitRejecting
	}
	return exitAccepting
}

func probeOnce(ctx context.Context, p *probe.Prober, timeout time.Duration) *probe.Result {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return p.Probe(ctx)
}

// choose finds the target that was named, or the only one.
func (q *question) choose(file *config.File) (*config.Target, error) {
	if q.target == "" && len(file.Targets) == 1 {
		return file.Targets[0], nil
	}
	var names []string
	for _, t := range file.Targets {
		if t.Name == q.target && q.target != "" || t.Name == "" && q.target == health.Unnamed {
			return t, nil
		}
		names = append(names, t.Name)
	}
	switch {
	case q.target != "":
		return nil, errors.New("there is no target and no check of this name")
	case len(names) == 0:
		return nil, errors.New("the file has no targets: name a check")
	}
	return nil, fmt.Errorf("name a target: one of %s", strings.Join(names, ", "))
}

func exitCode(r *probe.Result) int {
	switch r.State() {
	case probe.StateAccepting:
		return exitAccepting
	case probe.StateRejecting, probe.StateConnectionLimit:
		return exitRejecting
	case probe.StateNoResponse:
		return exitNoResponse
	case probe.StateMisconfigured:
	}
	return exitNotTried
}

// code is what the style makes of an exit code: Docker knows 0 and 1.
func (q *question) code(code int) int {
	if q.style == styleDocker {
		return min(code, 1)
	}
	return code
}

// say shows a result, in a line that a person can read or as JSON.
func (q *question) say(out io.Writer, name string, r *probe.Result) {
	a := answer{
		Target: name, Up: r.Up(), State: string(r.State()), Duration: r.Duration.Seconds(), Phases: make(map[string]float64),
	}
	if f := r.Failure; f != nil {
		a.Reason, a.SQLState, a.Detail = string(f.Reason), f.SQLState, f.Detail
		if f.Phase != probe.PhaseNone {
			a.Phase = f.Phase.String()
		}
	}
	var steps []string
	for _, phase := range probe.AllPhases() {
		if took := r.Phases[phase]; took.Known {
			a.Phases[phase.String()] = took.Value
			steps = append(steps, fmt.Sprintf("%s %.1f ms", phase, took.Value*1e3))
		}
	}
	if q.format == formatJSON {
		_ = json.NewEncoder(out).Encode(a) // nobody is told if nobody reads
		return
	}
	line := a.State
	for _, part := range []struct{ before, text string }{{": ", a.Reason}, {" in phase ", a.Phase}, {", SQLSTATE ", a.SQLState}, {", ", a.Detail}} {
		if part.text != "" {
			line += part.before + part.text
		}
	}
	if len(steps) > 0 {
		line += " (" + strings.Join(steps, ", ") + ")"
	}
	fmt.Fprintln(out, line)
}
