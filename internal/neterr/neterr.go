// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package neterr tells errors of the network apart, in the words of whichever operating system this is.
package neterr

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Refused says that nobody listens there, or that there is no socket file.
func Refused(err error) bool { return isAny(err, refused()) }

// Unreachable says that there is no way to the host or its network.
func Unreachable(err error) bool { return isAny(err, unreachable()) }

// Forbidden says that a unix socket's permissions, or a packet filter of this machine, are in the way.
func Forbidden(err error) bool { return isAny(err, forbidden()) }

// Exhausted says that this process, or its machine, has no descriptors, ports or memory left.
func Exhausted(err error) bool { return isAny(err, exhausted()) }

// Reset says that the other side broke a connection off.
func Reset(err error) bool { return isAny(err, reset()) }

// Ended says that a connection is no more, whoever ended it and however.
func Ended(err error) bool {
	return Reset(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// TimedOut says that time was over, or that nobody waited any more.
func TimedOut(err error) bool {
	var netErr net.Error
	return given(err) || errors.As(err, &netErr) && netErr.Timeout()
}

// Unresolved says that a name was not found, also where no name server could be reached.
func Unresolved(err error) bool {
	var dnsErr *net.DNSError
	return errors.As(err, &dnsErr) && !dnsErr.IsTimeout && !given(err)
}

func given(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, os.ErrDeadlineExceeded)
}

func isAny(err error, errnos []syscall.Errno) bool {
	for _, errno := range errnos {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
