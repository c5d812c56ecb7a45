// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package credentials

import "os/exec"

// killWithChildren does nothing: the end of a command's context kills the command alone.
func killWithChildren(*exec.Cmd) func() { return func() {} }
