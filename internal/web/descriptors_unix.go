// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package web

import (
	"math"
	"syscall"
)

// descriptors returns how many files and sockets the process may have open: the soft limit, which the Go runtime raises
// to the hard limit when the program starts (src/syscall/rlimit.go).
func descriptors() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return math.MaxInt32
	}
	return int(limit.Cur)
}
