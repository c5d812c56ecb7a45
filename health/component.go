// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"pg_liveness_exporter/check"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// component is a target or a check in a response.
type component struct {
	name     string
	kind     string         // the kind of the target or check
	category string         // the draft's componentType
	labels   []config.Label // of the target, or of the check's target
	status   check.Status   // of the last result
	output   string         // the reason for warn or fail
	failing  bool           // whether it fails with hysteresis (fail_after and pass_after)
	at       time.Time      // when the result was obtained
	expires  time.Time      // when the next result is due
	took     probe.Duration
	observed observation
}

// observation is a number that a probe or a check found in addition to its status. unit is empty for the value of a
// check, whose unit is not known.
type observation struct {
	probe.Number
	name, unit string
}

// The draft's component types.
const (
	datastore = "datastore"
	other     = "component"
)

// worst returns the worst status of all components, or Fail if there are none.
func worst(components []component) check.Status {
	if len(components) == 0 {
		return check.Fail
	}
	all := check.Pass
	for _, c := range components {
		all = max(all, c.status)
	}
	return all
}

// statusName returns the configured name of a status.
func statusName(s check.Status, names config.StatusNames) string {
	return [...]string{names.Pass, names.Warn, names.Fail}[s]
}

// findTarget returns the target with this name, or nil if there is none.
func (h *Health) findTarget(name string) *monitor.Target {
	for _, t := range h.monitor.Targets() {
		if t.Name() == name {
			return t
		}
	}
	return nil
}

// findCheck returns the check with this name, or nil if there is none.
func (h *Health) findCheck(name string) *monitor.Check {
	for _, c := range h.monitor.Checks() {
		if c.Name() == name {
			return c
		}
	}
	return nil
}

// components returns all targets and then all checks, except those that the request excludes. It waits for their
// results concurrently.
func (h *Health) components(r *http.Request) []component {
	settings, ctx, names := h.monitor.Health(), r.Context(), r.URL.Query()["exclude"]
	excluded := func(name string) bool { return slices.Contains(names, name) }
	var makers []func() component
	for _, t := range h.monitor.Targets() {
		if !excluded(t.Name()) {
			makers = append(makers, func() component { return h.server(ctx, t, settings).component })
		}
	}
	for _, c := range h.monitor.Checks() {
		if !excluded(c.Name()) {
			makers = append(makers, func() component { return checkComponent(ctx, c) })
		}
	}
	found := make([]component, len(makers))
	var all sync.WaitGroup
	for i, makeOne := range makers {
		all.Go(func() { found[i] = makeOne() })
	}
	all.Wait()
	return found
}

// server is the component of a target, with what the role paths need.
type server struct {
	component
	result  *probe.Result
	fresh   bool // the result is at most max_age old
	commits bool // the last commit did not fail, or none was tried
}

// server returns a component with a target's last result. If that is older than max_age, it waits at most maxWait for a
// new one.
func (h *Health) server(ctx context.Context, t *monitor.Target, settings config.Health) server {
	until := time.Now().Add(maxWait)
	s, err := t.Latest(ctx, settings.MaxAge, maxWait)
	for err != nil { // a reload removed it, or replaced it
		name := t.Name()
		if t = h.findTarget(name); t == nil {
			gone := component{
				name: name, category: datastore, status: check.Fail, output: unknownName, failing: true, at: time.Now(),
			}
			return server{component: gone, result: probe.Unanswered(time.Now(), 0, false)}
		}
		s, err = t.Latest(ctx, settings.MaxAge, time.Until(until))
	}
	r, at := s.Result, s.At()
	c := component{
		name: t.Name(), kind: string(s.Kind), category: datastore, labels: s.Labels, failing: s.Failing(), at: at,
		expires: at.Add(settings.MaxAge), took: r.Connect,
	}
	if r.Up() {
		c.took.Value += r.Phases[probe.PhaseQuery].Value
	}
	used, usable := r.ClientConnections()
	c.observed = observation{used, "connections", "connections"}
	full := used.Known && usable.Known && used.Value >= usable.Value
	age := time.Since(at)
	switch {
	case !r.Up():
		c.status, c.output = check.Fail, r.Failure.String()
		c.failing = c.failing || !s.Counted()
	case age > settings.MaxAge+t.Timeout():
		c.status, c.output, c.failing = check.Fail, fmt.Sprintf("no result for %s", age.Round(time.Second)), true
	case s.CommitFailure() != nil:
		c.status, c.output = check.Warn, "commits fail: "+string(s.CommitFailure().Reason)
	case full:
		c.status, c.output = check.Warn, fmt.Sprintf("%.0f of %.0f usable connections are taken", used.Value, usable.Value)
	}
	return server{c, r, age <= settings.MaxAge, s.CommitFailure() == nil}
}

// withHysteresis returns the component with the status that /health shows, after fail_after and pass_after.
func (c component) withHysteresis() component {
	switch {
	case c.status == check.Fail && !c.failing:
		c.status = check.Warn
	case c.status != check.Fail && c.failing:
		c.status, c.output = check.Fail, "passes again, but not for long enough yet"
	}
	return c
}

func number(v float64) probe.Number { return probe.Number{Value: v, Known: true} }

// maxCheckDelay is how late a check may run: the checks of one target wait for each other.
const maxCheckDelay = time.Minute

// checkComponent returns a component with a check's last result. If there is none yet, it waits at most maxWait for the
// first one.
func checkComponent(ctx context.Context, watched *monitor.Check) component {
	c := component{name: watched.Name(), kind: string(watched.Kind()), category: other, labels: watched.Labels()}
	observed := "value"
	switch watched.Kind() {
	case config.CheckSQL:
		c.category = datastore
	case config.CheckRedis:
		c.category, observed = datastore, "length"
	case config.CheckCelery:
		observed = "workers"
	case config.CheckHTTP, config.CheckTCP:
	}
	r, ok := watched.Latest(ctx, maxWait)
	if !ok {
		c.status, c.output, c.failing, c.at, c.expires = check.Fail, "no result yet", true, time.Now(), time.Now()
		return c
	}
	c.status, c.output, c.failing, c.at, c.expires = r.Status, r.Output, r.Failing, r.At, r.Expires
	c.took = probe.Duration{Value: r.Took, Known: true}
	c.observed = observation{probe.Number{Value: r.Value, Known: r.HasValue}, observed, ""}
	if time.Since(r.Expires) > watched.Timeout()+maxCheckDelay {
		c.status, c.failing = check.Fail, true
		c.output = fmt.Sprintf("no result for %s: the other checks of its target take too long",
			time.Since(r.At).Round(time.Second))
	}
	return c
}
