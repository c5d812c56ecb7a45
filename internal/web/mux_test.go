// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"pg_liveness_exporter/collector"
	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// TestMethods tests that /metrics, /probe and /sd take GET and HEAD alone.
func TestMethods(t *testing.T) {
	t.Parallel()
	logger := slog.New(slog.DiscardHandler)
	m := monitor.New(monitor.Options{MaxInFlight: 1, Logger: logger})
	exporter := collector.New(m, collector.Options{Sessions: &probe.Sessions{}, Logger: logger})
	for _, telemetryPath := range []string{"/metrics", "/"} {
		mux, err := NewMux(telemetryPath, exporter, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]int{
			telemetryPath: http.StatusOK, "/sd": http.StatusOK, "/probe?target=none": http.StatusBadRequest,
		} {
			for _, method := range []string{
				http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
				http.MethodOptions, http.MethodTrace, "get", "PROPFIND",
			} {
				response := httptest.NewRecorder()
				mux.ServeHTTP(response, httptest.NewRequestWithContext(t.Context(), method, "http://exporter"+path, nil))
				want, allow := want, ""
				if method != http.MethodGet && method != http.MethodHead {
					want, allow = http.StatusMethodNotAllowed, "GET, HEAD"
				}
				if response.Code != want || response.Header().Get("Allow") != allow {
					t.Errorf("%s %s: status %d, Allow %q; want %d", method, path, response.Code, response.Header().Get("Allow"), want)
				}
			}
		}
	}
}
