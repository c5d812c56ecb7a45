// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// maxBusy is how many probes that are expected to be answered may be under way. Each takes one to two milliseconds of
	// this process's CPU time, so that hundreds at once would measure each other and not the servers.
	maxBusy = 64
	// maxBusyTime is how long such a probe counts as one. A longer one waits for the network or the server.
	maxBusyTime = 100 * time.Millisecond
)

// limiter bounds the probes that are under way at once, over all targets that share it.
type limiter struct{ all, silent, busy *semaphore.Weighted }

// newLimiter returns a limiter for at most max probes.
func newLimiter(maxProbes int) *limiter {
	return &limiter{
		all: semaphore.NewWeighted(int64(maxProbes)),
		// Targets that did not answer the last time leave a quarter of the places to the others: they occupy theirs for long.
		silent: semaphore.NewWeighted(int64(max(1, min(maxProbes-1, maxProbes-maxProbes/4)))),
		busy:   semaphore.NewWeighted(maxBusy),
	}
}

// enter waits for a place and returns the function to call when the probe ends. It reports false if ctx ends before.
// answered reports whether the target answered the last time, so that it is expected to again.
func (l *limiter) enter(ctx context.Context, answered bool) (leave func(), ok bool) {
	if !answered {
		if l.silent.Acquire(ctx, 1) != nil {
			return nil, false
		}
		if l.all.Acquire(ctx, 1) != nil {
			l.silent.Release(1)
			return nil, false
		}
		return func() { l.all.Release(1); l.silent.Release(1) }, true
	}
	if l.all.Acquire(ctx, 1) != nil {
		return nil, false
	}
	markIdle := l.enterBusy(ctx)
	return func() { markIdle(); l.all.Release(1) }, true
}

// enterBusy waits until fewer probes are busy, for at most a quarter of the time that is left. This improves measurements,
// and must not make a probe fail.
func (l *limiter) enterBusy(ctx context.Context) (markIdle func()) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(maxBusyTime)
	}
	wait, cancel := context.WithTimeout(ctx, time.Until(deadline)/4)
	defer cancel()
	if l.busy.Acquire(wait, 1) != nil {
		return func() {}
	}
	release := sync.OnceFunc(func() { l.busy.Release(1) })
	timer := time.AfterFunc(maxBusyTime, release)
	return func() {
		timer.Stop()
		release()
	}
}
