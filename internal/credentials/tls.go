// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/youmark/pkcs8"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/certchain"
	"pg_liveness_exporter/internal/publicroots"
)

// tlsConfig reads the files of TLS settings and returns what they make. It is nil if there is no TLS. An error is a
// *config.TLSError.
func tlsConfig(t *config.TLS) (*tls.Config, error) {
	cfg, err := readTLS(t)
	if err != nil {
		return nil, config.NewTLSError(err)
	}
	return cfg, nil
}

func readTLS(t *config.TLS) (*tls.Config, error) {
	if t.Mode == "disable" {
		return nil, nil //nolint:nilnil // pgconn's nil means no TLS
	}
	if t.Verifies() && (t.Roots == "" || t.Roots == "system") {
		publicroots.Install()
	}
	roots, err := readRoots(t)
	if err != nil {
		return nil, err
	}
	certificates, err := readKeyPair(t)
	if err != nil {
		return nil, err
	}
	revoked, err := readRevoked(t)
	if err != nil {
		return nil, err
	}
	v := &verifier{roots: roots, revoked: revoked}
	if t.VerifiesName() {
		v.name = t.ServerName
	}
	cfg := &tls.Config{
		MinVersion: t.MinVersion, MaxVersion: t.MaxVersion, Certificates: certificates, RootCAs: roots,
		InsecureSkipVerify: true, //nolint:gosec // the verifier does it: a name may be verified that is not sent, or none
	}
	if t.Verifies() {
		cfg.VerifyPeerCertificate = v.verify //nolint:gosec // no session is resumed: there is no ClientSessionCache
	}
	if t.Direct {
		cfg.NextProtos = []string{"postgresql"}
	}
	if _, err := netip.ParseAddr(t.ServerName); err != nil && t.SendName { // RFC 6066 allows no address
		cfg.ServerName = strings.TrimSuffix(t.ServerName, ".")
	}
	return cfg, nil
}

// readTLSFile returns the content of a file. An error has the key and the path, as config.FileError has it.
func readTLSFile(key, path string) ([]byte, error) {
	content, err := config.ReadFile(path, maxConnFileSize)
	return content, withKey(key, err)
}

// readRoots reads the certificates to trust. They are nil for the system's, unless the settings name these.
func readRoots(t *config.TLS) (*x509.CertPool, error) {
	switch t.Roots {
	case "":
		return nil, nil //nolint:nilnil // x509's nil means the system's
	case "system":
		roots, err := x509.SystemCertPool()
		if err != nil {
			return nil, errors.New("sslrootcert: the system's certificates cannot be read")
		}
		return roots, nil
	}
	content, err := readTLSFile("sslrootcert", t.Roots)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(content) {
		return nil, errors.New("sslrootcert: holds no certificate in PEM")
	}
	return roots, nil
}

// readKeyPair reads the client certificate and its key. There is none if the settings have none.
func readKeyPair(t *config.TLS) ([]tls.Certificate, error) {
	if t.Certificate == "" {
		return nil, nil
	}
	certificate, err := readTLSFile("sslcert", t.Certificate)
	if err != nil {
		return nil, err
	}
	content, err := readTLSFile("sslkey", t.Key)
	if err != nil {
		return nil, err
	}
	key, err := decryptKey(content, &t.KeyPassword)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil { // its text may hold a part of a file
		return nil, errors.New("sslcert and sslkey: are not a certificate and its private key in PEM")
	}
	return []tls.Certificate{pair}, nil
}

// decryptKey returns a private key in PEM without its encryption, if it has one: PKCS #8, or the older form of OpenSSL.
func decryptKey(content []byte, from *config.PasswordSource) ([]byte, error) {
	var block *pem.Block
	for rest := content; ; {
		block, rest = pem.Decode(rest)
		if block == nil {
			return nil, errors.New("sslkey: holds no private key in PEM")
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			break
		}
	}
	old := x509.IsEncryptedPEMBlock(block) //nolint:staticcheck // deprecated because of its weakness, but it is what libpq reads
	if !old && block.Type != "ENCRYPTED PRIVATE KEY" {
		return pem.EncodeToMemory(block), nil
	}
	password, err := readSource("sslpassword", from)
	switch {
	case err != nil:
		return nil, err
	case password == "":
		return nil, errors.New("sslkey: is encrypted, and there is no sslpassword")
	}
	var der []byte
	if old {
		der, err = x509.DecryptPEMBlock(block, []byte(password)) //nolint:staticcheck // as above
	} else {
		var key any
		if key, err = pkcs8.ParsePKCS8PrivateKey(block.Bytes, []byte(password)); err == nil {
			block.Type = "PRIVATE KEY"
			der, err = x509.MarshalPKCS8PrivateKey(key)
		}
	}
	if err != nil {
		return nil, errors.New("sslkey: cannot be decrypted: sslpassword is wrong, or the encryption is not known")
	}
	return pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: der}), nil
}

// readRevoked reads the lists of revoked certificates. There are none if the settings name no file.
func readRevoked(t *config.TLS) ([]*x509.RevocationList, error) {
	if t.Revoked == "" {
		return nil, nil
	}
	content, err := readTLSFile("sslcrl", t.Revoked)
	if err != nil {
		return nil, err
	}
	var lists []*x509.RevocationList
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			continue
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, errors.New("sslcrl: holds a list that cannot be read")
		}
		lists = append(lists, list)
	}
	if len(lists) == 0 {
		return nil, errors.New("sslcrl: holds no list of revoked certificates in PEM")
	}
	return lists, nil
}

// verifier verifies the certificate of a server.
type verifier struct {
	roots   *x509.CertPool // nil: the system's
	name    string         // for which the certificate must be; empty for any
	revoked []*x509.RevocationList
}

// verify is a VerifyPeerCertificate. The chains are empty, because crypto/tls makes none if it does not verify.
func (v *verifier) verify(raw [][]byte, _ [][]*x509.Certificate) error {
	var certificates []*x509.Certificate
	for _, der := range raw {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return errors.New("the server's certificate cannot be read")
		}
		certificates = append(certificates, certificate)
	}
	chains, err := certchain.Verify(certificates, v.roots, v.name)
	if err != nil || v.revoked == nil {
		return err
	}
	for _, chain := range chains {
		if err = v.checkRevoked(chain, time.Now()); err == nil {
			return nil
		}
	}
	return err
}

// checkRevoked returns an error unless every certificate of a chain is known not to be revoked. As libpq does
// (X509_V_FLAG_CRL_CHECK_ALL), it wants a valid list of each authority.
func (v *verifier) checkRevoked(chain []*x509.Certificate, now time.Time) error {
	for i, certificate := range chain {
		issuer := chain[min(i+1, len(chain)-1)]
		list := v.listOf(issuer)
		switch {
		case list == nil:
			return config.NewTLSError(errors.New("sslcrl has no list of the authority that signed the server's certificate"))
		case !list.NextUpdate.IsZero() && now.After(list.NextUpdate), now.Before(list.ThisUpdate):
			return config.NewTLSError(errors.New("the list of revoked certificates in sslcrl has expired or is not valid yet"))
		}
		for _, entry := range list.RevokedCertificateEntries {
			if entry.SerialNumber.Cmp(certificate.SerialNumber) == 0 {
				return config.NewTLSError(errors.New("the server's certificate, or that of its authority, is revoked (sslcrl)"))
			}
		}
	}
	return nil
}

// listOf returns the newest list that an authority has signed, nil if there is none.
func (v *verifier) listOf(issuer *x509.Certificate) *x509.RevocationList {
	var newest *x509.RevocationList
	for _, list := range v.revoked {
		if string(list.RawIssuer) != string(issuer.RawSubject) || list.CheckSignatureFrom(issuer) != nil {
			continue
		}
		if newest == nil || list.ThisUpdate.After(newest.ThisUpdate) {
			newest = list
		}
	}
	return newest
}
