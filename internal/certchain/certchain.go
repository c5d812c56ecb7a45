// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package certchain verifies the certificate of a server where crypto/tls cannot: if the name to verify is not the one that is
// sent, or if no name is verified.
package certchain

import (
	"crypto/x509"
	"errors"
)

// Verify returns the chains from a server's certificate, which is the first one, to a root. The others are those that the
// server sent with it. If roots is nil, the system's are trusted. If name is empty, the certificate may be for any host. An
// error is one of x509.Certificate.Verify, or says that there is no certificate.
func Verify(certificates []*x509.Certificate, roots *x509.CertPool, name string) ([][]*x509.Certificate, error) {
	if len(certificates) == 0 {
		return nil, errors.New("the server has no certificate")
	}
	options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), DNSName: name}
	for _, certificate := range certificates[1:] {
		options.Intermediates.AddCert(certificate)
	}
	return certificates[0].Verify(options)
}
