// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// limitUnacknowledged returns a net.Dialer.Control that makes the kernel close a TCP connection if sent data stays
// unacknowledged for limit (TCP_USER_TIMEOUT, RFC 5482). The option also bounds how long keepalive probes may go
// unanswered.
func limitUnacknowledged(limit time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		if network == "unix" {
			return nil
		}
		var sockErr error
		if err := c.Control(func(fd uintptr) {
			sockErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
		}); err != nil {
			return err
		}
		return sockErr
	}
}
