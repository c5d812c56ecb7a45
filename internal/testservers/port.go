// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
)

// Port is a reserved port of 127.0.0.1. No other process takes it before Release, even while no server listens on it:
// tests stop and restart their servers, and tests run in parallel.
type Port struct {
	Number int
	socket *os.File
}

// ReservePort reserves a free port. It is below the range that the system assigns to outgoing connections (on Linux
// from 32768).
//
// The reservation is a socket that is bound and does not listen. Only processes that set SO_REUSEADDR, as servers do,
// can then bind the port (socket(7)). Connections to it are refused until a server listens.
func ReservePort() (*Port, error) { return reservePort(12000, 32000) }

// ReserveShortPort reserves a free port that has four digits. pgagroal 2.1 reaches no server on a longer one
// (https://github.com/pgagroal/pgagroal/issues/926).
func ReserveShortPort() (*Port, error) { return reservePort(4000, 5000) }

func reservePort(minPort, maxPort int) (*Port, error) {
	for {
		p := &Port{Number: minPort + rand.IntN(maxPort-minPort)} //nolint:gosec // not a secret
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

// Release gives the port back.
func (p *Port) Release() error { return p.socket.Close() }

// listens reports whether a process accepts connections on a port of 127.0.0.1.
func listens(ctx context.Context, port int) bool {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	return err == nil && conn.Close() == nil
}
