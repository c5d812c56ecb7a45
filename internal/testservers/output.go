// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"bytes"
	"sync"
)

// Output is what a program writes, to be read while it still runs.
type Output struct {
	mu      sync.Mutex // protects written
	written bytes.Buffer
}

// Write adds to the output.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.written.Write(p)
}

// String returns what was written up to now.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.written.String()
}
