// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package bounded waits no longer than a context lasts.
package bounded

import (
	"context"
	"sync"
)

// Wait waits for a group until ctx ends, and returns ctx's error then. The group's goroutines go on.
func Wait(ctx context.Context, group *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		group.Wait()
		close(done)
	}()
	return Done(ctx, done)
}

// Done waits until a channel is closed, or until ctx ends, and returns ctx's error then.
func Done(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
