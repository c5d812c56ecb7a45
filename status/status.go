// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"pg_liveness_exporter/monitor"
)

const (
	// maxWait is how long a request waits for the first result of a target.
	maxWait = 500 * time.Millisecond
	// maxRequestWait is how long a request waits for the first results of all targets.
	maxRequestWait = time.Second
	// contentSecurityPolicy allows only what the pages consist of. The pages hold no style or script of their own.
	contentSecurityPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
		"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

//go:embed assets
var assets embed.FS

// Options has the parameters of New.
type Options struct {
	// ConfigFile is the path of the configuration file, empty if the target comes from the environment.
	ConfigFile string
	// TelemetryPath is the path of the metrics.
	TelemetryPath string
	// Version is the version of the program.
	Version string
	Logger  *slog.Logger
}

// Status serves the pages. Any goroutine may call its methods.
type Status struct {
	monitor *monitor.Monitor
	options Options
	started time.Time
	pages   *template.Template
	mux     *http.ServeMux
}

// Patterns returns the patterns of http.ServeMux that Status serves.
func Patterns() []string {
	return []string{"/{$}", "/targets/{name}", "/badge/{file}", "/events", "/assets/{file}", "/favicon.ico"}
}

// Paths returns the first segments of the paths that Status serves, except for the page at the root.
func Paths() []string { return []string{"targets", "badge", "events", "assets", "favicon.ico"} }

// New returns the pages of what m watches. The uptime that they show begins now.
func New(m *monitor.Monitor, options Options) *Status {
	s := &Status{monitor: m, options: options, started: time.Now(), mux: http.NewServeMux()}
	tag := assetTag()
	s.pages = template.Must(template.New("").Funcs(template.FuncMap{"asset": func(name string) string {
		return "assets/" + name + "?v=" + tag
	}}).ParseFS(assets, "assets/*.html")) // its only errors are in the files of this package
	s.mux.HandleFunc("/{$}", s.serveAll)
	s.mux.HandleFunc("/targets/{name}", s.serveTarget)
	s.mux.HandleFunc("/badge/{file}", s.serveBadge)
	s.mux.HandleFunc("/events", s.serveEvents)
	s.mux.HandleFunc("/assets/{file}", func(w http.ResponseWriter, r *http.Request) { serveAsset(w, r, r.PathValue("file")) })
	s.mux.HandleFunc("/favicon.ico", func(w http.ResponseWriter, r *http.Request) { serveAsset(w, r, "favicon.svg") })
	return s
}

// ServeHTTP serves the paths of Patterns.
func (s *Status) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// assetTag returns a text that changes with the files that the pages refer to, so that browsers may keep them.
func assetTag() string {
	sum := sha256.New()
	for _, name := range []string{"style.css", "script.js", "favicon.svg"} {
		content, _ := assets.ReadFile("assets/" + name) // it is embedded
		sum.Write(content)
	}
	return hex.EncodeToString(sum.Sum(nil)[:6])
}

func serveAsset(w http.ResponseWriter, r *http.Request, name string) {
	types := map[string]string{"style.css": "text/css", "script.js": "text/javascript", "favicon.svg": "image/svg+xml"}
	content, err := assets.ReadFile("assets/" + name)
	if err != nil || types[name] == "" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", types[name]+"; charset=utf-8")
	w.Header().Set("Cache-Control", "public, max-age=86400")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(content) //nolint:gosec // an embedded file; the error is ignored because the client may have gone
}

// writePage renders a page and sends it with status.
func (s *Status) writePage(w http.ResponseWriter, status int, name string, content any) {
	var page bytes.Buffer
	if err := s.pages.ExecuteTemplate(&page, name, content); err != nil {
		s.options.Logger.Error("Cannot render a page", "page", name, "err", err)
		http.Error(w, "the page cannot be rendered", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(page.Bytes()) // ignored: the client may have gone
}

// observed is a target with its last result.
type observed struct {
	target   *monitor.Target
	known    bool // whether there is a result
	snapshot monitor.Snapshot
	timeline monitor.Timeline
}

// observe returns a target with its last result. If it has none yet, observe waits for one until maxWait has passed or ctx
// ends.
func observe(ctx context.Context, t *monitor.Target) observed {
	o := observed{target: t}
	snapshot, err := t.Newest(ctx, maxWait)
	if err == nil && snapshot.Counted() {
		o.known, o.snapshot = true, snapshot
	}
	o.timeline = t.Timeline()
	return o
}

// observeAll returns all targets with their last results, sorted by name.
func (s *Status) observeAll(ctx context.Context) []observed {
	ctx, cancel := context.WithTimeout(ctx, maxRequestWait)
	defer cancel()
	targets := s.monitor.Targets()
	all := make([]observed, len(targets))
	var waiting sync.WaitGroup
	for i, t := range targets {
		if t.HasResult() {
			all[i] = observe(ctx, t)
			continue
		}
		waiting.Go(func() { all[i] = observe(ctx, t) })
	}
	waiting.Wait()
	return all
}
