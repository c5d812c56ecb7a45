// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package neterr

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// The error numbers of Windows for each kind of error. Winsock does not use those of package syscall.

func refused() []syscall.Errno {
	return []syscall.Errno{windows.WSAECONNREFUSED, syscall.ERROR_FILE_NOT_FOUND}
}

func unreachable() []syscall.Errno {
	return []syscall.Errno{windows.WSAEHOSTUNREACH, windows.WSAENETUNREACH, windows.WSAEHOSTDOWN, windows.WSAENETDOWN}
}

func reset() []syscall.Errno {
	return []syscall.Errno{windows.WSAECONNRESET, windows.WSAECONNABORTED, windows.WSAESHUTDOWN, syscall.ERROR_BROKEN_PIPE}
}

// forbidden returns the errors of a unix socket's permissions and of a local packet filter.
func forbidden() []syscall.Errno { return []syscall.Errno{windows.WSAEACCES} }

// exhausted returns the errors for running out of ports or memory.
func exhausted() []syscall.Errno {
	return []syscall.Errno{windows.WSAEADDRNOTAVAIL, windows.WSAENOBUFS}
}

// descriptors returns the errors for running out of sockets.
func descriptors() []syscall.Errno { return []syscall.Errno{windows.WSAEMFILE} }
