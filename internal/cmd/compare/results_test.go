// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestJudge tests how a verdict compares with what the application met.
func TestJudge(t *testing.T) {
	t.Parallel()
	works, refused, readOnly := met{}, met{Failed: stepLogin}, met{Failed: stepWrite}
	for _, test := range []struct {
		name   string
		said   said
		met    met
		writes bool
		want   string
	}{
		{"up, and it works", said{Verdict: up}, works, false, right},
		{"up, and it does not", said{Verdict: up}, refused, false, wrong},
		{"down, and it works", said{Verdict: down}, works, false, wrong},
		{"down, and it does not", said{Verdict: down}, refused, false, right},
		{"misconfigured, and it works", said{Verdict: misconfigured}, works, false, itself},
		{"misconfigured, and it does not", said{Verdict: misconfigured}, refused, false, right},
		{"no answer, and it works", said{Verdict: noAnswer}, works, false, silent},
		{"no answer, and it does not", said{Verdict: noAnswer}, refused, false, silent},
		{"writes fail, and nobody asks", said{Verdict: up}, readOnly, false, right},
		{"writes fail, and nothing shows it", said{Verdict: up, Shows: []string{"pg_kept_session_up 0"}}, readOnly, true, wrong},
		{"writes fail, and a metric shows it", said{Verdict: up, Shows: []string{"pg_commit_up 0"}}, readOnly, true, shown},
		{"a metric about writes does not excuse a refused login", said{Verdict: up, Shows: []string{"pg_commit_up 0"}}, refused, true, wrong},
		{"down, and only writes fail", said{Verdict: down}, readOnly, true, right},
	} {
		if got := judge(test.said, test.met, test.writes); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// TestSettled tests from when on an observer says what it says last.
func TestSettled(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		verdicts []string
		want     float64
	}{
		{[]string{down, down, down}, 1},
		{[]string{up, down, down}, 2},
		{[]string{down, up, down}, 3},
		{[]string{up}, 1},
	} {
		var o observed
		for i, verdict := range test.verdicts {
			o.Said = append(o.Said, said{Verdict: verdict, At: float64(i + 1)})
		}
		if got := o.settled(); got != test.want {
			t.Errorf("%v: %v, want %v", test.verdicts, got, test.want)
		}
	}
}

// TestPageNeedsAllFaults tests that no fault can be left out of the page, and none invented.
func TestPageNeedsAllFaults(t *testing.T) {
	t.Parallel()
	committed, err := load("results.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := page(committed); err != nil {
		t.Error(err)
	}
	stopped := committed.Faults["stopped"]
	committed.Faults["invented"] = stopped
	if _, err := page(committed); err == nil {
		t.Error("the page takes a result of a fault that is not in the catalogue")
	}
	delete(committed.Faults, "invented")
	delete(committed.Faults, "stopped")
	if _, err := page(committed); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("the page lacks a fault: %v", err)
	}
}

// TestCatalogue tests that faults can be told apart, on the page too.
func TestCatalogue(t *testing.T) {
	t.Parallel()
	names, anchors := map[string]bool{}, map[string]bool{}
	for _, f := range catalogue() {
		if names[f.name] || anchors[anchor(f.title)] {
			t.Errorf("two faults are called %s or %s", f.name, f.title)
		}
		names[f.name], anchors[anchor(f.title)] = true, true
	}
}

// TestDifferences tests that a changed verdict is found, and that other times and sessions are not.
func TestDifferences(t *testing.T) {
	t.Parallel()
	of := func(verdict string, at float64) result {
		r := result{Met: []met{{Seconds: at}}, Observers: map[string]observed{}}
		for _, name := range observerNames() {
			r.Observers[name] = observed{Said: []said{{Verdict: up}}, Most: &usage{Sessions: int(at)}}
		}
		r.Observers[theirsName] = observed{Said: []said{{Verdict: verdict, At: at}}}
		return r
	}
	if lines, ours := differences(of(up, 1), of(up, 2)); lines != nil || ours {
		t.Error(lines, ours)
	}
	want := []string{theirsName + ": down; the committed result is: up"}
	lines, ours := differences(of(up, 1), of(down, 1))
	if diff := cmp.Diff(want, lines); diff != "" || ours {
		t.Error(diff, ours)
	}
	changed := of(up, 1)
	changed.Met = []met{{Failed: stepLogin, Error: "connection refused"}}
	if lines, ours := differences(of(up, 1), changed); len(lines) != 1 || !ours {
		t.Error(lines, ours)
	}
}

// TestPortOf tests the addresses of /proc/net/tcp.
func TestPortOf(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]int{"0100007F:1538": 5432, "0100007F:FFFF": 65535, "local_address": -1} {
		if got := portOf(address); got != want {
			t.Errorf("%s: %d, want %d", address, got, want)
		}
	}
}

// TestChildren tests that a process without children, and one that does not exist, have none.
func TestChildren(t *testing.T) {
	t.Parallel()
	const none = 1 << 30
	if pids := children(none); pids != nil {
		t.Error(pids)
	}
	if u := usageByRole(os.Getpid()); len(u) != 0 {
		t.Error(u)
	}
}
