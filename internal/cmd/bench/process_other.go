// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// childAttributes returns the attributes of a child.
func childAttributes() *syscall.SysProcAttr { return nil }

// cpuTime is implemented only for Linux.
func cpuTime(int) (time.Duration, error) {
	return 0, fmt.Errorf("read another process's CPU time: %w", errors.ErrUnsupported)
}

// residentMemory is implemented only for Linux.
func residentMemory(int) (resident, error) {
	return resident{}, fmt.Errorf("read another process's memory: %w", errors.ErrUnsupported)
}
