// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/certchain"
	"pg_liveness_exporter/internal/publicroots"
)

// tlsConfig returns the settings of a connection to host, unless t has another name to verify. It reads the files of t.
func (d dependency) tlsConfig(t config.CheckTLS, host string) (*tls.Config, error) {
	settings := &tls.Config{
		ServerName: cmp.Or(t.ServerName, host), MinVersion: max(t.MinVersion, tls.VersionTLS12), MaxVersion: t.MaxVersion,
	}
	if t.SkipVerify || t.SkipName {
		settings.InsecureSkipVerify = true
	}
	roots, err := d.read(t.Roots)
	if err != nil {
		return nil, err
	}
	if roots == "" { // crypto/tls uses the system's
		publicroots.Install()
	} else {
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM([]byte(roots)) {
			return nil, PublicError(t.Roots.Key + " holds no certificate")
		}
	}
	if t.SkipName && !t.SkipVerify {
		settings.VerifyConnection = func(state tls.ConnectionState) error {
			_, err := certchain.Verify(state.PeerCertificates, settings.RootCAs, "")
			return err
		}
	}
	if t.Cert.IsSet() {
		cert, err := d.read(t.Cert)
		if err != nil {
			return nil, err
		}
		key, err := d.read(t.Key)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		if err != nil { // its text may have parts of the files
			return nil, PublicError(t.Cert.Key + " and " + t.Key.Key + " are not a certificate and its key, or the key has a password")
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	return settings, nil
}
