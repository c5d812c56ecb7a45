// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package config

import "os/exec"

// killWithChildren leaves it at the command itself, which os/exec kills.
func killWithChildren(*exec.Cmd) func() { return func() {} }
