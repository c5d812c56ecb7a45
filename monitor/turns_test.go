// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestTurns tests when statements run that begin to wait at the same moment in this order, how often, and for how long they may.
func TestTurns(t *testing.T) {
	type statement struct {
		name          string
		takes         time.Duration
		isSlow        bool
		timeout, stop time.Duration // stop is when its context ends, 0 for never
	}
	// ran is a statement that ran.
	type ran struct {
		Name            string
		At, MaxDuration time.Duration
	}
	for name, test := range map[string]struct {
		statements []statement
		want       []ran
		unrun      []string // those that got no turn
	}{
		"one after another": {
			statements: []statement{{"a", 100 * time.Millisecond, false, 5 * time.Second, 0}, {"b", 0, false, 5 * time.Second, 0}},
			want:       []ran{{"a", 0, time.Second}, {"b", 100 * time.Millisecond, time.Second}},
		},
		"a slow one lets a fast one pass and runs again": {
			statements: []statement{{"a", 3 * time.Second, false, 5 * time.Second, 0}, {"b", 0, false, 5 * time.Second, 0}},
			want:       []ran{{"a", 0, time.Second}, {"b", time.Second, time.Second}, {"a", time.Second, 5 * time.Second}},
		},
		"one that is known to be slow runs once": {
			statements: []statement{{"a", 3 * time.Second, true, 5 * time.Second, 0}},
			want:       []ran{{"a", 0, 5 * time.Second}},
		},
		"a fast one waits for one slow one of three": {
			statements: []statement{
				{"a", 3 * time.Second, true, 5 * time.Second, 0},
				{"b", 3 * time.Second, true, 5 * time.Second, 0},
				{"c", 0, false, 5 * time.Second, 0},
				{"d", 2 * time.Second, true, 5 * time.Second, 0},
			},
			want: []ran{
				{"a", 0, 5 * time.Second},
				{"c", 3 * time.Second, time.Second},
				{"b", 3 * time.Second, 5 * time.Second},
				{"d", 6 * time.Second, 5 * time.Second},
			},
		},
		"the timeout may be shorter than a slow statement": {
			statements: []statement{{"a", time.Minute, false, 400 * time.Millisecond, 0}},
			want:       []ran{{"a", 0, 400 * time.Millisecond}},
		},
		"one that is stopped while it waits does not run": {
			statements: []statement{
				{"a", 3 * time.Second, true, 5 * time.Second, 0},
				{"b", 0, false, 5 * time.Second, time.Second},
				{"c", 0, true, 5 * time.Second, 2 * time.Second},
				{"d", 0, false, 5 * time.Second, 0},
			},
			want:  []ran{{"a", 0, 5 * time.Second}, {"d", 3 * time.Second, time.Second}},
			unrun: []string{"b", "c"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				turns, start := newTurns(), time.Now()
				var got []ran // one statement at a time appends
				var (
					mu    sync.Mutex // protects unrun
					unrun []string
				)
				for _, s := range test.statements {
					go func() {
						ctx := t.Context()
						if s.stop > 0 {
							var cancel context.CancelFunc
							ctx, cancel = context.WithTimeout(ctx, s.stop)
							defer cancel()
						}
						if !turns.run(ctx, s.isSlow, s.timeout, func(maxDuration time.Duration) bool {
							got = append(got, ran{s.name, time.Since(start), maxDuration})
							time.Sleep(min(s.takes, maxDuration))
							return s.takes > maxDuration
						}) {
							mu.Lock()
							defer mu.Unlock()
							unrun = append(unrun, s.name)
						}
					}()
					synctest.Wait()
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if diff := cmp.Diff(test.want, got) + cmp.Diff(test.unrun, unrun); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}
