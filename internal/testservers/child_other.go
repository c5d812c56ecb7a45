// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package testservers

import "syscall"

// childAttributes run a server as another user.
func childAttributes(own *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: own, Setpgid: true}
}
