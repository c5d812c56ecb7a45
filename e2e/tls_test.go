// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/x509"
	"debug/buildinfo"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// TestTLS: a server with TLS is asked through it, with one socket a login, and one whose certificate is not trusted is
// not asked at all.
func TestTLS(t *testing.T) {
	t.Parallel()
	certificate, key := newCertificate(t)
	root := filepath.Join(t.TempDir(), "root.crt")
	check(t, os.WriteFile(root, certificate, 0o644))
	s := newServer(t, testservers.PostgresConfig{Certificate: certificate, Key: key, HBA: "hostssl all all all scram-sha-256"})
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
			m := e.Expect(test.want)
			if _, ok := m[`pg_probe_phase_duration_seconds{phase="tls"}`]; ok != (test.settings != "sslmode=disable") {
				t.Errorf("time of TLS is there: %v", ok)
			}
			notAfter, cipher := m["pg_tls_certificate_not_after_timestamp_seconds"], hasSeries(m, "pg_tls_info{cipher=")
			if test.settings == "sslmode=disable" {
				if notAfter != 0 || cipher {
					t.Errorf("without TLS: the certificate's end is %v, a cipher is there: %v", notAfter, cipher)
				}
			} else if in := time.Until(time.Unix(int64(notAfter), 0)); in < 0 || in > time.Hour || cipher != (test.want == up) {
				t.Errorf("the certificate ends in %s, a cipher is there: %v", in, cipher)
			}
			if test.want == up {
				_, body, err := e.Get(t.Context(), "/metrics", scrapeTimeout)
				check(t, err)
				likeGolden(t, "tls", body, func(help string) bool { return !strings.Contains(help, "pg_tls_") })
				e.Settle()
				e.ExpectNoMoreUsed()
			}
		})
	}
}

// TestServerWithoutTLS: what each mode makes of it.
func TestServerWithoutTLS(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	refused := verdict{"misconfigured", "tls"}
	for mode, want := range map[string]verdict{
		"disable": up, "allow": up, "prefer": up, "require": refused, "verify-ca": refused, "verify-full": refused,
		"require&sslnegotiation=direct": refused, "prefer&sslcertmode=require": refused,
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			env := environment(s.Port, "postgres")
			env[0] = fmt.Sprintf("DATA_SOURCE_URI=127.0.0.1:%d/postgres?sslmode=%s", s.Port, mode)
			e := startExporter(t, env)
			if m := e.Expect(want); hasSeries(m, "pg_tls_") {
				t.Error("there are series about TLS")
			}
		})
	}
}

// TestNegotiation: TLS without asking first, which servers from 17 on know, and a certificate that must be asked for.
func TestNegotiation(t *testing.T) {
	t.Parallel()
	certificate, key := newCertificate(t)
	clientCertificate, clientKey := newClientCertificate(t, certificate, key)
	folder := t.TempDir()
	for name, content := range map[string][]byte{"root.crt": certificate, "client.crt": clientCertificate, "client.key": clientKey} {
		check(t, os.WriteFile(filepath.Join(folder, name), content, 0o600))
	}
	asks := newServer(t, testservers.PostgresConfig{Certificate: certificate, Key: key, Settings: []string{"ssl_ca_file = 'server.crt'"}})
	plain := newServer(t, testservers.PostgresConfig{Certificate: certificate, Key: key})
	direct, refused := up, verdict{"misconfigured", "tls"}
	if testenv.Major(t) < 17 {
		direct = refused
	}
	own := fmt.Sprintf("sslcert=%[1]s/client.crt&sslkey=%[1]s/client.key&sslcertmode=require", folder)
	for _, test := range []struct {
		name, settings string
		server         *testservers.Postgres
		want           verdict
	}{
		{"direct", "sslmode=require&sslnegotiation=direct", plain, direct},
		{"direct, verified", "sslmode=verify-full&sslnegotiation=direct&sslrootcert=" + folder + "/root.crt", plain, direct},
		{"asked for", "sslmode=require&" + own, asks, up},
		{"asked for, and none", "sslmode=require&sslcertmode=require", asks, refused},
		{"not asked for", "sslmode=require&" + own, plain, refused},
		{"not shown", "sslmode=require&" + strings.Replace(own, "=require", "=disable", 1), asks, up},
		{"system", "sslrootcert=system", plain, refused},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := environment(test.server.Port, "postgres")
			env[0] = fmt.Sprintf("DATA_SOURCE_URI=127.0.0.1:%d/postgres?%s", test.server.Port, test.settings)
			startExporter(t, env).Expect(test.want)
		})
	}
}

// TestSystemRoots: the program brings the roots of public CAs, for machines that have none, as an image from scratch, but does not
// parse them at each start: that takes a megabyte, and few exporters need them.
// That they do not know our server's certificate is for TestNegotiation to say, and for TestBuild in such an image.
func TestSystemRoots(t *testing.T) {
	t.Parallel()
	info, err := buildinfo.ReadFile(program(t))
	check(t, err)
	const roots = "golang.org/x/crypto/x509roots/fallback"
	if !slices.ContainsFunc(info.Deps, func(m *debug.Module) bool { return m.Path == roots }) {
		t.Errorf("%s is not linked in", roots)
	}
	cmd := exec.CommandContext(t.Context(), program(t), "--version")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	trace, err := cmd.CombinedOutput()
	check(t, err)
	if text := string(trace); !strings.Contains(text, "init net/http @") || strings.Contains(text, "init "+roots+" @") {
		t.Errorf("the roots are parsed at start, or the trace shows no packages:\n%s", text)
	}
}

// TestCertificates: one that is expired, for another host or from another authority is not accepted where the mode looks
// at that, and its end is told all the same.
func TestCertificates(t *testing.T) {
	t.Parallel()
	other, _ := newCertificate(t)
	for name, change := range map[string]func(*x509.Certificate){
		"expired": func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) },
		"host":    func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 2)} },
		"unknown": func(*x509.Certificate) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certificate, key := newCertificate(t, change)
			s := newServer(t, testservers.PostgresConfig{Certificate: certificate, Key: key})
			root := certificate
			if name == "unknown" {
				root = other
			}
			e, path := startWithFile(t, fmt.Sprintf(`
defaults: {user: %s, password: %q, sslrootcert: root.crt}
targets:
  full: {host: 127.0.0.1, port: %[3]d, sslmode: verify-full}
  ca: {host: 127.0.0.1, port: %[3]d, sslmode: verify-ca}
  none: {dsn: "host=127.0.0.1 port=%[3]d sslmode=require sslrootcert=''"}`, role, password, s.Port))
			check(t, os.WriteFile(filepath.Join(filepath.Dir(path), "root.crt"), root, 0o600))
			for target, want := range map[string]float64{"full": 0, "ca": map[string]float64{"host": 1}[name], "none": 1} {
				m := e.ProbeMetrics(target, "")
				if m["pg_up"] != want || m[`pg_probe_failures_total{reason="tls"}`] != 1-want {
					t.Errorf("%s: up %v, want %v\n%s", target, m["pg_up"], want, e.Logged())
				}
				in := time.Until(time.Unix(int64(m["pg_tls_certificate_not_after_timestamp_seconds"]), 0))
				if (in < 0) != (name == "expired") || in < -2*time.Hour || hasSeries(m, "pg_tls_info{") != (want == 1) {
					t.Errorf("%s: the certificate ends in %s, a cipher is there: %v", target, in, hasSeries(m, "pg_tls_info{"))
				}
			}
		})
	}
}

// newClientCertificate makes a client certificate for the role, which a certificate of newCertificate signs, and its key,
// in PEM.
func newClientCertificate(t *testing.T, signer, signerKey []byte) (certificate, key []byte) {
	t.Helper()
	certificate, key, err := testservers.NewClientCertificate(role, signer, signerKey)
	check(t, err)
	return certificate, key
}

// TestFileCredentials: certificates and passwords of a file are read from its folder, again for every login; a socket
// needs none.
func TestFileCredentials(t *testing.T) {
	t.Parallel()
	certificate, key := newCertificate(t)
	s := newServer(t, testservers.PostgresConfig{
		Certificate: certificate, Key: key, Settings: []string{"ssl_ca_file = 'server.crt'"},
		HBA: "hostssl postgres all all cert\nhostssl app all all scram-sha-256",
	})
	e, path := startWithFile(t, fmt.Sprintf(`
modules: {tls: {user: %s, sslmode: verify-full, sslrootcert: root.crt, sslcert: client.crt, sslkey: client.key, password_file: password}}
targets:
  certificate: {host: 127.0.0.1, port: %[2]d, module: tls}
  password: {dsn: "postgres://127.0.0.1:%[2]d/app", module: tls}
  strict: {host: 127.0.0.1, port: %[2]d, dbname: app, module: tls, require_auth: md5}
  untrusted: {host: 127.0.0.1, port: %[2]d, user: %[1]s, sslmode: verify-full}
  socket: {host: %[3]s, port: %[2]d, user: postgres}`, role, s.Port, s.Dir))
	write := func(name string, content []byte) {
		check(t, os.WriteFile(filepath.Join(filepath.Dir(path), name), content, 0o600))
	}
	expect := func(target, reason string) {
		t.Helper()
		before := e.ProbeMetrics(target, "")
		after := e.ProbeMetrics(target, "")
		if reason == "" && after["pg_up"] != 1 {
			t.Errorf("%s is down\n%s", target, e.Logged())
		}
		series := `pg_probe_failures_total{reason="` + reason + `"}`
		if reason != "" && (after["pg_up"] != 0 || after[`pg_probe_state{state="misconfigured"}`] != 1 || after[series] != before[series]+1) {
			t.Errorf("%s: up %v, want a failure for %s\n%s", target, after["pg_up"], reason, e.Logged())
		}
	}
	expect("certificate", "tls") // no file is there yet
	clientCertificate, clientKey := newClientCertificate(t, certificate, key)
	write("root.crt", certificate)
	write("client.crt", clientCertificate)
	write("client.key", clientKey)
	expect("password", "auth")
	write("password", []byte(password+"\n"))
	for target, reason := range map[string]string{"certificate": "", "password": "", "strict": "auth", "untrusted": "tls", "socket": ""} {
		expect(target, reason)
	}
	execute(t, s, "ALTER ROLE "+role+" PASSWORD 'another'")
	expect("password", "auth")
	write("password", []byte("another"))
	expect("password", "")
	stranger, strangersKey := newCertificate(t)
	write("client.crt", stranger)
	write("client.key", strangersKey)
	expect("certificate", "tls")
	write("client.crt", clientCertificate)
	write("client.key", clientKey)
	expect("certificate", "")
}
