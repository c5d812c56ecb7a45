// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"time"
)

// slowTime is how long a statement may take while all other checks of its target wait for it.
const slowTime = time.Second

// turns makes the statements of a target's checks run one after another, so that together they use at most one of the
// server's connection slots. Any goroutine may call its methods.
type turns struct {
	// statement is full while a statement runs. slow is full while a slow statement waits for statement or runs. Each has
	// room for one element.
	statement, slow chan struct{}
}

func newTurns() turns { return turns{make(chan struct{}, 1), make(chan struct{}, 1)} }

// run waits for a turn and calls run, which runs a statement for at most maxDuration and reports whether the statement
// took longer. timeout is how long it may take altogether.
//
// A statement that takes longer than slowTime runs again with the whole timeout, when no other slow statement of the target
// waits or runs. isSlow reports whether that is known beforehand: then it runs once. A fast statement therefore waits for at
// most one slow statement, plus slowTime for each statement that has just become slow.
//
// It reports false, without a call, if ctx ends before the turn comes.
func (t *turns) run(ctx context.Context, isSlow bool, timeout time.Duration, run func(maxDuration time.Duration) (overran bool)) bool {
	if !isSlow {
		overran := false
		if !hold(ctx, func() { overran = run(min(slowTime, timeout)) }, t.statement) {
			return false
		}
		if !overran || timeout <= slowTime {
			return true
		}
	}
	return hold(ctx, func() { run(timeout) }, t.slow, t.statement)
}

// hold waits until it has filled all places, calls f, and empties them. It reports false, without a call, if ctx ends first.
func hold(ctx context.Context, f func(), places ...chan struct{}) bool {
	for _, place := range places {
		select {
		case place <- struct{}{}:
			defer func() { <-place }()
		case <-ctx.Done():
			return false
		}
	}
	f()
	return true
}
