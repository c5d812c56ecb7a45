package probe

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// The operating system's words for what happens to a connection: Winsock has its own numbers.

func errnosRefused() []syscall.Errno {
	return []syscall.Errno{windows.WSAECONNREFUSED, syscall.ERROR_FILE_NOT_FOUND}
}

func errnosUnreachable() []syscall.Errno {
	return []syscall.Errno{windows.WSAEHOSTUNREACH, windows.WSAENETUNREACH, windows.WSAEHOSTDOWN, windows.WSAENETDOWN}
}

func errnosCut() []syscall.Errno {
	return []syscall.Errno{windows.WSAECONNRESET, windows.WSAECONNABORTED, windows.WSAESHUTDOWN, syscall.ERROR_BROKEN_PIPE}
}

// errnosForbidden are the unix socket's permissions, or a local packet filter.
func errnosForbidden() []syscall.Errno { return []syscall.Errno{windows.WSAEACCES} }

// errnosExhausted are our own descriptors, ports or memory.
func errnosExhausted() []syscall.Errno {
	return []syscall.Errno{windows.WSAEMFILE, windows.WSAEADDRNOTAVAIL, windows.WSAENOBUFS}
}
