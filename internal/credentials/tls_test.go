// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"testing"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/testenv"
)

// TestPublicRoots tests that certificates of public authorities are known when a server is verified with the
// system's, on a machine without certificates.
func TestPublicRoots(t *testing.T) {
	haveRoots := testenv.HideRoots(t)
	if _, err := tlsConfig(&config.TLS{Mode: "verify-full", Roots: "system", ServerName: "db.invalid"}); err != nil {
		t.Fatal(err)
	}
	if !haveRoots() {
		t.Error("there are no certificates of public authorities")
	}
}
