// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testservers"
)

// health requests a health path of the exporter.
func (e *exporter) health(method, address, path string) (*http.Response, string) {
	e.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, "http://"+address+path, nil)
	check(e.t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * hanging}
	response, err := client.Do(request)
	check(e.t, err)
	defer func() { _ = response.Body.Close() }()
	var body strings.Builder
	buffer := make([]byte, 4096)
	for {
		n, err := response.Body.Read(buffer)
		body.Write(buffer[:n])
		if err != nil {
			return response, body.String()
		}
	}
}

// TestHealth: the health paths of a real primary and standby, a hanging and a refused server, on both listeners; their
// bodies hold nothing that they must not.
func TestHealth(t *testing.T) {
	t.Parallel()
	primary := newServer(t, testservers.PostgresConfig{Settings: []string{"log_connections = on"}})
	standby, err := primary.Standby(t.Context())
	check(t, err)
	t.Cleanup(func() { check(t, standby.Remove()) })
	plain := "127.0.0.1:" + freePort(t)
	silent := silentServer(t)
	e, _ := startWithFile(t, fmt.Sprintf(`
health: {max_age: 2s, extra: {service: orders}}
targets:
  primary: {host: 127.0.0.1, port: %[2]d, %[1]s}
  standby: {host: 127.0.0.1, port: %[3]d, %[1]s}
  hangs: {host: 127.0.0.1, port: %[4]d, %[1]s}
  refuses: {host: 127.0.0.1, port: 1, %[1]s}
  wrong: {host: 127.0.0.1, port: %[2]d, user: %[5]s, password: wrong, sslmode: disable}
`, login(), primary.Port, standby.Port, silent, role), "--health.listen-address="+plain)
	clean := func(path, body string) {
		t.Helper()
		for _, secret := range []string{password, "127.0.0.1", ":" + strconv.Itoa(primary.Port), role, "wrong\n", "authentication", "database"} {
			if strings.Contains(body, secret) {
				t.Errorf("%s holds %q: %s", path, secret, body)
			}
		}
	}
	e.listens(plain)
	expect := func(path string, status int) string {
		t.Helper()
		var last string
		for _, address := range []string{e.address, plain} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
				start := time.Now()
				response, body := e.health(method, address, path)
				if response.StatusCode != status {
					t.Errorf("%s %s: status %d, want %d: %s", method, path, response.StatusCode, status, body)
				}
				if took := time.Since(start); took > hanging {
					t.Errorf("%s %s took %s", method, path, took)
				}
				clean(path, body)
				if method == http.MethodGet {
					last = body
				}
			}
		}
		return last
	}
	eventually(t, "the standby is no replica for /replica", func() bool {
		response, _ := e.health(http.MethodGet, plain, "/replica/standby?lag=10s")
		return response.StatusCode == http.StatusOK
	})
	for path, status := range map[string]int{
		"/livez": 200, "/readyz": 200, "/-/healthy": 200, "/-/ready": 200, "/health": 503, "/health?verbose": 503, "/health-check": 500,
		"/health/primary": 200, "/health/standby": 200, "/health/hangs": 503, "/health/refuses": 503, "/health/wrong": 503, "/health/none": 404,
		"/health?exclude=hangs&exclude=refuses&exclude=wrong": 200,
		"/primary/primary": 200, "/primary/standby": 503, "/primary": 404, "/primary/none": 404,
		"/replica/standby": 200, "/replica/primary": 503, "/read-write/primary": 200, "/read-write/standby": 503,
		"/read-only/primary": 200, "/read-only/standby": 200, "/read-only/hangs": 503,
	} {
		expect(path, status)
	}
	if response, _ := e.health(http.MethodGet, plain, "/metrics"); response.StatusCode != http.StatusNotFound {
		t.Errorf("/metrics on the address of the health paths: status %d", response.StatusCode)
	}
	var answer struct {
		Status, Service string
		Checks          map[string][]struct{ ComponentID, Status, Output string }
	}
	check(t, json.Unmarshal([]byte(expect("/health", 503)), &answer))
	outputs := map[string]string{}
	for _, entry := range answer.Checks["postgres:responseTime"] {
		outputs[entry.ComponentID] = entry.Status + " " + entry.Output
	}
	for name, want := range map[string]string{
		"primary": "pass ", "standby": "pass ", "hangs": "fail no_response: timeout",
		"refuses": "fail no_response: refused in phase dial", "wrong": "fail misconfigured: auth in phase startup, SQLSTATE 28P01",
	} {
		if !strings.HasPrefix(outputs[name], want) { // the phase of one that hangs hangs on which probe it is
			t.Errorf("%s: %q, want %q", name, outputs[name], want)
		}
	}
	if answer.Status != "fail" || answer.Service != "orders" || len(answer.Checks["system:uptime"]) != 1 {
		t.Errorf("%+v", answer)
	}

	// However many ask, the server is probed once for each max_age.
	before, start := logins(primary), time.Now()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 25 {
				if response, body := e.health(http.MethodGet, plain, "/health/primary"); response.StatusCode != http.StatusOK {
					t.Errorf("status %d: %s", response.StatusCode, body)
				}
			}
		})
	}
	all.Wait()
	if n, most := logins(primary)-before, 2+int(time.Since(start)/(2*time.Second)); n > most {
		t.Errorf("500 requests in %s made %d logins", time.Since(start), n)
	}

	execute(t, standby, "SELECT pg_promote()")
	eventually(t, "a promotion is not seen", func() bool {
		response, _ := e.health(http.MethodGet, plain, "/primary/standby")
		return response.StatusCode == http.StatusOK
	})
	check(t, primary.Stop(testservers.Fast))
	eventually(t, "a server that was stopped passes", func() bool {
		response, _ := e.health(http.MethodGet, plain, "/health/primary")
		return response.StatusCode == http.StatusServiceUnavailable
	})
	expect("/livez", 200)
	expect("/readyz", 200)
}

// logins is how many sessions of the exporter's role a server has let in.
func logins(s *testservers.Postgres) int {
	return strings.Count(s.Log(), "connection authorized: user="+role)
}
