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

// parentInterval is the time between two looks at the parent process.
const parentInterval = 200 * time.Millisecond

// watchParent calls end when make, the parent process, has died or has received SIGINT: unlike Ctrl-C, a SIGINT to make
// alone does not reach this program. It returns then, or when ctx ends.
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

// catchesInterrupt reports whether a process has a handler for SIGINT. make removes its handler when it receives
// SIGINT. Without the /proc of Linux it returns false.
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
