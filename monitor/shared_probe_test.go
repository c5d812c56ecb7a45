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
		Probing: config.Probing{Timeout: 5 * time.Second}, keep: true, logger: slog.New(slog.NewTextHandler(logs, nil)),
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
		{
			"the deadline of the only caller", 9 * s,
			[]caller{{waits: 3 * s}},
			[]returned{{3 * s, false, true}},
			1, 1, 1, 0,
		},
		{"the target's timeout", 9 * s, []caller{{waits: 20 * s}}, []returned{{5 * s, false, true}}, 1, 1, 1, 0},
		{
			"an earlier deadline counts nothing", 2 * s,
			[]caller{{waits: s}, {waits: 4 * s}},
			[]returned{{s, false, true}, {2 * s, true, true}},
			1, 0, 1, 1,
		},
		{
			"a later caller moves the end", 9 * s,
			[]caller{{waits: 2 * s}, {calls: s, waits: 3 * s}},
			[]returned{{2 * s, false, true}, {4 * s, false, true}},
			1, 1, 1, 1,
		},
		{
			"but not beyond the timeout", 9 * s,
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
			"the last one who hangs up ends it", 9 * s,
			[]caller{{waits: 3 * s, hangsUp: s}},
			[]returned{{s, false, false}},
			0, 0, 1, 0,
		},
		{
			"the last deadline of those who stay", 9 * s,
			[]caller{{waits: 4 * s, hangsUp: s}, {waits: 2 * s}},
			[]returned{{s, false, false}, {2 * s, false, true}},
			1, 1, 1, 1,
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

// TestCallerAfterHangUp tests that a caller gets a new probe if it calls while an abandoned probe is about to end.
func TestCallerAfterHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs strings.Builder
		p := &stubbornProber{}
		target := newTestTarget(p, &logs)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := target.Probe(ctx, time.Now().Add(3*time.Second)); err == nil {
			t.Error("a caller that hung up got a result")
		}
		snapshot, err := target.Probe(t.Context(), time.Now().Add(3*time.Second))
		if err != nil || snapshot.Result.Up() != true || snapshot.Probes != 1 {
			t.Errorf("got %+v", snapshot.Result)
		}
	})
}

// stubbornProber is a fake prober. Its first probe returns half a second after ctx ends, its second one succeeds at
// once.
type stubbornProber struct{ slowProber }

func (p *stubbornProber) Probe(ctx context.Context) *probe.Result {
	if p.probes.Load() == 0 {
		p.takes = time.Hour
		r := p.slowProber.Probe(ctx)
		time.Sleep(500 * time.Millisecond)
		return r
	}
	p.takes = 0
	return p.slowProber.Probe(ctx)
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
		time.Sleep(time.Second)
		prober.commit.End(&probe.CommitResult{Took: probe.Number{Value: 4, Known: true}})
		expect(<-longCaller, 1, 1, 5*time.Second)
	})
}
