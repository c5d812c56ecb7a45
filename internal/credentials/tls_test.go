// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"crypto/x509"
	"os"
	"testing"

	"pg_liveness_exporter/config"
)

// TestPublicRoots tests that certificates of public authorities are known when a server is verified with the system's, on a machine without certificates.
func TestPublicRoots(t *testing.T) {
	t.Setenv("SSL_CERT_FILE", os.DevNull)
	t.Setenv("SSL_CERT_DIR", t.TempDir())
	if _, err := tlsConfig(&config.TLS{Mode: "verify-full", Roots: "system", ServerName: "db.invalid"}); err != nil {
		t.Fatal(err)
	}
	if roots, err := x509.SystemCertPool(); err != nil || roots.Equal(x509.NewCertPool()) {
		t.Errorf("there are no certificates of public authorities: %v", err)
	}
}
