// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
	"testing"
)

// TestCloudAuth: the identity comes from the nearest level that has a password of any kind.
func TestCloudAuth(t *testing.T) {
	t.Parallel()
	f := mustParse(t, `
defaults: {user: u, cloud_auth: gcp, sslmode: verify-full}
modules:
  m: {cloud_auth: {provider: aws, region: eu-west-1, role_arn: "arn:aws:iam::1:role/r"}, allow: ["*.example.org"]}
  n: {cloud_auth: {provider: azure, client_id: c, scope: s}}
  plain: {cloud_auth: aws, sslmode: prefer}
targets:
  defaults: {host: h}
  dsn: {dsn: "host=h"}
  dsn-password: {dsn: "host=h password=p"}
  module: {host: h, module: m}
  other: {host: h, module: n}
  own: {host: h, module: m, cloud_auth: {provider: gcp, scope: s}}
  password: {host: h, module: m, password: p}
  socket: {host: /run/cloudsql, module: plain}
  loopback: {host: 127.0.0.1, module: plain}
  loopback6: {host: "::1", module: plain}
  tunnel: {host: orders.example.org, hostaddr: 127.0.0.2, module: plain}
  insecure: {host: h, module: plain, cloud_auth_insecure: true}
`)
	targets := f.Targets
	adHoc, err := f.AdHoc("a.example.org:1", "m")
	if err != nil {
		t.Fatal(err)
	}
	adHoc.Name = "ad-hoc"
	for _, target := range append(targets, adHoc) {
		got := "none"
		if auth := target.Login.Password.Cloud; auth != nil {
			got = fmt.Sprintf("%v", *auth)
		}
		const m = "{aws eu-west-1 arn:aws:iam::1:role/r  }"
		want := map[string]string{
			"defaults": "{gcp    }", "dsn": "{gcp    }", "dsn-password": "none", "module": m, "other": "{azure   c s}", "own": "{gcp    s}",
			"password": "none", "socket": "{aws    }", "loopback": "{aws    }", "loopback6": "{aws    }", "tunnel": "{aws    }", "insecure": "{aws    }", "ad-hoc": m,
		}[target.Name]
		if got != want {
			t.Errorf("%s: %s, want %s", target.Name, got, want)
		}
	}
}

// TestCloudAuthProblems: what no identity is made of, and where a token would be sent to whoever answers, is refused.
func TestCloudAuthProblems(t *testing.T) {
	t.Parallel()
	const unprotected = "needs sslmode verify-full, or a host that is a unix socket, 127.0.0.1 or ::1: whoever reads the token can use it"
	target := func(keys string) string { return "targets: {a: {host: h, user: u, " + keys + "}}" }
	for text, want := range map[string]string{
		target("cloud_auth: hunter2, sslmode: verify-full"):                             "targets.a.cloud_auth: must be one of aws, gcp, azure",
		target("cloud_auth: [aws], sslmode: verify-full"):                               "targets.a.cloud_auth: must be a text",
		target("cloud_auth: {region: eu-west-1}, sslmode: verify-full"):                 "targets.a.cloud_auth: needs a provider: one of aws, gcp, azure",
		target("cloud_auth: {provider: hunter2}, sslmode: verify-full"):                 "targets.a.cloud_auth.provider: must be one of aws, gcp, azure",
		target("cloud_auth: {provider: gcp, region: eu-west-1}, sslmode: verify-full"):  "targets.a.cloud_auth.region: does not apply to gcp",
		target("cloud_auth: {provider: aws, scope: s}, sslmode: verify-full"):           "targets.a.cloud_auth.scope: does not apply to aws",
		target("cloud_auth: {provider: aws, role_arn: hunter2}, sslmode: verify-full"):  "targets.a.cloud_auth.role_arn: must be the ARN of a role, such as arn:aws:iam::123456789012:role/liveness",
		target("cloud_auth: {provider: aws, region: 'hunter2/'}, sslmode: verify-full"): "targets.a.cloud_auth.region: must be the name of a region, such as eu-west-1",
		target("cloud_auth: aws, password_file: f, sslmode: verify-full"):               "is given in several ways: keep one of cloud_auth, password, password_command, password_env and password_file",
		target("cloud_auth: aws"):                                                                           "targets.a: cloud_auth " + unprotected,
		target("cloud_auth: aws, sslmode: verify-ca"):                                                       "targets.a: cloud_auth " + unprotected,
		target("cloud_auth: aws, hostaddr: 10.0.0.1"):                                                       "targets.a: cloud_auth " + unprotected,
		"targets: {a: {host: localhost, user: u, cloud_auth: gcp}}":                                         "targets.a: cloud_auth " + unprotected,
		"targets: {a: {host: 127.0.0.1, hostaddr: 10.0.0.1, user: u, cloud_auth: gcp}}":                     "targets.a: cloud_auth " + unprotected,
		"targets: {a: {dsn: 'host=h user=u sslmode=require', cloud_auth: gcp}}":                             "targets.a.dsn: cloud_auth " + unprotected,
		"targets: {a: {dsn: 'host=h user=u password=p sslmode=verify-full', cloud_auth: gcp}}":              "targets.a.dsn: holds password, which the target also sets with a key of its own: keep one of them",
		"modules: {m: {user: u, cloud_auth: gcp, sslmode: require, allow: [h]}}":                            "modules.m: cloud_auth " + unprotected,
		"modules: {m: {user: u, cloud_auth: gcp, sslmode: require, allow: [h], cloud_auth_insecure: true}}": "modules.m.cloud_auth_insecure: unknown key",
		"defaults: {cloud_auth_insecure: true}":                                                             "defaults.cloud_auth_insecure: unknown key",
		target("cloud_auth_insecure: true"):                                                                 "targets.a.cloud_auth_insecure: has no effect without cloud_auth",
		"targets: {a: {environment: true, cloud_auth_insecure: true}}":                                      "targets.a.cloud_auth_insecure: cannot be combined with environment",

		target("require_auth: oauth, password: t"):                                                                   "targets.a: require_auth oauth " + unprotected,
		target("require_auth: 'scram-sha-256, oauth', password: t, sslmode: require"):                                "targets.a: require_auth oauth " + unprotected,
		target("require_auth: oauth, cloud_auth: azure, cloud_auth_insecure: true"):                                  "targets.a: require_auth oauth " + unprotected,
		"targets: {a: {dsn: 'host=h user=u require_auth=oauth sslmode=verify-ca', password_file: f}}":                "targets.a.dsn: require_auth oauth " + unprotected,
		"modules: {m: {user: u, require_auth: oauth, password_file: f, sslmode: prefer, allow: ['127.0.0.0/8', h]}}": "modules.m: require_auth oauth " + unprotected,
	} {
		_, err := parseText(t, text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
	for _, text := range []string{
		target("require_auth: oauth, password: t, sslmode: verify-full"), target("require_auth: '!oauth'"), target("require_auth: scram-sha-256"),
		"targets: {a: {host: /run/postgresql, user: u, require_auth: oauth}}",
		"targets: {a: {host_file: f, user: u, cloud_auth: gcp}}", "targets: {a: {dsn_file: f, cloud_auth: gcp}}", // the file may name a socket
	} {
		if _, err := parseText(t, text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestUnreadCloudAuth: what files hold of a connection is looked at once they are read.
func TestUnreadCloudAuth(t *testing.T) {
	t.Parallel()
	f := mustParse(t, "targets: {a: {dsn_file: f, cloud_auth: gcp}}")
	for dsn, allowed := range map[Secret]bool{
		"host=h user=u": false, "host=h user=u sslmode=verify-full": true, "host=127.0.0.1 user=u": true, "host=/run user=u": true,
	} {
		login, err := f.Targets[0].Login.Unread.Login(map[string]Secret{"dsn_file": dsn})
		if (err == nil) != allowed || allowed && login.Password.Cloud == nil {
			t.Errorf("%s: %v", string(dsn), err)
		}
	}
	if !f.Targets[0].Login.Unread.FetchesPassword() {
		t.Error("it fetches no password")
	}
}
