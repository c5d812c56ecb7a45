// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"errors"
	"math/rand/v2"
	"os"
	"syscall"
)

// Port is a port of 127.0.0.1 that nobody else takes until it is released, also while no server listens on it: those of
// tests stop and start, and tests run side by side.
type Port struct {
	Number int
	socket *os.File
}

// ReservePort finds a port. It is none of those that the system gives to connections (on Linux from 32768 on).
//
// A socket that is bound and does not listen keeps others away, but for those who say that they may share the address, as
// servers do (SO_REUSEADDR, socket(7)). A connection to it is refused as long as no server is there.
func ReservePort() (*Port, error) {
	const minPort, maxPort = 12000, 32000
	for {
		p := &Port{Number: minPort + rand.IntN(maxPort-minPort)} //nolint:gosec // any will do
		syscall.ForkLock.RLock()
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		if err == nil {
			syscall.CloseOnExec(fd)
		}
		syscall.ForkLock.RUnlock()
		if err != nil {
			return nil, os.NewSyscallError("socket", err)
		}
		p.socket = os.NewFile(uintptr(fd), "port")
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Port: p.Number, Addr: [4]byte{127, 0, 0, 1}})
		if err == nil {
			err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
		}
		switch {
		case err == nil:
			return p, nil
		case !errors.Is(err, syscall.EADDRINUSE):
			return nil, errors.Join(os.NewSyscallError("bind", err), p.Release())
		}
		if err := p.Release(); err != nil {
			return nil, err
		}
	}
}

// Release lets others have the port.
func (p *Port) Release() error { return p.socket.Close() }
