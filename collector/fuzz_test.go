// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"pg_liveness_exporter/config"
)

// FuzzProbe: whatever a client sends to /probe, it gets metrics, the report of debug, or one sentence that does not repeat
// what it sent.
func FuzzProbe(f *testing.F) {
	for _, query := range []string{
		"", "target=a", "target=a&debug=true", "target=h:1&module=m", "target=[::1]:5432&auth_module=m", "target=10.1.2.3:1&module=n&debug=0",
		"target=postgres://u:p@h/d&module=m", "target=a&target=b", "target=%zz", "target=h:99999&module=m", "target=x.h.:01&module=m", ";", "target=a;b",
	} {
		f.Add(query, "10")
	}
	f.Add("target=a", "-1e9")
	f.Add("target=b", "NaN")
	e := newTestExporter(f, healthy())
	file, err := config.Parse(strings.NewReader(`
modules: {m: {user: u, allow: [h, "*.h"]}, n: {user: u, allow: [10.0.0.0/8]}}
targets: {a: {host: h, module: m}, b: {host: h, user: u}}`), "x.yml", config.Probing{Timeout: 2 * time.Second}, nil)
	if err != nil {
		f.Fatal(err)
	}
	e.monitor.ApplyConfig(file)
	f.Fuzz(func(t *testing.T, query, timeout string) {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/probe", nil)
		request.URL.RawQuery = query
		request.Header.Set(timeoutHeader, timeout)
		response := httptest.NewRecorder()
		e.ServeProbe(response, request)
		body := response.Body.String()
		switch response.Code {
		case http.StatusOK:
			if strings.HasPrefix(response.Header().Get("Content-Type"), "text/plain; version=") {
				parser := expfmt.NewTextParser(model.UTF8Validation)
				if _, err := parser.TextToMetricFamilies(strings.NewReader(body)); err != nil {
					t.Error(err)
				}
			}
		case http.StatusBadRequest, http.StatusServiceUnavailable:
			if strings.Count(body, "\n") != 1 {
				t.Errorf("not one sentence: %s", body)
			}
			values, _ := url.ParseQuery(query)
			for _, key := range []string{"target", "module", "auth_module"} {
				if value := values.Get(key); len(value) > 20 && strings.Contains(body, value) {
					t.Errorf("the answer repeats %s: %s", key, body)
				}
			}
		default:
			t.Errorf("status %d", response.Code)
		}
	})
}
