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
	// maxBusy is how many busy probes may be under way. A probe is busy for its first maxBusyTime if the target
	// responded the last time. Each probe takes one to two milliseconds of this process's CPU time. If hundreds were
	// busy at once, they would measure how long they wait for the CPU instead of how long the servers take.
	maxBusy = 64
	// maxBusyTime is how long a probe counts as busy. A longer probe waits for the network or the server.
	maxBusyTime = 100 * time.Millisecond
)

// limiter limits the number of probes under way, across all targets that share it.
type limiter struct{ all, silent, busy *semaphore.Weighted }

// newLimiter returns a limiter for at most maxProbes probes.
func newLimiter(maxProbes int) *limiter {
	return &limiter{
		all: semaphore.NewWeighted(int64(maxProbes)),
		// Targets that did not respond the last time get at most three quarters of the places, because their probes
		// take long.
		silent: semaphore.NewWeighted(int64(max(1, min(maxProbes-1, maxProbes-maxProbes/4)))),
		busy:   semaphore.NewWeighted(maxBusy),
	}
}

// enter waits for a place and returns the function to call when the probe ends. It reports false if ctx ends first.
// responded reports whether the target responded the last time.
func (l *limiter) enter(ctx context.Context, responded bool) (leave func(), ok bool) {
	if !responded {
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

// enterBusy waits until fewer than maxBusy probes are busy, but at most a quarter of the time until ctx's deadline.
// The probe starts in any case: the limit improves measurements and must not make a probe fail.
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
