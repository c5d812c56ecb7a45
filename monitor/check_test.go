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

// queriedProber is healthy and answers statements: each is the number to return, or "hang".
type queriedProber struct {
	fixedProber
	start         time.Time
	running, most atomic.Int64

	mu    sync.Mutex // protects what follows
	log   []string   // each statement with the second at which it came
	value map[string]float64
}

func (p *queriedProber) Query(ctx context.Context, sql string, most time.Duration) (probe.Scalar, *probe.Failure) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	p.most.Store(max(p.most.Load(), p.running.Add(1)))
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

func (p *queriedProber) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	log := slices.Clone(p.log)
	p.log = nil
	return log
}

// statement is a check that runs a statement on orders, and fails above 10.
func statement(name, sql string) *config.Check {
	most, some := 10.0, 5.0
	return &config.Check{
		Name: name, Kind: config.CheckSQL, Target: "orders", SQL: sql, Timeout: 5 * time.Second, TTL: 27 * time.Second, TTLFailed: 9 * time.Second,
		Limits: config.Limits{WarnAbove: &some, FailAbove: &most},
	}
}

// checkedMonitor watches the target orders, with these checks.
func checkedMonitor(t *testing.T, checks ...*config.Check) (*Monitor, *queriedProber, *config.File) {
	t.Helper()
	p := &queriedProber{fixedProber: fixedProber{}, start: time.Now(), value: map[string]float64{"one": 1, "many": 11}}
	m := New(Options{
		MaxInFlight: 10, Keep: true, NewHistograms: newHistograms, Logger: slog.New(slog.DiscardHandler),
		NewProber: func(*config.Target, Events) Prober { return p },
	})
	file := &config.File{
		Targets: []*config.Target{{Name: "orders", Kind: config.KindPostgres, Probing: config.Probing{Timeout: 5 * time.Second}}},
		Checks:  checks, Health: config.DefaultHealth(),
	}
	m.ApplyConfig(file)
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m, p, file
}

// TestCheckTimes: a check is asked again so long after it passed, and so long after it failed, whoever looks.
func TestCheckTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, _ := checkedMonitor(t, statement("a", "one"))
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			if f, ok := m.Checks()[0].Latest(t.Context(), 0); !ok || f.Status != check.Pass || f.Value != 1 || !f.HasValue {
				t.Fatalf("%+v %v", f, ok)
			}
		}
		p.set("one", 11)
		time.Sleep(50 * time.Second)
		p.set("one", 6) // nearly fails, which is no failure
		time.Sleep(40 * time.Second)
		want := []string{"one at 0", "one at 27", "one at 54", "one at 81", "one at 90", "one at 99", "one at 108", "one at 117", "one at 144"}
		if got := p.asked(); !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	})
}

// TestCheckHangs: those of one target take turns, so that it never has more than one session of theirs, and one that has to wait
// for others that hang fails for that no more than others do.
func TestCheckHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, _ := checkedMonitor(t, statement("a", "hangs"), statement("b", "hangs too"), statement("c", "one"))
		start := time.Now()
		if _, ok := m.Checks()[0].Latest(t.Context(), 700*time.Millisecond); ok {
			t.Error("there is a result of what hangs")
		}
		f, ok := m.Checks()[2].Latest(t.Context(), time.Minute)
		if took := time.Since(start); !ok || f.Status != check.Pass || f.Took != 0 || took > 10*time.Second {
			t.Errorf("after %s: %+v", took, f)
		}
		f, ok = m.Checks()[1].Latest(t.Context(), time.Minute)
		if took := time.Since(start); !ok || f.Status != check.Fail || f.Output != "the statement did not end in time" || took > 12*time.Second {
			t.Errorf("after %s: %+v", took, f)
		}
		time.Sleep(10 * time.Minute)
		if n := p.most.Load(); n != 1 {
			t.Errorf("%d statements at once", n)
		}
		if f, ok := m.Checks()[2].Latest(t.Context(), 0); !ok || f.Status != check.Pass || time.Since(f.At) > time.Minute {
			t.Errorf("%+v", f)
		}
	})
}

// TestCheckBesideSlowOnes: however many hang, one that does not waits for one of them at most, and for a second where one begins
// to hang; and they still have their turns.
func TestCheckBesideSlowOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := []*config.Check{statement("a", "one")}
		for i := range 20 {
			all = append(all, statement(fmt.Sprintf("b%02d", i), fmt.Sprintf("hangs %d", i)))
		}
		m, p, _ := checkedMonitor(t, all...)
		if f, ok := m.Checks()[0].Latest(t.Context(), time.Minute); !ok || f.Status != check.Pass || time.Since(p.start) > 20*time.Second {
			t.Errorf("after %s, when none had a result: %+v", time.Since(p.start), f)
		}
		time.Sleep(3 * time.Minute)
		p.asked()
		for range 600 {
			time.Sleep(time.Second)
			f, ok := m.Checks()[0].Latest(t.Context(), 0)
			if age := time.Since(f.At); !ok || f.Status != check.Pass || age > (27+5)*time.Second {
				t.Fatalf("%s old: %+v", age, f)
			}
		}
		asked := strings.Join(p.asked(), "\n")
		for i := range 20 {
			if n := strings.Count(asked, fmt.Sprintf("hangs %d at", i)); n < 5 {
				t.Errorf("hangs %d was asked %d times", i, n)
			}
			p.set(fmt.Sprintf("hangs %d", i), 1)
		}
		time.Sleep(3 * time.Minute)
		p.mu.Lock()
		p.value = map[string]float64{"one": 1} // the others begin to hang again, all at once
		p.mu.Unlock()
		for range 300 {
			time.Sleep(time.Second)
			f, ok := m.Checks()[0].Latest(t.Context(), 0)
			if age := time.Since(f.At); !ok || f.Status != check.Pass || age > (27+5+20)*time.Second {
				t.Fatalf("%s old: %+v", age, f)
			}
		}
		if n := p.most.Load(); n != 1 {
			t.Errorf("%d statements at once", n)
		}
	})
}

// TestCheckReload: what has not changed keeps its result, what is new is asked at once, and what is gone is gone.
func TestCheckReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, file := checkedMonitor(t, statement("a", "one"), statement("b", "many"))
		time.Sleep(3 * time.Second)
		again := *file
		again.Checks = []*config.Check{statement("a", "one"), statement("c", "one")}
		p.asked()
		m.ApplyConfig(&again)
		synctest.Wait()
		if got, want := p.asked(), []string{"one at 3"}; !slices.Equal(got, want) {
			t.Errorf("asked %q, want %q", got, want)
		}
		var names []string
		for _, c := range m.Checks() {
			f, ok := c.Latest(t.Context(), 0)
			names = append(names, fmt.Sprintf("%s %v %.0f", c.Name(), ok, f.At.Sub(p.start).Seconds()))
		}
		if want := []string{"a true 0", "c true 3"}; !slices.Equal(names, want) {
			t.Errorf("got %q, want %q", names, want)
		}
		// Other limits are no other question: the last result stands until there is a new one.
		p.asked()
		changed, most := again, 100.0
		changed.Checks = []*config.Check{statement("a", "one"), statement("c", "one")}
		changed.Checks[1].Limits = config.Limits{FailAbove: &most}
		m.ApplyConfig(&changed)
		if f, ok := m.Checks()[1].Latest(t.Context(), 0); !ok || f.Status != check.Pass {
			t.Errorf("%v %+v", ok, f)
		}
		synctest.Wait()
		if got, want := p.asked(), []string{"one at 3"}; !slices.Equal(got, want) {
			t.Errorf("asked %q, want %q", got, want)
		}
		// Another target is another question.
		moved := changed
		moved.Targets = []*config.Target{{Name: "orders", Kind: config.KindPostgres, Probing: config.Probing{Timeout: 6 * time.Second}}}
		m.ApplyConfig(&moved)
		synctest.Wait()
		if got, want := p.asked(), []string{"one at 3", "one at 3"}; !slices.Equal(got, want) {
			t.Errorf("asked %q, want %q", got, want)
		}
		p.set("one", 11)
		time.Sleep(time.Hour)
		if got := p.asked(); slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, "many") }) {
			t.Error("a check that is gone is asked")
		}
	})
}

// refusingProber is refused for its credentials.
type refusingProber struct {
	fixedProber
	statements      atomic.Int64
	accepts, unread atomic.Bool // unread: the password could not be read
}

func (p *refusingProber) Query(_ context.Context, _ string, _ time.Duration) (probe.Scalar, *probe.Failure) {
	p.statements.Add(1)
	if p.accepts.Load() {
		return probe.Scalar{Columns: 1, Rows: 1, Number: true, Text: "1"}, nil
	}
	if p.unread.Load() {
		return probe.Scalar{}, &probe.Failure{Reason: probe.ReasonAuth, State: probe.StateMisconfigured, Phase: probe.PhaseCredentials}
	}
	return probe.Scalar{}, &probe.Failure{Reason: probe.ReasonAuth, State: probe.StateMisconfigured, Phase: probe.PhaseStartup, SQLState: "28P01"}
}

// TestCheckRefused: a server that refused our credentials to one statement is left alone by all of them for a minute, since some
// lock a role out; a probe that succeeds ends that.
func TestCheckRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &refusingProber{fixedProber: fixedProber{}}
		p.unread.Store(true)
		m := New(Options{
			MaxInFlight: 10, Keep: true, NewHistograms: newHistograms, Logger: slog.New(slog.DiscardHandler),
			NewProber: func(*config.Target, Events) Prober { return p },
		})
		defer func() { _ = m.Close(context.Background()) }()
		m.ApplyConfig(&config.File{
			Targets: []*config.Target{{Name: "orders", Kind: config.KindPostgres, Probing: config.Probing{Timeout: 5 * time.Second}}},
			Checks:  []*config.Check{statement("a", "one"), statement("b", "two"), statement("c", "three")}, Health: config.DefaultHealth(),
		})
		synctest.Wait()
		if n := p.statements.Load(); n != 3 { // a password that cannot be read is no login
			t.Errorf("%d statements", n)
		}
		p.unread.Store(false)
		time.Sleep(59 * time.Second)
		if n := p.statements.Load(); n != 4 {
			t.Errorf("%d logins in a minute", n-3)
		}
		for _, c := range m.Checks() {
			if f, ok := c.Latest(t.Context(), 0); !ok || f.Output != "no session with its target: misconfigured: auth in phase startup, SQLSTATE 28P01" {
				t.Errorf("%+v", f)
			}
		}
		p.accepts.Store(true)
		if _, err := m.Targets()[0].Probe(t.Context(), time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Second)
		for _, c := range m.Checks() {
			if f, ok := c.Latest(t.Context(), 0); !ok || f.Status != check.Pass {
				t.Errorf("%+v", f)
			}
		}
	})
}
