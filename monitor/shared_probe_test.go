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

// slowProber answers after a time, or says at the end of ctx that there was no answer.
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
		shared: &atomic.Uint64{}, limiter: newLimiter(9), histograms: newHistograms(true),
	}, func(Events) Prober { return p })
}

// caller is one scrape: it comes at a time, waits so long, and may hang up before.
type caller struct {
	comes, waits, hangsUp time.Duration
}

// answer is what a caller got, and when.
type answer struct {
	at      time.Duration
	up, got bool
}

// TestSharedProbe plays callers against one server. Time is synthetic, so that every moment is exact.
func TestSharedProbe(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		name     string
		takes    time.Duration
		callers  []caller
		answers  []answer
		counted  uint64
		failures uint64
		asked    int64
		shared   uint64
	}{
		{"one caller", s, []caller{{waits: 3 * s}}, []answer{{s, true, true}}, 1, 0, 1, 0},
		{"two share", s, []caller{{waits: 3 * s}, {comes: s / 2, waits: 3 * s}}, []answer{{s, true, true}, {s, true, true}}, 1, 0, 1, 1},
		{"one after the other", s, []caller{{waits: 3 * s}, {comes: 2 * s, waits: 3 * s}}, []answer{{s, true, true}, {3 * s, true, true}}, 2, 0, 2, 0},
		{"the deadline of the only caller", 9 * s, []caller{{waits: 3 * s}}, []answer{{3 * s, false, true}}, 1, 1, 1, 0},
		{"the target's timeout", 9 * s, []caller{{waits: 20 * s}}, []answer{{5 * s, false, true}}, 1, 1, 1, 0},
		{"an earlier deadline counts nothing", 2 * s, []caller{{waits: s}, {waits: 4 * s}}, []answer{{s, false, true}, {2 * s, true, true}}, 1, 0, 1, 1},
		{"a later caller moves the end", 9 * s, []caller{{waits: 2 * s}, {comes: s, waits: 3 * s}}, []answer{{2 * s, false, true}, {4 * s, false, true}}, 1, 1, 1, 1},
		{"but not beyond the timeout", 9 * s, []caller{{waits: 2 * s}, {comes: s, waits: 9 * s}}, []answer{{2 * s, false, true}, {5 * s, false, true}}, 1, 1, 1, 1},
		{"deadlines that nearly meet are one", 9 * s, []caller{{waits: 5*s - s/1000}, {comes: s, waits: 9 * s}}, []answer{{5 * s, false, true}, {5 * s, false, true}}, 1, 1, 1, 1},
		{"a caller who hangs up only leaves", 2 * s, []caller{{waits: 3 * s, hangsUp: s}, {waits: 3 * s}}, []answer{{s, false, false}, {2 * s, true, true}}, 1, 0, 1, 1},
		{"the last one who hangs up ends it", 9 * s, []caller{{waits: 3 * s, hangsUp: s}}, []answer{{s, false, false}}, 0, 0, 1, 0},
		{"the last deadline of those who stay", 9 * s, []caller{{waits: 4 * s, hangsUp: s}, {waits: 2 * s}}, []answer{{s, false, false}, {2 * s, false, true}}, 1, 1, 1, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logs strings.Builder
				p := &slowProber{takes: test.takes}
				target := newTestTarget(p, &logs)
				start := time.Now()
				answers := make([]answer, len(test.callers))
				for i, c := range test.callers {
					go func() {
						time.Sleep(c.comes)
						ctx := t.Context()
						if c.hangsUp > 0 {
							var cancel context.CancelFunc
							ctx, cancel = context.WithTimeout(ctx, c.hangsUp)
							defer cancel()
						}
						snapshot, err := target.Probe(ctx, time.Now().Add(c.waits))
						ok := err == nil
						answers[i] = answer{time.Since(start), ok && snapshot.Result.Up(), ok}
						if ok && snapshot.Result.Up() && snapshot.Probes == 0 {
							t.Error("shown before it was counted")
						}
					}()
				}
				time.Sleep(20 * s)
				synctest.Wait()
				for i, want := range test.answers {
					if answers[i] != want {
						t.Errorf("caller %d: got %+v, want %+v", i, answers[i], want)
					}
				}
				if got := target.history; got.Probes != test.counted || got.Failures[probe.ReasonTimeout] != test.failures {
					t.Errorf("counted %d probes and %d failures, want %d and %d", got.Probes, got.Failures[probe.ReasonTimeout], test.counted, test.failures)
				}
				if p.probes.Load() != test.asked || target.options.shared.Load() != test.shared {
					t.Errorf("asked %d times, shared %d, want %d and %d", p.probes.Load(), target.options.shared.Load(), test.asked, test.shared)
				}
			})
		})
	}
}

// TestCallerAfterHangUp: a caller who comes while an abandoned probe still ends gets a probe of his own.
func TestCallerAfterHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs strings.Builder
		p := &stubbornProber{}
		target := newTestTarget(p, &logs)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := target.Probe(ctx, time.Now().Add(3*time.Second)); err == nil {
			t.Error("a caller who hung up got an answer")
		}
		snapshot, err := target.Probe(t.Context(), time.Now().Add(3*time.Second))
		if err != nil || snapshot.Result.Up() != true || snapshot.Probes != 1 {
			t.Errorf("got %+v", snapshot.Result)
		}
	})
}

// stubbornProber takes half a second to notice the end of its first probe; the second one is up at once.
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

// TestLogsChangesAlone: a line when the verdict changes, none for a probe that finds the same.
func TestLogsChangesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs strings.Builder
		p := &scriptedProber{}
		target := newTestTarget(p, &logs)
		auth := &probe.Failure{Reason: probe.ReasonAuth, State: probe.StateMisconfigured, Phase: probe.PhaseStartup, SQLState: "28P01", Routine: "auth_failed"}
		refused := &probe.Failure{Reason: probe.ReasonRefused, State: probe.StateNoResponse, Phase: probe.PhaseDial}
		for _, f := range []*probe.Failure{nil, nil, auth, auth, refused, nil, nil} {
			p.next = f
			_, _ = target.Probe(t.Context(), time.Now().Add(time.Minute))
			synctest.Wait() // the line is written behind the answer
		}
		lines := strings.Count(logs.String(), "\n")
		if lines != 4 || !strings.Contains(logs.String(), "sqlstate=28P01") || !strings.Contains(logs.String(), "after=") {
			t.Errorf("%d lines, want 4:\n%s", lines, logs.String())
		}
	})
}

// scriptedProber finds what it is told.
type scriptedProber struct {
	unqueried
	next *probe.Failure
}

func (p *scriptedProber) Probe(context.Context) *probe.Result {
	return &probe.Result{Start: time.Now(), Failure: p.next}
}

func (p *scriptedProber) Close(context.Context) error { return nil }

// committingProber gives its verdict after a second, and begins a commit.
type committingProber struct {
	scriptedProber
	commit *probe.Commit
}

func (p *committingProber) Probe(context.Context) *probe.Result {
	time.Sleep(time.Second)
	return &probe.Result{Start: time.Now(), Keep: true, KeptUp: true, Commit: p.commit}
}

// TestVerdictBeforeCommit: a commit that hangs keeps nobody from the verdict, which is counted at once, nor the next probe
// from beginning.
func TestVerdictBeforeCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		prober := &committingProber{commit: probe.NewCommit(true)}
		target := newTestTarget(prober, &strings.Builder{})
		defer func() { _ = target.Close(context.Background()) }()
		start := time.Now()
		expect := func(s Snapshot, probes uint64, up float64, at time.Duration) {
			t.Helper()
			if took := time.Since(start); !s.Result.Up() || s.Probes != probes || s.CommitResult.Up().Value != up || !s.CommitResult.Up().Known || took != at {
				t.Errorf("after %s: up %v, %d probes, commit %v", took, s.Result.Up(), s.Probes, s.CommitResult.Up())
			}
		}
		patient := make(chan Snapshot)
		go func() {
			s, _ := target.Probe(t.Context(), start.Add(10*time.Second))
			patient <- s
		}()
		synctest.Wait()
		s, _ := target.Probe(t.Context(), start.Add(2*time.Second))
		expect(s, 1, 0, 2*time.Second)
		s, _ = target.Probe(t.Context(), start.Add(4*time.Second)) // another probe
		expect(s, 2, 0, 4*time.Second)
		time.Sleep(time.Second)
		prober.commit.End(&probe.CommitResult{Took: probe.Number{Value: 4, Known: true}})
		expect(<-patient, 1, 1, 5*time.Second)
	})
}
