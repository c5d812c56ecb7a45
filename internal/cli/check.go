// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"pg_liveness_exporter/check"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials"
	"pg_liveness_exporter/monitor"
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

	// retryInterval is the pause between two attempts with --wait.
	retryInterval = time.Second
	// closeGrace is how long sessions may take to close before the program exits.
	closeGrace = time.Second
	// livezTimeout bounds one request of --livez. It is shorter than the timeout of the HEALTHCHECK in the Dockerfile.
	livezTimeout = 5 * time.Second
)

// Check is the command check: it probes one target, or runs one check, and exits. With livez, a URL, it asks a running exporter
// whether it is alive.
type Check struct {
	target, livez, format, style string
	wait                         time.Duration
}

// probeOutput is the output of --format=json for a target. Durations are in seconds.
type probeOutput struct {
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

// Run probes the target, or runs the check, until it succeeds or the time of --wait has passed. It writes the last
// result to out and returns the exit code.
func (c *Check) Run(
	ctx context.Context, load func() (*config.File, error), store *credentials.Store, out, errs io.Writer,
) int {
	if c.livez != "" {
		settings, err := c.livezCheck()
		if err != nil {
			return c.notTried(err, out, errs)
		}
		return c.exitCode(c.runCheck(ctx, &config.File{}, settings, store, out))
	}
	file, err := load()
	if err != nil {
		return c.notTried(err, out, errs)
	}
	for _, settings := range file.Checks {
		if settings.Name == c.target {
			return c.exitCode(c.runCheck(ctx, file, settings, store, out))
		}
	}
	chosen, err := c.choose(file)
	if err != nil {
		return c.notTried(err, out, errs)
	}
	target := *chosen
	target.Commit = false // the command checks only whether the server accepts sessions
	p, end := newProber(ctx, &target, store)
	defer end()
	var r *probe.Result
	until := time.Now().Add(c.wait)
	c.repeat(ctx, until, func() bool {
		timeout := target.Timeout
		if r != nil {
			timeout = min(timeout, max(time.Until(until), config.MinTimeout))
		}
		r = probeOnce(ctx, p, timeout)
		return r.Up()
	})
	c.write(out, target.Name, r)
	return c.exitCode(codeOf(r))
}

// livezCheck returns the check of --livez: the status must be 200. Errors do not hold the URL, which may hold a password.
func (c *Check) livezCheck() (*config.Check, error) {
	if c.target != "" {
		return nil, errors.New("--livez probes nothing: remove the name")
	}
	settings := &config.Check{
		Name: "livez", Kind: config.CheckHTTP, Timeout: livezTimeout, Location: config.Secret(c.livez),
		HTTP: config.HTTP{Statuses: []config.StatusRange{{Min: http.StatusOK, Max: http.StatusOK}}, KeepRedirects: true},
	}
	if err := settings.ValidateLocation(settings.Location); err != nil {
		return nil, fmt.Errorf("--livez %w", err)
	}
	return settings, nil
}

// notTried writes the reason why nothing was probed or run, and returns the exit code. It repeats the argument only if it
// looks like a name: it may be a connection string.
func (c *Check) notTried(err error, out, errs io.Writer) int {
	fmt.Fprintln(errs, err)
	if c.format == formatJSON { // for a program that reads only standard output
		var name string
		if regexp.MustCompile(`^[\w.-]*$`).MatchString(c.target) {
			name = c.target
		}
		_ = json.NewEncoder(out).Encode(probeOutput{
			Target: name, State: "not_tried", Detail: err.Error(), Phases: make(map[string]float64),
		})
	}
	return c.exitCode(exitNotTried)
}

// repeat calls try until it reports true, until has passed, or ctx ends.
func (c *Check) repeat(ctx context.Context, until time.Time, try func() (ok bool)) {
	for !try() {
		left := time.Until(until)
		if left <= 0 {
			return
		}
		select {
		case <-time.After(min(retryInterval, left)):
		case <-ctx.Done():
			return
		}
	}
}

// newProber returns a prober of a target and a function that closes it. ctx may have ended when that is called.
func newProber(ctx context.Context, target *config.Target, store *credentials.Store) (*probe.Prober, func()) {
	p := probe.New(target, store.For(target), probe.Options{
		Sessions: &probe.Sessions{}, OnSessionLost: func(probe.Loss) {},
	})
	return p, func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
		defer cancel()
		_ = p.Close(closing) // the program exits in any case
	}
}

// checkOutput is the output of --format=json for a check. Durations are in seconds.
type checkOutput struct {
	Check    string   `json:"check"`
	Status   string   `json:"status"`
	Output   string   `json:"output,omitempty"`
	Value    *float64 `json:"value,omitempty"`
	Duration float64  `json:"duration_seconds"`
}

// runCheck runs a check and returns the exit code: 0 if it passes or warns, otherwise 1.
func (c *Check) runCheck(
	ctx context.Context, file *config.File, settings *config.Check, store *credentials.Store, out io.Writer,
) int {
	var query check.Query
	if i := slices.IndexFunc(file.Targets, func(t *config.Target) bool { return t.Name == settings.Target }); i >= 0 {
		p, end := newProber(ctx, file.Targets[i], store)
		defer end()
		query = func(ctx context.Context, sql string) (check.Scalar, error) {
			result, failure := p.Query(ctx, sql, settings.Timeout)
			return check.Scalar(result), monitor.StatementError(sql, failure)
		}
	}
	checker := check.New(settings, credentials.ForCheck(settings), query)
	var r check.Result
	c.repeat(ctx, time.Now().Add(c.wait), func() bool {
		r = checker.Run(ctx)
		return r.Status != check.Fail
	})
	f := checkOutput{Check: settings.Name, Status: r.Status.String(), Output: r.Output, Duration: r.Took.Seconds()}
	if r.HasValue {
		f.Value = &r.Value
	}
	switch {
	case c.format == formatJSON:
		_ = json.NewEncoder(out).Encode(f) // ignored: the reader may have gone
	case f.Output != "":
		fmt.Fprintf(out, "%s: %s (%s)\n", f.Status, f.Output, milliseconds(r.Took))
	default:
		fmt.Fprintf(out, "%s (%s)\n", f.Status, milliseconds(r.Took))
	}
	if r.Status == check.Fail {
		return exitRejecting
	}
	return exitAccepting
}

func probeOnce(ctx context.Context, p *probe.Prober, timeout time.Duration) *probe.Result {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return p.Probe(ctx)
}

// choose returns the named target, or the only one if none is named.
func (c *Check) choose(file *config.File) (*config.Target, error) {
	if c.target == "" && len(file.Targets) == 1 {
		return file.Targets[0], nil
	}
	var names []string
	for _, t := range file.Targets {
		if t.Name == c.target {
			return t, nil
		}
		names = append(names, t.Name)
	}
	switch {
	case c.target != "":
		return nil, errors.New("there is no target and no check with this name")
	case len(names) == 0:
		return nil, errors.New("the file has no targets: name a check")
	}
	return nil, fmt.Errorf("name a target: one of %s", strings.Join(names, ", "))
}

func codeOf(r *probe.Result) int {
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

// exitCode converts an exit code to the style: Docker accepts only 0 and 1.
func (c *Check) exitCode(code int) int {
	if c.style == styleDocker {
		return min(code, 1)
	}
	return code
}

// milliseconds returns a duration for a person to read.
func milliseconds(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1e3) }

// write writes a result as a line of text or as JSON.
func (c *Check) write(out io.Writer, name string, r *probe.Result) {
	a := probeOutput{
		Target: name, Up: r.Up(), State: string(r.State()), Duration: r.Duration.Seconds(), Phases: make(map[string]float64),
	}
	if f := r.Failure; f != nil {
		a.Reason, a.SQLState, a.Detail = string(f.Reason), f.SQLState, f.OperatorDetail()
		if f.Phase != probe.PhaseNone {
			a.Phase = f.Phase.String()
		}
	}
	var steps []string
	for _, phase := range probe.AllPhases() {
		if took := r.Phases[phase]; took.Known {
			a.Phases[phase.String()] = took.Value.Seconds()
			steps = append(steps, fmt.Sprintf("%s %s", phase, milliseconds(took.Value)))
		}
	}
	if c.format == formatJSON {
		_ = json.NewEncoder(out).Encode(a) // ignored: the reader may have gone
		return
	}
	line := a.State
	for _, part := range []struct{ before, text string }{
		{": ", a.Reason}, {" in phase ", a.Phase}, {", SQLSTATE ", a.SQLState}, {", ", a.Detail},
	} {
		if part.text != "" {
			line += part.before + part.text
		}
	}
	if len(steps) > 0 {
		line += " (" + strings.Join(steps, ", ") + ")"
	}
	fmt.Fprintln(out, line)
}
