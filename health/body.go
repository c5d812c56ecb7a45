// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"pg_liveness_exporter/check"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
)

// body is a body of /health in the format application/health+json (draft-inadarei-api-health-check-06).
type body struct {
	status string
	output string
	extra  map[string]any
	checks map[string][]entry
}

// entry is one observation of a component. Labels is a key that the draft does not have; it allows others (section 4.10).
type entry struct {
	ComponentID   string            `json:"componentId,omitempty"`
	ComponentType string            `json:"componentType"`
	Labels        map[string]string `json:"labels,omitempty"`
	ObservedValue *float64          `json:"observedValue,omitempty"`
	ObservedUnit  string            `json:"observedUnit,omitempty"`
	Status        string            `json:"status"`
	Time          string            `json:"time"`
	Output        string            `json:"output,omitempty"`
}

// MarshalJSON returns the body with the status first, so that people find it.
func (b *body) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	field := func(name string, value any) error {
		key, err := json.Marshal(name)
		if err != nil {
			return err
		}
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if out.Len() > 1 {
			out.WriteByte(',')
		}
		out.Write(key)
		out.WriteByte(':')
		out.Write(text)
		return nil
	}
	err := field("status", b.status)
	if err == nil && b.output != "" {
		err = field("output", b.output)
	}
	for _, name := range slices.Sorted(maps.Keys(b.extra)) {
		if err == nil {
			err = field(name, b.extra[name])
		}
	}
	if err == nil && b.checks != nil {
		err = field("checks", b.checks)
	}
	out.WriteByte('}')
	return out.Bytes(), err
}

const (
	nothing     = "no targets and no checks"
	unknownName = "unknown name"
)

// serveAll serves /health: the status of all targets and checks together.
func (h *Health) serveAll(w http.ResponseWriter, r *http.Request) {
	h.serve(w, r, h.subjects(r), h.system)
}

// serveOne serves /health/{name}: the status of one target or check.
func (h *Health) serveOne(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if t := h.monitor.Target(name); t != nil {
		h.serve(w, r, subjects{targets: []awaited{h.await(t, maxAge(t, h.monitor.Health()))}}, nil)
	} else if c := h.findCheck(name); c != nil {
		h.serve(w, r, subjects{checks: []*monitor.Check{c}}, nil)
	} else {
		h.unknown(w, unknownName)
	}
}

// unknown responds with 404 and output.
func (h *Health) unknown(w http.ResponseWriter, output string) {
	h.write(w, http.StatusNotFound, &body{status: statusName(check.Fail, h.monitor.Health().StatusNames), output: output})
}

// serve responds with the results of the subjects, after hysteresis. system returns further entries and may be nil.
func (h *Health) serve(w http.ResponseWriter, r *http.Request, s subjects, system func() map[string][]entry) {
	h.respond(w, r, &s, func(components []component) response {
		for i := range components {
			components[i] = components[i].withHysteresis()
		}
		code := httpStatus(worst(components), r.URL.Query().Get("warn"))
		if r.URL.Query().Has("verbose") {
			var text bytes.Buffer
			writeVerbose(&text, "health", components, h.unmatched(r.URL.Query()["exclude"]))
			return response{code, "text/plain; charset=utf-8", text.Bytes()}
		}
		return jsonResponse(code, "application/health+json", h.newBody(components, system))
	})
}

// httpStatus returns 200 for pass and warn, and 503 for fail. warn sets another HTTP status for warn: Consul takes 429 for a
// warning.
func httpStatus(status check.Status, warn string) int {
	if status == check.Fail {
		return http.StatusServiceUnavailable
	}
	if code, err := strconv.Atoi(warn); status == check.Warn && err == nil && code >= 200 && code <= 599 {
		return code
	}
	return http.StatusOK
}

// newBody returns the body of /health with components. system is as for serve.
func (h *Health) newBody(components []component, system func() map[string][]entry) *body {
	settings := h.monitor.Health()
	b := &body{
		status: statusName(worst(components), settings.StatusNames), extra: settings.Extra, checks: make(map[string][]entry),
	}
	if len(components) == 0 {
		b.output = nothing
	}
	for _, c := range components {
		c.add(b.checks, settings.StatusNames)
	}
	if system != nil {
		for key, entries := range system() {
			for _, e := range entries {
				e.Status = statusName(check.Pass, settings.StatusNames)
				b.checks[key] = append(b.checks[key], e)
			}
		}
	}
	return b
}

// add adds the entries of a component to checks: its response time, and the observation if it is known.
func (c *component) add(checks map[string][]entry, names config.StatusNames) {
	shown := entry{
		ComponentID: c.name, ComponentType: c.category, Status: statusName(c.status, names),
		Time: c.at.UTC().Format(time.RFC3339Nano), Output: c.output,
	}
	if len(c.labels) > 0 {
		shown.Labels = make(map[string]string, len(c.labels))
		for _, l := range c.labels {
			shown.Labels[l.Name] = l.Value
		}
	}
	response := shown
	if c.took.Known {
		ms := float64(c.took.Value.Round(time.Microsecond).Microseconds()) / 1e3
		response.ObservedValue, response.ObservedUnit = &ms, "ms"
	}
	key := c.kind + ":responseTime"
	checks[key] = append(checks[key], response)
	if c.observed.Known {
		shown.ObservedValue, shown.ObservedUnit = &c.observed.Value, c.observed.unit
		key = c.kind + ":" + c.observed.name
		checks[key] = append(checks[key], shown)
	}
}

// write responds with a body of /health.
func (h *Health) write(w http.ResponseWriter, code int, b *body) {
	h.send(w, jsonResponse(code, "application/health+json", b))
}

// unmatched returns those names that belong to no target and no check.
func (h *Health) unmatched(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return h.monitor.Target(name) != nil || h.findCheck(name) != nil
	})
}

// writeVerbose writes components in the format of Kubernetes' own health endpoints. unmatched has the excluded names
// that belong to no target and no check.
func writeVerbose(w io.Writer, name string, components []component, unmatched []string) {
	for _, one := range unmatched {
		fmt.Fprintf(w, "warn: unknown name %q in exclude\n", one)
	}
	for _, c := range components {
		switch c.status {
		case check.Pass:
			fmt.Fprintf(w, "[+]%s ok\n", c.name)
		case check.Warn:
			fmt.Fprintf(w, "[+]%s ok, but %s\n", c.name, c.output)
		case check.Fail:
			fmt.Fprintf(w, "[-]%s failed: %s\n", c.name, c.output)
		}
	}
	if len(components) == 0 {
		fmt.Fprintln(w, nothing)
	}
	if worst(components) == check.Fail {
		fmt.Fprintf(w, "%s check failed\n", name)
	} else {
		fmt.Fprintf(w, "%s check passed\n", name)
	}
}

// system returns entries for the uptime, the memory and the CPU time of this process.
func (h *Health) system() map[string][]entry {
	now := time.Now()
	checks := make(map[string][]entry)
	add := func(key, unit string, value float64) {
		checks["system:"+key] = []entry{{
			ComponentType: "system", ObservedValue: &value, ObservedUnit: unit, Time: now.UTC().Format(time.RFC3339Nano),
		}}
	}
	add("uptime", "s", now.Sub(h.started).Seconds())
	memory, cpu := h.process.usage()
	if memory.Known {
		add("memory", "bytes", memory.Value)
	}
	if cpu.Known {
		add("cpuTime", "s", cpu.Value)
	}
	return checks
}
