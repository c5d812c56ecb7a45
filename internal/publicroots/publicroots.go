// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package publicroots has the certificates of public authorities, for machines that have none, such as an image from scratch.
package publicroots

import (
	"crypto/x509"
	"sync"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// install is for the whole process, as what it sets is: x509.SetFallbackRoots may be called only once.
var install = sync.OnceFunc(func() { //nolint:gochecknoglobals // as above
	roots := x509.NewCertPool()
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		switch {
		case err != nil: // a newer Go may refuse one
		case root.Constraint == nil:
			roots.AddCert(certificate)
		default:
			roots.AddCertWithConstraint(certificate, root.Constraint)
		}
	}
	x509.SetFallbackRoots(roots)
})

// Install makes the certificates the system's if the machine has none. It must be called before a certificate is verified with
// the system's. The bundle's own package would do this at each start: it parses all certificates, those of the machine too, which
// takes a megabyte that most exporters never need. Any goroutine may call Install, any number of times.
func Install() { install() }
