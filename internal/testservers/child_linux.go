// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import "syscall"

// childAttributes run a server as another user, and end it when we are killed.
func childAttributes(own *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: own, Setpgid: true, Pdeathsig: syscall.SIGQUIT}
}
