// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package config

import (
	"os/exec"
	"syscall"
)

// killWithChildren makes the end of the command's context end what the command has started as well. What it returns does
// that for what the command left behind when it ended.
func killWithChildren(cmd *exec.Cmd) func() {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	kill := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel = kill
	return func() {
		if cmd.Process != nil {
			_ = kill() // mostly nobody is left
		}
	}
}
