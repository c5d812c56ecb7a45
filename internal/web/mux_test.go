// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"pg_liveness_exporter/collector"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// TestReloadFromOtherSite tests that a page of another site cannot reload the configuration, and that a tool can.
func TestReloadFromOtherSite(t *testing.T) {
	t.Parallel()
	logger := slog.New(slog.DiscardHandler)
	m := monitor.New(monitor.Options{MaxInFlight: 1, Logger: logger})
	exporter := collector.New(m, collector.Options{Sessions: &probe.Sessions{}, Logger: logger})
	mux, err := NewMux(MuxOptions{
		TelemetryPath: "/metrics", External: &url.URL{}, Exporter: exporter, Lifecycle: true,
		Reload: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
	})
	if err != nil {
		t.Fatal(err)
	}
	for site, want := range map[string]int{"": http.StatusOK, "same-origin": http.StatusOK, "cross-site": http.StatusForbidden} {
		response := httptest.NewRecorder()
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://exporter/-/reload", nil)
		if site != "" {
			request.Header.Set("Sec-Fetch-Site", site)
		}
		mux.ServeHTTP(response, request)
		if response.Code != want {
			t.Errorf("Sec-Fetch-Site %q: status %d, want %d", site, response.Code, want)
		}
	}
}

// TestMethods tests that /metrics, /probe, /sd and /config take GET and HEAD alone.
func TestMethods(t *testing.T) {
	t.Parallel()
	logger := slog.New(slog.DiscardHandler)
	m := monitor.New(monitor.Options{MaxInFlight: 1, Logger: logger})
	exporter := collector.New(m, collector.Options{Sessions: &probe.Sessions{}, Logger: logger})
	for _, telemetryPath := range []string{"/metrics", "/"} {
		mux, err := NewMux(MuxOptions{TelemetryPath: telemetryPath, External: &url.URL{}, Exporter: exporter})
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]int{
			telemetryPath: http.StatusOK, "/sd": http.StatusOK, "/config": http.StatusOK, "/probe?target=none": http.StatusBadRequest,
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

// TestPrefix tests each path with an external URL and a prefix: where it is served, and where /sd, the landing page and redirects
// lead.
func TestPrefix(t *testing.T) {
	t.Parallel()
	logger := slog.New(slog.DiscardHandler)
	m := monitor.New(monitor.Options{
		MaxInFlight: 1, Logger: logger,
		NewProber:     func(*config.Target, monitor.Events) monitor.Prober { return silentProber{} },
		NewHistograms: func(bool) monitor.Histograms { return monitor.Histograms{} },
	})
	m.ApplyConfig(&config.File{Targets: []*config.Target{{Name: "a"}}, Health: config.DefaultHealth()})
	exporter := collector.New(m, collector.Options{HideTargets: true, Sessions: &probe.Sessions{}, Logger: logger})
	for _, test := range []struct {
		name, external, prefix string
		requests               map[string]string // the status, and where it leads or a part of the body
	}{
		{"nothing", "", "", map[string]string{
			"/": `200 href="/metrics"`, "/metrics": "200 ", "/sd": `200 {"targets":["sent:1"],"labels":{"__metrics_path__":"/probe",`, "/other": "404 ",
			"//metrics?x=1": "307 /metrics?x=1", "/./sd": "307 /sd", "/probe?target=": "400 ", "/x/%2F/": "404 ",
		}},
		{"a proxy that keeps the path", "https://pub.example.org/pg", "/pg", map[string]string{
			"/": "307 /pg/", "/pg": "307 /pg/", "/pg/": `200 href="/pg/health"`, "/pg/metrics": "200 ", "/metrics": "404 ", "/pgx/metrics": "404 ",
			"/pg/sd":  `200 {"targets":["pub.example.org"],"labels":{"__metrics_path__":"/pg/probe","__param_target":"a","__scheme__":"https",`,
			"/pg//sd": "307 /pg/sd", "/pg/../metrics": "307 /pg/metrics", "/pg/probe?target=none": "400 ", "/sd": "404 ", "/-/reload": "404 ",
			"/pg/-/reload": "405 ",
		}},
		{"a proxy that takes the path off", "http://pub.example.org:81/pg", "", map[string]string{
			"/": `200 href="/pg/metrics"`, "/metrics": "200 ", "//metrics": "307 /pg/metrics", "/pg/metrics": "404 ",
			"/sd": `200 {"targets":["pub.example.org:81"],"labels":{"__metrics_path__":"/pg/probe","__param_target":"a","__scheme__":"http",`,
		}},
		{"a path alone", "/pg", "/pg", map[string]string{
			"/pg/sd": `200 {"targets":["sent:1"],"labels":{"__metrics_path__":"/pg/probe",`, "/pg": "307 /pg/", "/pg//evil.example": "307 /pg/evil.example",
		}},
	} {
		external, err := url.Parse(test.external)
		if err != nil {
			t.Fatal(err)
		}
		mux, err := NewMux(MuxOptions{TelemetryPath: "/metrics", External: external, Exporter: exporter})
		if err != nil {
			t.Fatal(err)
		}
		handler := WithPrefix(mux, test.prefix, external)
		for request, want := range test.requests {
			response := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://sent:1/", nil)
			r.URL, err = url.Parse("http://sent:1" + request)
			if err != nil {
				t.Fatal(err)
			}
			handler.ServeHTTP(response, r)
			got := strconv.Itoa(response.Code) + " " + response.Header().Get("Location")
			status, part, _ := strings.Cut(want, " ")
			if response.Code == http.StatusOK {
				got = status + " " + response.Body.String()
			}
			if !strings.HasPrefix(got, status+" ") || !strings.Contains(strings.ReplaceAll(got, "[{", "{"), part) || part == "" && response.Header().Get("Location") != "" {
				t.Errorf("%s: %s:\n got %.300s\nwant %s", test.name, request, got, want)
			}
		}
	}
}

// silentProber is a fake prober that nobody asks.
type silentProber struct{ monitor.Prober }

func (silentProber) SetKeep(bool)    {}
func (silentProber) ForgetRefusals() {}
