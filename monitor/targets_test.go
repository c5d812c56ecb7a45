// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

// countedProbers creates fake probers and records which of them are open.
type countedProbers struct {
	mu     sync.Mutex
	made   int
	open   map[string]int
	keeps  int // how many of them keep a session
	probes func(ctx context.Context) *probe.Result
}

type countedProber struct {
	unqueried
	all   *countedProbers
	name  string
	keeps bool // protected by all.mu
}

func (p *countedProber) SetKeep(keep bool) {
	p.all.mu.Lock()
	defer p.all.mu.Unlock()
	switch {
	case keep && !p.keeps:
		p.all.keeps++
	case !keep && p.keeps:
		p.all.keeps--
	}
	p.keeps = keep
}

// keeping returns how many open probers keep a session.
func (c *countedProbers) keeping() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keeps
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

// names returns the sorted names of the targets with an open prober.
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

func countingMonitor() (*Monitor, *countedProbers) {
	c := &countedProbers{open: make(map[string]int)}
	m := New(Options{
		MaxInFlight: 10, Logger: slog.New(slog.DiscardHandler), NewProber: c.prober, NewHistograms: newHistograms,
	})
	return m, c
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

// TestApply tests that a reload keeps unchanged targets with their counters, creates new ones, and drops removed
// ones even while they are being probed.
func TestApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, probers := countingMonitor()
		m.ApplyConfig(parse(t, twoTargets))
		a := m.Targets()[0]
		if _, err := a.Probe(t.Context(), time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		m.ApplyConfig(parse(t, strings.Replace(twoTargets, "b: {host: h", "c: {host: h2", 1)))
		synctest.Wait()
		if got := m.Targets()[0]; got != a || got.history.Probes != 1 {
			t.Error("an unchanged target was made anew")
		}
		if got := probers.names(); !slices.Equal(got, []string{"a", "c"}) || probers.made != 3 {
			t.Errorf("open: %v of %d", got, probers.made)
		}
		// Other labels alone do not make a target anew.
		m.ApplyConfig(parse(t, strings.Replace(twoTargets, "a: {host: h", "a: {host: h, labels: {cluster: eu}", 1)))
		synctest.Wait()
		if got := m.Targets()[0]; got != a || len(got.Labels()) != 1 || got.Labels()[0].Value != "eu" {
			t.Errorf("the same target: %v, with %v", got == a, got.Labels())
		}
		// A target that is dropped during a probe returns the result before it is closed.
		probers.probes = func(context.Context) *probe.Result {
			time.Sleep(time.Second)
			return &probe.Result{Start: time.Now()}
		}
		probed := make(chan error)
		go func() {
			s, err := a.Probe(t.Context(), time.Now().Add(2*time.Second))
			if err == nil && !s.Result.Up() {
				err = fmt.Errorf("got %+v", s.Result.Failure)
			}
			probed <- err
		}()
		time.Sleep(500 * time.Millisecond)
		m.ApplyConfig(parse(t, "modules: {}"))
		synctest.Wait()
		if got := probers.names(); !slices.Equal(got, []string{"a"}) {
			t.Errorf("open while a is probed: %v", got)
		}
		if err := <-probed; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := probers.names(); len(got) > 0 || len(m.Targets()) > 0 {
			t.Errorf("open in the end: %v", got)
		}
	})
}

// TestApplyDuringProbeAll tests that a scrape includes the targets that a reload changes during the scrape.
func TestApplyDuringProbeAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := countingMonitor()
		file := func(more string) *config.File {
			var text strings.Builder
			text.WriteString("targets:\n")
			for i := range 400 {
				fmt.Fprintf(&text, "  t%03d: {host: h, user: u%s}\n", i, more)
			}
			return parse(t, text.String())
		}
		m.ApplyConfig(file(""))
		go func() {
			time.Sleep(200 * time.Millisecond)
			m.ApplyConfig(file(", timeout: 1s"))
		}()
		snapshots, err := m.ProbeAll(t.Context(), time.Now().Add(2*time.Second))
		if err != nil || len(snapshots) != 400 {
			t.Errorf("%d of 400 targets, %v", len(snapshots), err)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// hang is a probe of a server that hangs.
func hang(ctx context.Context) *probe.Result {
	start := time.Now()
	<-ctx.Done()
	return probe.Unanswered(start, time.Since(start), true)
}

// TestProbeAllHanging tests that each of many targets that hang gets its whole timeout, although their probes start one
// after the other, and that the callers wait for the results.
func TestProbeAllHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, probers := countingMonitor()
		m.limiter = newLimiter(1000)
		probers.probes = hang
		var text strings.Builder
		text.WriteString("targets:\n")
		for i := range 400 {
			fmt.Fprintf(&text, "  t%03d: {host: h, user: u}\n", i)
		}
		m.ApplyConfig(parse(t, text.String()))
		snapshots, err := m.ProbeAll(t.Context(), time.Now().Add(9500*time.Millisecond))
		if err != nil || len(snapshots) != 400 {
			t.Errorf("%d of 400 targets, %v", len(snapshots), err)
		}
		for _, s := range snapshots {
			if !s.Counted() {
				t.Errorf("%s: the result is not that of the probe", s.Target)
			}
		}
		if err := m.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestCloseWhileRetiring tests that Close does not wait for the probe of a target that a reload has removed.
func TestCloseWhileRetiring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, probers := countingMonitor()
		probers.probes = hang
		m.ApplyConfig(parse(t, twoTargets))
		for _, target := range m.Targets() {
			go func() { _, _ = target.Probe(t.Context(), time.Now().Add(time.Minute)) }()
		}
		synctest.Wait()
		m.ApplyConfig(parse(t, strings.Replace(twoTargets, "b: {host: h", "c: {host: h2", 1)))
		synctest.Wait()
		if got := probers.names(); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("open during the probes: %v", got)
		}
		start := time.Now()
		if err := m.Close(t.Context()); err != nil || time.Since(start) > 0 || len(probers.names()) > 0 {
			t.Errorf("closed after %s, open %v, %v", time.Since(start), probers.names(), err)
		}
	})
}

// TestAdHoc tests that an ad-hoc target stays as long as it is used, that it is dropped if its module no longer allows
// it, and that it is evicted only if it is idle.
func TestAdHoc(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, probers := countingMonitor()
		m.ApplyConfig(parse(t, twoTargets))
		find := func(name, module string) *Target {
			t.Helper()
			target, err := m.FindTarget(name, module)
			if err != nil {
				t.Fatal(err)
			}
			return target
		}
		first := find("h:1", "m")
		for range 3 {
			time.Sleep(adHocIdleTime - time.Second)
			if find("h:1", "m") != first {
				t.Error("dropped although it is used")
			}
		}
		if find("h:1", "n") == first {
			t.Error("two modules share a target")
		}
		time.Sleep(adHocIdleTime + time.Second)
		synctest.Wait()
		if got := probers.names(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("open when idle: %v", got)
		}
		second := find("h:1", "m")
		m.ApplyConfig(parse(t, twoTargets))
		if find("h:1", "m") != second {
			t.Error("a reload dropped an ad-hoc target")
		}
		m.ApplyConfig(parse(t, strings.ReplaceAll(twoTargets, "[h]", "[g]")))
		if _, err := m.FindTarget("h:1", "m"); err == nil {
			t.Error("a target that is no longer allowed is still there")
		}
		m.ApplyConfig(parse(t, twoTargets))
		for i := range maxAdHoc {
			find(fmt.Sprintf("h:%d", i+1), "m")
		}
		if _, err := m.FindTarget("h:60000", "m"); err != ErrTooManyTargets { //nolint:errorlint // it is not wrapped
			t.Errorf("more than fit: %v", err)
		}
		time.Sleep(minAdHocTime)
		find("h:2", "m")
		find("h:60000", "m")
		synctest.Wait()
		if got := len(probers.names()); got != maxAdHoc+2 {
			t.Errorf("%d open", got)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if got := probers.names(); len(got) > 0 {
			t.Errorf("%d open in the end", len(got))
		}
	})
}

// TestAdHocUnresolved tests that an ad-hoc target whose name has never led to an address makes room for others at once, and
// that its failures are counted until then.
func TestAdHocUnresolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, probers := countingMonitor()
		m.ApplyConfig(parse(t, "modules: {m: {user: u, interval: 1s, allow: [\"*\"]}}"))
		failure := &probe.Failure{Reason: probe.ReasonResolve, State: probe.StateNoResponse, Phase: probe.PhaseResolve}
		probers.probes = func(context.Context) *probe.Result { return &probe.Result{Start: time.Now(), Failure: failure} }
		probeAdHoc := func(name string) uint64 {
			t.Helper()
			target, err := m.FindTarget(name, "m")
			if err != nil {
				t.Fatal(err)
			}
			s, err := target.Probe(t.Context(), time.Now().Add(time.Second))
			if err != nil || s.Result.Failure != failure {
				t.Fatalf("%+v, %v", s.Result, err)
			}
			return s.Probes
		}
		expect := func(what string, want int) {
			t.Helper()
			synctest.Wait()
			if got := len(probers.names()); got != want {
				t.Errorf("%s: %d targets, want %d", what, got, want)
			}
		}
		for i := range maxAdHoc + 10 {
			if n := probeAdHoc(fmt.Sprintf("h%d:1", i)); n != 1 {
				t.Errorf("h%d: %d probes", i, n)
			}
			time.Sleep(time.Millisecond)
		}
		expect("never resolved", maxAdHoc)
		target, err := m.FindTarget("h50:1", "m")
		if err != nil {
			t.Fatal(err)
		}
		counted := func() uint64 {
			target.mu.Lock()
			defer target.mu.Unlock()
			return target.history.Probes
		}
		sampled := counted()
		time.Sleep(5 * time.Second)
		if n := counted() - sampled; n > 1 {
			t.Errorf("%d probes in five seconds, want the sampler to pause", n)
		}
		last := fmt.Sprintf("h%d:1", maxAdHoc+9)
		if n := probeAdHoc(last); n < 2 {
			t.Errorf("%d probes, want them to be counted", n)
		}
		failure = &probe.Failure{Reason: probe.ReasonRefused, State: probe.StateNoResponse, Phase: probe.PhaseDial}
		probeAdHoc(last)
		failure = &probe.Failure{Reason: probe.ReasonResolve, State: probe.StateNoResponse, Phase: probe.PhaseResolve}
		before := probeAdHoc(last)
		time.Sleep(time.Millisecond)
		for i := range maxAdHoc + 10 {
			probeAdHoc(fmt.Sprintf("g%d:1", i))
		}
		if n := probeAdHoc(last); n <= before {
			t.Errorf("%d probes after %d: a target whose name has led to an address made room for names that have not", n, before)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
