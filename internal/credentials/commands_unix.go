// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package credentials

import (
	"os/exec"
	"syscall"
)

// killWithChildren makes the end of a command's context kill the command's children as well. It is called before the
// command starts. The caller calls the result after the command has ended: it kills the children that are left.
func killWithChildren(cmd *exec.Cmd) func() {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	kill := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel = kill
	return func() {
		if cmd.Process != nil {
			_ = kill() // mostly no child is left
		}
	}
}
