// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"testing"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/testenv"
)

// TestPublicRoots tests that certificates of public authorities are known when a provider is asked, on a machine without certificates.
func TestPublicRoots(t *testing.T) {
	haveRoots := testenv.HideRoots(t)
	if _, err := NewProviders().Fetch(t.Context(), &config.CloudAuth{}); err == nil {
		t.Fatal("there is a grant of no provider")
	}
	if !haveRoots() {
		t.Error("there are no certificates of public authorities")
	}
}
