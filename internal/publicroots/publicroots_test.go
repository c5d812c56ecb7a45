// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package publicroots

import (
	"crypto/x509"
	"testing"
)

// TestInstall tests that a machine without certificates has some afterwards. It is the only test of the package, because crypto/x509
// reads those of the machine once.
func TestInstall(t *testing.T) {
	t.Setenv("SSL_CERT_FILE", "/dev/null")
	t.Setenv("SSL_CERT_DIR", t.TempDir())
	isEmpty := func() bool {
		roots, err := x509.SystemCertPool()
		return err != nil || roots.Equal(x509.NewCertPool())
	}
	if !isEmpty() {
		t.Skip("the system has certificates of its own")
	}
	for range 2 {
		Install()
		if isEmpty() {
			t.Fatal("there are still no certificates")
		}
	}
}
