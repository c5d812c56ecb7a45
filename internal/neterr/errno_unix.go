// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package neterr

import "syscall"

// The error numbers of this operating system for each kind of error.

func refused() []syscall.Errno {
	return []syscall.Errno{syscall.ECONNREFUSED, syscall.ENOENT} // no listener; no socket file
}

func unreachable() []syscall.Errno {
	return []syscall.Errno{syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN}
}

func reset() []syscall.Errno {
	return []syscall.Errno{syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED}
}

// forbidden returns the errors of a unix socket's permissions and of a local packet filter.
func forbidden() []syscall.Errno { return []syscall.Errno{syscall.EACCES, syscall.EPERM} }

// exhausted returns the errors for running out of ports or memory.
func exhausted() []syscall.Errno { return []syscall.Errno{syscall.EADDRNOTAVAIL, syscall.ENOBUFS} }

// descriptors returns the errors for running out of file descriptors, of the process or of the machine.
func descriptors() []syscall.Errno { return []syscall.Errno{syscall.EMFILE, syscall.ENFILE} }
