// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package neterr

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// The operating system's words for what happens to a connection: Winsock has its own numbers.

func refused() []syscall.Errno {
	return []syscall.Errno{windows.WSAECONNREFUSED, syscall.ERROR_FILE_NOT_FOUND}
}

func unreachable() []syscall.Errno {
	return []syscall.Errno{windows.WSAEHOSTUNREACH, windows.WSAENETUNREACH, windows.WSAEHOSTDOWN, windows.WSAENETDOWN}
}

func reset() []syscall.Errno {
	return []syscall.Errno{windows.WSAECONNRESET, windows.WSAECONNABORTED, windows.WSAESHUTDOWN, syscall.ERROR_BROKEN_PIPE}
}

// forbidden are the unix socket's permissions, or a local packet filter.
func forbidden() []syscall.Errno { return []syscall.Errno{windows.WSAEACCES} }

// exhausted are our own descriptors, ports or memory.
func exhausted() []syscall.Errno {
	return []syscall.Errno{windows.WSAEMFILE, windows.WSAEADDRNOTAVAIL, windows.WSAENOBUFS}
}
