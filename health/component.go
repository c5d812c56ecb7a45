// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"net/http"
	"slices"
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

// findCheck returns the check with this name, or nil if there is none.
func (h *Health) findCheck(name string) *monitor.Check {
	for _, c := range h.monitor.Checks() {
		if c.Name() == name {
			return c
		}
	}
	return nil
}

// subjects are the targets and checks that a request is about.
type subjects struct {
	targets []awaited
	checks  []*monitor.Check
}

// awaited is a target whose result a request waits for.
type awaited struct {
	name    string
	gone    bool // a reload has removed it
	renewal monitor.Renewal
}

// await begins to wait for a result that is at most maxAge old.
func (h *Health) await(t *monitor.Target, maxAge time.Duration) awaited {
	name := t.Name()
	for t != nil {
		r, err := t.Renew(maxAge)
		if err == nil {
			return awaited{name: name, renewal: r}
		}
		t = h.monitor.Target(name) // a reload has removed or replaced it
	}
	return awaited{name: name, gone: true}
}

// maxAge returns how old the result of a target may be before /health waits for a new one: max_age, or the interval of the
// target's sampler.
func maxAge(t *monitor.Target, settings config.Health) time.Duration {
	return max(settings.MaxAge, t.Probing().Interval)
}

// subjects returns all targets and all checks, except those that the request excludes.
func (h *Health) subjects(r *http.Request) subjects {
	settings, names := h.monitor.Health(), r.URL.Query()["exclude"]
	targets := h.monitor.Targets()
	s := subjects{targets: make([]awaited, 0, len(targets))}
	for _, t := range targets {
		if !slices.Contains(names, t.Name()) {
			s.targets = append(s.targets, h.await(t, maxAge(t, settings)))
		}
	}
	for _, c := range h.monitor.Checks() {
		if !slices.Contains(names, c.Name()) {
			s.checks = append(s.checks, c)
		}
	}
	return s
}

// wait waits for the results of all subjects, until maxWait has passed or ctx ends.
func (s *subjects) wait(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	for i := range s.targets {
		s.targets[i].renewal.Wait(ctx)
	}
	for _, c := range s.checks {
		c.Wait(ctx)
	}
}

// components returns the last results of all subjects: first the targets, then the checks. It does not wait.
func (s *subjects) components(settings config.Health) []component {
	found := make([]component, 0, len(s.targets)+len(s.checks))
	for i := range s.targets {
		found = append(found, s.targets[i].server(settings).component)
	}
	for _, c := range s.checks {
		found = append(found, checkComponent(c))
	}
	return found
}

// server is the component of a target, with what the role paths need.
type server struct {
	component
	result  *probe.Result
	age     time.Duration // of the result
	commits bool          // the last commit did not fail, or none was tried
}

// server returns a component with a target's last result. It does not wait.
func (a *awaited) server(settings config.Health) server {
	var (
		s       monitor.Snapshot
		overdue bool
		err     error
	)
	if !a.gone {
		s, overdue, err = a.renewal.Result()
	}
	if a.gone || err != nil {
		gone := component{
			name: a.name, category: datastore, status: check.Fail, output: unknownName, failing: true, at: time.Now(),
		}
		return server{component: gone, result: probe.Unanswered(time.Now(), 0, false)}
	}
	r, at := s.Result, s.At()
	c := component{
		name: a.name, kind: string(s.Kind), category: datastore, labels: s.Labels, failing: s.Failing(), at: at,
		expires: at.Add(max(settings.MaxAge, s.Interval)), took: r.Connect,
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
	case overdue:
		c.status, c.output, c.failing = check.Fail, fmt.Sprintf("no result for %s", age.Round(time.Second)), true
	case s.CommitFailure() != nil:
		c.status, c.output = check.Warn, "commits fail: "+string(s.CommitFailure().Reason)
	case full:
		c.status, c.output = check.Warn, fmt.Sprintf("%.0f of %.0f usable connections are taken", used.Value, usable.Value)
	}
	return server{c, r, age, s.CommitFailure() == nil}
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

// checkComponent returns a component with a check's last result. It does not wait.
func checkComponent(watched *monitor.Check) component {
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
	r, ok := watched.Latest()
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
