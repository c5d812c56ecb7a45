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

	"pg_liveness_exporter/collector"
	"pg_liveness_exporter/config"
)

// body is the answer of /health: application/health+json as in draft-inadarei-api-health-check-06.
type body struct {
	status string
	output string
	extra  map[string]any
	checks map[string][]entry
}

// entry is one thing that was observed of a component.
type entry struct {
	ComponentID   string   `json:"componentId,omitempty"`
	ComponentType string   `json:"componentType"`
	ObservedValue *float64 `json:"observedValue,omitempty"`
	ObservedUnit  string   `json:"observedUnit,omitempty"`
	Status        string   `json:"status"`
	Time          string   `json:"time"`
	Output        string   `json:"output,omitempty"`
}

// MarshalJSON puts the status first, since people read it too.
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
	noTarget    = "there is no target to look at"
	unknownName = "there is no target of this name"
)

// serveAll answers /health: the verdict on all targets.
func (h *Health) serveAll(w http.ResponseWriter, r *http.Request) {
	excluded := r.URL.Query()["exclude"]
	targets := slices.DeleteFunc(h.exporter.Targets(), func(t *collector.Target) bool { return slices.Contains(excluded, nameOf(t)) })
	h.serve(w, r, h.gather(r.Context(), targets), h.system())
}

// serveOne answers /health/{name}.
func (h *Health) serveOne(w http.ResponseWriter, r *http.Request) {
	t := h.find(r.PathValue("name"))
	if t == nil {
		h.unknown(w, unknownName)
		return
	}
	h.serve(w, r, []component{h.look(r.Context(), t, h.exporter.Health())}, nil)
}

func (h *Health) unknown(w http.ResponseWriter, output string) {
	h.write(w, http.StatusNotFound, &body{status: fail.word(h.exporter.Health().Words), output: output})
}

// serve shows components: 200 when they pass, or nearly do, and 503 when one fails. A request may have another status for
// those that nearly do (Consul reads 429 as a warning).
func (h *Health) serve(w http.ResponseWriter, r *http.Request, components []component, system map[string][]entry) {
	settings := h.exporter.Health()
	all := worst(components)
	code := http.StatusOK
	switch all {
	case warn:
		if asked, err := strconv.Atoi(r.URL.Query().Get("warn")); err == nil && asked >= 200 && asked <= 599 {
			code = asked
		}
	case fail:
		code = http.StatusServiceUnavailable
	}
	if code == http.StatusServiceUnavailable {
		retryAfter(w, settings.MaxAge)
	}
	if r.URL.Query().Has("verbose") {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		writeVerbose(w, "health", components)
		return
	}
	b := &body{status: all.word(settings.Words), extra: settings.Extra, checks: make(map[string][]entry)}
	if len(components) == 0 {
		b.output = noTarget
	}
	for _, c := range components {
		c.add(b.checks, settings.Words)
	}
	for key, entries := range system {
		for _, e := range entries {
			e.Status = pass.word(settings.Words)
			b.checks[key] = append(b.checks[key], e)
		}
	}
	h.write(w, code, b)
}

// add adds what was observed of a component.
func (c *component) add(checks map[string][]entry, words config.Words) {
	shown := entry{
		ComponentID: c.name, ComponentType: "datastore", Status: c.status.word(words), Time: c.at.UTC().Format(time.RFC3339Nano), Output: c.output,
	}
	response := shown
	if c.took.Known {
		ms := c.took.Value * 1e3
		response.ObservedValue, response.ObservedUnit = &ms, "ms"
	}
	key := c.kind + ":responseTime"
	checks[key] = append(checks[key], response)
	if c.used.Known {
		shown.ObservedValue, shown.ObservedUnit = &c.used.Value, "connections"
		key = c.kind + ":connections"
		checks[key] = append(checks[key], shown)
	}
}

// write answers with a body of /health.
func (h *Health) write(w http.ResponseWriter, code int, b *body) {
	writeJSON(w, code, "application/health+json", b)
}

func writeJSON(w http.ResponseWriter, code int, contentType string, value any) {
	text, err := json.Marshal(value)
	if err != nil { // nothing in it can be the reason
		http.Error(w, "cannot be shown", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(code)
	_, _ = w.Write(append(text, '\n')) // the client may have gone
}

// writeVerbose writes components as Kubernetes' own endpoints do.
func writeVerbose(w io.Writer, name string, components []component) {
	for _, c := range components {
		switch c.status {
		case pass:
			fmt.Fprintf(w, "[+]%s ok\n", c.name)
		case warn:
			fmt.Fprintf(w, "[+]%s ok, but %s\n", c.name, c.output)
		case fail:
			fmt.Fprintf(w, "[-]%s failed: %s\n", c.name, c.output)
		}
	}
	if len(components) == 0 {
		fmt.Fprintln(w, noTarget)
	}
	if worst(components) == fail {
		fmt.Fprintf(w, "%s check failed\n", name)
	} else {
		fmt.Fprintf(w, "%s check passed\n", name)
	}
}

// system are this process's own figures.
func (h *Health) system() map[string][]entry {
	now := time.Now()
	checks := make(map[string][]entry)
	add := func(key, unit string, value float64) {
		checks["system:"+key] = []entry{{
			ComponentType: "system", ObservedValue: &value, ObservedUnit: unit, Time: now.UTC().Format(time.RFC3339Nano),
		}}
	}
	add("uptime", "s", now.Sub(h.started).Seconds())
	memory, cpu := h.exporter.Process()
	if memory.Known {
		add("memory", "bytes", memory.Value)
	}
	if cpu.Known {
		add("cpuTime", "s", cpu.Value)
	}
	return checks
}
