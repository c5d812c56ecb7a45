// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"sync"
	"time"
)

const (
	// busyAtOnce is how many probes that are expected to be answered may be under way. Each takes one to two milliseconds
	// of this process's CPU time, so that hundreds at once would measure each other and not the servers.
	busyAtOnce = 64
	// busyFor is how long such a probe counts as one at most. What takes longer waits for the network or the server.
	busyFor = 100 * time.Millisecond
)

// Limiter bounds the probes that are under way at once, over all targets that share it.
type Limiter struct{ all, silent, busy chan struct{} }

// NewLimiter returns a limiter for so many probes.
func NewLimiter(most int) *Limiter {
	return &Limiter{
		all: make(chan struct{}, most),
		// Targets that did not answer last time leave a quarter to the others: they would take all places for long.
		silent: make(chan struct{}, max(1, min(most-1, most-most/4))),
		busy:   make(chan struct{}, busyAtOnce),
	}
}

// enter waits for a place and returns what to call when the probe ends. It reports false when ctx ends before. answered
// says that the target answered last time, and that it is expected to again.
func (l *Limiter) enter(ctx context.Context, answered bool) (leave func(), ok bool) {
	if !answered {
		if !put(ctx, l.silent) {
			return nil, false
		}
		if !put(ctx, l.all) {
			<-l.silent
			return nil, false
		}
		return func() { <-l.all; <-l.silent }, true
	}
	if !put(ctx, l.all) {
		return nil, false
	}
	done := l.work(ctx)
	return func() { done(); <-l.all }, true
}

// work waits until fewer probes are busy, up to a quarter of the time that is left: this makes for better measurements,
// and must make no probe fail.
func (l *Limiter) work(ctx context.Context) (done func()) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(busyFor)
	}
	wait, cancel := context.WithTimeout(ctx, time.Until(deadline)/4)
	defer cancel()
	if !put(wait, l.busy) {
		return func() {}
	}
	quiet := sync.OnceFunc(func() { <-l.busy })
	timer := time.AfterFunc(busyFor, quiet)
	return func() {
		timer.Stop()
		quiet()
	}
}

func put(ctx context.Context, places chan<- struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	default:
	}
	select {
	case places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}
