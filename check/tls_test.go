// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"testing"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/testenv"
)

// TestPublicRoots tests that certificates of public authorities are known when a check uses TLS, on a machine without certificates.
func TestPublicRoots(t *testing.T) {
	haveRoots := testenv.HideRoots(t)
	if _, err := (dependency{&config.Check{}, noFiles{}}).tlsConfig(config.CheckTLS{}, "db.invalid"); err != nil {
		t.Fatal(err)
	}
	if !haveRoots() {
		t.Error("there are no certificates of public authorities")
	}
}

// noFiles is a source of nothing.
type noFiles struct{ Source }

func (noFiles) Read(config.Content) (config.Secret, error) { return "", nil }
