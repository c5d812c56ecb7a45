// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"fmt"
	"net/http"

	"github.com/prometheus/common/version"
	toolkit "github.com/prometheus/exporter-toolkit/web"

	"pg_liveness_exporter/collector"
	"pg_liveness_exporter/status"
)

// NewMux returns a mux that serves the metrics at telemetryPath, and also /probe, /sd, /-/reload and the pages for people.
// reload is nil if the lifecycle API is off. If pages is nil, there is a landing page instead.
func NewMux(telemetryPath string, exporter *collector.Exporter, reload, pages http.Handler) (*http.ServeMux, error) {
	mux := http.NewServeMux()
	mux.Handle(telemetryPath, readOnly(exporter))
	mux.Handle(collector.ProbePath, readOnly(http.HandlerFunc(exporter.ServeProbe)))
	mux.Handle(collector.DiscoveryPath, readOnly(exporter.Discovery(telemetryPath)))
	mux.HandleFunc("/-/reload", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodPost:
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "POST required", http.StatusMethodNotAllowed)
		case reload == nil:
			http.Error(w, "the lifecycle API is off; --web.enable-lifecycle turns it on", http.StatusForbidden)
		default:
			reload.ServeHTTP(w, r)
		}
	})
	if pages != nil {
		for _, pattern := range status.Patterns() {
			mux.Handle(pattern, readOnly(pages))
		}
		return mux, nil
	}
	if telemetryPath == "/" {
		return mux, nil
	}
	landing, err := toolkit.NewLandingPage(toolkit.LandingConfig{
		Name:        collector.Name,
		Description: "Is this PostgreSQL alive, how quickly does it answer, and are there connections left?",
		Version:     version.Info(),
		Links: []toolkit.LandingLinks{
			{Address: telemetryPath, Text: "Metrics"},
			{Address: "/health", Text: "Health", Description: "The verdict on all targets, as JSON"},
			{
				Address: collector.DiscoveryPath, Text: "Service discovery",
				Description: "All targets, for Prometheus's http_sd_configs",
			},
		},
		Profiling: "false",
	})
	if err != nil {
		return nil, fmt.Errorf("landing page: %w", err)
	}
	mux.Handle("/", landing)
	return mux, nil
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
