// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/tls"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestHTTPCheck: every key of an HTTP check, and files that begin at the file's folder.
func TestHTTPCheck(t *testing.T) {
	t.Setenv("PROXY", "http://proxy:3128")
	file, err := parseText(t, `
checks:
  a:
    http: https://h
    status: [200, 4XX, "401"]
    follow_redirects: false
    authorization: {type: Token, credentials_file: token}
    http_headers:
      x-one: {values: [a, b], secrets: [hunter2], files: [/c, d]}
    proxy_url_env: PROXY
    no_proxy: example.org,10.0.0.0/8
    proxy_connect_header: {X-Two: [hunter2]}
    tls_config: {ca_file: ca.pem, cert_file: /cert, key_file: key, server_name: n, insecure_skip_verify: true, min_version: TLS12, max_version: TLS13}
  b:
    http: http://h
    basic_auth: {username: u, password_file: p}
    proxy_from_environment: true
  c: {http: http://h, status: 2xx, follow_redirects: true, basic_auth: {username_env: PROXY}}
`)
	if err != nil {
		t.Fatal(err)
	}
	folder := file.Checks[0].Folder
	want := HTTP{
		Statuses: []StatusRange{{200, 200}, {400, 499}, {401, 401}}, KeepRedirects: true,
		AuthorizationType: "Token", Credentials: Content{Key: "credentials_file", File: folder + "/token"},
		Headers: []Header{{"X-One", []Content{
			{Key: "http_headers", Text: "a"},
			{Key: "http_headers", Text: "b"},
			{Key: "http_headers", Text: "hunter2"},
			{Key: "http_headers", File: "/c"},
			{Key: "http_headers", File: folder + "/d"},
		}}},
		Proxy: Proxy{
			URL: Content{Key: "proxy_url_env", Text: "http://proxy:3128"}, NoProxy: "example.org,10.0.0.0/8",
			ConnectHeaders: []Header{{"X-Two", []Content{{Key: "proxy_connect_header", Text: "hunter2"}}}},
		},
	}
	if diff := cmp.Diff(want, file.Checks[0].HTTP, cmpopts.IgnoreFields(HTTP{}, "Match")); diff != "" {
		t.Error(diff)
	}
	wantTLS := CheckTLS{
		Roots: Content{Key: "ca_file", File: folder + "/ca.pem"}, Cert: Content{Key: "cert_file", File: "/cert"},
		Key: Content{Key: "key_file", File: folder + "/key"}, ServerName: "n", SkipVerify: true, MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13,
	}
	if diff := cmp.Diff(wantTLS, file.Checks[0].TLS); diff != "" {
		t.Error(diff)
	}
	want = HTTP{
		Statuses: []StatusRange{{200, 299}}, Username: Content{Key: "username", Text: "u"}, Password: Content{Key: "password_file", File: folder + "/p"},
		Proxy: Proxy{FromEnvironment: true},
	}
	if diff := cmp.Diff(want, file.Checks[1].HTTP, cmpopts.IgnoreFields(HTTP{}, "Match")); diff != "" {
		t.Error(diff)
	}
	want = HTTP{Statuses: []StatusRange{{200, 299}}, Username: Content{Key: "username_env", Text: "http://proxy:3128"}}
	if diff := cmp.Diff(want, file.Checks[2].HTTP, cmpopts.IgnoreFields(HTTP{}, "Match")); diff != "" {
		t.Error(diff)
	}
}

// TestHTTPCheckProblems: what an HTTP check cannot have, with the key.
func TestHTTPCheckProblems(t *testing.T) {
	t.Parallel()
	const status = "checks.a.status: must be a status from 100 to 599, a class such as 2xx, or a list of them"
	for keys, want := range map[string]string{
		"status: 600": status, "status: 6xx": status, "status: [200, ok]": status, "status: 2x": status, "status: 200-299": status,
		"status: []":                         `checks.a.status: must be a list, such as ["a", "b"]`,
		"follow_redirects: 3":                "checks.a.follow_redirects: must be true or false",
		"basic_auth: {}":                     "checks.a.basic_auth: needs a username",
		"basic_auth: {password: hunter2}":    "checks.a.basic_auth: needs a username",
		"basic_auth: {user: u, username: u}": "checks.a.basic_auth.user: unknown key; known here are password, password_env, password_file, username, username_env, username_file",
		"basic_auth: {username: u, password: p, password_file: f}":         "checks.a.basic_auth.password_file: is given in several ways: keep one of password, password_env and password_file",
		"authorization: {type: Bearer}":                                    "checks.a.authorization: needs credentials",
		"authorization: {type: basic, credentials: hunter2}":               "checks.a.authorization.type: must not be basic: use basic_auth instead",
		"authorization: {type: hun ter, credentials: hunter2}":             "checks.a.authorization.type: must be a word such as Bearer",
		"basic_auth: {username: u}, authorization: {credentials: hunter2}": "checks.a.authorization: cannot be combined with basic_auth",
		"http_headers: {Authorization: {values: [hunter2]}}":               "checks.a.http_headers.Authorization: is a header that the exporter sets itself, or one that has a key of its own",
		"http_headers: {host: {values: [hunter2]}}":                        "checks.a.http_headers.host: is a header that the exporter sets itself, or one that has a key of its own",
		`http_headers: {"X: y": {values: [hunter2]}}`:                      "checks.a.http_headers: has a key that is not a valid header name",
		`http_headers: {X: {values: ["hunter2\r\nY: z"]}}`:                 "checks.a.http_headers.X: has a value with a line end or another control character",
		"http_headers: {X: {value: a}}":                                    "checks.a.http_headers.X.value: unknown key; known here are files, secrets, values",
		"http_headers: {X: [a]}":                                           "checks.a.http_headers.X: must be a mapping (key: value)",
		"proxy_url: hunter2":                                               "checks.a.proxy_url: must be a URL with a host and the scheme http, https, socks5 or socks5h",
		"proxy_url: ftp://h":                                               "checks.a.proxy_url: must be a URL with a host and the scheme http, https, socks5 or socks5h",
		"proxy_url: http://h, proxy_from_environment: true":                "checks.a.proxy_from_environment: cannot be combined with proxy_url",
		"no_proxy: h":                                          "checks.a.no_proxy: needs a proxy_url",
		"proxy_connect_header: {X: [a]}":                       "checks.a.proxy_connect_header: needs a proxy_url or proxy_from_environment",
		"tls_config: {cert_file: a}":                           "checks.a.tls_config: has only one of cert and key",
		"tls_config: {min_version: TLS10}":                     "checks.a.tls_config.min_version: must be one of TLS12, TLS13",
		"tls_config: {min_version: TLS13, max_version: TLS12}": "checks.a.tls_config: has a min_version above max_version",
		"tls_config: {ca_file: a}, sslrootcert: b":             "checks.a.sslrootcert: cannot be combined with ca of tls_config",
		"sslrootcert: b, tls_config: {ca_file: a}":             "checks.a.tls_config: has a ca, and the check also has sslrootcert: keep one of them",
		"tls_config: {ca_ref: a}":                              "checks.a.tls_config.ca_ref: unknown key; known here are ca, ca_env, ca_file, cert, cert_env, cert_file, insecure_skip_verify, key, key_env, key_file, max_version, min_version, server_name",
	} {
		_, err := parseText(t, "checks: {a: {http: 'https://h', "+keys+"}}")
		if err == nil || err.Error() != "dir/x.yml:1: "+want {
			t.Errorf("%s:\n got %v\nwant %s", keys, err, want)
		}
	}
	for line, want := range map[string]string{
		"http: 'http://u:hunter2@h', basic_auth: {username: u}":           "checks.a.http: has a login, and the check also has basic_auth or authorization: keep one of them",
		"http: 'http://hunter2@h', authorization: {credentials: hunter2}": "checks.a.http: has a login, and the check also has basic_auth or authorization: keep one of them",
		"tcp: 'h:1', tls_config: {server_name: x}":                        "checks.a.tls_config: cannot be combined with tcp",
		"http: 'http://h', proxy_url_env: NONE_OF_THIS_NAME":              "checks.a.proxy_url_env: the variable is not set, or is empty",
	} {
		_, err := parseText(t, "checks: {a: {"+line+"}}")
		if err == nil || err.Error() != "dir/x.yml:1: "+want {
			t.Errorf("%s:\n got %v\nwant %s", line, err, want)
		}
	}
}
