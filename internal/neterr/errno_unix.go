// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package neterr

import "syscall"

// The operating system's words for what happens to a connection.

func refused() []syscall.Errno {
	return []syscall.Errno{syscall.ECONNREFUSED, syscall.ENOENT} // nobody listens; no socket file
}

func unreachable() []syscall.Errno {
	return []syscall.Errno{syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN}
}

func reset() []syscall.Errno {
	return []syscall.Errno{syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED}
}

// forbidden are the unix socket's permissions, or a local packet filter.
func forbidden() []syscall.Errno { return []syscall.Errno{syscall.EACCES, syscall.EPERM} }

// exhausted are our own descriptors, ports or memory.
func exhausted() []syscall.Errno {
	return []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS}
}
