// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

// slowProber is a fake prober whose probes succeed after the duration takes, or time out when ctx ends.
type slowProber struct {
	unqueried
	takes  time.Duration
	probes atomic.Int64
}

func (p *slowProber) Probe(ctx context.Context) *probe.Result {
	p.probes.Add(1)
	r := &probe.Result{Start: time.Now(), Keep: true}
	select {
	case <-time.After(p.takes):
		r.KeptUp = true
	case <-ctx.Done():
		r.Failure = &probe.Failure{Reason: probe.ReasonTimeout, State: probe.StateNoResponse}
	}
	r.Duration = time.Since(r.Start)
	return r
}

func (p *slowProber) Close(context.Context) error { return nil }

func newTestTarget(p Prober, logs *strings.Builder) *Target {
	return newTarget(targetOptions{
		Probing: config.Probing{Timeout: 5 * time.Second, Keep: true}, logger: slog.New(slog.NewTextHandler(logs, nil)),
		sharedCount: &atomic.Uint64{}, limiter: newLimiter(9), histograms: newHistograms(true),
	}, func(Events) Prober { return p })
}

// caller is one scrape: when it calls Probe, how long after that its deadline is, and when it hangs up, if it does.
type caller struct {
	calls, waits, hangsUp time.Duration
}

// returned is what a call of Probe returned, and when.
type returned struct {
	at      time.Duration
	up, got bool
}

// TestSharedProbe tests what several callers of one target get. Time is synthetic and therefore exact.
func TestSharedProbe(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		name     string
		takes    time.Duration
		callers  []caller
		results  []returned
		counted  uint64
		failures uint64
		probes   int64
		shared   uint64
	}{
		{"one caller", s, []caller{{waits: 3 * s}}, []returned{{s, true, true}}, 1, 0, 1, 0},
		{
			"two share", s,
			[]caller{{waits: 3 * s}, {calls: s / 2, waits: 3 * s}},
			[]returned{{s, true, true}, {s, true, true}},
			1, 0, 1, 1,
		},
		{
			"one after the other", s,
			[]caller{{waits: 3 * s}, {calls: 2 * s, waits: 3 * s}},
			[]returned{{s, true, true}, {3 * s, true, true}},
			2, 0, 2, 0,
		},
		{"the target's timeout", 9 * s, []caller{{waits: 20 * s}}, []returned{{5 * s, false, true}}, 1, 1, 1, 0},
		{
			"the deadline of the only caller does not end the probe", 4 * s,
			[]caller{{waits: 3 * s}},
			[]returned{{3 * s, false, true}},
			1, 0, 1, 0,
		},
		{
			"the deadlines of all callers do not end the probe", 9 * s,
			[]caller{{waits: 2 * s}, {calls: s, waits: 3 * s}},
			[]returned{{2 * s, false, true}, {4 * s, false, true}},
			1, 1, 1, 1,
		},
		{
			"an earlier deadline counts nothing", 2 * s,
			[]caller{{waits: s}, {waits: 4 * s}},
			[]returned{{s, false, true}, {2 * s, true, true}},
			1, 0, 1, 1,
		},
		{
			"a later deadline does not extend the probe", 9 * s,
			[]caller{{waits: 2 * s}, {calls: s, waits: 9 * s}},
			[]returned{{2 * s, false, true}, {5 * s, false, true}},
			1, 1, 1, 1,
		},
		{
			"deadlines that nearly meet are one", 9 * s,
			[]caller{{waits: 5*s - s/1000}, {calls: s, waits: 9 * s}},
			[]returned{{5 * s, false, true}, {5 * s, false, true}},
			1, 1, 1, 1,
		},
		{
			"a caller who hangs up only leaves", 2 * s,
			[]caller{{waits: 3 * s, hangsUp: s}, {waits: 3 * s}},
			[]returned{{s, false, false}, {2 * s, true, true}},
			1, 0, 1, 1,
		},
		{
			"a probe is counted although all callers hang up", 4 * s,
			[]caller{{waits: 3 * s, hangsUp: s}, {waits: 3 * s, hangsUp: 2 * s}},
			[]returned{{s, false, false}, {2 * s, false, false}},
			1, 0, 1, 1,
		},
		{
			"a failure is counted although the caller hangs up", 9 * s,
			[]caller{{waits: 3 * s, hangsUp: s}},
			[]returned{{s, false, false}},
			1, 1, 1, 0,
		},
		{
			"a caller joins a probe whose callers have left", 4 * s,
			[]caller{{waits: 3 * s, hangsUp: s}, {calls: 2 * s, waits: 3 * s}},
			[]returned{{s, false, false}, {4 * s, true, true}},
			1, 0, 1, 1,
		},
		{
			"a late caller takes a success", 4 * s,
			[]caller{{waits: s}, {calls: 3 * s, waits: 3 * s}},
			[]returned{{s, false, true}, {4 * s, true, true}},
			1, 0, 1, 1,
		},
		{
			"a late caller does not take a timeout", 9 * s,
			[]caller{{waits: s}, {calls: 4 * s, waits: 3 * s}},
			[]returned{{s, false, true}, {7 * s, false, true}},
			2, 2, 2, 1,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logs strings.Builder
				p := &slowProber{takes: test.takes}
				target := newTestTarget(p, &logs)
				start := time.Now()
				results := make([]returned, len(test.callers))
				for i, c := range test.callers {
					go func() {
						time.Sleep(c.calls)
						ctx := t.Context()
						if c.hangsUp > 0 {
							var cancel context.CancelFunc
							ctx, cancel = context.WithTimeout(ctx, c.hangsUp)
							defer cancel()
						}
						snapshot, err := target.Probe(ctx, time.Now().Add(c.waits))
						ok := err == nil
						results[i] = returned{time.Since(start), ok && snapshot.Result.Up(), ok}
						if ok && snapshot.Result.Up() && snapshot.Probes == 0 {
							t.Error("returned before it was counted")
						}
					}()
				}
				time.Sleep(20 * s)
				synctest.Wait()
				for i, want := range test.results {
					if results[i] != want {
						t.Errorf("caller %d: got %+v, want %+v", i, results[i], want)
					}
				}
				if got := target.history; got.Probes != test.counted || got.Failures[probe.ReasonTimeout] != test.failures {
					t.Errorf("counted %d probes and %d failures, want %d and %d",
						got.Probes, got.Failures[probe.ReasonTimeout], test.counted, test.failures)
				}
				if p.probes.Load() != test.probes || target.options.sharedCount.Load() != test.shared {
					t.Errorf("%d probes, shared %d, want %d and %d",
						p.probes.Load(), target.options.sharedCount.Load(), test.probes, test.shared)
				}
			})
		})
	}
}

// TestShortWait tests what a caller gets whose deadline passes before the probe ends, and what is counted by then.
func TestShortWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newTestTarget(&slowProber{takes: 2 * time.Second}, &strings.Builder{})
		s, err := target.Probe(t.Context(), time.Now().Add(100*time.Millisecond))
		if err != nil || s.Result.State() != probe.StateNoResponse || s.Counted() || s.Probes != 0 || len(s.Failures) != 0 {
			t.Errorf("after 100 ms: %+v, %d probes, %v", s.Result, s.Probes, err)
		}
		latest, err := target.Newest(t.Context(), 3*time.Second) // joins the probe
		if err != nil || !latest.Result.Up() || latest.Probes != 1 || latest.Failures[probe.ReasonTimeout] != 0 {
			t.Errorf("in the end: %+v, %d probes, %v", latest.Result, latest.Probes, err)
		}
	})
}

// TestEveryScrapeCounts tests that each scrape of a server that hangs counts a failure, also if the scrapes come as often
// as the target's timeout, and a little earlier or later. The probes end a little after the timeout, as real ones do.
func TestEveryScrapeCounts(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		interval, waits time.Duration // a scrape waits for its scrape timeout less the offset
	}{
		{5 * s, 5*s - s/2}, {15 * s, 10*s - s/2}, {60 * s, 10*s - s/2},
	} {
		t.Run(test.interval.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const scrapes = 20
				target := newTestTarget(&overrunningProber{}, &strings.Builder{})
				start := time.Now()
				for i := range time.Duration(scrapes) {
					go func() {
						time.Sleep(i*test.interval + (i%3)*20*time.Millisecond)
						snapshot, err := target.Probe(t.Context(), time.Now().Add(test.waits))
						if err != nil || snapshot.Result.Up() || test.waits > 5*s && !snapshot.Counted() {
							t.Errorf("scrape %d: %+v, %v", i, snapshot.Result, err)
						}
					}()
				}
				time.Sleep(time.Until(start.Add((scrapes + 1) * test.interval)))
				synctest.Wait()
				if h := target.history; h.Failures[probe.ReasonTimeout] != scrapes || h.Probes != scrapes {
					t.Errorf("%d failures of %d probes in %d scrapes", h.Failures[probe.ReasonTimeout], h.Probes, scrapes)
				}
			})
		})
	}
}

// overrunningProber is a fake prober whose probes time out 50 ms after ctx ends.
type overrunningProber struct{ slowProber }

func (p *overrunningProber) Probe(ctx context.Context) *probe.Result {
	p.takes = time.Hour
	defer time.Sleep(50 * time.Millisecond)
	return p.slowProber.Probe(ctx)
}

// TestCloseEndsProbe tests that Close ends the probe under way at once, that this probe is not counted, and that its
// callers learn that the target is closed.
func TestCloseEndsProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newTestTarget(&slowProber{takes: time.Hour}, &strings.Builder{})
		probed, latest := make(chan error), make(chan error)
		go func() {
			_, err := target.Probe(t.Context(), time.Now().Add(time.Minute))
			probed <- err
		}()
		go func() {
			_, err := target.Newest(t.Context(), time.Minute)
			latest <- err
		}()
		time.Sleep(time.Second)
		start := time.Now()
		if err := target.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 0 || target.history.Probes != 0 {
			t.Errorf("Close took %s, %d probes were counted", took, target.history.Probes)
		}
		for name, result := range map[string]chan error{"Probe": probed, "Newest": latest} {
			if err := <-result; err != ErrClosed { //nolint:errorlint // it is not wrapped
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestLogsChangesAlone tests that a line is logged when the verdict changes, and only then.
func TestLogsChangesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs strings.Builder
		p := &scriptedProber{}
		target := newTestTarget(p, &logs)
		auth := &probe.Failure{
			Reason: probe.ReasonAuth, State: probe.StateMisconfigured, Phase: probe.PhaseStartup,
			SQLState: "28P01", Routine: "auth_failed",
		}
		refused := &probe.Failure{Reason: probe.ReasonRefused, State: probe.StateNoResponse, Phase: probe.PhaseDial}
		for _, f := range []*probe.Failure{nil, nil, auth, auth, refused, nil, nil} {
			p.next = f
			_, _ = target.Probe(t.Context(), time.Now().Add(time.Minute))
			synctest.Wait() // the line is logged after the caller has the result
		}
		lines := strings.Count(logs.String(), "\n")
		if lines != 4 || !strings.Contains(logs.String(), "sqlstate=28P01") || !strings.Contains(logs.String(), "after=") {
			t.Errorf("%d lines, want 4:\n%s", lines, logs.String())
		}
	})
}

// TestDown tests what is counted while a server is down: from the last probe that found it alive, or else from the first one.
func TestDown(t *testing.T) {
	failure := func(reason probe.Reason, state probe.State) *probe.Failure {
		return &probe.Failure{Reason: reason, State: state}
	}
	var (
		up        *probe.Failure
		refused   = failure(probe.ReasonRefused, probe.StateNoResponse)
		rejecting = failure(probe.ReasonNotAccepting, probe.StateRejecting)
		full      = failure(probe.ReasonReservedSlots, probe.StateConnectionLimit)
		auth      = failure(probe.ReasonAuth, probe.StateMisconfigured)
	)
	type down struct {
		probes uint64
		time   time.Duration
	}
	const interval = 15 * time.Second
	for name, test := range map[string]struct {
		failures []*probe.Failure
		want     []down
	}{
		"alive, and down twice": {
			[]*probe.Failure{up, refused, rejecting, refused, up, refused},
			[]down{{0, 0}, {1, interval}, {2, 2 * interval}, {3, 3 * interval}, {0, 0}, {1, interval}},
		},
		"never alive":                   {[]*probe.Failure{refused, refused, refused}, []down{{1, 0}, {2, interval}, {3, 2 * interval}}},
		"full, then down, then refused": {[]*probe.Failure{full, refused, full, refused, auth}, []down{{0, 0}, {1, interval}, {0, 0}, {1, interval}, {0, 0}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &scriptedProber{}
				target := newTestTarget(p, &strings.Builder{})
				for i, f := range test.failures {
					p.next = f
					s, err := target.Probe(t.Context(), time.Now().Add(time.Minute))
					if got := (down{s.ConsecutiveDown, s.DownFor}); err != nil || got != test.want[i] {
						t.Errorf("probe %d: got %v, want %v (%v)", i, got, test.want[i], err)
					}
					time.Sleep(interval)
				}
			})
		})
	}
}

// scriptedProber is a fake prober whose next probe fails with next, or succeeds if that is nil.
type scriptedProber struct {
	unqueried
	next *probe.Failure
}

func (p *scriptedProber) Probe(context.Context) *probe.Result {
	return &probe.Result{Start: time.Now(), Failure: p.next}
}

func (p *scriptedProber) Close(context.Context) error { return nil }

// committingProber is a fake prober whose probes succeed after a second and start a commit.
type committingProber struct {
	scriptedProber
	commit *probe.Commit
}

func (p *committingProber) Probe(context.Context) *probe.Result {
	time.Sleep(time.Second)
	return &probe.Result{Start: time.Now(), Keep: true, KeptUp: true, Commit: p.commit}
}

// TestVerdictBeforeCommit tests that a commit that hangs delays neither the counting of the verdict nor the next probe.
func TestVerdictBeforeCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		prober := &committingProber{commit: probe.NewCommit(true)}
		target := newTestTarget(prober, &strings.Builder{})
		defer func() { _ = target.Close(context.Background()) }()
		start := time.Now()
		expect := func(s Snapshot, probes uint64, up float64, at time.Duration) {
			t.Helper()
			took, commit := time.Since(start), s.CommitResult.Up()
			if !s.Result.Up() || s.Probes != probes || commit.Value != up || !commit.Known || took != at {
				t.Errorf("after %s: up %v, %d probes, commit %v", took, s.Result.Up(), s.Probes, commit)
			}
		}
		longCaller := make(chan Snapshot)
		go func() {
			s, _ := target.Probe(t.Context(), start.Add(10*time.Second))
			longCaller <- s
		}()
		synctest.Wait()
		s, _ := target.Probe(t.Context(), start.Add(2*time.Second))
		expect(s, 1, 0, 2*time.Second)
		s, _ = target.Probe(t.Context(), start.Add(4*time.Second)) // another probe
		expect(s, 2, 0, 4*time.Second)
		time.Sleep(500 * time.Millisecond)
		prober.commit.End(&probe.CommitResult{Took: probe.Duration{Value: 3500 * time.Millisecond, Known: true}})
		expect(<-longCaller, 1, 1, 4500*time.Millisecond)
	})
}
