// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/prometheus/common/version"
	toolkit "github.com/prometheus/exporter-toolkit/web"

	"pg_liveness_exporter/collector"
	"pg_liveness_exporter/status"
)

// MuxOptions has the parameters of NewMux.
type MuxOptions struct {
	// TelemetryPath is the path of the metrics.
	TelemetryPath string
	// External is the URL that the paths have for clients, as for collector.Exporter.Discovery.
	External *url.URL
	Exporter *collector.Exporter
	// Reload serves /-/reload, unless the lifecycle API is off.
	Reload    http.Handler
	Lifecycle bool
	// Pages serves the pages for people. If it is nil, there is a landing page instead.
	Pages http.Handler
}

// NewMux returns a mux that serves the metrics, /probe, /sd, /config, /-/reload and the pages for people.
func NewMux(o MuxOptions) (*http.ServeMux, error) {
	mux := http.NewServeMux()
	mux.Handle(o.TelemetryPath, readOnly(o.Exporter))
	mux.Handle(collector.ProbePath, readOnly(http.HandlerFunc(o.Exporter.ServeProbe)))
	mux.Handle(collector.DiscoveryPath, readOnly(o.Exporter.Discovery(o.TelemetryPath, o.External)))
	mux.Handle(collector.ConfigPath, readOnly(http.HandlerFunc(o.Exporter.ServeConfig)))
	reload := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodPost:
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "POST required", http.StatusMethodNotAllowed)
		case !o.Lifecycle:
			http.Error(w, "the lifecycle API is off; --web.enable-lifecycle turns it on", http.StatusForbidden)
		default:
			o.Reload.ServeHTTP(w, r)
		}
	})
	mux.Handle("/-/reload", http.NewCrossOriginProtection().Handler(reload)) // a page of another site must not reload
	if o.Pages != nil {
		for _, pattern := range status.Patterns() {
			mux.Handle(pattern, readOnly(o.Pages))
		}
		return mux, nil
	}
	if o.TelemetryPath == "/" {
		return mux, nil
	}
	landing, err := toolkit.NewLandingPage(toolkit.LandingConfig{
		Name:        collector.Name,
		Description: "Is this PostgreSQL alive, how quickly does it answer, and are there connections left?",
		Version:     version.Info(),
		Links: []toolkit.LandingLinks{
			{Address: o.External.Path + o.TelemetryPath, Text: "Metrics"},
			{Address: o.External.Path + "/health", Text: "Health", Description: "The verdict on all targets, as JSON"},
			{
				Address: o.External.Path + collector.DiscoveryPath, Text: "Service discovery",
				Description: "All targets, for Prometheus's http_sd_configs",
			},
			{Address: o.External.Path + collector.ConfigPath, Text: "Configuration", Description: "The effective one, without secrets and addresses"},
		},
		Profiling: "false",
	})
	if err != nil {
		return nil, fmt.Errorf("landing page: %w", err)
	}
	mux.Handle("/", landing)
	return mux, nil
}

// WithPrefix serves the paths of next behind prefix, which is empty or begins with a slash. Any other path is not found, except
// that / leads to the landing page. A path with superfluous slashes or dots is redirected as http.ServeMux does it, but to the
// path that external has for clients.
func WithPrefix(next http.Handler, prefix string, external *url.URL) http.Handler {
	stripped := http.StripPrefix(prefix, next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		redirect := func(to string) {
			target := url.URL{RawPath: external.Path + to, RawQuery: r.URL.RawQuery}
			target.Path, _ = url.PathUnescape(target.RawPath) // it comes from a URL that was parsed
			http.Redirect(w, r, target.String(), http.StatusTemporaryRedirect)
		}
		whole := r.URL.EscapedPath()
		inner, found := strings.CutPrefix(whole, prefix)
		switch {
		case found && inner == "", whole == "/" && prefix != "":
			if external.Path == "" { // a proxy adds the prefix, and this request did not come through it
				http.Redirect(w, r, prefix+"/", http.StatusTemporaryRedirect)
				return
			}
			redirect("/")
		case !found || inner[0] != '/':
			http.NotFound(w, r)
		case clean(inner) != inner:
			redirect(clean(inner))
		default:
			stripped.ServeHTTP(w, r)
		}
	})
}

// clean returns a path without superfluous slashes and dots. A slash at its end stays.
func clean(escaped string) string {
	cleaned := path.Clean(escaped)
	if cleaned != "/" && strings.HasSuffix(escaped, "/") {
		cleaned += "/"
	}
	return cleaned
}

// readOnly responds with 405 unless the method is GET or HEAD. A pattern with a method would leave other methods to the
// landing page.
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "GET or HEAD required", http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}
