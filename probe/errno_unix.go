//go:build !windows

package probe

import "syscall"

// The operating system's words for what happens to a connection.

func errnosRefused() []syscall.Errno {
	return []syscall.Errno{syscall.ECONNREFUSED, syscall.ENOENT} // nobody listens; no socket file
}

func errnosUnreachable() []syscall.Errno {
	return []syscall.Errno{syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN}
}

func errnosCut() []syscall.Errno {
	return []syscall.Errno{syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED}
}

// errnosForbidden are the unix socket's permissions, or a local packet filter.
func errnosForbidden() []syscall.Errno { return []syscall.Errno{syscall.EACCES, syscall.EPERM} }

// errnosExhausted are our own descriptors, ports or memory.
func errnosExhausted() []syscall.Errno {
	return []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS}
}
