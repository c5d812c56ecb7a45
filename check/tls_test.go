// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"crypto/x509"
	"os"
	"testing"

	"pg_liveness_exporter/config"
)

// TestPublicRoots tests that certificates of public authorities are known when a check uses TLS, on a machine without certificates.
func TestPublicRoots(t *testing.T) {
	t.Setenv("SSL_CERT_FILE", os.DevNull)
	t.Setenv("SSL_CERT_DIR", t.TempDir())
	if _, err := (dependency{&config.Check{}, noFiles{}}).tlsConfig(config.CheckTLS{}, "db.invalid"); err != nil {
		t.Fatal(err)
	}
	if roots, err := x509.SystemCertPool(); err != nil || roots.Equal(x509.NewCertPool()) {
		t.Errorf("there are no certificates of public authorities: %v", err)
	}
}

// noFiles is a source of nothing.
type noFiles struct{ Source }

func (noFiles) Read(config.Content) (config.Secret, error) { return "", nil }
