// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"pg_liveness_exporter/monitor"
)

// batches lets scrapes of all targets share a rendering. Any goroutine may call share.
type batches struct {
	// turn is held while a batch is rendered: a rendering of a thousand targets takes tens of megabytes.
	turn *semaphore.Weighted

	mu      sync.Mutex // protects what follows
	waiting map[batchKey]*batch
}

func newBatches() batches {
	return batches{turn: semaphore.NewWeighted(1), waiting: make(map[batchKey]*batch)}
}

// batchKey is what scrapes have in common that share a rendering: the format, the names that they ask for, and how long they
// wait for probes.
type batchKey struct{ accept, query, timeout string }

// batch is a rendering that has not begun, and the scrapes that wait for it.
type batch struct {
	snapshots []monitor.Snapshot // the newest of all scrapes
	done      chan struct{}      // closed once response is set
	response  *response
}

// maxTurnWait is how long a scrape waits for its turn to render. A rendering of thousands of targets takes about a second.
const maxTurnWait = 10 * time.Second

// errNotRendered is returned if the turn did not come, or if the scrape that renders for others panicked.
var errNotRendered = errors.New("the metrics were not rendered")

// share renders the snapshots of a scrape, and returns the response. If another scrape with the same key waits for its turn to
// render, they share one rendering, which has the newest result of each target. render gets those. The first scrape renders,
// even if its client has left, and waits for its turn for at most maxTurnWait. For the others, share returns an error if ctx
// ends first.
func (bs *batches) share(
	ctx context.Context, key batchKey, snapshots []monitor.Snapshot, render func([]monitor.Snapshot) *response,
) (*response, error) {
	bs.mu.Lock()
	b := bs.waiting[key]
	isFirst := b == nil || !b.merge(snapshots)
	if isFirst {
		b = &batch{snapshots: snapshots, done: make(chan struct{})}
		bs.waiting[key] = b
	}
	bs.mu.Unlock()
	if isFirst {
		bs.render(ctx, key, b, render)
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if b.response == nil {
		return nil, errNotRendered
	}
	return b.response, nil
}

// render renders a batch when its turn comes. No scrape can join it from then on. If the turn does not come within maxTurnWait,
// the batch has no response. That the client leaves does not end the wait: others may have joined.
func (bs *batches) render(ctx context.Context, key batchKey, b *batch, render func([]monitor.Snapshot) *response) {
	defer close(b.done)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxTurnWait)
	defer cancel()
	err := bs.turn.Acquire(ctx, 1)
	bs.mu.Lock()
	if bs.waiting[key] == b {
		delete(bs.waiting, key)
	}
	bs.mu.Unlock()
	if err != nil {
		return
	}
	defer bs.turn.Release(1)
	b.response = render(b.snapshots)
}

// merge adds the snapshots of another scrape. It reports false, and changes nothing, if the two cannot be shown together: the
// targets differ, or only one of them has a result of a target that was counted. The other one waited for too short a time.
func (b *batch) merge(snapshots []monitor.Snapshot) bool {
	if len(b.snapshots) != len(snapshots) {
		return false
	}
	for i := range snapshots {
		ours, theirs := &b.snapshots[i], &snapshots[i]
		if ours.Target != theirs.Target || ours.Counted() != theirs.Counted() {
			return false
		}
	}
	for i := range snapshots {
		if snapshots[i].Result.Start.After(b.snapshots[i].Result.Start) {
			b.snapshots[i] = snapshots[i]
		}
	}
	return true
}

// keyOf returns the key of a scrape.
func keyOf(r *http.Request) batchKey {
	return batchKey{r.Header.Get("Accept"), r.URL.RawQuery, r.Header.Get(timeoutHeader)}
}
