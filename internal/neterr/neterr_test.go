// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package neterr

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

// TestOutOfDescriptors tests which errors mean that the process has no descriptors left.
func TestOutOfDescriptors(t *testing.T) {
	t.Parallel()
	socket := &net.OpError{Op: "dial", Net: "udp", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"a socket":             {socket, true},
		"one of several":       {errors.Join(syscall.ECONNREFUSED, socket), true},
		"a file":               {fmt.Errorf("password_file: %w", &os.PathError{Op: "open", Path: "x", Err: syscall.EMFILE}), true},
		"the machine":          {syscall.ENFILE, true},
		"a lookup":             {&net.DNSError{Err: socket.Error(), Name: "db", Server: "127.0.0.1:53", IsTemporary: true}, true},
		"a name":               {&net.DNSError{Err: "no such host", Name: "too many open files", IsNotFound: true}, false},
		"ports":                {syscall.EADDRNOTAVAIL, false},
		"a text of a stranger": {errors.New("too many open files"), false},
	} {
		if got := OutOfDescriptors(test.err); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
		if test.want && !Exhausted(test.err) {
			t.Errorf("%s: not exhausted", name)
		}
	}
}
