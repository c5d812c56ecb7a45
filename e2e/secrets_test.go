// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"go.yaml.in/yaml/v3"
)

// hidden is in every value that TestSecrets feeds to the program.
const hidden = "s3cr3tw0rd"

// misplaced returns the texts that people put where they do not belong, each with a secret.
func misplaced() []string {
	return []string{"postgres://user:" + hidden + "@127.0.0.1:1/app", "host=127.0.0.1 port=1 password=" + hidden, "/nonexistent/" + hidden}
}

// expectHidden fails if a text has the secret.
func expectHidden(t *testing.T, what, text string) {
	t.Helper()
	if i := strings.Index(text, hidden); i >= 0 {
		t.Errorf("%s prints a secret: %s", what, text[max(0, i-200):min(len(text), i+100)])
	}
}

// runBriefly runs the program until it ends or has listened for a moment, and returns everything that it printed.
func runBriefly(t *testing.T, env []string, args ...string) string {
	t.Helper()
	path := program(t)
	ctx, cancel := context.WithTimeout(t.Context(), hanging)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(cleanEnvironment(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	output := &stopper{cmd: cmd}
	cmd.Stdout, cmd.Stderr = output, output
	_ = cmd.Run() // how it ends is not the point
	return output.text.String()
}

// stopper collects a program's output, and ends the program when it serves.
type stopper struct {
	cmd  *exec.Cmd
	text strings.Builder
}

func (s *stopper) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "TLS is") {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
	}
	return s.text.Write(p)
}

// TestSecretsInArguments: what stands in the wrong place of the command line is not printed.
func TestSecretsInArguments(t *testing.T) {
	t.Parallel()
	_, help, _ := runProgram(t, nil, "--help")
	_, ofCheck, _ := runProgram(t, nil, "check", "--help")
	flags := map[string]bool{}
	for _, found := range regexp.MustCompile(`--(\[no-\])?([a-z][a-z.-]*)`).FindAllStringSubmatch(help+ofCheck, -1) {
		flags[found[2]] = true
	}
	if len(flags) < 25 {
		t.Fatalf("only %d flags in the help", len(flags))
	}
	env := []string{"DATA_SOURCE_NAME=host=127.0.0.1 port=1"}
	for _, value := range append(misplaced(), "user:"+hidden+"@127.0.0.1", "@"+hidden, `p"\'`+hidden+"\n") {
		for _, args := range [][]string{
			{value},
			{"check", value},
			{"check", value, "--format=json"},
			{"check", "a", value, "--format=json"},
			{"--" + value},
			{"-" + value},
			{"check", "--" + value, "--format=json"},
			{"serve", value},
			{"--config.check", value},
		} {
			_, out, errs := runProgram(t, env, args...)
			expectHidden(t, fmt.Sprintf("%q", args), out+errs)
		}
	}
	for _, value := range misplaced() {
		for _, flag := range slices.Sorted(maps.Keys(flags)) {
			for _, args := range [][]string{
				{"--" + flag, value}, {"check", "--format=json", "--" + flag + "=" + value},
			} {
				if flag != "web.listen-address" && args[0] != "check" {
					args = append(args, "--web.listen-address=127.0.0.1:0")
				}
				expectHidden(t, fmt.Sprintf("%q", args), runBriefly(t, env, args...))
			}
		}
	}
}

// TestSecretsInVariables: no value of a variable is printed.
func TestSecretsInVariables(t *testing.T) {
	t.Parallel()
	variables := []string{"DATA_SOURCE_NAME", "DATA_SOURCE_URI", "DATABASE_URL", "POSTGRES_HOST", "PGHOST"}
	for _, name := range slices.Clone(variables) {
		variables = append(variables, name+"_FILE")
	}
	beside := map[string]string{
		"DATA_SOURCE_URI": "DATA_SOURCE_USER DATA_SOURCE_PASS DATA_SOURCE_USER_FILE DATA_SOURCE_PASS_FILE",
		"POSTGRES_HOST":   "POSTGRES_PORT POSTGRES_DB POSTGRES_USER POSTGRES_PASSWORD POSTGRES_PORT_FILE POSTGRES_PASSWORD_FILE",
		"PGHOST": "PGPORT PGDATABASE PGUSER PGPASSWORD PGPASSFILE PGAPPNAME PGCONNECT_TIMEOUT PGSSLMODE PGSSLKEY PGSSLCERT PGSSLCERTMODE " +
			"PGSSLSNI PGSSLROOTCERT PGSSLPASSWORD PGSSLNEGOTIATION PGTARGETSESSIONATTRS PGSERVICE PGSERVICEFILE PGTZ PGOPTIONS " +
			"PGMINPROTOCOLVERSION PGMAXPROTOCOLVERSION PGCHANNELBINDING PGREQUIREAUTH PGHOSTADDR PGSSLCRL PGSSLCRLDIR PGREQUIREPEER PGGSSENCMODE PGCLIENTENCODING " +
			"PGSSLMINPROTOCOLVERSION PGSSLMAXPROTOCOLVERSION",
	}
	for _, variable := range []string{"DATA_SOURCE_CLOUD_AUTH", "DATA_SOURCE_CLOUD_AUTH_INSECURE"} {
		beside["DATA_SOURCE_URI"] += " " + variable + " " + variable + "_FILE"
	}
	try := func(env ...string) {
		expectHidden(t, fmt.Sprintf("%q", env), runBriefly(t, env, "check", "--format=json"))
	}
	for _, value := range misplaced() {
		for _, name := range variables {
			try(name + "=" + value)
		}
		for name, others := range beside {
			for other := range strings.FieldsSeq(others) {
				try(name+"=127.0.0.1", other+"="+value)
			}
		}
		try("PGHOST=127.0.0.1", "PGSSLCERT="+value, "PGSSLKEY="+value)
		try("PGHOST=127.0.0.1", "PGSSLMODE=verify-ca", "PGSSLCRL="+value)
		expectHidden(t, "serve", runBriefly(t, []string{"DATA_SOURCE_NAME=" + value}, "--web.listen-address=127.0.0.1:0"))
		try("DATA_SOURCE_NAME=host=127.0.0.1 sslrootcert='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'")
	}
}

// TestSecretsInFile: no error about a configuration file has a value of it, whatever key it stands at.
func TestSecretsInFile(t *testing.T) {
	t.Parallel()
	content := read(t, "examples/config.yml")
	var document yaml.Node
	check(t, yaml.Unmarshal([]byte(content), &document))
	var scalars []*yaml.Node
	var walk func(*yaml.Node)
	walk = func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode {
			scalars = append(scalars, n)
		}
		for _, inner := range n.Content {
			walk(inner)
		}
	}
	walk(&document)
	for _, value := range misplaced() {
		for _, n := range scalars {
			before := *n
			*n = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value, Style: yaml.DoubleQuotedStyle}
			changed, err := yaml.Marshal(&document)
			*n = before
			check(t, err)
			if _, err = parse(t, "config.yml", string(changed)); err != nil {
				expectHidden(t, fmt.Sprintf("%q instead of %q in line %d", value, before.Value, before.Line), err.Error())
			}
		}
	}
}

// TestSecretsServed: a server that is not there, and everything that is a secret, in all that is served and logged. The names that
// are looked up have a label that ends in a hyphen: Go's resolver knows that there is no such name and asks no name server.
func TestSecretsServed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secretFile := filepath.Join(dir, "file")
	check(t, os.WriteFile(secretFile, []byte(hidden+"\n"), 0o600))
	// What a cloud gives and where it gives it, for an identity that has a token and one that has none.
	identities := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/refuse") {
			http.Error(w, `{"error": "`+hidden+` x", "message": "`+hidden+`"}`, http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, `{"access_token": %[1]q, "expires_in": 3599, "token_type": "Bearer"}`, hidden)
	}))
	t.Cleanup(identities.Close)
	var arrived atomic.Bool // the token, at a server that refuses it and repeats it in its error
	refusing := newFakeServer(t, func(conn net.Conn) {
		backend := pgproto3.NewBackend(conn, conn)
		if _, err := backend.ReceiveStartupMessage(); err != nil {
			return
		}
		backend.Send(&pgproto3.AuthenticationCleartextPassword{})
		if backend.Flush() != nil || backend.SetAuthType(pgproto3.AuthTypeCleartextPassword) != nil {
			return
		}
		if m, err := backend.Receive(); err == nil {
			sent, ok := m.(*pgproto3.PasswordMessage)
			arrived.Store(arrived.Load() || ok && sent.Password == hidden)
			backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "authentication failed: " + hidden, Routine: "auth_failed"})
			_ = backend.Flush() // the exporter may have gone
		}
	})
	e := startExporter(t, []string{
		"SECRET=" + hidden, "GCE_METADATA_HOST=" + identities.Listener.Addr().String(), "AWS_CONTAINER_AUTHORIZATION_TOKEN=" + hidden,
		"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + identities.URL + "/refuse/" + hidden, "AWS_EC2_METADATA_DISABLED=true",
		"IDENTITY_ENDPOINT=" + identities.URL + "/refuse/" + hidden, "IDENTITY_HEADER=" + hidden,
	}, "--config.file="+writeFile(t, fmt.Sprintf(`
defaults: {timeout: 1s}
modules:
  m: {user: %[1]s, password: %[1]s, allow: ["*"]}
targets:
  text: {host: 127.0.0.1, port: 1, user: %[1]s, password: %[1]s, dbname: %[1]s}
  file: {host: 127.0.0.1, port: 1, user: u, password_file: %[2]s}
  variable: {host: 127.0.0.1, port: 1, user: u, password_env: SECRET}
  command: {host: 127.0.0.1, port: 1, user: u, password_command: [echo, %[1]s]}
  failing: {host: 127.0.0.1, port: 1, user: u, password_command: [sh, -c, "echo %[1]s; echo %[1]s >&2; exit 1"]}
  missing: {host: 127.0.0.1, port: 1, user: u, password_file: /nonexistent/%[1]s}
  certificate: {host: 127.0.0.1, port: 1, user: u, sslmode: verify-full, sslrootcert: /nonexistent/%[1]s}
  key: {host: 127.0.0.1, port: 1, user: u, sslmode: require, sslcert: /nonexistent/%[1]s, sslkey: /nonexistent/%[1]s}
  encrypted: {host: 127.0.0.1, port: 1, user: u, sslmode: require, sslcert: %[2]s, sslkey: %[2]s, sslpassword: %[1]s}
  revoked: {host: 127.0.0.1, port: 1, user: u, sslmode: verify-ca, sslcrl: %[2]s, server_name: %[1]s, hostaddr: 127.0.0.1}
  dsn: {dsn: "postgres://u:%[1]s@127.0.0.1:1/d"}
  cloud token: {host: 127.0.0.1, port: %[3]d, user: u, sslmode: disable, cloud_auth: gcp}
  bearer: {host: 127.0.0.1, port: 1, user: u, require_auth: oauth, password_file: %[2]s}
  no token: {host: 127.0.0.1, port: 1, user: u, cloud_auth: {provider: azure, client_id: %[1]s, scope: %[1]s}}
  no role: {host: 127.0.0.1, port: 1, user: u, cloud_auth: {provider: aws, region: eu-west-1, role_arn: "arn:%[1]s"}}
  unresolved: {host: %[1]s-.invalid, user: u}
  socket: {host: /nonexistent/%[1]s, user: u}
checks:
  redis: {redis: "redis://u:%[1]s@127.0.0.1:1/0"}
  list: {redis: "redis://127.0.0.1:1/0", length_of: %[1]s, fail_above: 1}
  unix: {redis: "unix://u:%[1]s@/nonexistent/%[1]s?db=1"}
  redis tls: {redis: "rediss://127.0.0.1:1?ssl_ca_certs=/nonexistent/%[1]s"}
  sentinel: {redis: "sentinel://u:%[1]s@127.0.0.1:1;sentinel://%[1]s-.invalid", master_name: %[1]s, sentinel_username: %[1]s, sentinel_password: %[1]s}
  celery: {celery: "redis://u:%[1]s@127.0.0.1:1/0;redis://%[1]s-.invalid?password=%[1]s", fail_below: 1}
  queue: {celery: "redis://127.0.0.1:1/0", queue: %[1]s, key_prefix: %[1]s}
  http: {http: "http://u:%[1]s@127.0.0.1:1/%[1]s?%[1]s"}
  basic: {http: "http://127.0.0.1:1", basic_auth: {username: %[1]s, password: %[1]s}}
  basic in files: {http: "http://127.0.0.1:1", basic_auth: {username_file: %[2]s, password_file: /nonexistent/%[1]s}}
  token: {http: "http://127.0.0.1:1", authorization: {type: %[1]s, credentials_env: SECRET}, http_headers: {X: {values: [%[1]s], secrets: [%[1]s], files: [%[2]s]}}}
  header: {http: "http://127.0.0.1:1", http_headers: {X: {files: [/nonexistent/%[1]s]}}}
  proxy: {http: "http://h.invalid", proxy_url: "http://u:%[1]s@127.0.0.1:1", no_proxy: %[1]s}
  proxy in a file: {http: "https://h.invalid", proxy_url_file: %[2]s}
  own certificate: {http: "https://127.0.0.1:1", tls_config: {ca: %[1]s, cert: %[1]s, key_file: %[2]s, server_name: %[1]s}}
  own key: {http: "https://127.0.0.1:1", tls_config: {cert: %[1]s, key_file: /nonexistent/%[1]s}}
  tcp: {tcp: "%[1]s-.invalid:1"}
  roots: {http: "https://127.0.0.1:1", sslrootcert: /nonexistent/%[1]s}
  sql: {target: text, sql: "SELECT '%[1]s'"}
`, hidden, secretFile, refusing)), "--log.level=debug", "--web.enable-lifecycle")
	paths := []string{"/metrics", "/", "/sd", "/health", "/health?verbose", "/health-check", "/primary", "/replica", "/livez", "/readyz", "/nothing", "/-/reload", "/events", "/config"}
	for _, target := range []string{
		"text", "file", "variable", "command", "failing", "missing", "certificate", "key", "encrypted", "revoked", "dsn", "cloud%20token", "bearer",
		"no%20token", "no%20role", "unresolved", "socket", "127.0.0.1:1",
	} {
		paths = append(paths, "/probe?debug=true&target="+target, "/probe?debug=true&module=m&target="+target, "/health/"+target, "/primary/"+target, "/targets/"+target,
			"/badge/"+target+".svg")
	}
	for _, path := range paths {
		for _, method := range []string{"GET", "POST"} {
			_, body := e.HealthAt(method, e.address, path)
			if method == "GET" && path == "/metrics" && !strings.Contains(body, "pg_up") {
				t.Errorf("no metrics: %.200s", body)
			}
			if method == "GET" && path == "/config" && !strings.Contains(body, "\n  own certificate:\n") {
				t.Errorf("no configuration: %.200s", body)
			}
			expectHidden(t, method+" "+path, body)
		}
	}
	for _, value := range misplaced() {
		for _, query := range []string{
			"/probe?target=%s", "/probe?module=m&target=%s", "/probe?target=text&module=%s", "/health/%s", "/replica/text?lag=%s",
			"/targets/%s", "/badge/%s.svg", "/badge/text.svg?metric=%s", "/events?since=%s",
		} {
			_, body := e.HealthAt("GET", e.address, fmt.Sprintf(query, url.QueryEscape(value)))
			expectHidden(t, query, body)
		}
	}
	time.Sleep(time.Second) // for the checks in the background
	expectHidden(t, "the log", e.Logged())
	if !arrived.Load() {
		t.Error("the server did not get the token")
	}
}
