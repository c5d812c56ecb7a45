// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"log/slog"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

// timedProber is a fake prober that records when its probes start. Each probe lasts for the duration takes. At its
// deadline it fails.
type timedProber struct {
	unqueried
	takes   time.Duration
	failure *probe.Failure
	starts  []time.Time // one goroutine appends at a time
}

func (p *timedProber) Probe(ctx context.Context) *probe.Result {
	r := &probe.Result{Start: time.Now(), Failure: p.failure, Connect: probe.Duration{Value: p.takes, Known: true}}
	p.starts = append(p.starts, r.Start)
	select {
	case <-time.After(p.takes):
	case <-ctx.Done():
		r.Failure = &probe.Failure{Reason: probe.ReasonTimeout, State: probe.StateNoResponse}
	}
	return r
}

func (p *timedProber) Close(context.Context) error { return nil }

func sampledTarget(p Prober, name string, interval time.Duration, limiter *limiter) *Target {
	return newTarget(targetOptions{
		name: name, Probing: config.Probing{Timeout: 2 * time.Second, Interval: interval},
		logger: slog.New(slog.DiscardHandler), sharedCount: &atomic.Uint64{}, limiter: limiter, histograms: newHistograms(true),
	}, func(Events) Prober { return p })
}

// observed returns the number of probes in the histogram.
func observed(t *testing.T, target *Target) uint64 {
	t.Helper()
	var m dto.Metric
	if err := target.histograms.Connect.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetHistogram().GetSampleCount()
}

// TestSampling tests that the sampler probes every interval with an offset that depends on the name, and that it skips
// probes that it has missed. Probes of scrapes are counted, but are not in the histograms.
func TestSampling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		quick, slow := &timedProber{takes: time.Millisecond}, &timedProber{takes: 1500 * time.Millisecond}
		a, b := sampledTarget(quick, "a", time.Second, newLimiter(9)), sampledTarget(slow, "b", time.Second, newLimiter(9))
		for range 10 {
			time.Sleep(time.Second)
			if _, err := a.Probe(t.Context(), time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		for _, target := range []*Target{a, b} {
			if err := target.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if n := observed(t, a); n != 10 || a.history.Probes != 20 {
			t.Errorf("%d observed of %d probes, want 10 of 20", n, a.history.Probes)
		}
		if offset := quick.starts[0].Sub(start); offset != spread("a", time.Second) || offset == spread("b", time.Second) {
			t.Errorf("the first probe came after %s", offset)
		}
		for i, at := range slow.starts {
			if want := slow.starts[0].Add(time.Duration(2*i) * time.Second); !at.Equal(want) {
				t.Errorf("slow probe %d at %s, want %s", i, at.Sub(start), want.Sub(start))
			}
		}
		if _, err := a.Probe(t.Context(), time.Now().Add(time.Second)); err != ErrClosed { //nolint:errorlint // it is not wrapped
			t.Errorf("a closed target: %v", err)
		}
	})
}

// TestSamplingShared tests that a probe that the sampler and a scrape share is in the histogram, even if the scrape
// started it.
func TestSamplingShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &timedProber{takes: 900 * time.Millisecond}
		target := sampledTarget(p, "a", time.Second, newLimiter(9))
		time.Sleep(spread("a", time.Second) - 100*time.Millisecond) // the scrape starts the probe, the sampler joins it
		for range 3 {
			if _, err := target.Probe(t.Context(), time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err := target.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if n := observed(t, target); n != target.history.Probes || n < 3 {
			t.Errorf("%d observed of %d probes", n, target.history.Probes)
		}
	})
}

// TestSamplerIdle tests that a target takes no goroutine between two probes of its sampler.
func TestSamplerIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		var all []*Target
		for i := range 100 {
			all = append(all, sampledTarget(&timedProber{}, strconv.Itoa(i), time.Second, newLimiter(100)))
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := runtime.NumGoroutine() - before; n > len(all)/2 {
			t.Errorf("%d targets take %d goroutines", len(all), n)
		}
		for _, target := range all {
			if err := target.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if n := target.history.Probes; n < 9 || n > 11 {
				t.Errorf("target %s was probed %d times in 10 s", target.Name(), n)
			}
		}
	})
}

// TestLimiterDelays tests that probes that hang for the first time delay other probes but make none of them fail.
func TestLimiterDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLimiter(4000)
		var failed atomic.Int64
		for i := range 2000 {
			p := &timedProber{takes: 5 * time.Millisecond}
			if i%10 > 0 {
				p.takes = time.Hour
			}
			target := sampledTarget(p, "", 0, limiter)
			go func() {
				s, err := target.Probe(t.Context(), time.Now().Add(time.Second))
				if p.takes < time.Second && (err != nil || !s.Result.Up()) {
					failed.Add(1)
				}
			}()
		}
		time.Sleep(time.Minute)
		if n := failed.Load(); n > 0 {
			t.Errorf("%d of 200 targets that respond are down", n)
		}
	})
}

// TestLateAdmission tests that a probe that was admitted shortly before its deadline says nothing about the server.
func TestLateAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLimiter(1)
		target := sampledTarget(&timedProber{takes: 5 * time.Millisecond}, "", 0, limiter)
		defer func() { _ = target.Close(t.Context()) }()
		for waited, want := range map[time.Duration]probe.State{
			target.options.Timeout - time.Millisecond: probe.StateMisconfigured,
			target.options.Timeout / 4:                probe.StateAccepting,
		} {
			leave, _ := limiter.enter(t.Context(), true)
			time.AfterFunc(waited, leave)
			s, err := target.Probe(t.Context(), time.Now().Add(time.Minute))
			if err != nil || s.Result.State() != want {
				t.Errorf("admitted after %s: %v, %+v", waited, err, s.Result)
			}
		}
	})
}

// TestLimiterLeavesPlaces tests that any number of targets that hang leave places for those that respond.
func TestLimiterLeavesPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLimiter(100)
		hangs := func(ctx context.Context) {
			if leave, ok := limiter.enter(ctx, false); ok {
				<-ctx.Done()
				leave()
			}
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		for range 1000 {
			go hangs(ctx)
		}
		synctest.Wait()
		for range 100 {
			leave, ok := limiter.enter(ctx, true)
			if !ok {
				t.Fatal("no place for a target that responds")
			}
			leave()
		}
		if time.Since(start) > time.Second {
			t.Error("a target that responds had to wait")
		}
	})
}

// TestSamplingPauses tests that the sampler waits a minute after the server has refused the credentials.
func TestSamplingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &timedProber{failure: &probe.Failure{Reason: probe.ReasonAuth, State: probe.StateMisconfigured, SQLState: "28P01"}}
		target := sampledTarget(p, "a", time.Second, newLimiter(9))
		time.Sleep(5 * time.Minute)
		if err := target.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if len(p.starts) != 5 {
			t.Errorf("%d probes in five minutes", len(p.starts))
		}
	})
}

// TestLimiter tests that the wait for a place counts towards the timeout of a probe. A probe that gets no place must
// not report that the server is down.
func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLimiter(1)
		first := sampledTarget(&timedProber{takes: 1500 * time.Millisecond}, "a", 0, limiter)
		second := sampledTarget(&timedProber{}, "b", 0, limiter)
		second.options.Timeout = time.Second
		go func() { _, _ = first.Probe(t.Context(), time.Now().Add(2*time.Second)) }()
		synctest.Wait()
		s, err := second.Probe(t.Context(), time.Now().Add(time.Second))
		if err != nil || s.Result.State() != probe.StateMisconfigured ||
			s.Result.Failure.Reason != probe.ReasonOther || s.Failures[probe.ReasonOther] != 1 {
			t.Errorf("got %+v %v", s.Result, err)
		}
		s, err = second.Probe(t.Context(), time.Now().Add(time.Second))
		if err != nil || !s.Result.Up() {
			t.Errorf("with a free place: %+v %v", s.Result, err)
		}
	})
}
