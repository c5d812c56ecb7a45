// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// prober is a fake prober. Each probe returns a copy of result, and is counted.
type prober struct {
	result atomic.Pointer[probe.Result]
	probes atomic.Int64
	hangs  atomic.Bool
}

func (p *prober) Probe(ctx context.Context) *probe.Result {
	p.probes.Add(1)
	if p.hangs.Load() {
		<-ctx.Done()
	}
	r := *p.result.Load()
	if !r.Up() && r.Failure.Reason == probe.ReasonTimeout {
		time.Sleep(10 * time.Millisecond) // at once, it would be a time-out of the exporter's own
	}
	r.Start, r.Duration = time.Now(), 1500*time.Microsecond
	return &r
}

func (*prober) Query(context.Context, string, time.Duration) (probe.Scalar, *probe.Failure) {
	panic("no statement is expected")
}

func (*prober) ForgetRefusals()             {}
func (*prober) SetKeep(bool)                {}
func (*prober) Close(context.Context) error { return nil }

func known(v float64) probe.Number { return probe.Number{Value: v, Known: true} }

func took(d time.Duration) probe.Duration { return probe.Duration{Value: d, Known: true} }

func up() *probe.Result {
	r := &probe.Result{
		Connect: took(2 * time.Millisecond), Query: took(400 * time.Microsecond), Keep: true, KeptUp: true, Role: &probe.Role{},
		TLS: &probe.TLS{Version: "TLS 1.3", Cipher: "TLS_AES_128_GCM_SHA256", NotAfter: time.Now().Add(90 * 24 * time.Hour)},
		ServerStats: &probe.ServerStats{
			Used: known(12), Usable: known(97), Version: "18.4",
			Connections: []probe.Connections{{Database: "app", State: "active", Count: 3}, {Database: "app", State: "idle", Count: 9}},
		},
	}
	r.Phases[probe.PhaseDial], r.Phases[probe.PhaseStartup], r.Phases[probe.PhaseQuery] = took(100*time.Microsecond), took(1900*time.Microsecond), took(500*time.Microsecond)
	return r
}

func failed(state probe.State, reason probe.Reason, phase probe.Phase) *probe.Result {
	r := &probe.Result{Failure: &probe.Failure{State: state, Reason: reason, Phase: phase}}
	r.Phases[probe.PhaseDial] = took(2 * time.Second)
	return r
}

// fixture is the pages of targets with fake probers.
type fixture struct {
	t       testing.TB
	pages   *Status
	monitor *monitor.Monitor
	probers map[string]*prober
}

func newFixture(t testing.TB, names ...string) *fixture {
	t.Helper()
	f := &fixture{t: t, probers: make(map[string]*prober)}
	logger := slog.New(slog.DiscardHandler)
	f.monitor = monitor.New(monitor.Options{
		MaxInFlight: 10, Timelines: true, Logger: logger,
		NewProber:     func(target *config.Target, _ monitor.Events) monitor.Prober { return f.probers[target.Name] },
		NewHistograms: func(bool) monitor.Histograms { return monitor.Histograms{} },
	})
	file := &config.File{}
	slices.Sort(names)
	for _, name := range names {
		p := &prober{}
		p.result.Store(up())
		f.probers[name] = p
		file.Targets = append(file.Targets, &config.Target{
			Name: name, Kind: config.KindPostgres, Labels: []config.Label{{Name: "cluster", Value: "main"}}, Probing: config.Probing{Timeout: time.Second, Keep: true},
			Login: config.Login{Connection: &config.Connection{
				Host: "secrethost", User: "secretuser", Password: "secretpassword", Database: "secretdatabase",
			}},
		})
	}
	f.monitor.ApplyConfig(file)
	t.Cleanup(func() { _ = f.monitor.Close(context.Background()) })
	f.pages = New(f.monitor, Options{ConfigFile: "/etc/exporter.yml", TelemetryPath: "/metrics", Version: "1.2.3", Logger: logger})
	return f
}

// probe probes each target once.
func (f *fixture) probe() {
	f.t.Helper()
	for _, target := range f.monitor.Targets() {
		if _, err := target.Probe(f.t.Context(), time.Now().Add(time.Second)); err != nil {
			f.t.Fatal(err)
		}
	}
}

// get requests a path and requires a status. No body may hold what is secret.
func (f *fixture) get(path string, status int) string {
	f.t.Helper()
	response := httptest.NewRecorder()
	f.pages.ServeHTTP(response, httptest.NewRequestWithContext(f.t.Context(), http.MethodGet, "http://exporter"+path, nil))
	body := response.Body.String()
	if response.Code != status {
		f.t.Errorf("%s: status %d, want %d: %s", path, response.Code, status, body)
	}
	if strings.Contains(body, "secret") {
		f.t.Errorf("%s shows a secret:\n%s", path, body)
	}
	return body
}

// expect requires texts in a page.
func (f *fixture) expect(page string, texts ...string) {
	f.t.Helper()
	for _, text := range texts {
		if !strings.Contains(page, text) {
			f.t.Errorf("the page lacks %q:\n%s", text, page)
		}
	}
}

func TestHeadlines(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "a", "b", "c")
	f.probe()
	f.expect(f.get("/", http.StatusOK), "<h1>All 3 servers answer</h1>", "12 of 97", "primary", "cluster=main", "90 d", "/etc/exporter.yml", "1.2.3")

	f.probers["b"].result.Store(failed(probe.StateNoResponse, probe.ReasonTimeout, probe.PhaseDial))
	f.probe()
	page := f.get("/", http.StatusOK)
	f.expect(page, "<h1>b: no response for 0 s: timed out (dial)</h1>", `<span class="state bad">no response</span>`)
	if strings.Index(page, `id="target-b"`) > strings.Index(page, `id="target-a"`) {
		t.Error("the server that is down is not first")
	}
	f.probers["a"].result.Store(failed(probe.StateMisconfigured, probe.ReasonAuth, probe.PhaseStartup))
	f.probers["c"].result.Store(failed(probe.StateRejecting, probe.ReasonNotAccepting, probe.PhaseStartup))
	f.probe()
	page = f.get("/", http.StatusOK)
	f.expect(page, "<h1>b: no response for", "3 of 3 servers fail", "starting, recovering or stopping", "login refused")
	order := []int{strings.Index(page, `id="target-b"`), strings.Index(page, `id="target-c"`), strings.Index(page, `id="target-a"`)}
	if order[0] > order[1] || order[1] > order[2] {
		t.Errorf("the worst is not first: %v", order)
	}

	full := up()
	full.ServerStats.Used = known(97)
	f.probers["a"].result.Store(full)
	f.probers["b"].result.Store(up())
	f.probers["c"].result.Store(up())
	f.probe()
	f.expect(f.get("/", http.StatusOK), "<h1>a: all usable connections are taken</h1>", `class="state warn">accepting`)

	f.expect(newFixture(t).get("/", http.StatusOK), "No servers are configured")
	one := newFixture(t, "only")
	one.probe()
	one.expect(one.get("/", http.StatusOK), "<h1>The server answers</h1>")
	one.monitor.ReloadFailed()
	one.expect(one.get("/", http.StatusOK), "The last reload of the configuration failed")
}

// TestCausesNoProbe tests that pages, badges and events show the results that are there, and that a target without a result
// is probed once.
func TestCausesNoProbe(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "a")
	for range 3 {
		f.expect(f.get("/", http.StatusOK), "The server answers")
		f.get("/targets/a", http.StatusOK)
		f.get("/badge/a.svg", http.StatusOK)
		f.get("/events", http.StatusOK)
	}
	if n := f.probers["a"].probes.Load(); n != 1 {
		t.Errorf("%d probes", n)
	}
	hanging := newFixture(t, "a", "b")
	hanging.probers["b"].hangs.Store(true)
	hanging.expect(hanging.get("/", http.StatusOK), "b: no result yet", "no result yet</span>")
}

// TestOldResult tests that a result that is minutes old is not shown as the present state.
func TestOldResult(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "a", "b")
		f.probers["b"].result.Store(failed(probe.StateNoResponse, probe.ReasonRefused, probe.PhaseDial))
		f.probe()
		time.Sleep(minStale)
		f.expect(f.get("/", http.StatusOK), "<h1>b: no response for 0 s: connection refused (dial)</h1>", "state ok")
		time.Sleep(time.Second)
		f.expect(f.get("/", http.StatusOK), "<h1>b: last known: no response for 0 s: connection refused (dial), probed 3 min 1 s ago</h1>",
			`<span class="state unknown">last known: accepting</span>`)
		f.expect(f.get("/badge/a.svg", http.StatusOK), "last known: accepting", colourUnknown)
		f.expect(f.get("/targets/a", http.StatusOK), "The last probe was 3 min 1 s ago.")
	})
}

// TestCertificates tests what is said of a certificate that expires soon and of one that has expired.
func TestCertificates(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "a")
	for left, want := range map[time.Duration][]string{
		100 * time.Hour: {"<h1>a: its certificate expires soon</h1>", ">4 d<"}, -time.Hour: {"<h1>a: its certificate has expired</h1>", ">expired<"},
	} {
		r := up()
		r.TLS.NotAfter = time.Now().Add(left)
		f.probers["a"].result.Store(r)
		f.probe()
		f.expect(f.get("/", http.StatusOK), want...)
	}
}

// TestNames tests names that mean something in HTML or in a URL.
func TestNames(t *testing.T) {
	t.Parallel()
	names := []string{"<script>alert(1)</script>", "a/b?c#d", `"'&`, "ü 漢"}
	f := newFixture(t, names...)
	f.probe()
	page := f.get("/", http.StatusOK)
	if strings.Contains(page, "<script>") {
		t.Error("a name is not escaped")
	}
	for _, name := range names {
		link := "targets/" + url.PathEscape(name)
		f.expect(page, `href="./targets/`)
		f.expect(f.get("/"+link, http.StatusOK), "<h1>", "accepting for", "TLS 1.3", "app", "18.4")
		f.expect(f.get("/badge/"+url.PathEscape(name)+".svg", http.StatusOK), "accepting")
	}
	for _, path := range []string{"/targets/none", "/targets/none%0A", "/targets/%3Cscript%3E"} {
		f.expect(f.get(path, http.StatusNotFound), "No target has this name")
	}
}

func TestTarget(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "a")
	f.probe()
	broken := failed(probe.StateNoResponse, probe.ReasonTimeout, probe.PhaseDial)
	broken.Failure.Detail = "a detail of our own"
	f.probers["a"].result.Store(broken)
	f.probe()
	f.expect(f.get("/targets/a", http.StatusOK), "no response for 0 s: timed out (dial)", "a detail of our own", `class="failed"`,
		"50 % of 2 probes", "no response: timed out", "accepting</td>", "timeout</dt><dd>1s",
		`href="../probe?target=a&amp;debug=true"`, `href="../health/a"`, "the last probe failed at")
}

func TestBadges(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "a", strings.Repeat("x", 200))
	f.probe()
	f.expect(f.get("/badge/a.svg?metric=uptime", http.StatusOK), ">100 %<")
	f.expect(f.get("/badge/a.svg?metric=latency", http.StatusOK), ">1.5 ms<")
	f.probers["a"].result.Store(failed(probe.StateRejecting, probe.ReasonNotAccepting, probe.PhaseStartup))
	f.probe()
	f.expect(f.get("/badge/a.svg", http.StatusOK), ">rejecting<", colourBad)
	f.expect(f.get("/badge/a.svg?metric=uptime", http.StatusOK), ">50 %<")
	f.expect(f.get("/badge/"+strings.Repeat("x", 200)+".svg", http.StatusOK), strings.Repeat("x", maxBadgeName-1)+"…")
	f.get("/badge/a.svg?metric=other", http.StatusBadRequest)
	f.get("/badge/none.svg", http.StatusNotFound)
	f.get("/badge/a.png", http.StatusNotFound)
	if got := share(99_999, 100_000); got != "99.99 %" {
		t.Errorf("%s of probes that do not all succeed", got)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "a", "b")
	f.probe()
	f.probers["b"].result.Store(failed(probe.StateConnectionLimit, probe.ReasonReservedSlots, probe.PhaseStartup))
	f.probe()
	lines := strings.Split(strings.TrimSpace(f.get("/events", http.StatusOK)), "\n")
	if len(lines) != 3 {
		t.Fatalf("lines %q", lines)
	}
	var last event
	if err := json.Unmarshal([]byte(lines[2]), &last); err != nil {
		t.Fatal(err)
	}
	if last.Target != "b" || last.From != probe.StateAccepting || last.To != probe.StateConnectionLimit ||
		last.Reason != probe.ReasonReservedSlots {
		t.Errorf("the last event is %+v", last)
	}
	if body := f.get("/events?since="+last.Time.Format(time.RFC3339Nano), http.StatusOK); body != "" {
		t.Errorf("later than the last event: %s", body)
	}
	earlier := fmt.Sprintf("%.3f", float64(last.Time.Add(-time.Millisecond).UnixMilli())/1000)
	if body := f.get("/events?since="+earlier, http.StatusOK); strings.Count(body, "\n") < 1 {
		t.Errorf("since a millisecond before the last event: %q", body)
	}
	f.get("/events?since=yesterday", http.StatusBadRequest)
	f.get("/events?since=NaN", http.StatusBadRequest)

	names := make([]string, 0, 1200)
	for i := range 1200 {
		names = append(names, fmt.Sprintf("target-%04d", i))
	}
	many := newFixture(t, names...)
	many.probe()
	if n := strings.Count(many.get("/events", http.StatusOK), "\n"); n != maxEvents {
		t.Errorf("%d lines", n)
	}
}

func TestFilter(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "orders", "billing", "a", "b", "c", "d", "e", "f", "g", "h")
	f.probers["billing"].result.Store(failed(probe.StateNoResponse, probe.ReasonRefused, probe.PhaseDial))
	f.probe()
	for query, want := range map[string]int{
		"": 10, "?q=ord": 1, "?q=REFUSED": 1, "?state=problem": 1, "?state=ok": 9, "?q=nothing": 0, "?q=%3Cscript%3E": 0, "?state=odd": 10,
	} {
		page := f.get("/"+query, http.StatusOK)
		if n := strings.Count(page, `<tr id="target-`); n != want {
			t.Errorf("%q shows %d targets, want %d", query, n, want)
		}
		f.expect(page, "<h1>billing: no response", `name="q"`)
		if strings.Contains(page, "<script>") {
			t.Error("the search is not escaped")
		}
	}
}

// TestManyTargets tests that the page of 500 targets with full timelines is small.
func TestManyTargets(t *testing.T) {
	t.Parallel()
	f := newManyTargets(t)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	page := f.get("/", http.StatusOK)
	if _, err := w.Write([]byte(page)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(page, `<tr id="target-`); n != 500 || packed.Len() > 500_000 {
		t.Errorf("%d targets in %d bytes, %d compressed", n, len(page), packed.Len())
	}
}

// BenchmarkManyTargets renders and compresses the page of 500 targets, which should take less than 200 ms.
func BenchmarkManyTargets(b *testing.B) {
	f := newManyTargets(b)
	for b.Loop() {
		w := gzip.NewWriter(io.Discard)
		_, _ = io.WriteString(w, f.get("/", http.StatusOK))
		_ = w.Close()
	}
}

func newManyTargets(t testing.TB) *fixture {
	t.Helper()
	names := make([]string, 500)
	for i := range names {
		names[i] = fmt.Sprintf("server-%03d", i)
	}
	f := newFixture(t, names...)
	for i := range 20 {
		if i%5 == 0 {
			f.probers["server-007"].result.Store(failed(probe.StateNoResponse, probe.ReasonTimeout, probe.PhaseDial))
		} else {
			f.probers["server-007"].result.Store(up())
		}
		f.probe()
	}
	return f
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "a")
	for _, path := range []string{"/", "/targets/a", "/targets/none"} {
		response := httptest.NewRecorder()
		f.pages.ServeHTTP(response, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://exporter"+path, nil))
		policy := response.Header().Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") ||
			response.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", path, response.Header())
		}
		if body := response.Body.String(); strings.Contains(body, "style=") || strings.Contains(body, "onclick") {
			t.Errorf("%s has styles or scripts of its own", path)
		}
	}
}

func TestDurations(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0 s", 400 * time.Millisecond: "0 s", 59 * time.Second: "59 s", time.Minute: "1 min", 192 * time.Second: "3 min 12 s",
		time.Hour + 5*time.Second: "1 h", 26 * time.Hour: "1 d 2 h", 49*time.Hour + 30*time.Minute: "2 d 1 h",
	} {
		if got := duration(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	for _, r := range probe.Reasons() {
		if reasonWords(r) == "" {
			t.Errorf("no words for %s", r)
		}
	}
}
