// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pg_liveness_exporter/check"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

// queriedProber is a fake prober whose probes succeed. A statement returns its number in value, or hangs if it has
// none.
type queriedProber struct {
	fixedProber
	start        time.Time
	running, max atomic.Int64 // statements under way; max is the most at once

	mu    sync.Mutex // protects what follows
	log   []string   // each statement with the second at which it started
	value map[string]float64
}

func (p *queriedProber) Query(ctx context.Context, sql string, maxDuration time.Duration) (probe.Scalar, *probe.Failure) {
	ctx, cancel := context.WithTimeout(ctx, maxDuration)
	defer cancel()
	p.max.Store(max(p.max.Load(), p.running.Add(1)))
	defer p.running.Add(-1)
	p.mu.Lock()
	p.log = append(p.log, fmt.Sprintf("%s at %.0f", sql, time.Since(p.start).Seconds()))
	value, ok := p.value[sql]
	p.mu.Unlock()
	if !ok {
		<-ctx.Done()
		return probe.Scalar{}, &probe.Failure{Reason: probe.ReasonTimeout, State: probe.StateRejecting, Phase: probe.PhaseQuery}
	}
	return probe.Scalar{Columns: 1, Rows: 1, Number: true, Text: strconv.FormatFloat(value, 'f', -1, 64)}, nil
}

func (p *queriedProber) set(sql string, value float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.value[sql] = value
}

// statements returns the statements that ran since its last call.
func (p *queriedProber) statements() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	log := slices.Clone(p.log)
	p.log = nil
	return log
}

// statement returns a check that runs a statement on the target orders. It warns above 5 and fails above 10.
func statement(name, sql string) *config.Check {
	warnAbove, failAbove := 5.0, 10.0
	return &config.Check{
		Name: name, Kind: config.CheckSQL, Target: "orders", SQL: sql,
		Timeout: 5 * time.Second, TTL: 27 * time.Second, TTLFailed: 9 * time.Second,
		Limits: config.Limits{WarnAbove: &warnAbove, FailAbove: &failAbove},
	}
}

// checkedMonitor returns a monitor with the target orders and these checks.
func checkedMonitor(t *testing.T, checks ...*config.Check) (*Monitor, *queriedProber, *config.File) {
	t.Helper()
	p := &queriedProber{fixedProber: fixedProber{}, start: time.Now(), value: map[string]float64{"one": 1, "many": 11}}
	m := New(Options{
		MaxInFlight: 10, NewHistograms: newHistograms, Logger: slog.New(slog.DiscardHandler),
		NewProber: func(*config.Target, Events) Prober { return p },
	})
	file := &config.File{
		Targets: []*config.Target{{
			Name: "orders", Kind: config.KindPostgres, Probing: config.Probing{Timeout: 5 * time.Second},
		}},
		Checks: checks, Health: config.DefaultHealth(),
	}
	m.ApplyConfig(file)
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m, p, file
}

// awaitResult waits for the first result of a check for at most maxWait.
func awaitResult(t *testing.T, c *Check, maxWait time.Duration) (CheckResult, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), maxWait)
	defer cancel()
	c.Wait(ctx)
	return c.Latest()
}

// TestCheckTimes tests that a check runs again after ttl or ttl_failed, and that calls of Latest do not affect that.
func TestCheckTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, _ := checkedMonitor(t, statement("a", "one"))
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			if r, ok := m.Checks()[0].Latest(); !ok || r.Status != check.Pass || r.Value != 1 || !r.HasValue {
				t.Fatalf("%+v %v", r, ok)
			}
		}
		p.set("one", 11)
		time.Sleep(50 * time.Second)
		p.set("one", 6) // warns, which is not a failure
		time.Sleep(40 * time.Second)
		want := []string{
			"one at 0", "one at 27", "one at 54", "one at 81", "one at 90", "one at 99", "one at 108", "one at 117", "one at 144",
		}
		if got := p.statements(); !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	})
}

// TestCheckHangs tests that the checks of one target never run at the same time, and that a check does not fail because
// it has to wait for checks that hang.
func TestCheckHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, _ := checkedMonitor(t, statement("a", "hangs"), statement("b", "hangs too"), statement("c", "one"))
		start := time.Now()
		if _, ok := awaitResult(t, m.Checks()[0], 700*time.Millisecond); ok {
			t.Error("a check that hangs has a result")
		}
		r, ok := awaitResult(t, m.Checks()[2], time.Minute)
		if took := time.Since(start); !ok || r.Status != check.Pass || r.Took != 0 || took > 10*time.Second {
			t.Errorf("after %s: %+v", took, r)
		}
		r, ok = awaitResult(t, m.Checks()[1], time.Minute)
		failed := ok && r.Status == check.Fail && r.Output == "the statement did not end in time"
		if took := time.Since(start); !failed || took > 12*time.Second {
			t.Errorf("after %s: %+v", took, r)
		}
		time.Sleep(10 * time.Minute)
		if n := p.max.Load(); n != 1 {
			t.Errorf("%d statements at once", n)
		}
		if r, ok := m.Checks()[2].Latest(); !ok || r.Status != check.Pass || time.Since(r.At) > time.Minute {
			t.Errorf("%+v", r)
		}
	})
}

// TestCheckBesideSlowOnes tests that a fast check waits for at most one of many checks that hang, plus a second for
// each check that has just begun to hang. The checks that hang must still run.
func TestCheckBesideSlowOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := []*config.Check{statement("a", "one")}
		for i := range 20 {
			all = append(all, statement(fmt.Sprintf("b%02d", i), fmt.Sprintf("hangs %d", i)))
		}
		m, p, _ := checkedMonitor(t, all...)
		r, ok := awaitResult(t, m.Checks()[0], time.Minute)
		if took := time.Since(p.start); !ok || r.Status != check.Pass || took > 20*time.Second {
			t.Errorf("after %s, when no check had a result: %+v", took, r)
		}
		time.Sleep(3 * time.Minute)
		p.statements()
		for range 600 {
			time.Sleep(time.Second)
			r, ok := m.Checks()[0].Latest()
			if age := time.Since(r.At); !ok || r.Status != check.Pass || age > (27+5)*time.Second {
				t.Fatalf("%s old: %+v", age, r)
			}
		}
		statements := strings.Join(p.statements(), "\n")
		for i := range 20 {
			if n := strings.Count(statements, fmt.Sprintf("hangs %d at", i)); n < 5 {
				t.Errorf("statement hangs %d ran %d times", i, n)
			}
			p.set(fmt.Sprintf("hangs %d", i), 1)
		}
		time.Sleep(3 * time.Minute)
		p.mu.Lock()
		p.value = map[string]float64{"one": 1} // all other statements begin to hang again at once
		p.mu.Unlock()
		for range 300 {
			time.Sleep(time.Second)
			r, ok := m.Checks()[0].Latest()
			if age := time.Since(r.At); !ok || r.Status != check.Pass || age > (27+5+20)*time.Second {
				t.Fatalf("%s old: %+v", age, r)
			}
		}
		if n := p.max.Load(); n != 1 {
			t.Errorf("%d statements at once", n)
		}
	})
}

// TestCheckReload tests a reload: an unchanged check keeps its result, a new one runs at once, and a removed one no
// longer runs.
func TestCheckReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, file := checkedMonitor(t, statement("a", "one"), statement("b", "many"))
		time.Sleep(3 * time.Second)
		again := *file
		again.Checks = []*config.Check{statement("a", "one"), statement("c", "one")}
		p.statements()
		m.ApplyConfig(&again)
		synctest.Wait()
		if got, want := p.statements(), []string{"one at 3"}; !slices.Equal(got, want) {
			t.Errorf("statements %q, want %q", got, want)
		}
		var names []string
		for _, c := range m.Checks() {
			r, ok := c.Latest()
			names = append(names, fmt.Sprintf("%s %v %.0f", c.Name(), ok, r.At.Sub(p.start).Seconds()))
		}
		if want := []string{"a true 0", "c true 3"}; !slices.Equal(names, want) {
			t.Errorf("got %q, want %q", names, want)
		}
		// With other limits, the check keeps its last result until it has a new one.
		p.statements()
		changed, failAbove := again, 100.0
		changed.Checks = []*config.Check{statement("a", "one"), statement("c", "one")}
		changed.Checks[1].Limits = config.Limits{FailAbove: &failAbove}
		m.ApplyConfig(&changed)
		if r, ok := m.Checks()[1].Latest(); !ok || r.Status != check.Pass {
			t.Errorf("%v %+v", ok, r)
		}
		synctest.Wait()
		if got, want := p.statements(), []string{"one at 3"}; !slices.Equal(got, want) {
			t.Errorf("statements %q, want %q", got, want)
		}
		// With another target, the check runs anew.
		moved := changed
		moved.Targets = []*config.Target{{
			Name: "orders", Kind: config.KindPostgres, Probing: config.Probing{Timeout: 6 * time.Second},
		}}
		m.ApplyConfig(&moved)
		synctest.Wait()
		if got, want := p.statements(), []string{"one at 3", "one at 3"}; !slices.Equal(got, want) {
			t.Errorf("statements %q, want %q", got, want)
		}
		p.set("one", 11)
		time.Sleep(time.Hour)
		if got := p.statements(); slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, "many") }) {
			t.Error("a removed check runs")
		}
	})
}

// refusingProber is a fake prober. Its probes succeed, but the server refuses the credentials of its statements.
type refusingProber struct {
	fixedProber
	statements      atomic.Int64
	accepts, unread atomic.Bool // the server accepts the credentials; the password cannot be read
}

func (p *refusingProber) Query(_ context.Context, _ string, _ time.Duration) (probe.Scalar, *probe.Failure) {
	p.statements.Add(1)
	if p.accepts.Load() {
		return probe.Scalar{Columns: 1, Rows: 1, Number: true, Text: "1"}, nil
	}
	if p.unread.Load() {
		return probe.Scalar{}, &probe.Failure{
			Reason: probe.ReasonAuth, State: probe.StateMisconfigured, Phase: probe.PhaseCredentials,
		}
	}
	return probe.Scalar{}, &probe.Failure{
		Reason: probe.ReasonAuth, State: probe.StateMisconfigured, Phase: probe.PhaseStartup, SQLState: "28P01",
	}
}

// TestCheckRefused tests that no statement logs in for a minute after the server has refused our credentials to one of
// them, unless a probe succeeds: some servers lock a role out.
func TestCheckRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &refusingProber{fixedProber: fixedProber{}}
		p.unread.Store(true)
		m := New(Options{
			MaxInFlight: 10, NewHistograms: newHistograms, Logger: slog.New(slog.DiscardHandler),
			NewProber: func(*config.Target, Events) Prober { return p },
		})
		defer func() { _ = m.Close(context.Background()) }()
		m.ApplyConfig(&config.File{
			Targets: []*config.Target{{
				Name: "orders", Kind: config.KindPostgres, Probing: config.Probing{Timeout: 5 * time.Second},
			}},
			Checks: []*config.Check{statement("a", "one"), statement("b", "two"), statement("c", "three")},
			Health: config.DefaultHealth(),
		})
		synctest.Wait()
		if n := p.statements.Load(); n != 3 { // a password that cannot be read causes no login
			t.Errorf("%d statements", n)
		}
		p.unread.Store(false)
		time.Sleep(59 * time.Second)
		if n := p.statements.Load(); n != 4 {
			t.Errorf("%d logins in a minute", n-3)
		}
		for _, c := range m.Checks() {
			const want = "no session with its target: misconfigured: auth in phase startup, SQLSTATE 28P01"
			if r, ok := c.Latest(); !ok || r.Output != want {
				t.Errorf("%+v", r)
			}
		}
		p.accepts.Store(true)
		if _, err := m.Targets()[0].Probe(t.Context(), time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Second)
		for _, c := range m.Checks() {
			if r, ok := c.Latest(); !ok || r.Status != check.Pass {
				t.Errorf("%+v", r)
			}
		}
	})
}
