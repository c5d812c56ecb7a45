package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pg_liveness_exporter/internal/pgtest"
)

// newCertificate makes a certificate for 127.0.0.1 that signs itself, and its key, in PEM.
func newCertificate(t *testing.T) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pgtest"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	check(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	check(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// TestTLS: a server with TLS is asked through it, with one socket a login, and one whose certificate is not trusted is
// not asked at all.
func TestTLS(t *testing.T) {
	t.Parallel()
	certificate, key := newCertificate(t)
	root := filepath.Join(t.TempDir(), "root.crt")
	check(t, os.WriteFile(root, certificate, 0o644))
	s := newServer(t, pgtest.Config{Certificate: certificate, Key: key, HBA: "hostssl all all all scram-sha-256"})
	for _, test := range []struct {
		settings string
		want     verdict
	}{
		{"", up}, // prefer
		{"sslmode=allow", up},
		{"sslmode=require&channel_binding=require", up},
		{"sslmode=verify-ca&sslrootcert=" + root, up},
		{"sslmode=verify-full&sslrootcert=" + root, up},
		{"sslmode=verify-full", verdict{"misconfigured", "tls"}},
		{"sslmode=disable", verdict{"misconfigured", "auth"}}, // pg_hba.conf wants TLS
	} {
		t.Run(test.settings, func(t *testing.T) {
			t.Parallel()
			env := environment(s.Port, "postgres")
			env[0] = fmt.Sprintf("DATA_SOURCE_URI=127.0.0.1:%d/postgres?%s", s.Port, test.settings)
			e := startExporter(t, env)
			m := e.expect(test.want)
			if _, ok := m[`pg_probe_phase_duration_seconds{phase="tls"}`]; ok != (test.settings != "sslmode=disable") {
				t.Errorf("time of TLS is there: %v", ok)
			}
			if test.want == up {
				e.settle()
				e.usesNoMore()
			}
		})
	}
}
