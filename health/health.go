// Package health answers those who want a yes or no: Kubernetes, load balancers, uptime monitors. It shows the results
// that the metrics show; asking for it costs a server no more than one probe for each max_age.
//
// No body holds an address, a user or a text of a server's: names, phases, reasons and SQLSTATEs are all there is.
package health

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"pg_liveness_exporter/collector"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

const (
	// patience is how long an answer waits for a probe: kubelet waits a second unless told otherwise.
	patience = 700 * time.Millisecond
)

// Unnamed is what the one target from the environment is called where it needs a name.
const Unnamed = "postgres"

// Health answers the health paths.
type Health struct {
	exporter *collector.Exporter
	ready    func() bool
	hostname string
	started  time.Time
}

// New returns what answers for the targets of exporter. ready says whether the process takes requests and is not about to
// stop; hostname is shown by /health-check.
func New(exporter *collector.Exporter, ready func() bool, hostname string) *Health {
	return &Health{exporter: exporter, ready: ready, hostname: hostname, started: time.Now()}
}

// Paths are the first segments of all paths that Register takes.
func Paths() []string {
	return []string{"livez", "readyz", "health", "health-check", "primary", "replica", "read-write", "read-only"}
}

// Register adds the health paths to mux. GET, HEAD and OPTIONS have the same status on all of them: HAProxy's check sends
// OPTIONS unless told otherwise.
func (h *Health) Register(mux *http.ServeMux) {
	handle := func(pattern string, serve http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			switch r.Method {
			case http.MethodGet, http.MethodHead, http.MethodOptions:
				w.Header().Set("Allow", "GET, HEAD, OPTIONS")
				serve(w, r)
			default:
				w.Header().Set("Allow", "GET, HEAD, OPTIONS")
				http.Error(w, "this needs GET, HEAD or OPTIONS", http.StatusMethodNotAllowed)
			}
		})
	}
	for _, path := range []string{"/livez", "/-/healthy"} {
		handle(path, h.live)
	}
	for _, path := range []string{"/readyz", "/-/ready"} {
		handle(path, h.serveReady)
	}
	handle("/health", h.serveAll)
	handle("/health/{name}", h.serveOne)
	handle("/health-check", h.serveHealthCheck)
	for name, holds := range roles() {
		handle("/"+name, func(w http.ResponseWriter, r *http.Request) { h.serveRole(w, r, "", holds) })
		handle("/"+name+"/{name}", func(w http.ResponseWriter, r *http.Request) { h.serveRole(w, r, r.PathValue("name"), holds) })
	}
}

// live never touches a server: a database that is down is no reason to restart this process.
func (h *Health) live(w http.ResponseWriter, r *http.Request) {
	h.servePlain(w, r, "livez", true)
}

func (h *Health) serveReady(w http.ResponseWriter, r *http.Request) {
	h.servePlain(w, r, "readyz", h.ready())
}

func (h *Health) servePlain(w http.ResponseWriter, r *http.Request, name string, ok bool) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	c := component{name: "process"}
	if !ok {
		c.status, c.output = fail, "starting or stopping"
		retryAfter(w, time.Second)
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if r.URL.Query().Has("verbose") {
		writeVerbose(w, name, []component{c})
		return
	}
	fmt.Fprintln(w, map[bool]string{true: "ok", false: c.output}[ok])
}

// status is pass, warn or fail; the greater one wins.
type status int

const (
	pass status = iota
	warn
	fail
)

func (s status) word(words config.Words) string {
	return [...]string{words.Pass, words.Warn, words.Fail}[s]
}

// component is one target as it is shown.
type component struct {
	name, kind string
	status     status
	output     string        // why it does not pass, or not quite
	at         time.Time     // when the result was there
	age        time.Duration // of the result
	took       probe.Number  // seconds to the answer
	connections
	result  *probe.Result
	commits bool // the last commit did not fail, or none was tried
}

// connections are how many there are and may be; unknown where no session could read them.
type connections struct{ used, usable probe.Number }

// nameOf is what a target is called here.
func nameOf(t *collector.Target) string {
	if t.Name() == "" {
		return Unnamed
	}
	return t.Name()
}

// gather looks at targets, side by side.
func (h *Health) gather(ctx context.Context, targets []*collector.Target) []component {
	settings := h.exporter.Health()
	found := make([]component, len(targets))
	var all sync.WaitGroup
	for i, t := range targets {
		all.Go(func() { found[i] = h.look(ctx, t, settings) })
	}
	all.Wait()
	return found
}

// look makes a component of a target's last result, which is a new one where that is too old.
func (h *Health) look(ctx context.Context, t *collector.Target, settings config.Health) component {
	until := time.Now().Add(patience)
	s, age, err := t.Recent(ctx, settings.MaxAge, patience)
	for err != nil { // a reload dropped it, or put another one in its place
		name := nameOf(t)
		if t = h.find(name); t == nil {
			return component{name: name, status: fail, output: unknownName, result: probe.Unanswered(time.Now(), 0, false)}
		}
		s, age, err = t.Recent(ctx, settings.MaxAge, time.Until(until))
	}
	r := s.Result
	c := component{
		name: nameOf(t), kind: string(s.Kind), age: age, at: time.Now().Add(-age), took: r.Connect, connections: connectionsOf(r), result: r, commits: s.CommitFailure() == nil,
	}
	if r.Up() {
		c.took.Value += r.Phases[probe.PhaseQuery].Value
	}
	full := c.used.Known && c.usable.Known && c.used.Value >= c.usable.Value
	switch limit := settings.MaxAge + t.Timeout(); {
	case age > limit:
		c.status, c.output = fail, fmt.Sprintf("no result for %s", age.Round(time.Second))
	case !r.Up():
		c.status, c.output = warn, describe(r.Failure)
		if s.Failing() || !s.Counted() {
			c.status = fail
		}
	case s.Failing():
		c.status, c.output = fail, "answers again, not for long enough yet"
	case !c.commits:
		c.status, c.output = warn, "commits fail: "+string(s.CommitFailure().Reason)
	case full:
		c.status, c.output = warn, fmt.Sprintf("%.0f of %.0f usable connections are taken", c.used.Value, c.usable.Value)
	}
	return c
}

func connectionsOf(r *probe.Result) connections {
	switch {
	case r.Figures != nil:
		return connections{number(float64(r.Figures.Used)), number(float64(r.Figures.Usable))}
	case r.Pooler != nil:
		used, isUsed := r.Pooler.Lists["used_clients"]
		usable, isUsable := r.Pooler.Config["max_client_conn"]
		return connections{probe.Number{Value: used, Known: isUsed}, probe.Number{Value: usable, Known: isUsable}}
	}
	return connections{}
}

func number(v float64) probe.Number { return probe.Number{Value: v, Known: true} }

// describe says why a probe failed, in words of ours and codes of the server's.
func describe(f *probe.Failure) string {
	text := string(f.State) + ": " + string(f.Reason)
	if f.Phase != probe.PhaseNone {
		text += " in phase " + f.Phase.String()
	}
	if f.SQLState != "" {
		text += ", SQLSTATE " + f.SQLState
	}
	return text
}

// worst is the status of all together. Nothing to look at is no reason to be content.
func worst(components []component) status {
	if len(components) == 0 {
		return fail
	}
	all := pass
	for _, c := range components {
		all = max(all, c.status)
	}
	return all
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

func retryAfter(w http.ResponseWriter, d time.Duration) {
	w.Header().Set("Retry-After", fmt.Sprintf("%.0f", max(1, d.Seconds())))
}
