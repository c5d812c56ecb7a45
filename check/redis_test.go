// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// program is a program that speaks the protocol of Redis, and the variable that has its path.
type program struct{ variable, name string }

var redisServer = program{"REDIS_SERVER", "redis-server"}

// eachServer runs a test with Redis, and with Valkey if there is one.
func eachServer(t *testing.T, test func(t *testing.T, p program)) {
	t.Parallel()
	for _, p := range []program{redisServer, {"VALKEY_SERVER", "valkey-server"}} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			test(t, p)
		})
	}
}

// newRedis starts a server, and removes it when the test ends.
func newRedis(t *testing.T, p program, args ...string) *testservers.Redis {
	t.Helper()
	r, err := testservers.NewRedis(t.Context(), testenv.Tool(t, p.variable, p.name), args...)
	return removed(t, r, err)
}

// newSentinel starts a sentinel, and removes it when the test ends.
func newSentinel(t *testing.T, p program, master *testservers.Redis, args ...string) *testservers.Redis {
	t.Helper()
	r, err := testservers.NewSentinel(t.Context(), testenv.Tool(t, p.variable, p.name), "mymaster", master, args...)
	return removed(t, r, err)
}

func removed(t *testing.T, r *testservers.Redis, err error) *testservers.Redis {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Remove(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestRedis(t *testing.T) { eachServer(t, testRedis) }

func testRedis(t *testing.T, p program) {
	r := newRedis(t, p)
	do := func(args ...string) {
		t.Helper()
		if out, err := r.Do(t.Context(), args...); err != nil || strings.Contains(out, "ERR") {
			t.Fatalf("%q: %s %v", args, out, err)
		}
	}
	address := fmt.Sprintf("127.0.0.1:%d", r.Port)
	length := func(key, want string) {
		t.Helper()
		expect(t, newCheck(t, `{redis: "redis://`+address+`/2", length_of: `+key+`, fail_above: 2}`), want)
	}
	ping := newCheck(t, `{redis: "redis://`+address+`", timeout: 1s}`)
	expect(t, ping, "pass")
	for _, command := range []string{
		"RPUSH list a b c", "SADD set a b", "ZADD zset 1 a", "XADD stream * a b", "SET text a", "HSET hash a b",
	} {
		do(append([]string{"-n", "2"}, strings.Fields(command)...)...)
	}
	length("list", "fail: 3 is above 2 (3)")
	length("set", "pass (2)")
	length("zset", "pass (1)")
	length("stream", "pass (1)")
	length("none", "pass (0)")
	length("text", "fail: the key is no list, stream, set or sorted set")
	length("hash", "fail: the key is no list, stream, set or sorted set")

	do("CONFIG", "SET", "requirepass", secret)
	expect(t, ping, "fail: it requires a password (NOAUTH)")
	expect(t, newCheck(t, `{redis: "redis://:wrong@`+address+`"}`), "fail: wrong user name or password (WRONGPASS)")
	expect(t, newCheck(t, `{redis: "redis://:`+secret+`@`+address+`/2"}`), "pass")
	expect(t, newCheck(t, `{redis: "redis://:`+secret+`@`+address+`/9999"}`), "fail: no database of this number")
	// Without TLS, Redis takes the handshake for the beginning of a line and waits for its end.
	expect(t, newCheck(t, `{redis: "rediss://`+address+`", timeout: 1s}`), "fail: no answer in time")

	if err := r.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	expect(t, ping, "fail: no answer in time")
	expect(t, newCheck(t, `{redis: "redis://:`+secret+`@`+address+`/2", timeout: 1s}`), "fail: no answer in time")
	expect(t, newCheck(t, `{redis: "rediss://`+address+`", timeout: 1s}`), "fail: no answer in time")
	expect(t, newCheck(t, `{celery: "redis://`+address+`", timeout: 1s}`), "fail: no answer in time")
	if err := r.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-r.Exited()
	expect(t, ping, "fail: connection refused")
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(t, ping, "pass")
}

// TestRedisURLs: the database, the login and the socket of a URL are those that its clients take.
func TestRedisURLs(t *testing.T) { eachServer(t, testRedisURLs) }

func testRedisURLs(t *testing.T, p program) {
	socket := filepath.Join(t.TempDir(), "r.sock")
	r := newRedis(t, p, "--requirepass", secret, "--unixsocket", socket)
	if out, err := r.Do(t.Context(), "-a", secret, "--no-auth-warning", "-n", "3", "RPUSH", "list", "a", "b", "c"); err != nil || out != "3" {
		t.Fatal(out, err)
	}
	if out, err := r.Do(t.Context(), "-a", secret, "--no-auth-warning", "ACL", "SETUSER", "u", "on", ">"+secret, "~*", "+@all"); err != nil || out != "OK" {
		t.Fatal(out, err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", r.Port)
	for _, location := range []string{
		"redis://:hunter2@" + address + "/3", "redis://:hunter2@" + address + "?db=3", "redis://:hunter2@" + address + "/0?db=3",
		"redis://hunter2@" + address + "/3", "redis://u:hunter2@" + address + "//3", "valkey://:hunter2@" + address + "/3/",
		"redis://" + address + "?db=3&password=hunter2", "redis://u@" + address + "/3?password=hunter2",
		"redis://" + address + "/3?username=u&password=hunter2", "redis://:hunter2@" + address + "/3?socket_timeout=5&client_name=x&protocol=3",
		"unix://:hunter2@" + socket + "?db=3", "unix://u:hunter2@" + socket + "?db=3", "unix://" + socket + "?db=3&password=hunter2",
		"redis+socket://:hunter2@" + socket + "?virtual_host=3", "redis+socket://u:hunter2@" + socket + "?virtual_host=/3",
	} {
		t.Run(location, func(t *testing.T) {
			expect(t, newCheck(t, `{redis: "`+location+`", length_of: list, fail_above: 2}`), "fail: 3 is above 2 (3)")
		})
	}
	expect(t, newCheck(t, `{redis: "redis://:hunter2@`+address+`?db=2", length_of: list, fail_above: 2}`), "pass (0)")
	expect(t, newCheck(t, `{redis: "unix:///nonexistent/hunter2"}`), "fail: there is no socket")
}

// TestRedisTLS: the parameters of a URL say what is verified and what the server gets to see.
func TestRedisTLS(t *testing.T) { eachServer(t, testRedisTLS) }

func testRedisTLS(t *testing.T, p program) {
	dir := t.TempDir()
	write := func(name string, content ...[]byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		var all []byte
		for _, part := range content {
			all = append(all, part...)
		}
		if err := os.WriteFile(path, all, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certificate := func(changes ...func(*x509.Certificate)) (certificate, key []byte) {
		t.Helper()
		certificate, key, err := testservers.NewCertificate(changes...)
		if err != nil {
			t.Fatal(err)
		}
		return certificate, key
	}
	ownCert, ownKey := certificate()
	namedCert, namedKey := certificate(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"redis.example"} })
	clientCert, clientKey, err := testservers.NewClientCertificate("exporter", ownCert, ownKey)
	if err != nil {
		t.Fatal(err)
	}
	start := func(name string, cert, key []byte, clients string) string {
		t.Helper()
		port, err := testservers.ReservePort()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := port.Release(); err != nil {
				t.Error(err)
			}
		})
		newRedis(t, p, "--tls-port", fmt.Sprint(port.Number), "--tls-cert-file", write(name+".crt", cert), "--tls-key-file", write(name+".key", key),
			"--tls-ca-cert-file", write(name+"-ca.crt", ownCert), "--tls-auth-clients", clients)
		return fmt.Sprintf("127.0.0.1:%d", port.Number)
	}
	own, named, strict := start("own", ownCert, ownKey, "no"), start("named", namedCert, namedKey, "no"), start("strict", ownCert, ownKey, "yes")
	root, namedRoot := write("root.pem", ownCert), write("named.pem", namedCert)
	write("client.crt", clientCert)
	write("client.key", clientKey)
	pair := write("client.pem", clientCert, clientKey)
	const otherHost = "fail: its certificate is for another host"
	const untrusted = "fail: its certificate is not trusted"
	for name, test := range map[string]struct{ address, parameters, keys, want string }{
		"system's":              {own, "", "", untrusted},
		"sslrootcert":           {own, "", ", sslrootcert: " + root, "pass"},
		"ssl_ca_certs":          {own, "?ssl_ca_certs=" + root, "", "pass"},
		"relative":              {own, "?ssl_ca_certs=root.pem", "", "pass"},
		"ssl_ca_data":           {own, "?ssl_ca_data=" + url.QueryEscape(string(ownCert)), "", "pass"},
		"no file":               {own, "?ssl_ca_certs=/nonexistent/hunter2", "", "fail: ssl_ca_certs: no such file or directory"},
		"no certificate":        {own, "?ssl_ca_certs=client.key", "", "fail: ssl_ca_certs holds no certificate"},
		"none":                  {own, "?ssl_cert_reqs=none", "", "pass"},
		"CERT_NONE":             {own, "?ssl_cert_reqs=CERT_NONE", "", "pass"},
		"required":              {own, "?ssl_cert_reqs=required", "", untrusted},
		"optional":              {own, "?ssl_cert_reqs=CERT_OPTIONAL", "", untrusted},
		"another name":          {named, "?ssl_ca_certs=" + namedRoot, "", otherHost},
		"checks the name":       {named, "?ssl_ca_certs=" + namedRoot + "&ssl_check_hostname=true", "", otherHost},
		"any name":              {named, "?ssl_ca_certs=" + namedRoot + "&ssl_check_hostname=False", "", "pass"},
		"any name, not trusted": {named, "?ssl_ca_certs=" + root + "&ssl_check_hostname=false", "", untrusted},
		"client certificate":    {strict, "?ssl_ca_certs=root.pem&ssl_certfile=client.crt&ssl_keyfile=client.key", "", "pass"},
		"in one file":           {strict, "?ssl_ca_certs=root.pem&ssl_certfile=" + pair, "", "pass"},
		"another key":           {strict, "?ssl_ca_certs=root.pem&ssl_certfile=client.crt&ssl_keyfile=own.key", "", "fail: ssl_certfile and ssl_keyfile are not a certificate and its key, or the key has a password"},
	} {
		t.Run(name, func(t *testing.T) {
			c := checkIn(t, dir, `{redis: "rediss://`+test.address+test.parameters+`"`+test.keys+`}`)
			expect(t, c, test.want)
		})
	}
	// The server may close the connection before its reason is read.
	r := newCheck(t, `{redis: "rediss://`+strict+`?ssl_ca_certs=`+root+`"}`).Run(t.Context())
	if r.Status != Fail || r.Output != "the TLS handshake failed" && r.Output != "the connection broke off" {
		t.Errorf("without a client certificate: %+v", r)
	}
	// As with kombu, a parameter turns TLS on.
	c := checkIn(t, dir, `{celery: "redis://`+own+`?ssl_cert_reqs=required", timeout: 1s}`)
	expect(t, c, untrusted)
}

// TestSentinel: sentinels are asked for the master, one after another, and the master is looked at.
func TestSentinel(t *testing.T) { eachServer(t, testSentinel) }

func testSentinel(t *testing.T, p program) {
	master := newRedis(t, p, "--requirepass", secret)
	if out, err := master.Do(t.Context(), "-a", secret, "--no-auth-warning", "-n", "3", "RPUSH", "list", "a", "b", "c"); err != nil || out != "3" {
		t.Fatal(out, err)
	}
	sentinel, guarded := newSentinel(t, p, master), newSentinel(t, p, master, "--requirepass", secret)
	silent := listen(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1<<20)); time.Sleep(hanging) })
	at := func(r *testservers.Redis) string { return fmt.Sprintf("127.0.0.1:%d", r.Port) }
	const found = "fail: 3 is above 2 (3)"
	for name, test := range map[string]struct{ location, keys, want string }{
		"one":              {"sentinel://:hunter2@" + at(sentinel) + "/3", "", found},
		"parameters":       {"sentinel://" + at(sentinel) + "?db=3&password=hunter2", "", found},
		"another first":    {"sentinel://:hunter2@127.0.0.1:1/3;sentinel://" + at(sentinel), "", found},
		"a silent first":   {"sentinel://:hunter2@" + silent + "/3;sentinel://:hunter2@" + at(sentinel) + "/3", "", found},
		"none":             {"sentinel://:hunter2@127.0.0.1:1/3;sentinel://127.0.0.1:1", "", "fail: no sentinel answered: connection refused"},
		"no password":      {"sentinel://:hunter2@" + at(guarded) + "/3", "", "fail: no sentinel answered: it requires a password (NOAUTH)"},
		"password":         {"sentinel://:hunter2@" + at(guarded) + "/3", ", sentinel_password: hunter2", found},
		"user":             {"sentinel://:hunter2@" + at(guarded) + "/3", ", sentinel_username: default, sentinel_password: hunter2", found},
		"another password": {"sentinel://:hunter2@" + at(guarded) + "/3", ", sentinel_password: wrong", "fail: no sentinel answered: wrong user name or password (WRONGPASS)"},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, newCheck(t, `{redis: "`+test.location+`", master_name: mymaster, timeout: 5s, length_of: list, fail_above: 2`+test.keys+`}`), test.want)
		})
	}
	expect(t, newCheck(t, `{redis: "sentinel://`+at(sentinel)+`", master_name: hunter2}`), "fail: the sentinels know no master of this name")
	if err := errors.Join(master.Signal(syscall.SIGKILL), master.Wait(hanging)); err != nil {
		t.Fatal(err)
	}
	expect(t, newCheck(t, `{redis: "sentinel://`+at(sentinel)+`", master_name: mymaster}`), "fail: connection refused")
}

// TestSentinelTLS: sentinels are asked with TLS if the check says so, with the parameters of its URL if it has any.
func TestSentinelTLS(t *testing.T) { eachServer(t, testSentinelTLS) }

func testSentinelTLS(t *testing.T, p program) {
	cert, key, err := testservers.NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, keyFile := filepath.Join(dir, "root.crt"), filepath.Join(dir, "key")
	if err := errors.Join(os.WriteFile(root, cert, 0o600), os.WriteFile(keyFile, key, 0o600)); err != nil {
		t.Fatal(err)
	}
	// Each has a port with TLS beside the one without.
	withTLS := func() (port int, args []string) {
		t.Helper()
		reserved, err := testservers.ReservePort()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := reserved.Release(); err != nil {
				t.Error(err)
			}
		})
		return reserved.Number, []string{
			"--tls-port", fmt.Sprint(reserved.Number), "--tls-cert-file", root, "--tls-key-file", keyFile, "--tls-ca-cert-file", root,
			"--tls-auth-clients", "no",
		}
	}
	masterPort, args := withTLS()
	master := newRedis(t, p, args...)
	sentinelPort, args := withTLS()
	// With tls-replication, a sentinel reaches the master by TLS, and returns the port with TLS.
	sentinel := newSentinel(t, p, &testservers.Redis{Port: masterPort}, append(args, "--tls-replication", "yes")...)
	otherPort, args := withTLS()
	ofPlain := newSentinel(t, p, master, args...)
	for name, test := range map[string]struct {
		port             int
		parameters, keys string
		want             string
	}{
		"both":               {sentinelPort, "?ssl_ca_certs=" + root, ", sentinel_tls: true", "pass"},
		"both, untrusted":    {sentinelPort, "?ssl_cert_reqs=required", ", sentinel_tls: true", "fail: no sentinel answered: its certificate is not trusted"},
		"the master alone":   {sentinel.Port, "?ssl_ca_certs=" + root, "", "pass"},
		"no TLS there":       {sentinel.Port, "?ssl_ca_certs=" + root, ", sentinel_tls: true", "fail: no sentinel answered: no answer in time"},
		"the sentinel alone": {otherPort, "", ", sentinel_tls: true, sslrootcert: " + root, "pass"},
		"none":               {ofPlain.Port, "", "", "pass"},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, newCheck(t, fmt.Sprintf(`{redis: "sentinel://127.0.0.1:%d%s", master_name: mymaster%s}`, test.port, test.parameters, test.keys)), test.want)
		})
	}
}
