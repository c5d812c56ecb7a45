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

func childAttributes() *syscall.SysProcAttr { return nil }

func cpuTime(int) (time.Duration, error) {
	return 0, fmt.Errorf("read another process's CPU time: %w", errors.ErrUnsupported)
}

func residentMemory(int) (resident, error) {
	return resident{}, fmt.Errorf("read another process's memory: %w", errors.ErrUnsupported)
}
