// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package health is the yes-or-no view: HTTP statuses and JSON for Kubernetes, load balancers and uptime monitors. It
// shows the same results as the metrics. Its requests cause at most one probe of a target within max_age.
//
// Bodies contain no address, no user name and no text from a server. They contain names of targets and checks, phases,
// reasons and SQLSTATEs.
package health

import (
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"

	"pg_liveness_exporter/check"
	"pg_liveness_exporter/monitor"
)

// maxWait is how long a request waits for a probe. The default timeout of a kubelet is one second.
const maxWait = 500 * time.Millisecond

// Health serves the health paths. Any goroutine may call its methods.
type Health struct {
	monitor   *monitor.Monitor
	process   *process
	ready     func() bool
	hostname  string
	started   time.Time
	rendering *semaphore.Weighted // has maxRendering places
}

// New returns the health endpoints for the targets and checks of m. ready reports whether the process has started and
// is not about to stop. /health-check shows hostname. Each listener needs its own, so that none waits for the requests of
// another.
func New(m *monitor.Monitor, ready func() bool, hostname string) *Health {
	return &Health{
		monitor: m, process: newProcess(), ready: ready, hostname: hostname, started: time.Now(),
		rendering: semaphore.NewWeighted(maxRendering),
	}
}

// Paths returns the first segments of all paths that Register adds, except "-".
func Paths() []string {
	return []string{"livez", "readyz", "health", "health-check", "primary", "replica", "read-write", "read-only"}
}

// Register adds the health paths to mux. On each path, GET, HEAD and OPTIONS have the same HTTP status: HAProxy's
// health check sends OPTIONS by default.
func (h *Health) Register(mux *http.ServeMux) {
	handle := func(pattern string, serve http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			w.Header().Set("Allow", "GET, HEAD, OPTIONS")
			switch r.Method {
			case http.MethodGet, http.MethodHead, http.MethodOptions:
				serve(w, r)
			default:
				http.Error(w, "GET, HEAD or OPTIONS required", http.StatusMethodNotAllowed)
			}
		})
	}
	for _, path := range []string{"/livez", "/-/healthy"} {
		handle(path, h.serveLive)
	}
	for _, path := range []string{"/readyz", "/-/ready"} {
		handle(path, h.serveReady)
	}
	handle("/health", h.serveAll)
	handle("/health/{name...}", h.serveOne)
	handle("/health-check", h.serveHealthCheck)
	handle("/health-check/", func(w http.ResponseWriter, _ *http.Request) { h.unknown(w, unknownName) })
	for name, role := range roles() {
		serve := func(w http.ResponseWriter, r *http.Request) { h.serveRole(w, r, r.PathValue("name"), role) }
		handle("/"+name, serve)
		handle("/"+name+"/{name...}", serve)
	}
}

// serveLive responds with 200. It does not probe a target: a restart of this process would not repair a database.
func (h *Health) serveLive(w http.ResponseWriter, r *http.Request) {
	h.servePlain(w, r, "livez", true)
}

// serveReady responds with 200 if the process is ready, otherwise with 503.
func (h *Health) serveReady(w http.ResponseWriter, r *http.Request) {
	h.servePlain(w, r, "readyz", h.ready())
}

// servePlain responds with 200 if ok is set, otherwise with 503. The parameter verbose selects Kubernetes' format.
func (h *Health) servePlain(w http.ResponseWriter, r *http.Request, name string, ok bool) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	c, text := component{name: "process"}, "ok"
	if !ok {
		text = "starting or stopping"
		c.status, c.output = check.Fail, text
		retryAfter(w, time.Second)
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if r.URL.Query().Has("verbose") {
		writeVerbose(w, name, []component{c}, nil)
		return
	}
	fmt.Fprintln(w, text)
}
