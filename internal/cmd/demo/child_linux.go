// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import "syscall"

// childAttributes returns the attributes of a child process. It has its own process group, so that Ctrl-C reaches only
// this program, and the kernel terminates it if this program dies.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
