// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// everyKey is a configuration that has, with examples/config.yml, every key that Effective shows.
const everyKey = `
health: {max_age: 90s, fail_after: 3, pass_after: 2, failure_status: 503, words: {pass: ok, fail: "no"}, extra: {a: 1, b: true, c: "1"}}
defaults: {user_env: TEST_USER, dbname: base, sslmode: verify-ca, sslrootcert: roots.pem, password: secret, labels: {a: "1", b: "true"}}
modules:
  pooler: {kind: pgbouncer, user: u, keep: false, allow: [10.0.0.0/8, 192.0.2.1, "*.example.org"]}
  key:
    sslcert: cert.pem
    sslkey: key.pem
    sslpassword_file: password
    sslcrl: revoked.crl
    server_name: name.example.org
    require_auth: "scram-sha-256, md5"
    password_env: TEST_PASSWORD
    applications: true
    commit: true
    labels: {b: "2"}
  command: {password_command: [a, "{host}"], timeout: 1500ms, interval: 1m, allow: [db.example.org]}
  plain: {sslmode: disable, sslpassword_env: TEST_PASSWORD, password_command_ttl: 90s}
targets:
  plain: {host: h}
  address: {host: h.example.org, hostaddr: 192.0.2.1, port: 5433, user_file: user, module: key, dbname: own}
  in a file: {host_file: host, module: command}
  in a variable: {host_env: TEST_HOST, module: plain}
  socket: {host: /var/run/postgresql}
  system: {host: h, sslrootcert: system, sslmode: verify-full, sslpassword: secret}
  pooler: {host: h, module: pooler}
  dsn: {dsn: "postgres://own:secret@h:5433/d?sslmode=require&application_name=a&sslcert=/own/cert&sslkey=/own/key", module: key}
  half a dsn: {dsn: "host=h", module: command, password_file: password}
  dsn in a variable: {dsn_env: TEST_DSN}
  dsn in a file: {dsn_file: dsn, module: key, keep: false}
  aws: {host: h, sslmode: require, cloud_auth: {provider: aws, region: eu-west-1, role_arn: "arn:aws:iam::123456789012:role/r"}, cloud_auth_insecure: true}
  azure: {host: h, sslmode: verify-full, cloud_auth: {provider: azure, client_id: c, scope: s}}
  gcp: {host: /sockets, cloud_auth: gcp}
checks:
  bearer: {http: "http://h", authorization: {credentials: secret}, tls_config: {ca: roots, cert: c, key: k}, match: a+, status: 200}
  scheme: {http_env: TEST_URL, authorization: {type: Token, credentials_file: token}, follow_redirects: false}
  environment: {http_file: url, proxy_from_environment: true, basic_auth: {username_env: TEST_USER, password_env: TEST_PASSWORD}}
  skipping: {http: "https://h", tls_config: {insecure_skip_verify: true}, status: [404, 5xx]}
  redis: {redis_file: url, sentinel_tls: true, sslrootcert: roots.pem, ttl: 30s, ttl_failed: 3s}
  celery: {celery_env: TEST_REDIS, queue: q, warn_above: 1.5, fail_above: 2.000001, sentinel_password_env: TEST_PASSWORD, sentinel_username: u, master_name: m}
  default: {celery: "redis://h"}
`

func setTestVariables(t *testing.T) {
	t.Helper()
	for name, value := range map[string]string{
		"TEST_USER": "liveness", "TEST_HOST": "h", "TEST_DSN": "host=h user=u sslmode=disable", "TEST_URL": "http://h",
		"TEST_REDIS": "sentinel://h", "TEST_PASSWORD": "secret",
	} {
		t.Setenv(name, value)
	}
}

func testConfigs(t *testing.T) map[string]string {
	t.Helper()
	example, err := os.ReadFile("../examples/config.yml")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"examples/config.yml": string(example), "every key": everyKey}
}

func parseTest(t *testing.T, content string) *File {
	t.Helper()
	f, err := Parse(strings.NewReader(content), "config.yml", Probing{Timeout: 5 * time.Second, Keep: true}, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, content)
	}
	return f
}

func effective(t *testing.T, f *File) string {
	t.Helper()
	content, err := f.Effective()
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestEffectiveParses: with the hidden values put back, what Effective returns is the same configuration.
func TestEffectiveParses(t *testing.T) {
	setTestVariables(t)
	for name, content := range testConfigs(t) {
		t.Run(name, func(t *testing.T) {
			f := parseTest(t, content)
			shown := effective(t, f)
			again := parseTest(t, putBack(t, shown, content))
			expectSame(t, "health", f.Health, again.Health)
			expectSame(t, "the number of targets", len(f.Targets), len(again.Targets))
			expectSame(t, "the number of checks", len(f.Checks), len(again.Checks))
			for i, target := range f.Targets {
				if !target.Equal(again.Targets[i]) && target.Login.Unread == nil { // which has what it was made of
					t.Errorf("target %s:\n%+v\n%+v\n%+v\n%+v", target.Name, target, again.Targets[i], target.Login.Connection, again.Targets[i].Login.Connection)
				}
				if a, b := target.Login.Unread, again.Targets[i].Login.Unread; a != nil || b != nil {
					contents := map[string]Secret{"dsn_file": "host=h user=u", "host_file": "h", "user_file": "u"}
					loginA, errA := a.Login(contents)
					loginB, errB := b.Login(contents)
					expectSame(t, "login of "+target.Name, loginA, loginB)
					expectSame(t, "error of "+target.Name, errA, errB)
				}
			}
			for i, check := range f.Checks {
				if !check.Equal(again.Checks[i]) {
					t.Errorf("check %s:\n%+v\n%+v", check.Name, check, again.Checks[i])
				}
			}
			for module, m := range f.modules {
				expectSame(t, "allow of "+module, m.allow, again.modules[module].allow)
				for _, address := range []string{"10.20.0.1:5432", "db.example.org:5432"} {
					a, errA := f.AdHoc(address, module)
					b, errB := again.AdHoc(address, module)
					expectSame(t, module, a, b)
					expectSame(t, module, errA, errB)
				}
			}
			if diff := cmp.Diff(shown, effective(t, again)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func expectSame(t *testing.T, what string, want, got any) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		t.Errorf("%s:\n%+v\n%+v", what, want, got)
	}
}

// putBack returns shown with the values of content in place of those that are hidden.
func putBack(t *testing.T, shown, content string) string {
	t.Helper()
	var output, original yaml.Node
	for text, to := range map[string]*yaml.Node{shown: &output, content: &original} {
		if err := yaml.Unmarshal([]byte(text), to); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	var walk func(n *yaml.Node, path []string)
	walk = func(n *yaml.Node, path []string) {
		if n.Kind == yaml.MappingNode {
			for i := 0; i < len(n.Content); i += 2 {
				walk(n.Content[i+1], append(slices.Clone(path), n.Content[i].Value))
			}
			return
		}
		if n.Value == hiddenText || len(n.Content) > 0 && n.Content[0].Value == hiddenText {
			count := len(n.Content)
			*n = *findOriginal(t, original.Content[0], path)
			if len(n.Content) != count {
				t.Errorf("%s: %d values hide %d", path, count, len(n.Content))
			}
		}
	}
	walk(output.Content[0], nil)
	restored, err := yaml.Marshal(output.Content[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(restored)
}

// findOriginal returns the value of a key in the file: that of its level, or of a level above.
func findOriginal(t *testing.T, root *yaml.Node, path []string) *yaml.Node {
	t.Helper()
	last := len(path) - 1
	paths := [][]string{path}
	if path[0] == "targets" {
		if module := at(root, "targets", path[1], "module"); module != nil {
			paths = append(paths, append([]string{"modules", module.Value}, path[2:]...))
		}
	}
	if path[0] == "targets" || path[0] == "modules" {
		paths = append(paths, append([]string{"defaults"}, path[2:]...))
	}
	for _, p := range paths {
		if n := at(root, p...); n != nil {
			return n
		}
		if p[len(p)-1] == "secrets" {
			if n := at(root, append(slices.Clone(p[:len(p)-1]), "values")...); n != nil {
				return n
			}
		}
		if n := at(root, append(slices.Clone(p[:len(p)-1]), path[last]+"_env")...); n != nil {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: os.Getenv(n.Value)}
		}
	}
	t.Fatalf("%q is hidden, and nothing is there", path)
	return nil
}

// at returns the value at a path, or nil if there is none.
func at(n *yaml.Node, path ...string) *yaml.Node {
	for _, key := range path {
		var inner *yaml.Node
		for i := 0; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				inner = n.Content[i+1]
			}
		}
		if inner == nil {
			return nil
		}
		n = inner
	}
	return n
}

// TestEffectiveKeys: every key of a configuration is in what Effective returns, or is one of those that its comment and the page
// name as left out.
func TestEffectiveKeys(t *testing.T) {
	setTestVariables(t)
	t.Setenv("DATABASE_URL", "postgres://u@h/d")
	all := effective(t, parseTest(t, "targets: {own: {environment: true}}"))
	for _, content := range testConfigs(t) {
		all += effective(t, parseTest(t, content))
	}
	for _, context := range []string{
		"x: 1", "defaults: {x: 1}", "modules: {m: {x: 1}}", "targets: {t: {x: 1}}", "health: {x: 1}", "health: {words: {x: 1}}", "checks: {c: {x: 1}}",
		"checks: {c: {basic_auth: {x: 1}}}", "checks: {c: {authorization: {x: 1}}}", "checks: {c: {tls_config: {x: 1}}}",
		"checks: {c: {http_headers: {h: {x: 1}}}}",
	} {
		_, err := Parse(strings.NewReader(context), "x", Probing{Timeout: time.Second}, nil)
		_, known, found := strings.Cut(err.Error(), "known here are ")
		if !found {
			t.Fatal(err)
		}
		known, _, _ = strings.Cut(known, "\n")
		for key := range strings.SplitSeq(known, ", ") {
			leftOut := slices.Contains([]string{
				"values", // shown as secrets
				// Shown without _env.
				"user_env", "redis_env", "celery_env", "http_env", "tcp_env",
				// Shown as the others with _env or _file are.
				"tcp_file", "celery_file", "proxy_url_env", "proxy_url_file", "sentinel_password_file", "username_file", "credentials_env", "ca_env", "cert_env", "key_env",
			}, key)
			if has := regexp.MustCompile(`(?m)^ *` + key + `:`).MatchString(all); has == leftOut {
				t.Errorf("%s: %s is shown: %t", context, key, has)
			}
		}
	}
}

// TestEffectiveHides: wherever a secret stands in a configuration, it is not shown. Names, labels, and words and fields of /health are
// shown elsewhere too.
func TestEffectiveHides(t *testing.T) {
	setTestVariables(t)
	const secret = "s3cr3tw0rd"
	tried := 0
	for _, content := range testConfigs(t) {
		var document yaml.Node
		if err := yaml.Unmarshal([]byte(content), &document); err != nil {
			t.Fatal(err)
		}
		var walk func(n *yaml.Node, key string)
		walk = func(n *yaml.Node, key string) {
			for i, inner := range n.Content {
				switch {
				case n.Kind == yaml.MappingNode && i%2 == 0: // a key
				case n.Kind == yaml.MappingNode:
					walk(inner, n.Content[i-1].Value)
				default:
					walk(inner, key)
				}
			}
			if n.Kind != yaml.ScalarNode {
				return
			}
			uri := "://" + secret + ":" + secret + "@" + secret + "/" + secret + "?x=" + secret
			for _, value := range []string{secret, "postgres" + uri, "redis://u:" + secret + "@h"} {
				before := *n
				*n = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}
				changed, err := yaml.Marshal(&document)
				*n = before
				if err != nil {
					t.Fatal(err)
				}
				f, err := Parse(strings.NewReader(string(changed)), "x", Probing{Timeout: time.Second}, nil)
				if err != nil {
					continue
				}
				tried++
				public := slices.Contains([]string{"a", "b", "c", "service", "environment", "cluster", "pass", "warn", "fail"}, key)
				if text := effective(t, f); strings.Contains(text, secret) != public {
					t.Errorf("%s: %s in place of %q:\n%s", key, value, before.Value, text)
				}
			}
		}
		walk(&document, "")
	}
	if tried < 150 {
		t.Errorf("only %d configurations", tried)
	}
}

// TestEffectiveEnvironment: the target from the environment names the variables, and no value of them.
func TestEffectiveEnvironment(t *testing.T) {
	variables := map[string]string{"DATA_SOURCE_URI": "h.example.org/d", "DATA_SOURCE_USER": "somebody", "DATA_SOURCE_PASS": "secret"}
	target, err := FromEnvironment(func(name string) string { return variables[name] }, Probing{Timeout: 5 * time.Second, Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	text := effective(t, &File{Targets: []*Target{target}, Health: DefaultHealth()})
	_, targets, _ := strings.Cut(text, "targets:\n")
	expectSame(t, "the target", `  postgres:
    environment: true # DATA_SOURCE_URI
    kind: postgres
    timeout: 5s
    interval: 0s
    applications: false
    commit: false
    keep: true
`, targets)
	for name, value := range variables {
		t.Setenv(name, value)
	}
	again := parseTest(t, text)
	again.Targets[0].Implied = true // what a file has is not implied
	expectSame(t, "the target", target, again.Targets[0])
}
