// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const parentInterval = 200 * time.Millisecond

// watchParent calls end when make has gone, or waits for us to end: a SIGINT that was sent to make alone, and not by
// Ctrl-C to us both, it does not pass on. It stops when ctx ends.
func watchParent(ctx context.Context, end func()) {
	parent := os.Getppid()
	caught := catchesInterrupt(parent)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(parentInterval):
		}
		if os.Getppid() != parent || caught && !catchesInterrupt(parent) {
			end()
			return
		}
	}
}

// catchesInterrupt says whether the process has a handler for SIGINT, which make gives up once it got one. Without
// Linux's /proc nobody knows.
func catchesInterrupt(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(status), "\nSigCgt:")
	mask, _, _ := strings.Cut(rest, "\n")
	caught, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
	return err == nil && caught&(1<<(syscall.SIGINT-1)) != 0
}
