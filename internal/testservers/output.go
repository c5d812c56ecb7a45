// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"bytes"
	"sync"
)

// Output collects what a program writes. It can be read while the program runs; the zero value is ready to use.
type Output struct {
	mu      sync.Mutex // guards written
	written bytes.Buffer
}

// Write appends to the output. It never fails.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.written.Write(p)
}

// String returns what was written so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.written.String()
}
