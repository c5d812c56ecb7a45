// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testservers"
)

// TestHTTPLogins: what proves who asks reaches the server, and no other one that it redirects to.
func TestHTTPLogins(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{"secret": secret + "\n", "user": "u\n", "bad": "a\nb"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/basic", func(w http.ResponseWriter, r *http.Request) {
		if name, password, _ := r.BasicAuth(); name != "u" || password != secret {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+secret {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	mux.HandleFunc("/typed", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Token "+secret {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		if strings.Join(r.Header.Values("X-Key"), " ") != "a b "+secret+" "+secret {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	mux.HandleFunc("/same", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/token", http.StatusFound) })
	mux.HandleFunc("/sent", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" && r.Header.Get("X-Key") == "" {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.RawQuery)
		w.WriteHeader(http.StatusFound)
	})
	server, other := httptest.NewServer(mux), httptest.NewServer(mux)
	defer server.Close()
	defer other.Close()
	const headers = "http_headers: {x-key: {values: [a, b], secrets: [hunter2], files: [secret]}}"
	for name, test := range map[string]struct{ path, keys, want string }{
		"basic":            {"/basic", "basic_auth: {username: u, password: hunter2}", "pass"},
		"basic from files": {"/basic", "basic_auth: {username_file: user, password_file: secret}", "pass"},
		"another password": {"/basic", "basic_auth: {username: u, password: wrong}", "fail: status 401, 2xx is expected"},
		"token":            {"/token", "authorization: {credentials: hunter2}", "pass"},
		"token from file":  {"/token", "authorization: {credentials_file: secret}", "pass"},
		"type":             {"/typed", "authorization: {type: Token, credentials_file: secret}", "pass"},
		"no file":          {"/token", "authorization: {credentials_file: hunter2}", "fail: credentials_file: no such file or directory"},
		"no password file": {"/basic", "basic_auth: {username: u, password_file: hunter2}", "fail: password_file: no such file or directory"},
		"two lines":        {"/token", "authorization: {credentials_file: bad}", "fail: credentials_file has a line end or another control character"},
		"headers":          {"/headers", headers, "pass"},
		"no header file":   {"/headers", "http_headers: {x-key: {files: [hunter2]}}", "fail: http_headers: no such file or directory"},
		"same server":      {"/same", "authorization: {credentials: hunter2}", "pass"},
		"same, headers":    {"/to?/headers", headers, "pass"},
		"other, token":     {"/to?" + other.URL + "/sent", "authorization: {credentials: hunter2}", "fail: status 418, 2xx is expected"},
		"other, basic":     {"/to?" + other.URL + "/sent", "basic_auth: {username: u, password: hunter2}", "fail: status 418, 2xx is expected"},
		"other, headers":   {"/to?" + other.URL + "/sent", headers, "fail: status 418, 2xx is expected"},
		"there and back":   {"/to?" + other.URL + "/to?" + server.URL + "/token", "authorization: {credentials: hunter2}", "pass"},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, checkIn(t, dir, fmt.Sprintf(`{http: "%s%s", %s}`, server.URL, test.path, test.keys)), test.want)
		})
	}
}

// TestSameService: secrets are sent again to the same scheme, host and port, and to https instead of http.
func TestSameService(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		own, next string
		want      bool
	}{
		{"http://h/a", "http://H.:80/b", true},
		{"https://h", "https://h:443", true},
		{"http://h", "https://h", true},
		{"http://h", "http://i", false},
		{"http://h", "http://x.h", false},
		{"http://h", "http://h:81", false},
		{"https://h", "http://h", false},
		{"http://h:81", "https://h", false},
		{"http://h", "https://h:444", false},
		{"http://[::1]", "http://[0:0::1]:80", true},
	} {
		own, err := url.Parse(test.own)
		if err != nil {
			t.Fatal(err)
		}
		next, err := url.Parse(test.next)
		if err != nil {
			t.Fatal(err)
		}
		if got := isSameService(next, own); got != test.want {
			t.Errorf("from %s to %s: %v", test.own, test.next, got)
		}
	}
}

// TestHTTPStatuses: which statuses pass, and when a redirect is followed.
func TestHTTPStatuses(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var status int
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &status)
		if status/100 == 3 {
			w.Header().Set("Location", "/200")
		}
		w.WriteHeader(status)
	}))
	defer server.Close()
	for _, test := range []struct {
		status     int
		keys, want string
	}{
		{204, "", "pass"},
		{401, "status: [200, 401]", "pass"},
		{200, "status: [200, 401]", "pass"},
		{204, "status: [200, 401]", "fail: status 204, 200 or 401 is expected"},
		{204, "status: 2xx", "pass"},
		{299, "status: 2XX", "pass"},
		{404, "status: [2xx, 4xx]", "pass"},
		{500, "status: [2xx, 4xx]", "fail: status 500, 2xx or 4xx is expected"},
		{302, "", "pass"},
		{302, "status: [200, 302]", "pass"},
		{301, "status: [200, 302]", "fail: status 301, 200 or 302 is expected"},
		{307, "status: 3xx", "pass"},
		{302, "follow_redirects: true", "pass"},
		{302, "follow_redirects: false", "fail: status 302, 2xx is expected"},
	} {
		t.Run(fmt.Sprint(test.status, " ", test.keys), func(t *testing.T) {
			expect(t, newCheck(t, fmt.Sprintf(`{http: "%s/%d", %s}`, server.URL, test.status, test.keys)), test.want)
		})
	}
}

// TestHTTPTLS: certificates in files and in the configuration, and versions.
func TestHTTPTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certificate, key, err := testservers.NewCertificate(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"upstream.example"} })
	if err != nil {
		t.Fatal(err)
	}
	clientCert, clientKey, err := testservers.NewClientCertificate("exporter", certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"ca.pem": certificate, "client.crt": clientCert, "client.key": clientKey} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start := func(change func(*tls.Config)) string {
		t.Helper()
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
		change(server.TLS)
		server.StartTLS()
		t.Cleanup(server.Close)
		return server.URL
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(certificate)
	plain := start(func(*tls.Config) {})
	strict := start(func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, clients })
	old := start(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
	const untrusted, refused = "fail: its certificate is not trusted", "fail: the TLS handshake failed"
	for name, test := range map[string]struct{ url, tls, want string }{
		"the system's":       {plain, "server_name: upstream.example", untrusted},
		"another name":       {plain, "ca_file: ca.pem", "fail: its certificate is for another host"},
		"the name":           {plain, "ca_file: ca.pem, server_name: upstream.example", "pass"},
		"in the file":        {plain, fmt.Sprintf("ca: %q, server_name: upstream.example", certificate), "pass"},
		"any":                {plain, "insecure_skip_verify: true", "pass"},
		"no file":            {plain, "ca_file: hunter2", "fail: ca_file: no such file or directory"},
		"no certificate":     {plain, "ca_file: client.key", "fail: ca_file holds no certificate"},
		"nobody":             {strict, "ca_file: ca.pem, server_name: upstream.example", refused},
		"client":             {strict, "ca_file: ca.pem, server_name: upstream.example, cert_file: client.crt, key_file: client.key", "pass"},
		"client in the file": {strict, fmt.Sprintf("ca_file: ca.pem, server_name: upstream.example, cert: %q, key: %q", clientCert, clientKey), "pass"},
		"another key":        {strict, "cert_file: ca.pem, key_file: client.key", "fail: cert_file and key_file are not a certificate and its key, or the key has a password"},
		"TLS 1.2":            {old, "insecure_skip_verify: true, max_version: TLS12", "pass"},
		"only TLS 1.3":       {old, "insecure_skip_verify: true, min_version: TLS13", refused},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, checkIn(t, dir, fmt.Sprintf("{http: %q, tls_config: {%s}}", test.url, test.tls)), test.want)
		})
	}
}

// TestHTTPProxy: requests go through the proxy with its own login, and redirects lead no further than to the check's host.
func TestHTTPProxy(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.RawQuery)
		w.WriteHeader(http.StatusFound)
	})
	plain, encrypted := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	defer plain.Close()
	defer encrypted.Close()
	// The proxy leads every name to the two servers. It wants a login and, for TLS, a header.
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
		if password != secret {
			http.Error(w, secret, http.StatusProxyAuthRequired)
			return
		}
		if r.Method != http.MethodConnect {
			target, _ := url.Parse(plain.URL)
			httputil.NewSingleHostReverseProxy(target).ServeHTTP(w, r)
			return
		}
		if r.Header.Get("X-Proxy") != "yes" {
			http.Error(w, secret, http.StatusForbidden)
			return
		}
		to, err := new(net.Dialer).DialContext(r.Context(), "tcp", strings.TrimPrefix(encrypted.URL, "https://"))
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = to.Close() }()
		from, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = from.Close() }()
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(to, buffered) }()
		_, _ = io.Copy(from, to)
	}))
	defer proxy.Close()
	address := strings.TrimPrefix(proxy.URL, "http://")
	through := "proxy_url: 'http://u:hunter2@" + address + "'"
	file := filepath.Join(t.TempDir(), "proxy")
	for name, content := range map[string]string{"": "http://u:hunter2@" + address, ".bad": "ftp://hunter2"} {
		if err := os.WriteFile(file+name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HTTP_PROXY", "http://u:hunter2@"+address)
	t.Setenv("NO_PROXY", "direct-.invalid")
	silent := listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	// The names that are looked up have a label that ends in a hyphen: Go's resolver knows that there is no such name and asks
	// no name server.
	for name, test := range map[string]struct{ url, keys, want string }{
		"none":            {"http://upstream-.invalid/ready", "timeout: 5s", "fail: its name has no address"},
		"http":            {"http://upstream.invalid/ready", through, "pass"},
		"loopback":        {"http://127.0.0.1:1/ready", through, "pass"},
		"from a file":     {"http://upstream.invalid/ready", "proxy_url_file: " + file, "pass"},
		"a bad file":      {"http://upstream.invalid/ready", "proxy_url_file: " + file + ".bad", "fail: proxy_url_file: must be a URL with a host and the scheme http, https, socks5 or socks5h"},
		"the environment": {"http://upstream.invalid/ready", "proxy_from_environment: true", "pass"},
		"its exceptions":  {"http://direct-.invalid/ready", "proxy_from_environment: true", "fail: its name has no address"},
		"exceptions":      {"http://direct-.invalid/ready", through + ", no_proxy: direct-.invalid", "fail: its name has no address"},
		"no exception":    {"http://upstream.invalid/ready", through + ", no_proxy: direct-.invalid", "pass"},
		"no login":        {"http://upstream.invalid/ready", "proxy_url: 'http://" + address + "'", "fail: status 407, 2xx is expected"},
		"own host":        {"http://upstream.invalid/to?http://upstream.invalid/ready", through, "pass"},
		"another host":    {"http://upstream.invalid/to?http://other.invalid/ready", through, "fail: redirected to another host, which is not followed through a proxy"},
		"metadata":        {"http://upstream.invalid/to?http://169.254.169.254/", through, "fail: redirected to another host, which is not followed through a proxy"},
		"https":           {"https://upstream.invalid/ready", through + ", proxy_connect_header: {X-Proxy: ['yes']}, tls_config: {insecure_skip_verify: true}", "pass"},
		"verified":        {"https://upstream.invalid/ready", through + ", proxy_connect_header: {X-Proxy: ['yes']}", "fail: its certificate is for another host"},
		"refused connect": {"https://upstream.invalid/ready", through, "fail: its proxy answers with status 403"},
		"refused login":   {"https://upstream.invalid/ready", "proxy_url: 'http://" + address + "'", "fail: its proxy answers with status 407"},
		"no proxy":        {"http://upstream.invalid/ready", "proxy_url: 'http://127.0.0.1:1'", "fail: its proxy: connection refused"},
		"no SOCKS proxy":  {"http://upstream.invalid/ready", "proxy_url: 'socks5://127.0.0.1:1'", "fail: its proxy: connection refused"},
		"silent":          {"https://upstream.invalid/ready", "proxy_url: 'http://" + silent + "', timeout: 300ms", "fail: no answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, newCheck(t, fmt.Sprintf(`{http: %q, %s}`, test.url, test.keys)), test.want)
		})
	}
}

// TestHTTPLeavesNothing: after runs that a server holds up in each phase, no goroutine is left.
func TestHTTPLeavesNothing(t *testing.T) {
	silent := listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	before := runtime.NumGoroutine()
	for _, entry := range []string{
		"{http: 'http://" + silent + "', timeout: 200ms}", "{http: 'https://" + silent + "', timeout: 200ms}",
		"{http: 'https://h.invalid', proxy_url: 'http://" + silent + "', timeout: 200ms}", "{http: 'https://h.invalid', proxy_url: 'https://" + silent + "', timeout: 200ms}",
		"{http: 'https://h.invalid', proxy_url: 'socks5://" + silent + "', timeout: 200ms}",
	} {
		c := newCheck(t, entry)
		for range 5 {
			expect(t, c, "fail: no answer in time")
		}
	}
	for end := time.Now().Add(hanging); runtime.NumGoroutine() > before+2 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before+2 {
		stacks := make([]byte, 1<<20)
		t.Errorf("%d goroutines, before %d\n%s", n, before, stacks[:runtime.Stack(stacks, true)])
	}
}
