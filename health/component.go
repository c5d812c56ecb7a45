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
	"pg_liveness_exporter/collector"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

// component is one target or check as it is shown.
type component struct {
	name     string
	kind     string       // of server or check
	category string       // the draft's word for that
	status   check.Status // of the last result
	output   string       // why it does not pass, or not quite
	failing  bool         // what fail_after and pass_after make of the last results
	at       time.Time    // when the result was there
	expires  time.Time    // from when on there may be another one
	took     probe.Number // seconds to the answer
	observed observation
}

// observation is a number that was found beside the verdict. It has no unit where only the operator knows what it counts.
type observation struct {
	probe.Number
	name, unit string
}

// The draft's words for kinds of components.
const (
	datastore = "datastore"
	other     = "component"
)

// worst is the status of all together. Nothing to look at is no reason to be content.
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

// word is what a status is called.
func word(s check.Status, words config.StatusNames) string {
	return [...]string{words.Pass, words.Warn, words.Fail}[s]
}

// nameOf is what a target is called here.
func nameOf(t *collector.Target) string {
	if t.Name() == "" {
		return Unnamed
	}
	return t.Name()
}

// find returns the target of a name.
func (h *Health) find(name string) *collector.Target {
	for _, t := range h.exporter.Targets() {
		if nameOf(t) == name {
			return t
		}
	}
	return nil
}

// findCheck returns the check of a name.
func (h *Health) findCheck(name string) *collector.Check {
	for _, c := range h.exporter.Checks() {
		if c.Name() == name {
			return c
		}
	}
	return nil
}

// gather looks at all targets and then all checks, side by side, without those that the request excludes.
func (h *Health) gather(r *http.Request) []component {
	settings, ctx, names := h.exporter.Health(), r.Context(), r.URL.Query()["exclude"]
	excluded := func(name string) bool { return slices.Contains(names, name) }
	var looks []func() component
	for _, t := range h.exporter.Targets() {
		if !excluded(nameOf(t)) {
			looks = append(looks, func() component { return h.look(ctx, t, settings).component })
		}
	}
	for _, c := range h.exporter.Checks() {
		if !excluded(c.Name()) {
			looks = append(looks, func() component { return lookAtCheck(ctx, c) })
		}
	}
	found := make([]component, len(looks))
	var all sync.WaitGroup
	for i, look := range looks {
		all.Go(func() { found[i] = look() })
	}
	all.Wait()
	return found
}

// server is a target as it is shown, with what its role is told from.
type server struct {
	component
	result  *probe.Result
	fresh   bool // the result is not older than max_age
	commits bool // the last commit did not fail, or none was tried
}

// look makes a component of a target's last result, which is a new one where that is too old.
func (h *Health) look(ctx context.Context, t *collector.Target, settings config.Health) server {
	until := time.Now().Add(patience)
	s, err := t.Recent(ctx, settings.MaxAge, patience)
	for err != nil { // a reload dropped it, or put another one in its place
		name := nameOf(t)
		if t = h.find(name); t == nil {
			gone := component{name: name, category: datastore, status: check.Fail, output: unknownName, failing: true, at: time.Now()}
			return server{component: gone, result: probe.Unanswered(time.Now(), 0, false)}
		}
		s, err = t.Recent(ctx, settings.MaxAge, time.Until(until))
	}
	r, at := s.Result, s.At()
	c := component{
		name: nameOf(t), kind: string(s.Kind), category: datastore, failing: s.Failing(), at: at, expires: at.Add(settings.MaxAge),
		took: r.Connect,
	}
	if r.Up() {
		c.took.Value += r.Phases[probe.PhaseQuery].Value
	}
	used, usable := connectionsOf(r)
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

// shaped is what /health shows of c: what fails once is no failure yet, nor is what passes once well again, where the
// configuration says so.
func (c component) shaped() component {
	switch {
	case c.status == check.Fail && !c.failing:
		c.status = check.Warn
	case c.status != check.Fail && c.failing:
		c.status, c.output = check.Fail, "answers again, not for long enough yet"
	}
	return c
}

// connectionsOf are how many connections there are and may be; unknown where no session could read them.
func connectionsOf(r *probe.Result) (used, usable probe.Number) {
	switch {
	case r.Figures != nil:
		return number(float64(r.Figures.Used)), number(float64(r.Figures.Usable))
	case r.Pooler != nil:
		u, isUsed := r.Pooler.Lists["used_clients"]
		most, isUsable := r.Pooler.Config["max_client_conn"]
		return probe.Number{Value: u, Known: isUsed}, probe.Number{Value: most, Known: isUsable}
	}
	return used, usable
}

func number(v float64) probe.Number { return probe.Number{Value: v, Known: true} }

// latest is how late a check may be: those of one target take turns.
const latest = time.Minute

// lookAtCheck makes a component of a check's last result.
func lookAtCheck(ctx context.Context, asked *collector.Check) component {
	c := component{name: asked.Name(), kind: string(asked.Kind()), category: other}
	observed := "value"
	switch asked.Kind() {
	case config.CheckSQL:
		c.category = datastore
	case config.CheckRedis:
		c.category, observed = datastore, "length"
	case config.CheckCelery:
		observed = "workers"
	case config.CheckHTTP, config.CheckTCP:
	}
	f, ok := asked.Recent(ctx, patience)
	if !ok {
		c.status, c.output, c.failing, c.at, c.expires = check.Fail, "no result yet", true, time.Now(), time.Now()
		return c
	}
	c.status, c.output, c.failing, c.at, c.expires = f.Status, f.Output, f.Failing, f.At, f.Expires
	c.took = number(f.Took.Seconds())
	c.observed = observation{probe.Number{Value: f.Value, Known: f.Measured}, observed, ""}
	if time.Since(f.Expires) > asked.Timeout()+latest {
		c.status, c.failing = check.Fail, true
		c.output = fmt.Sprintf("no result for %s: the other checks of its target take too long", time.Since(f.At).Round(time.Second))
	}
	return c
}
