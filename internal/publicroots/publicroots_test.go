// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package publicroots

import (
	"testing"

	"pg_liveness_exporter/internal/testenv"
)

// TestInstall tests that a machine without certificates has some afterwards.
func TestInstall(t *testing.T) {
	haveRoots := testenv.HideRoots(t)
	if haveRoots() {
		t.Fatal("the machine's certificates are not hidden")
	}
	for range 2 {
		Install()
		if !haveRoots() {
			t.Fatal("there are still no certificates")
		}
	}
}
