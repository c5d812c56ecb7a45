// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package neterr classifies network errors. It knows the error numbers of each operating system.
package neterr

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
)

// Refused reports whether no process listens at the address, or the socket file does not exist.
func Refused(err error) bool { return isAny(err, refused()) }

// Unreachable reports whether there is no route to the host or its network.
func Unreachable(err error) bool { return isAny(err, unreachable()) }

// Forbidden reports whether the permissions of a unix socket, or a packet filter of this machine, deny the connection.
func Forbidden(err error) bool { return isAny(err, forbidden()) }

// Exhausted reports whether this process or machine has run out of file descriptors, ports or memory. A machine without IPv6
// gives the same error for the address ::1 as for want of ports, so look for other errors first if several addresses failed.
func Exhausted(err error) bool { return isAny(err, exhausted()) || OutOfDescriptors(err) }

// OutOfDescriptors reports whether this process or machine has run out of file descriptors. Go's resolver keeps only the
// text of such an error (newDNSError in net/net.go).
func OutOfDescriptors(err error) bool {
	var dnsErr *net.DNSError
	return isAny(err, descriptors()) || errors.As(err, &dnsErr) && MeansOutOfDescriptors(dnsErr.Err)
}

// MeansOutOfDescriptors reports whether an error for running out of file descriptors is part of a text.
func MeansOutOfDescriptors(text string) bool {
	return slices.ContainsFunc(descriptors(), func(errno syscall.Errno) bool { return strings.Contains(text, errno.Error()) })
}

// Reset reports whether the peer aborted the connection.
func Reset(err error) bool { return isAny(err, reset()) }

// Ended reports whether the connection is closed, by either side, in an orderly way or not.
func Ended(err error) bool {
	return Reset(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// TimedOut reports whether a timeout or deadline expired, or the context was canceled.
func TimedOut(err error) bool {
	var netErr net.Error
	return contextEnded(err) || errors.As(err, &netErr) && netErr.Timeout()
}

// Unresolved reports whether a host name could not be resolved, including if no name server could be reached. It
// returns false if the resolution timed out: see TimedOut.
func Unresolved(err error) bool {
	var dnsErr *net.DNSError
	return errors.As(err, &dnsErr) && !dnsErr.IsTimeout && !contextEnded(err)
}

// contextEnded reports whether a deadline expired or a context was canceled.
func contextEnded(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, os.ErrDeadlineExceeded)
}

// isAny reports whether err is one of errnos.
func isAny(err error, errnos []syscall.Errno) bool {
	for _, errno := range errnos {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
