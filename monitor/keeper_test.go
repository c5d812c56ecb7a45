// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

const keepingModules = `modules: {m: {user: u, allow: ["10.0.0.0/8"]}, n: {user: u, allow: ["10.0.0.0/8"]}, off: {user: u, keep: false, allow: ["10.0.0.0/8"]}}`

// keepingMonitor returns a monitor whose targets keep sessions unless their module says otherwise, and a function that
// probes an ad-hoc target.
func keepingMonitor(t *testing.T) (*Monitor, *countedProbers, func(name, module string)) {
	t.Helper()
	m, probers := countingMonitor()
	m.ApplyConfig(parseKeeping(t, keepingModules))
	return m, probers, func(name, module string) {
		t.Helper()
		target, err := m.FindTarget(name, module)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := target.Probe(t.Context(), time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
}

func parseKeeping(t *testing.T, text string) *config.File {
	t.Helper()
	f, err := config.Parse(strings.NewReader(text), "x.yml", config.Probing{Timeout: 2 * time.Second, Keep: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestKeepOfAdHocTargets tests how often an ad-hoc target must be probed to keep a session, and until when it does.
func TestKeepOfAdHocTargets(t *testing.T) {
	for name, test := range map[string]struct {
		module string
		after  []time.Duration // before each probe
		wait   time.Duration   // after the last one
		want   int
	}{
		"once":                          {"m", []time.Duration{0}, 0, 0},
		"twice":                         {"m", []time.Duration{0, 0}, 0, 0},
		"three times at once":           {"m", []time.Duration{0, 0, 0}, 0, 1},
		"three times in five minutes":   {"m", []time.Duration{0, time.Minute, 4 * time.Minute}, 0, 1},
		"too rarely":                    {"m", []time.Duration{0, time.Minute, 4*time.Minute + 1, 4*time.Minute + 1}, 0, 0},
		"every two minutes":             {"m", []time.Duration{0, 2 * time.Minute, 2 * time.Minute, 2 * time.Minute}, 119 * time.Second, 1},
		"until the next comes too late": {"m", []time.Duration{0, 0, 2 * time.Minute}, 3*time.Minute - 1, 1},
		"no longer":                     {"m", []time.Duration{0, 0, 2 * time.Minute}, 5*time.Minute + 1, 0},
		"more rarely":                   {"m", []time.Duration{0, 0, 0, 4 * time.Minute, 4 * time.Minute}, 0, 0},
		"often again":                   {"m", []time.Duration{0, 0, 0, 6 * time.Minute, 0, 0}, 0, 1},
		"keep: false":                   {"off", []time.Duration{0, 0, 0, 0}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, probers, probeAdHoc := keepingMonitor(t)
				for _, pause := range test.after {
					time.Sleep(pause)
					probeAdHoc("10.0.0.1:1", test.module)
				}
				time.Sleep(test.wait)
				synctest.Wait()
				if got := probers.keeping(); got != test.want {
					t.Errorf("%d targets keep a session, want %d", got, test.want)
				}
				if err := m.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestKeptPlaces tests that a module has a limited number of places, which targets give back.
func TestKeptPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, probers, probeAdHoc := keepingMonitor(t)
		expect := func(what string, want int) {
			t.Helper()
			synctest.Wait()
			if got := probers.keeping(); got != want {
				t.Errorf("%s: %d targets keep a session, want %d", what, got, want)
			}
		}
		often := func(first, n int, module string) {
			t.Helper()
			for range 3 {
				for i := range n {
					probeAdHoc(fmt.Sprintf("10.0.0.%d:1", first+i), module)
				}
			}
		}
		probers.probes = func(context.Context) *probe.Result {
			return &probe.Result{Start: time.Now(), Failure: &probe.Failure{Reason: probe.ReasonRefused, State: probe.StateNoResponse}}
		}
		often(100, maxAdHocKept, "m")
		expect("none answers", 0)
		probers.probes = nil
		often(0, maxAdHocKept+8, "m")
		expect("more than there are places", maxAdHocKept)
		often(0, 1, "n")
		expect("another module", maxAdHocKept+1)
		time.Sleep(3 * time.Minute)
		often(0, maxAdHocKept/2, "m")
		time.Sleep(3 * time.Minute)
		expect("half of them are still probed", maxAdHocKept/2)
		often(maxAdHocKept, 1, "m")
		expect("one more", maxAdHocKept/2+1)
		m.ApplyConfig(parseKeeping(t, strings.ReplaceAll(keepingModules, "user: u,", "user: v,")))
		expect("dropped by a reload", 0)
		often(0, maxAdHocKept+8, "m")
		expect("all places are free again", maxAdHocKept)
		if err := m.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
