// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package certchain

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

// TestVerify: a chain leads from the server's certificate over those that it sent to a root, and the name counts if there is one.
func TestVerify(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial := int64(0)
	create := func(parent *x509.Certificate, name string) *x509.Certificate {
		serial++
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: name == "", BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		template.Subject.CommonName = fmt.Sprint(serial)
		if name != "" {
			template.DNSNames = []string{name}
		}
		if parent == nil {
			parent = template
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return certificate
	}
	root := create(nil, "")
	between := create(root, "")
	leaf := create(between, "db.invalid")
	roots := x509.NewCertPool()
	roots.AddCert(root)
	for _, test := range []struct {
		sent       []*x509.Certificate
		name, want string
	}{
		{[]*x509.Certificate{leaf, between}, "", ""},
		{[]*x509.Certificate{leaf, between}, "db.invalid", ""},
		{[]*x509.Certificate{leaf, between}, "other.invalid", "not other.invalid"},
		{[]*x509.Certificate{leaf}, "", "unknown authority"},
		{nil, "", "the server has no certificate"},
	} {
		chains, err := Verify(test.sent, roots, test.name)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%d certificates for %q: %v, want %q", len(test.sent), test.name, err, test.want)
		}
		if err == nil && (len(chains) != 1 || len(chains[0]) != 3) {
			t.Errorf("chains: %v", chains)
		}
	}
}
