// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/health"
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

// ask probes the one target, again and again while it is not accepting and there is time to wait, and says what it found.
// It returns the exit code.
func (q *question) ask(ctx context.Context, load func() (*config.File, error), out, errs io.Writer) int {
	target, err := q.choose(load)
	if err != nil {
		fmt.Fprintln(errs, err)
		return q.code(exitNotTried)
	}
	target.Commit = false // what is asked is whether the server accepts sessions
	p := probe.New(target, probe.Options{Sessions: &probe.Sessions{}, OnLoss: func(probe.LossReason, time.Time) {}})
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
		defer cancel()
		_ = p.Close(closing) // the process ends anyway
	}()
	until := time.Now().Add(q.wait)
	for timeout := target.Timeout; ; timeout = min(target.Timeout, max(time.Until(until), config.Shortest)) {
		r := probeOnce(ctx, p, timeout)
		left := time.Until(until)
		if r.Up() || left <= 0 || ctx.Err() != nil {
			q.say(out, target.Name, r)
			return q.code(exitCode(r))
		}
		select {
		case <-time.After(min(askEvery, left)):
		case <-ctx.Done():
			q.say(out, target.Name, r)
			return q.code(exitCode(r))
		}
	}
}

func probeOnce(ctx context.Context, p *probe.Prober, timeout time.Duration) *probe.Result {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return p.Probe(ctx)
}

// choose finds the target that was named, or the only one.
func (q *question) choose(load func() (*config.File, error)) (*config.Target, error) {
	file, err := load()
	if err != nil {
		return nil, err
	}
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
		return nil, errors.New("there is no target of this name")
	case len(names) == 0:
		return nil, errors.New("the file has no targets")
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
