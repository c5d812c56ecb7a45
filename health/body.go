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
	h.serve(w, r, h.components(r), h.system)
}

// serveOne serves /health/{name}: the status of one target or check.
func (h *Health) serveOne(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if t := h.findTarget(name); t != nil {
		h.serve(w, r, []component{h.server(r.Context(), t, h.monitor.Health()).component}, nil)
	} else if c := h.findCheck(name); c != nil {
		h.serve(w, r, []component{checkComponent(r.Context(), c)}, nil)
	} else {
		h.unknown(w, unknownName)
	}
}

// unknown responds with 404 and output.
func (h *Health) unknown(w http.ResponseWriter, output string) {
	h.write(w, http.StatusNotFound, &body{status: statusName(check.Fail, h.monitor.Health().StatusNames), output: output})
}

// serve responds with components, after hysteresis. The HTTP status is 200 if all pass or warn, and 503 if one fails or
// there is none. The parameter warn sets another HTTP status for warn: Consul takes 429 for a warning. system returns
// further entries and may be nil.
func (h *Health) serve(
	w http.ResponseWriter, r *http.Request, components []component, system func() map[string][]entry,
) {
	settings := h.monitor.Health()
	for i := range components {
		components[i] = components[i].withHysteresis()
	}
	all := worst(components)
	code := http.StatusOK
	switch all {
	case check.Warn:
		if status, err := strconv.Atoi(r.URL.Query().Get("warn")); err == nil && status >= 200 && status <= 599 {
			code = status
		}
	case check.Fail:
		code = http.StatusServiceUnavailable
	}
	if code == http.StatusServiceUnavailable {
		retryAfter(w, settings.MaxAge)
	}
	if r.URL.Query().Has("verbose") {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		writeVerbose(w, "health", components, h.unmatched(r.URL.Query()["exclude"]))
		return
	}
	b := &body{status: statusName(all, settings.StatusNames), extra: settings.Extra, checks: make(map[string][]entry)}
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
	h.write(w, code, b)
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
	writeJSON(w, code, "application/health+json", b)
}

func writeJSON(w http.ResponseWriter, code int, contentType string, value any) {
	text, err := json.Marshal(value)
	if err != nil { // cannot happen: all fields can be encoded
		http.Error(w, "cannot be shown", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(code)
	_, _ = w.Write(append(text, '\n')) // ignored: the client may have gone
}

// unmatched returns those names that belong to no target and no check.
func (h *Health) unmatched(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return h.findTarget(name) != nil || h.findCheck(name) != nil
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
