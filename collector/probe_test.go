// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"pg_liveness_exporter/config"
)

// TestRefusals tests that /probe refuses invalid requests with 400 and a sentence that repeats no part of the request.
func TestRefusals(t *testing.T) {
	t.Parallel()
	e := newTestExporter(t, healthy())
	file, err := config.Parse(strings.NewReader(`
modules: {m: {user: u, allow: [h]}, n: {user: u, allow: [h]}}
targets: {a: {host: h, module: m}, b: {host: h, user: u}}`), "x.yml", config.Probing{Timeout: 2 * time.Second}, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.monitor.ApplyConfig(file)
	for query, want := range map[string]string{
		"":                                "the parameter target is missing",
		"target=":                         "the parameter target is missing",
		"target=hunter2":                  "there is no target with this name; to probe host:port, name a module",
		"target=hunter2&module=m":         "the target is not host:port",
		"target=a&module=n":               "this target has another module, or none",
		"target=b&module=m":               "this target has another module, or none",
		"target=h:1&module=hunter2":       "there is no such module",
		"target=hunter2:1&module=m":       "the module does not allow this host",
		"target=h:1&target=hunter2":       "the parameter target is given several times",
		"target=a&module=m&auth_module=n": "module and auth_module differ",
		"target=a&debug=maybe":            "the parameter debug is neither true nor false",
		"target=%zz":                      "the parameters are not well-formed",
		"target=postgres://u:hunter2@h:1&module=m": "the target is a connection string; write host:port without credentials, which come from the module",
		"target=u:hunter2@h:1&module=m":            "the target holds a user; write host:port without credentials, which come from the module",
		"target=/hunter2&module=m":                 "the target is a path; write host:port",
		"target=h:1%0ahunter2&module=m":            "the target holds a space or a control character",
		"target=a":                                 "",
		"target=a&module=m":                        "",
		"target=a&auth_module=m":                   "",
		"target=h:1&auth_module=m":                 "",
		"target=b":                                 "",
	} {
		response := httptest.NewRecorder()
		e.ServeProbe(response, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/probe?"+query, nil))
		body := response.Body.String()
		if want == "" {
			if response.Code != http.StatusOK || !strings.Contains(body, "\npg_up 1\n") {
				t.Errorf("%s: %d %s", query, response.Code, body)
			}
			continue
		}
		if response.Code != http.StatusBadRequest || body != want+"\n" {
			t.Errorf("%s: %d %s", query, response.Code, body)
		}
	}
}

// TestConfigPage tests that /config shows the configuration in effect, also after a reload.
func TestConfigPage(t *testing.T) {
	t.Parallel()
	e := newTestExporter(t, healthy())
	get := func() *httptest.ResponseRecorder {
		response := httptest.NewRecorder()
		e.ServeConfig(response, httptest.NewRequestWithContext(t.Context(), http.MethodGet, ConfigPath, nil))
		return response
	}
	for _, name := range []string{"before", "after"} {
		e.monitor.ApplyConfig(&config.File{Targets: []*config.Target{{Name: name}}, Health: config.DefaultHealth()})
		response := get()
		body := response.Body.String()
		if !strings.Contains(body, "\n  "+name+":\n") || response.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%v\n%s", response.Header(), body)
		}
		if again := get().Body.String(); again != body {
			t.Errorf("the second time:\n%s", again)
		}
	}
}

// TestDiscovery tests that /sd lists all configured targets, including those with unusual names.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	odd := `odd "name" {}, ü/&?`
	e := newTestExporter(t, healthy())
	e.monitor.ApplyConfig(&config.File{Targets: []*config.Target{
		{Name: "a", Labels: []config.Label{{Name: "cluster", Value: "eu"}, {Name: "zone", Value: "1"}}}, {Name: odd}, {Implied: true},
	}})
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://exporter:1/sd", nil)
	response := httptest.NewRecorder()
	e.Discovery("/metrics", &url.URL{}).ServeHTTP(response, request)
	var got []group
	if err := json.Unmarshal(response.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := []group{
		{[]string{"exporter:1"}, map[string]string{
			"__scheme__": "http", "__metrics_path__": "/probe", "__param_target": "a", "instance": "a", "target": "a",
			"cluster": "eu", "zone": "1",
		}},
		{[]string{"exporter:1"}, map[string]string{
			"__scheme__": "http", "__metrics_path__": "/probe", "__param_target": odd, "instance": odd, "target": odd,
		}},
		{[]string{"exporter:1"}, map[string]string{"__scheme__": "http", "__metrics_path__": "/metrics"}},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if response.Header().Get("Content-Type") != "application/json" {
		t.Errorf("Content-Type %s", response.Header().Get("Content-Type"))
	}
}
