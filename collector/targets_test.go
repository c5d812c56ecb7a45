// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

// countedProbers makes probers and knows which of them are open.
type countedProbers struct {
	mu     sync.Mutex
	made   int
	open   map[string]int
	probes func(ctx context.Context) *probe.Result
}

type countedProber struct {
	unqueried
	all  *countedProbers
	name string
}

func (c *countedProbers) prober(t *config.Target, _ Events) Prober {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	c.open[t.Name]++
	return &countedProber{all: c, name: t.Name}
}

func (p *countedProber) Probe(ctx context.Context) *probe.Result {
	if p.all.probes != nil {
		return p.all.probes(ctx)
	}
	return &probe.Result{Start: time.Now()}
}

func (p *countedProber) Close(context.Context) error {
	p.all.mu.Lock()
	defer p.all.mu.Unlock()
	p.all.open[p.name]--
	return nil
}

func (c *countedProbers) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for name, n := range c.open {
		for range n {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func countingExporter() (*Exporter, *countedProbers) {
	c := &countedProbers{open: make(map[string]int)}
	return NewExporter(Options{
		MaxInFlight: 10, Sessions: &probe.Sessions{}, Logger: slog.New(slog.DiscardHandler), NewProber: c.prober,
	}), c
}

func parse(t *testing.T, text string) *config.File {
	t.Helper()
	f, err := config.Parse(strings.NewReader(text), "x.yml", config.Probing{Timeout: 2 * time.Second}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const twoTargets = `
modules: {m: {user: u, allow: [h]}, n: {user: u, allow: [h]}}
targets: {a: {host: h, module: m}, b: {host: h, user: u}}`

// TestApply: unchanged targets stay with what was counted, others are made and dropped, also while they are probed.
func TestApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, probers := countingExporter()
		e.Apply(parse(t, twoTargets))
		a := e.targets.All()[0]
		if _, err := a.Probe(t.Context(), time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		e.Apply(parse(t, strings.Replace(twoTargets, "b: {host: h", "c: {host: h2", 1)))
		synctest.Wait()
		if got := e.targets.All()[0]; got != a || got.seen.probes != 1 {
			t.Error("an unchanged target was made anew")
		}
		if got := probers.names(); !slices.Equal(got, []string{"a", "c"}) || probers.made != 3 {
			t.Errorf("open: %v of %d", got, probers.made)
		}
		// A target that is dropped while it is probed gives the answer before it goes.
		probers.probes = func(context.Context) *probe.Result {
			time.Sleep(time.Second)
			return &probe.Result{Start: time.Now()}
		}
		answered := make(chan error)
		go func() {
			s, err := a.Probe(t.Context(), time.Now().Add(2*time.Second))
			if err == nil && !s.Result.Up() {
				err = fmt.Errorf("got %+v", s.Result.Failure)
			}
			answered <- err
		}()
		time.Sleep(500 * time.Millisecond)
		e.Apply(parse(t, "modules: {}"))
		synctest.Wait()
		if got := probers.names(); !slices.Equal(got, []string{"a"}) {
			t.Errorf("open while a is probed: %v", got)
		}
		if err := <-answered; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := probers.names(); len(got) > 0 || len(e.targets.All()) > 0 {
			t.Errorf("open in the end: %v", got)
		}
	})
}

// TestApplyDuringScrape: a scrape that goes on across a reload shows the targets that were changed meanwhile.
func TestApplyDuringScrape(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := countingExporter()
		file := func(more string) *config.File {
			var text strings.Builder
			text.WriteString("targets:\n")
			for i := range 400 {
				fmt.Fprintf(&text, "  t%03d: {host: h, user: u%s}\n", i, more)
			}
			return parse(t, text.String())
		}
		e.Apply(file(""))
		go func() {
			time.Sleep(200 * time.Millisecond)
			e.Apply(file(", timeout: 1s"))
		}()
		response := httptest.NewRecorder()
		e.ServeHTTP(response, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
		if n := strings.Count(response.Body.String(), "\npg_up{"); n != 400 {
			t.Errorf("shows %d of 400 targets", n)
		}
		if err := e.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestAdHoc: an ad-hoc target stays as long as it is asked for, is dropped with its module's permission, and gives way
// only when it is idle.
func TestAdHoc(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, probers := countingExporter()
		e.Apply(parse(t, twoTargets))
		find := func(name, module string) *Target {
			t.Helper()
			target, err := e.targets.Find(name, module)
			if err != nil {
				t.Fatal(err)
			}
			return target
		}
		first := find("h:1", "m")
		for range 3 {
			time.Sleep(adHocIdle - time.Second)
			if find("h:1", "m") != first {
				t.Error("dropped while it is asked for")
			}
		}
		if find("h:1", "n") == first {
			t.Error("two modules share a target")
		}
		time.Sleep(adHocIdle + time.Second)
		synctest.Wait()
		if got := probers.names(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("open when idle: %v", got)
		}
		second := find("h:1", "m")
		e.Apply(parse(t, twoTargets))
		if find("h:1", "m") != second {
			t.Error("a reload dropped an ad-hoc target")
		}
		e.Apply(parse(t, strings.ReplaceAll(twoTargets, "[h]", "[g]")))
		if _, err := e.targets.Find("h:1", "m"); err == nil {
			t.Error("a target that is not allowed any more is still there")
		}
		e.Apply(parse(t, twoTargets))
		for i := range mostAdHoc {
			find(fmt.Sprintf("h:%d", i+1), "m")
		}
		if _, err := e.targets.Find("h:60000", "m"); err != errFull { //nolint:errorlint // it is not wrapped
			t.Errorf("more than fit: %v", err)
		}
		time.Sleep(adHocLeast)
		find("h:2", "m")
		find("h:60000", "m")
		synctest.Wait()
		if got := len(probers.names()); got != mostAdHoc+2 {
			t.Errorf("%d open", got)
		}
		if err := e.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if got := probers.names(); len(got) > 0 {
			t.Errorf("%d open in the end", len(got))
		}
	})
}

// TestRefusals: what /probe cannot do is 400 with a sentence that repeats nothing of what was asked.
func TestRefusals(t *testing.T) {
	t.Parallel()
	e, _ := countingExporter()
	e.Apply(parse(t, twoTargets))
	defer func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	for query, want := range map[string]string{
		"":                                "the parameter target is missing",
		"target=":                         "the parameter target is missing",
		"target=hunter2":                  "there is no target of this name; to probe host:port, name a module",
		"target=hunter2&module=m":         "the target is not host:port",
		"target=a&module=n":               "this target has another module, or none",
		"target=b&module=m":               "this target has another module, or none",
		"target=h:1&module=hunter2":       "there is no such module",
		"target=hunter2:1&module=m":       "the module does not allow this host",
		"target=h:1&target=hunter2":       "the parameter target is given several times",
		"target=a&module=m&auth_module=n": "module and auth_module differ",
		"target=a&debug=maybe":            "the parameter debug is neither true nor false",
		"target=%zz":                      "the parameters are not well-formed",
		"target=postgres://u:hunter2@h:1&module=m": "the target is a connection string; write host:port, credentials come from the module",
		"target=u:hunter2@h:1&module=m":            "the target holds a user; write host:port, credentials come from the module",
		"target=/tmp/hunter2&module=m":             "the target is a path; write host:port",
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

// TestDiscovery: every configured target is listed, whatever its name.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	odd := `odd "name" {}, ü/&?`
	e := newTestExporter(t, healthy(), "a", odd, "")
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://exporter:1/sd", nil)
	response := httptest.NewRecorder()
	e.Discovery("/metrics", "/probe").ServeHTTP(response, request)
	var got []group
	if err := json.Unmarshal(response.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := []group{
		{[]string{"exporter:1"}, map[string]string{"__scheme__": "http", "__metrics_path__": "/probe", "__param_target": "a", "instance": "a", "target": "a"}},
		{[]string{"exporter:1"}, map[string]string{"__scheme__": "http", "__metrics_path__": "/probe", "__param_target": odd, "instance": odd, "target": odd}},
		{[]string{"exporter:1"}, map[string]string{"__scheme__": "http", "__metrics_path__": "/metrics"}},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if response.Header().Get("Content-Type") != "application/json" {
		t.Errorf("Content-Type %s", response.Header().Get("Content-Type"))
	}
}
