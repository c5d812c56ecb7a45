// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/youmark/pkcs8"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// revocationList returns a list of revoked certificates, signed by a certificate of newCertificate, in PEM.
func revocationList(t *testing.T, certificate, key []byte, serials ...int64) []byte {
	t.Helper()
	pair, err := tls.X509KeyPair(certificate, key)
	check(t, err)
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, serial := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: big.NewInt(serial), RevocationTime: list.ThisUpdate,
		})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey))
	check(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// encryptKey returns a private key that a password encrypts, as PKCS #8 in PEM.
func encryptKey(t *testing.T, key []byte, password string) []byte {
	t.Helper()
	block, _ := pem.Decode(key)
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	check(t, err)
	der, err := pkcs8.MarshalPrivateKey(private, []byte(password), nil)
	check(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der})
}

// TestConnStrings: what people bring as a connection string, on real servers. A mistake in it is never the server's state.
func TestConnStrings(t *testing.T) {
	t.Parallel()
	certificate, key := newCertificate(t, func(c *x509.Certificate) {
		c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
		c.DNSNames, c.IPAddresses = []string{"db.invalid"}, nil
	})
	unnamed, unnamedKey := newCertificate(t, func(c *x509.Certificate) { c.IPAddresses = nil })
	clientCertificate, clientKey := newClientCertificate(t, certificate, key)
	folder := t.TempDir()
	for name, content := range map[string][]byte{
		"root.crt": certificate, "unnamed.crt": unnamed, "client.crt": clientCertificate, "client.key": encryptKey(t, clientKey, "of-key"),
		"none.crl": revocationList(t, certificate, key), "revoked.crl": revocationList(t, certificate, key, 1), "word": []byte("of-key\n"),
	} {
		check(t, os.WriteFile(filepath.Join(folder, name), content, 0o600))
	}
	s := newServer(t, testservers.PostgresConfig{
		Certificate: certificate, Key: key, Settings: []string{"ssl_ca_file = 'server.crt'"},
		HBA: "hostssl app all all cert\nhostnossl template1 all all scram-sha-256\nhost postgres,app all all scram-sha-256",
	})
	nameless := newServer(t, testservers.PostgresConfig{Certificate: unnamed, Key: unnamedKey})
	abstract := fmt.Sprintf("@pg_liveness_exporter-%d", s.Port)
	if testenv.Major(t) >= 14 {
		execute(t, s, fmt.Sprintf("ALTER SYSTEM SET unix_socket_directories = '%s', '%s'", s.Dir, abstract))
		check(t, s.Stop(testservers.Fast))
		check(t, s.Start(context.Background()))
	}
	escaped := strings.ReplaceAll(url.QueryEscape(password), "+", "%20")
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password)
	uri := func(database, parameters string) string {
		return fmt.Sprintf("DATABASE_URL=postgres://%s:%s@127.0.0.1:%d/%s?%s", role, escaped, s.Port, database, parameters)
	}
	words := func(port int, text string) string {
		return fmt.Sprintf("DATA_SOURCE_NAME=port=%d user=%s password='%s' dbname=postgres ", port, role, quoted) + strings.ReplaceAll(text, "$", folder)
	}
	verified := "host=db.invalid hostaddr=127.0.0.1 sslmode=verify-full sslrootcert=$/root.crt "
	const accepting, refused = "accepting", "refused at start"
	for _, test := range []struct {
		name, env, want, text string
	}{
		{"ssl=false", uri("postgres", "ssl=false"), accepting, ""},
		{"ssl=0", uri("postgres", "ssl=0"), accepting, ""},
		{"ssl=true", uri("postgres", "ssl=true"), accepting, ""},
		{"no-verify", uri("postgres", "sslmode=no-verify"), accepting, ""},
		{"no meaning", uri("postgres", "gssencmode=disable&keepalives=1&load_balance_hosts=random&fallback_application_name=x"), accepting, ""},
		{"other drivers", uri("postgres", "binary_parameters=yes&prepareThreshold=0&uselibpqcompat=true&supa=x&pgbouncer=true&schema=public"), accepting, ""},
		{"JDBC verifies", fmt.Sprintf("DATABASE_URL=jdbc:postgresql://127.0.0.1:%d/postgres?user=%s&password=%s&ssl=true", s.Port, role, escaped), "misconfigured", "for another host"},
		{"Prisma verifies", uri("postgres", "sslaccept=strict&sslcert="+folder+"/root.crt"), "misconfigured", "for another host"},
		{"Prisma does not", uri("postgres", "sslaccept=accept_invalid_certs&sslcert="+folder+"/root.crt"), accepting, ""},
		{"hostaddr", words(s.Port, verified), accepting, ""},
		{"hostaddr and another name", words(s.Port, strings.Replace(verified, "db.invalid", "other.invalid", 1)), "misconfigured", "for another host"},
		{"the socket's file", fmt.Sprintf("DATA_SOURCE_NAME=host=%s/.s.PGSQL.%d user=postgres", s.Dir, s.Port), accepting, ""},
		{"pg8000", fmt.Sprintf("DATABASE_URL=postgresql+pg8000://postgres@/postgres?unix_sock=%s/.s.PGSQL.%d", s.Dir, s.Port), accepting, ""},
		{"brackets", "DATA_SOURCE_NAME=host=[::1] port=1 user=u", "no_response", ""},
		{"encrypted key", words(s.Port, "host=127.0.0.1 dbname=app sslmode=require sslcert=$/client.crt sslkey=$/client.key sslpassword=of-key"), accepting, ""},
		{"no sslpassword", words(s.Port, "host=127.0.0.1 dbname=app sslmode=require sslcert=$/client.crt sslkey=$/client.key"), refused, "sslkey: is encrypted, and there is no sslpassword"},
		{"a wrong one", words(s.Port, "host=127.0.0.1 dbname=app sslmode=require sslcert=$/client.crt sslkey=$/client.key sslpassword=x"), refused, "sslkey: cannot be decrypted"},
		{"sslcrl", words(s.Port, verified+"sslcrl=$/none.crl"), accepting, ""},
		{"revoked", words(s.Port, verified+"sslcrl=$/revoked.crl"), "misconfigured", "is revoked"},
		{"sslcrl of another", words(nameless.Port, "host=127.0.0.1 sslmode=verify-ca sslrootcert=$/unnamed.crt sslcrl=$/none.crl"), "misconfigured", "has no list of the authority"},
		{"no alternative name", words(nameless.Port, "host=127.0.0.1 sslmode=verify-full sslrootcert=$/unnamed.crt"), "misconfigured", "no subject alternative name"},
		{"verify-ca needs none", words(nameless.Port, "host=127.0.0.1 sslmode=verify-ca sslrootcert=$/unnamed.crt"), accepting, ""},
		{"hostnossl", uri("template1", "sslmode=prefer"), "misconfigured", "if it is hostnossl, set sslmode=disable"},
		{"hostnossl without TLS", uri("template1", "sslmode=disable"), accepting, ""},
		{"hostssl", uri("app", "sslmode=disable"), accepting, ""}, // the last line lets it in
		{"TLS version", words(s.Port, "host=127.0.0.1 sslmode=require ssl_min_protocol_version=TLSv1.3"), accepting, ""},
		{"an unknown parameter", uri("postgres", "options=-c%20nonsense%3D1"), "misconfigured", "check options (nonsense)"},
		{"a wrong value", uri("postgres", "client_encoding=nonsense"), "misconfigured", "check client_encoding"},
		{"a parameter that takes no value", uri("postgres", "options=nonsense"), "misconfigured", "check options"},
		{"a role that is not there", uri("postgres", "role=nonsense"), "misconfigured", "check role"},
		{"requirepeer", uri("postgres", "requirepeer=postgres"), refused, "holds requirepeer"},
		{"gssencmode=require", uri("postgres", "gssencmode=require"), refused, "holds gssencmode"},
		{"several hosts", "DATABASE_URL=postgres://a,b/d?target_session_attrs=primary", refused, "names several servers"},
		{"Npgsql", "DATABASE_URL=Host=127.0.0.1;Username=u", refused, "form of Npgsql"},
	} {
		t.Run(test.name, func(t *testing.T) {
			expectConnString(t, []string{test.env}, test.want, test.text)
		})
	}
	t.Run("abstract socket", func(t *testing.T) {
		if testenv.Major(t) < 14 {
			t.Skip("servers have them from 14 on")
		}
		expectConnString(t, []string{fmt.Sprintf("DATA_SOURCE_NAME=host=%s port=%d user=postgres", abstract, s.Port)}, accepting, "")
	})
	t.Run("variables", func(t *testing.T) {
		env := []string{
			"PGHOST=db.invalid", "PGHOSTADDR=127.0.0.1", fmt.Sprint("PGPORT=", s.Port), "PGUSER=" + role, "PGPASSWORD=" + password,
			"PGSSLMODE=verify-full", "PGSSLROOTCERT=" + folder + "/root.crt",
		}
		expectConnString(t, env, accepting, "")
		expectConnString(t, append(env, "PGSSLCRL="+folder+"/revoked.crl"), "misconfigured", "is revoked")
		expectConnString(t, append(env, "PGREQUIREPEER=x"), refused, "PGREQUIREPEER is refused")
		expectConnString(t, []string{"POSTGRES_HOST=[::1]", "POSTGRES_PORT=1", "POSTGRES_USER=u"}, "no_response", "")
	})
	t.Run("file", func(t *testing.T) {
		path := filepath.Join(folder, "config.yml")
		check(t, os.WriteFile(path, fmt.Appendf(nil, `
defaults: {user: %[1]s, password: %[2]q, sslmode: verify-full, sslrootcert: root.crt}
targets:
  address: {host: db.invalid, hostaddr: 127.0.0.1, port: %[3]d}
  name: {host: 127.0.0.1, server_name: db.invalid, port: %[3]d}
  file: {host: 127.0.0.1, server_name: db.invalid, port: %[3]d, dbname: app, sslcert: client.crt, sslkey: client.key, sslpassword_file: word}
  variable: {host: 127.0.0.1, server_name: db.invalid, port: %[3]d, dbname: app, sslcert: client.crt, sslkey: client.key, sslpassword_env: WORD}
  revoked: {host: db.invalid, hostaddr: 127.0.0.1, port: %[3]d, sslcrl: revoked.crl}
`, role, password, s.Port), 0o600))
		for target, want := range map[string]string{
			"address": accepting, "name": accepting, "file": accepting, "variable": accepting, "revoked": "misconfigured",
		} {
			expectConnString(t, []string{"WORD=of-key"}, want, "", target, "--config.file="+path)
		}
	})
}

// expectConnString runs the command check and compares the state. It is "refused at start" if no probe is tried.
func expectConnString(t *testing.T, env []string, want, text string, args ...string) {
	t.Helper()
	_, out, errs := runProgram(t, env, append([]string{"check", "--format=json"}, args...)...)
	var answer struct{ State, Detail string }
	check(t, json.Unmarshal([]byte(out), &answer))
	if want == "refused at start" {
		want = "not_tried"
	}
	if answer.State != want || !strings.Contains(answer.Detail, text) {
		t.Errorf("got %s, want %s and %q\n%s%s", answer.State, want, text, out, errs)
	}
}
