// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"crypto/x509"
	"os"
	"testing"

	"pg_liveness_exporter/config"
)

// TestPublicRoots tests that certificates of public authorities are known when a provider is asked, on a machine without certificates.
func TestPublicRoots(t *testing.T) {
	t.Setenv("SSL_CERT_FILE", os.DevNull)
	t.Setenv("SSL_CERT_DIR", t.TempDir())
	if _, err := NewProviders().Fetch(t.Context(), &config.CloudAuth{}); err == nil {
		t.Fatal("there is a grant of no provider")
	}
	if roots, err := x509.SystemCertPool(); err != nil || roots.Equal(x509.NewCertPool()) {
		t.Errorf("there are no certificates of public authorities: %v", err)
	}
}
