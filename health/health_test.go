// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

var update = flag.Bool("update", false, "write the golden files")

// prober is a fake prober. Its probes end after takes, with a copy of result. It counts them in probes.
type prober struct {
	takes  atomic.Int64 // a time.Duration
	late   atomic.Int64 // a time.Duration: how long a probe that times out goes on after that
	result atomic.Pointer[probe.Result]
	probes atomic.Int64
	value  atomic.Pointer[probe.Scalar]
}

func (p *prober) Probe(ctx context.Context) *probe.Result {
	p.probes.Add(1)
	r := *p.result.Load()
	r.Start = time.Now()
	select {
	case <-time.After(time.Duration(p.takes.Load())):
	case <-ctx.Done():
		r.Failure = &probe.Failure{Reason: probe.ReasonTimeout, State: probe.StateNoResponse, Phase: probe.PhaseStartup}
		time.Sleep(time.Duration(p.late.Load()))
	}
	r.Duration = time.Since(r.Start)
	return &r
}

// Query returns value, or hangs if that is nil.
func (p *prober) Query(ctx context.Context, _ string, maxDuration time.Duration) (probe.Scalar, *probe.Failure) {
	ctx, cancel := context.WithTimeout(ctx, maxDuration)
	defer cancel()
	if value := p.value.Load(); value != nil {
		return *value, nil
	}
	<-ctx.Done()
	return probe.Scalar{}, &probe.Failure{Reason: probe.ReasonTimeout, State: probe.StateRejecting, Phase: probe.PhaseQuery}
}

func (*prober) ForgetRefusals() {}
func (*prober) SetKeep(bool)    {}

func (*prober) Close(context.Context) error { return nil }

func known(v float64) probe.Number { return probe.Number{Value: v, Known: true} }

func took(d time.Duration) probe.Duration { return probe.Duration{Value: d, Known: true} }

func up() *probe.Result {
	r := &probe.Result{
		Connect: took(2 * time.Millisecond), Keep: true, KeptUp: true, Role: &probe.Role{},
		ServerStats: &probe.ServerStats{Used: known(12), Usable: known(97)},
	}
	r.Phases[probe.PhaseQuery] = took(500 * time.Microsecond)
	return r
}

func down() *probe.Result {
	return &probe.Result{Failure: &probe.Failure{
		Reason: probe.ReasonReservedSlots, State: probe.StateConnectionLimit, Phase: probe.PhaseStartup,
		SQLState: "53300", Routine: "InitPostgres",
	}}
}

// fixture is the handler of the health paths, with the fake probers of its targets.
type fixture struct {
	t       *testing.T
	handler http.Handler
	probers map[string]*prober
	ready   atomic.Bool

	monitor *monitor.Monitor
	file    *config.File
}

// labels are those of a target that TestBodies has.
var labels = map[string][]config.Label{"billing": {{Name: "cluster", Value: "eu"}, {Name: "team", Value: "ü"}}}

func newFixture(t *testing.T, settings config.Health, names ...string) *fixture {
	t.Helper()
	h := &fixture{t: t, probers: make(map[string]*prober)}
	h.ready.Store(true)
	for _, name := range names {
		p := &prober{}
		p.result.Store(up())
		h.probers[name] = p
	}
	h.monitor = monitor.New(monitor.Options{
		MaxInFlight: 10, Logger: slog.New(slog.DiscardHandler),
		NewProber: func(target *config.Target, _ monitor.Events) monitor.Prober {
			return h.probers[target.Name]
		},
		NewHistograms: func(bool) monitor.Histograms { return monitor.Histograms{} },
	})
	h.file = &config.File{Health: settings}
	for _, name := range names {
		h.file.Targets = append(h.file.Targets, &config.Target{
			Name: name, Kind: config.KindPostgres, Probing: config.Probing{Timeout: 5 * time.Second, Keep: true},
			Labels: labels[name],
		})
	}
	h.monitor.ApplyConfig(h.file)
	t.Cleanup(func() {
		if err := h.monitor.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	mux := http.NewServeMux()
	New(h.monitor, h.ready.Load, "host").Register(mux)
	h.handler = mux
	return h
}

// check adds a check that runs a statement on a target and fails above 10.
func (h *fixture) check(name, target string) {
	failAbove := 10.0
	file := *h.file
	file.Checks = append(slices.Clone(file.Checks), &config.Check{
		Name: name, Kind: config.CheckSQL, Target: target, SQL: "SELECT 1", Limits: config.Limits{FailAbove: &failAbove},
		Timeout: 5 * time.Second, TTL: 27 * time.Second, TTLFailed: 9 * time.Second,
	})
	h.file = &file
	h.monitor.ApplyConfig(h.file)
	synctest.Wait()
}

// sample makes the samplers of all targets probe every interval, and waits until each has probed twice.
func (h *fixture) sample(interval time.Duration) {
	file := *h.file
	file.Targets = nil
	for _, t := range h.file.Targets {
		sampled := *t
		sampled.Interval = interval
		file.Targets = append(file.Targets, &sampled)
	}
	h.file = &file
	h.monitor.ApplyConfig(h.file)
	time.Sleep(2 * interval)
	synctest.Wait()
}

// returns returns the result of a statement that returns a number.
func returns(value string) *probe.Scalar {
	return &probe.Scalar{Columns: 1, Rows: 1, Number: true, Text: value}
}

func (h *fixture) request(method, path string) *httptest.ResponseRecorder {
	h.t.Helper()
	response := httptest.NewRecorder()
	h.handler.ServeHTTP(response, httptest.NewRequestWithContext(h.t.Context(), method, path, nil))
	return response
}

// expect requests a path with each method and requires the status. It returns the body of the response to GET.
func (h *fixture) expect(path string, status int) string {
	h.t.Helper()
	var text string
	for _, method := range []string{http.MethodHead, http.MethodOptions, http.MethodGet} {
		response := h.request(method, path)
		if response.Code != status {
			h.t.Errorf("%s %s: status %d, want %d: %s", method, path, response.Code, status, response.Body)
		}
		header := response.Header()
		if header.Get("Cache-Control") != "no-store" || header.Get("X-Content-Type-Options") != "nosniff" {
			h.t.Errorf("%s %s: headers %v", method, path, header)
		}
		if (header.Get("Retry-After") != "") != (status == http.StatusServiceUnavailable) {
			h.t.Errorf("%s %s: Retry-After is %q", method, path, header.Get("Retry-After"))
		}
		text = response.Body.String()
	}
	return text
}

// TestBodies compares the bodies of all formats with the files in testdata. Time is synthetic. The entries about the
// system are left out.
func TestBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		settings := config.DefaultHealth()
		settings.StatusNames = config.StatusNames{Pass: "healthy", Warn: "degraded", Fail: "unhealthy"}
		settings.Extra = map[string]any{"service": "orders", "instances": int64(3), "canary": true}
		h := newFixture(t, settings, "billing", "orders")
		h.probers["orders"].result.Store(down())
		h.probers["billing"].value.Store(returns("7"))
		h.check("backlog", "billing")
		h.probers["billing"].value.Store(returns("11"))
		h.check("invoices", "billing")
		for name, path := range map[string]string{
			"health": "/health", "check": "/health/backlog", "one": "/health/orders", "verbose": "/health?verbose",
			"health-check": "/health-check",
		} {
			response := h.request(http.MethodGet, path)
			got := response.Body.String()
			if strings.HasPrefix(response.Header().Get("Content-Type"), "application/") {
				var parsed map[string]any
				if err := json.Unmarshal(response.Body.Bytes(), &parsed); err != nil {
					t.Fatalf("%s: %v: %s", path, err, got)
				}
				if checks, ok := parsed["checks"].(map[string]any); ok {
					for _, key := range []string{"system:uptime", "system:memory", "system:cpuTime"} {
						if _, ok := checks[key]; ok != (name == "health") {
							t.Errorf("%s: %s is there: %v", path, key, ok)
						}
						delete(checks, key)
					}
				}
				indented, err := json.MarshalIndent(parsed, "", "  ")
				if err != nil {
					t.Fatal(err)
				}
				got = string(indented) + "\n"
			}
			got = response.Header().Get("Content-Type") + "\n" + got
			file := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("differs from %s (go test ./health -update writes it anew):\n%s", file, got)
			}
		}
	})
}

// TestStatus tests the HTTP status of each path, with each method, while one target is down.
func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFixture(t, config.DefaultHealth(), "a", "b")
		h.probers["b"].result.Store(down())
		for path, status := range map[string]int{
			"/livez": 200, "/readyz": 200, "/-/healthy": 200, "/-/ready": 200, "/livez?verbose": 200,
			"/health": 503, "/health?exclude=b": 200, "/health?exclude=b&exclude=a": 503,
			"/health/a": 200, "/health/b": 503, "/health/c": 404,
			"/health/": 404, "/health/a/b": 404, "/health/a/": 404, "/health-check/a": 404, "/primary/a/b": 404,
			"/health-check": 500, "/primary/a": 200, "/primary/b": 503, "/primary/c": 404, "/primary": 404, "/read-write/a": 200,
			"/read-only/a": 200, "/read-only/b": 503, "/replica/a": 503, "/replica/a?lag=x": 400,
		} {
			h.expect(path, status)
		}
		if response := h.request(http.MethodPost, "/health"); response.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST: status %d", response.Code)
		}
		h.ready.Store(false)
		h.expect("/readyz", 503)
		h.expect("/livez", 200)
		var body struct{ Status, Output string }
		if err := json.Unmarshal([]byte(h.expect("/health/c", 404)), &body); err != nil || body.Status != "fail" {
			t.Errorf("%v: %+v", err, body)
		}
	})
}

// TestRoles tests the role paths by the server statistics and the parameter lag. If the role or the lag is not known,
// the server does not have the role.
func TestRoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFixture(t, config.DefaultHealth(), "postgres")
		replica := &probe.Role{Replica: true, ReadOnly: true}
		for _, test := range []struct {
			role                                       *probe.Role
			stats                                      *probe.ServerStats
			primary, replica, lag, readWrite, readOnly int
			whyNotReplica                              string
		}{
			{&probe.Role{}, &probe.ServerStats{}, 200, 503, 503, 200, 200, "it is a primary"},
			{&probe.Role{}, nil, 200, 503, 503, 200, 200, "it is a primary"},
			{&probe.Role{ReadOnly: true}, &probe.ServerStats{}, 200, 503, 503, 503, 200, "it is a primary"},
			{replica, &probe.ServerStats{ReplicationLag: known(9)}, 503, 200, 200, 503, 200, ""},
			{
				replica, &probe.ServerStats{ReplicationLag: known(11)}, 503, 200, 503, 503, 200,
				"it is 11.0 s behind, more than 10s",
			},
			{
				replica, &probe.ServerStats{Used: known(12)}, 503, 200, 503, 503, 200,
				"its lag is not known: the exporter's role lacks pg_monitor",
			},
			{replica, &probe.ServerStats{}, 503, 200, 503, 503, 200, "its lag is not known"},
			{replica, &probe.ServerStats{Used: known(12), Privileged: true}, 503, 200, 503, 503, 200, "its lag is not known"},
			{replica, nil, 503, 200, 503, 503, 200, "its lag is not known: no session could read it"},
			// What the statistics say of the role may be another server's.
			{nil, &probe.ServerStats{Role: replica}, 503, 503, 503, 503, 200, "its role is not known: no session could read it"},
		} {
			time.Sleep(time.Minute)
			r := up()
			r.Role, r.ServerStats = test.role, test.stats
			h.probers["postgres"].result.Store(r)
			h.expect("/primary", test.primary)
			h.expect("/replica", test.replica)
			var body struct{ Output string }
			err := json.Unmarshal([]byte(h.expect("/replica?lag=10s", test.lag)), &body)
			if err != nil || body.Output != test.whyNotReplica {
				t.Errorf("/replica?lag=10s: %v: %q, want %q", err, body.Output, test.whyNotReplica)
			}
			h.expect("/read-write/postgres", test.readWrite)
			h.expect("/read-only", test.readOnly)
		}
	})
}

// TestChecks tests that the result of a check is shown for its ttl without a wait, and that a request waits at most
// maxWait for the first result. Hysteresis applies only to /health. A check that has never passed fails at once.
func TestChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		settings := config.DefaultHealth()
		settings.FailAfter, settings.PassAfter = 2, 2
		h := newFixture(t, settings, "a")
		h.check("backlog", "a") // its first run hangs
		start := time.Now()
		text := h.expect("/health/backlog", 503)
		if took := time.Since(start); !strings.Contains(text, "no result yet") || took != 3*maxWait {
			t.Errorf("after %s: %s", took, text)
		}
		h.expect("/health?exclude=backlog", 200)
		h.expect("/health/a", 200)
		time.Sleep(6*time.Second - time.Since(start)) // the statement takes a second, then the whole timeout; then it fails
		synctest.Wait()
		h.probers["a"].value.Store(returns("3"))
		var got []string
		for range 8 {
			var body struct{ Status string }
			start := time.Now()
			response := h.request(http.MethodGet, "/health/backlog")
			if err := json.Unmarshal(response.Body.Bytes(), &body); err != nil {
				t.Fatal(err)
			}
			var old struct{ Results []healthResult }
			if err := json.Unmarshal(h.request(http.MethodGet, "/health-check").Body.Bytes(), &old); err != nil {
				t.Fatal(err)
			}
			shown := old.Results[1]
			got = append(got, fmt.Sprintf("%s %v %.0f", body.Status, shown.Passed, shown.Expires-shown.Timestamp))
			if time.Since(start) != 0 {
				t.Errorf("took %s", time.Since(start))
			}
			switch len(got) {
			case 2:
				h.probers["a"].value.Store(returns("30"))
				time.Sleep(27 * time.Second)
			case 4, 5:
				h.probers["a"].value.Store(returns("3"))
				fallthrough
			default:
				time.Sleep(9*time.Second + time.Millisecond)
			}
		}
		want := []string{
			"fail false 9", "pass true 27", "warn false 9", "fail false 9",
			"fail true 27", "fail true 27", "fail true 27", "pass true 27",
		}
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	})
}

// TestHangingTarget tests that /health waits at most maxWait for a server that hangs. It shows the last result until
// the probe has timed out, and then the target fails.
func TestHangingTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFixture(t, config.DefaultHealth(), "a")
		expect := func(status int, takes time.Duration) {
			t.Helper()
			start := time.Now()
			if response := h.request(http.MethodGet, "/health"); response.Code != status {
				t.Errorf("status %d, want %d: %s", response.Code, status, response.Body)
			}
			if took := time.Since(start); took != takes {
				t.Errorf("took %s, want %s", took, takes)
			}
		}
		expect(200, 0)
		h.probers["a"].takes.Store(int64(time.Hour))
		time.Sleep(5 * time.Second)
		expect(200, 0) // the result is exactly max_age old
		time.Sleep(time.Second)
		expect(200, maxWait) // a probe is under way
		time.Sleep(2 * time.Second)
		expect(200, maxWait)
		time.Sleep(2 * time.Second) // the probe has timed out
		expect(503, 0)
		h.probers["a"].takes.Store(int64(2 * time.Second))
		time.Sleep(6 * time.Second)
		expect(503, maxWait) // it responds, but after more than maxWait
		time.Sleep(2 * time.Second)
		expect(200, 0)
		h.expect("/primary", 200)
		time.Sleep(6 * time.Second)
		if response := h.request(http.MethodGet, "/primary"); response.Code != 503 {
			t.Errorf("a result that is too old: status %d", response.Code)
		}
	})
}

// TestOwnSlowness tests that no age of a result fails a target on /health, /health/NAME and /health-check while the interval
// of its sampler, or a probe within its timeout, explains it. The role paths keep max_age strictly.
func TestOwnSlowness(t *testing.T) {
	tolerant := map[string]int{"/health": 200, "/health/a": 200, "/health-check": 200, "/health?verbose": 200}
	roles := []string{"/primary/a", "/read-write/a", "/read-only/a"}
	// expect requires the status of each path, and that all requests take no longer than a wait for one probe.
	expect := func(t *testing.T, h *fixture, path string, status int, takes time.Duration) {
		t.Helper()
		start := time.Now()
		if response := h.request(http.MethodGet, path); response.Code != status {
			t.Errorf("%s: status %d, want %d: %s", path, response.Code, status, response.Body)
		}
		if took := time.Since(start); took != takes {
			t.Errorf("%s took %s, want %s", path, took, takes)
		}
	}
	t.Run("many targets with a sampler", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			names := []string{"a"}
			for i := range 500 {
				names = append(names, fmt.Sprintf("t%d", i))
			}
			h := newFixture(t, config.DefaultHealth(), names...)
			h.sample(time.Minute)
			for range 12 {
				for path, status := range tolerant {
					expect(t, h, path, status, 0)
				}
				time.Sleep(10 * time.Second)
			}
			for name, p := range h.probers {
				if n := p.probes.Load(); n != 4 { // in four minutes
					t.Fatalf("%s was probed %d times", name, n)
				}
			}
		})
	})
	t.Run("the interval explains the age, and the roles do not ask", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newFixture(t, config.DefaultHealth(), "a")
			h.sample(time.Minute)
			h.probers["a"].takes.Store(int64(time.Hour))
			for h.probers["a"].probes.Load() != 3 { // the sampler's next probe, which hangs
				for path, status := range tolerant {
					expect(t, h, path, status, 0)
				}
				time.Sleep(time.Second)
			}
			for path, status := range tolerant {
				expect(t, h, path, status, maxWait)
			}
			for _, path := range roles {
				expect(t, h, path, 503, maxWait)
			}
			time.Sleep(5 * time.Second) // the probe has timed out
			for _, path := range []string{"/health", "/health/a"} {
				expect(t, h, path, 503, 0)
			}
			expect(t, h, "/health-check", 500, 0)
		})
	})
	t.Run("a probe within its timeout explains the age", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newFixture(t, config.DefaultHealth(), "a")
			expect(t, h, "/health", 200, 0)
			time.Sleep(time.Hour) // nobody asks
			h.probers["a"].takes.Store(int64(4 * time.Second))
			for path, status := range tolerant {
				expect(t, h, path, status, maxWait)
			}
			for _, path := range roles {
				expect(t, h, path, 503, maxWait)
			}
			time.Sleep(time.Second)
			expect(t, h, "/health", 200, 0)
			expect(t, h, "/primary/a", 200, 0)
		})
	})
	t.Run("a probe that overruns explains nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newFixture(t, config.DefaultHealth(), "a")
			expect(t, h, "/health", 200, 0)
			time.Sleep(time.Minute)
			h.probers["a"].takes.Store(int64(time.Hour))
			h.probers["a"].late.Store(int64(time.Minute))
			for range 8 { // the timeout and some grace: what ends too late is this process
				expect(t, h, "/health", 200, maxWait)
				time.Sleep(200 * time.Millisecond)
			}
			time.Sleep(time.Second)
			response := h.request(http.MethodGet, "/health")
			if response.Code != 503 || !strings.Contains(response.Body.String(), "no result for 1m") {
				t.Errorf("status %d: %s", response.Code, response.Body)
			}
			expect(t, h, "/health-check", 500, maxWait)
		})
	})
}

// TestHysteresis tests that fail_after failures in a row make a target fail, and pass_after successes make it pass
// again. Results count, not requests. Hysteresis applies only to /health.
func TestHysteresis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		settings := config.DefaultHealth()
		settings.FailAfter, settings.PassAfter = 3, 2
		h := newFixture(t, settings, "a")
		var got []string
		next := func(r *probe.Result) {
			h.probers["a"].result.Store(r)
			time.Sleep(6 * time.Second)
			var body struct{ Status string }
			for range 5 {
				response := h.request(http.MethodGet, "/health?warn=429")
				if err := json.Unmarshal(response.Body.Bytes(), &body); err != nil {
					t.Fatal(err)
				}
				if want := map[string]int{"pass": 200, "warn": 429, "fail": 503}[body.Status]; response.Code != want {
					t.Errorf("%s: status %d, want %d", body.Status, response.Code, want)
				}
			}
			got = append(got, body.Status)
			want := map[bool]int{true: 200, false: 500}[r.Up()]
			if response := h.request(http.MethodGet, "/health-check"); response.Code != want {
				t.Errorf("/health-check has status %d, want %d regardless of earlier results", response.Code, want)
			}
		}
		for _, r := range []*probe.Result{
			up(), down(), down(), up(), down(), down(), down(), up(), down(), up(), up(), down(),
		} {
			next(r)
		}
		want := []string{"pass", "warn", "warn", "pass", "warn", "warn", "fail", "fail", "fail", "fail", "pass", "warn"}
		if !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		if n := h.probers["a"].probes.Load(); n != int64(len(want)) {
			t.Errorf("%d probes for %d results", n, len(want))
		}
	})
}

// TestManyRequests tests that any number of requests on all paths cause one probe per max_age.
func TestManyRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFixture(t, config.DefaultHealth(), "a")
		h.probers["a"].takes.Store(int64(300 * time.Millisecond))
		for range 3 {
			var all sync.WaitGroup
			for i := range 500 {
				path := []string{"/health", "/health/a", "/health-check", "/primary"}[i%4]
				all.Go(func() {
					if response := h.request(http.MethodGet, path); response.Code != 200 {
						t.Errorf("%s: status %d", path, response.Code)
					}
				})
			}
			all.Wait()
			time.Sleep(6 * time.Second)
		}
		if n := h.probers["a"].probes.Load(); n != 3 {
			t.Errorf("%d probes in three times max_age", n)
		}
	})
}
