// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package probe

import (
	"syscall"
	"time"
)

// limitUnacknowledged returns nil: the option exists only on Linux. Elsewhere keepalive detects a dead connection.
func limitUnacknowledged(time.Duration) func(network, address string, c syscall.RawConn) error {
	return nil
}
