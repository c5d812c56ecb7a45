// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package bounded waits for goroutines until a context ends.
package bounded

import (
	"context"
	"sync"
)

// Wait waits for group. If ctx ends first, it returns ctx's error; the goroutines of the group continue.
func Wait(ctx context.Context, group *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		group.Wait()
		close(done)
	}()
	return Done(ctx, done)
}

// Done waits until the channel done is closed. If ctx ends first, it returns ctx's error.
func Done(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
