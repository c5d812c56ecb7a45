// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// runProgram runs the program to its end and returns its exit code and what it wrote.
func runProgram(t *testing.T, env []string, args ...string) (code int, out, errs string) {
	t.Helper()
	cmd := command(t, env, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if strings.Contains(stdout.String()+stderr.String(), password) {
		t.Error("the password is in the output")
	}
	return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

// TestCheck: exit codes and output of the command check, against real servers and none.
func TestCheck(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	silent := silentServer(t)
	path := writeFile(t, fmt.Sprintf(`
defaults: {timeout: 1s, commit: true, %[1]s}
targets:
  up: {host: 127.0.0.1, port: %[2]d}
  gone: {host: 127.0.0.1, port: 1}
  hangs: {host: 127.0.0.1, port: %[3]d}
  wrong: {host: 127.0.0.1, port: %[2]d, password: wrong}
checks:
  'true': {target: up, sql: SELECT true}
  'false': {target: up, sql: SELECT false}
  refused: {target: gone, sql: SELECT true}
  many: {target: up, sql: SELECT 7, warn_above: 5}
  port: {tcp: "127.0.0.1:1"}
`, login(), s.Port, silent))
	file := "--config.file=" + path
	for _, test := range []struct {
		args []string
		code int
		line string
	}{
		{[]string{"check", "up", file}, 0, "accepting ("},
		{[]string{"check", "gone", file}, 2, "no_response: refused in phase dial"},
		{[]string{"check", "hangs", file}, 2, "no_response: timeout in phase startup"},
		{[]string{"check", "wrong", file}, 3, "misconfigured: auth in phase startup, SQLSTATE 28P01"},
		{[]string{"check", "gone", file, "--style=docker"}, 1, "no_response"},
		{[]string{"check", "true", file}, 0, "pass ("},
		{[]string{"check", "false", file}, 1, "fail: the statement returned false ("},
		{[]string{"check", "refused", file, "--style=docker"}, 1, "fail: no session with its target: no_response: refused"},
		{[]string{"check", "many", file, "--format=json"}, 0, `{"check":"many","status":"warn","output":"7 is above 5","value":7,"duration_seconds":`},
		{[]string{"check", "port", file}, 1, "fail: connection refused ("},
		{[]string{"check", "up", file, "--style=docker"}, 0, "accepting"},
		{[]string{"check", "none", file}, 3, ""},
		{[]string{"check", file}, 3, ""},
		{[]string{"check", file, "--format=xml"}, 3, ""},
		{[]string{"check", file, "--style", "docker", "--wait=abc"}, 1, ""},
		{[]string{"check", "--config.file=/nonexistent", "--wait=60s"}, 3, ""},
	} {
		t.Run(strings.ReplaceAll(strings.Join(test.args, " "), " "+file, ""), func(t *testing.T) {
			code, out, errs := runProgram(t, nil, test.args...)
			if code != test.code || !strings.HasPrefix(out, test.line) || (test.line == "") != (out == "" && errs != "") {
				t.Errorf("exit code %d, want %d: %s%s", code, test.code, out, errs)
			}
		})
	}

	code, out, _ := runProgram(t, nil, "check", "none", file, "--format=json")
	if code != 3 || !strings.HasPrefix(out, `{"target":"none","up":false,"state":"not_tried","detail":"there is no target`) {
		t.Errorf("exit code %d: %s", code, out)
	}
	env := environment(s.Port, "postgres")
	code, out, _ = runProgram(t, env, "check", "--format=json")
	var answer struct {
		Up     bool
		State  string
		Phases map[string]float64 `json:"phase_durations_seconds"`
	}
	check(t, json.Unmarshal([]byte(out), &answer))
	if code != 0 || !answer.Up || answer.State != "accepting" || answer.Phases["startup"] <= 0 || answer.Phases["query"] <= 0 {
		t.Errorf("exit code %d: %s", code, out)
	}

	execute(t, s, "ALTER ROLE "+role+" CONNECTION LIMIT 0")
	if code, out, _ := runProgram(t, env, "check"); code != 3 || !strings.HasPrefix(out, "misconfigured: role_limit") {
		t.Errorf("no connections for the role: exit code %d: %s", code, out)
	}
	execute(t, s, "ALTER ROLE "+role+" CONNECTION LIMIT -1", "ALTER DATABASE app CONNECTION LIMIT 0")
	if code, out, _ := runProgram(t, environment(s.Port, "app"), "check"); code != 1 || !strings.HasPrefix(out, "connection_limit: database_limit") {
		t.Errorf("no connections for the database: exit code %d: %s", code, out)
	}

	// Waiting for a server that starts.
	check(t, s.Stop(testservers.Fast))
	started := make(chan error, 1)
	go func() {
		time.Sleep(2 * time.Second)
		started <- s.Start(context.Background())
	}()
	if code, out, _ := runProgram(t, env, "check", "--wait=60s"); code != 0 {
		t.Errorf("exit code %d: %s", code, out)
	}
	check(t, <-started)
	start := time.Now()
	if code, _, _ := runProgram(t, nil, "check", "gone", file, "--wait=2s"); code != 2 || time.Since(start) < 2*time.Second {
		t.Errorf("exit code %d after %s", code, time.Since(start))
	}
}

// TestUnusableEnvironment: one line names the variable and nothing of its value.
func TestUnusableEnvironment(t *testing.T) {
	t.Parallel()
	const secret = `s3cr'et\%zz`
	for _, test := range []struct{ name, variable, value string }{
		{"URL", "DATA_SOURCE_NAME", "postgres://monitor:" + secret + "@db.example.org:5432/app"},
		{"URL with a bad port", "DATA_SOURCE_NAME", "postgres://monitor:" + secret + ":5432@db.example.org:port/app"},
		{"keywords", "DATA_SOURCE_NAME", "host=db.example.org user=monitor password='" + secret},
		{"keywords with a space", "DATA_SOURCE_NAME", "host=db.example.org password=" + secret + " and more"},
		{"no connection string", "DATABASE_URL", secret},
		{"several servers", "DATA_SOURCE_NAME", "postgres://monitor:" + secret + "@a/b,postgres://monitor:" + secret + "@c/d"},
		{"several hosts", "DATA_SOURCE_NAME", "host=a,b user=monitor password=secret"},
		{"several hosts in a URI", "DATA_SOURCE_URI", "a.example.org,b.example.org/app"},
		{"mode", "DATA_SOURCE_NAME", "host=a password=secret sslmode=" + "maybe"},
		{"root certificate", "DATA_SOURCE_NAME", "host=a password=secret sslmode=verify-full sslrootcert=/nonexistent"},
		{"another scheme", "DATABASE_URL", "jdbc:postgresql://db.example.org/app?user=monitor&password=" + secret},
		{"a URL in quotes", "DATA_SOURCE_NAME", "'postgres://monitor:" + secret + "@db.example.org/app'"},
		{"a mistyped scheme", "DATA_SOURCE_NAME", "postgre://monitor:" + secret + "@db.example.org/app"},
		{"no URI", "DATA_SOURCE_USER", "monitor"},
		{"an empty file", "DATA_SOURCE_NAME_FILE", os.DevNull},
		{"file", "DATA_SOURCE_NAME_FILE", "/nonexistent"},
		{"a variable with spaces", "DATABASE_URL", " \t"},
		{"a call of psql", "DATABASE_URL", "psql 'postgres://monitor:" + secret + "@db.example.org/app'"},
		{"a password with a slash", "DATABASE_URL", "postgres://monitor:1/" + secret + "@db.example.org/app"},
		{"the secret itself for a file", "DATA_SOURCE_NAME_FILE", "postgres://monitor:" + secret + "@db.example.org/app"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd := command(t, []string{test.variable + "=" + test.value, "DATA_SOURCE_PASS=" + secret}, "--web.listen-address=127.0.0.1:0")
			out, _ := cmd.CombinedOutput() // the code is looked at
			text := strings.TrimSpace(string(out))
			if code := cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("exit code %d", code)
			}
			if !strings.Contains(text, test.variable) || strings.Contains(text, "\n") {
				t.Errorf("not one line that names the variable: %s", text)
			}
			for _, hidden := range []string{secret, "s3cr", "secret", "example.org", "monitor"} {
				if strings.Contains(text, hidden) {
					t.Errorf("%q is in the message: %s", hidden, text)
				}
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--version"}, 0, "pg_liveness_exporter, version"},
		{[]string{"--help"}, 0, "--probe.timeout"},
		{[]string{"--probe.timeout=1ms"}, 2, "--probe.timeout is 1ms"},
		{[]string{"--web.telemetry-path=metrics"}, 2, "is not a path"},
		{[]string{"--web.telemetry-path=/targets/metrics"}, 2, "is the path of another endpoint"},
		{[]string{"--nonsense"}, 2, "unknown long flag"},
		{[]string{"--config.file=x", "--config.auto-reload-interval=10ms"}, 2, "--config.auto-reload-interval is 10ms"},
		{[]string{"--web.external-url=postgres://u:hidden@h/d"}, 2, "--web.external-url is neither a URL"},
		{[]string{"--web.route-prefix=/a?b"}, 2, "--web.route-prefix is not a path"},
		{[]string{"--config.auto-reload-interval=1m"}, 2, "--config.auto-reload-interval needs --config.file"},
		{[]string{"serve", "--version"}, 0, "pg_liveness_exporter, version"},
		{[]string{"postgres://u:hidden@h/d"}, 2, "servers are named in the environment or in a --config.file"},
		{[]string{"--web.listen-address=300.0.0.1:1"}, 1, "Cannot serve"},
		{[]string{"--web.config.file=/dev/zero"}, 1, "/dev/zero: is not a regular file"},
		{[]string{"--config.file=/dev/zero"}, 1, "/dev/zero: is not a regular file"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			cmd := command(t, nil, test.args...)
			out, _ := cmd.CombinedOutput() // the code is looked at
			code := cmd.ProcessState.ExitCode()
			if code != test.code || !strings.Contains(string(out), test.want) || strings.Contains(string(out), "hidden@") {
				t.Errorf("code %d, want %d and %q:\n%s", code, test.code, test.want, out)
			}
		})
	}
}

// TestConfigCheckFiles: --config.check finds what is wrong in the files that a configuration names, of all of them in one run. A
// file that does not exist is no fault, since it may be on another machine.
func TestConfigCheckFiles(t *testing.T) {
	t.Parallel()
	certificate, key := newCertificate(t)
	folder := t.TempDir()
	for name, content := range map[string]string{
		"dsn": "postgres://u:hunter2@h:0/d?hots=1\n", "words": "hunter2 hunter2", "good": "\ufeffpostgres://u:hunter2@h/d\r\n", "empty": "\n",
		"host": "h", "url": "http://u:hunter2@h", "crt": string(certificate), "key": string(key), "lines": "hunter2\nhunter2", "redis": "redis://h/hunter2",
		"tls-redis": "rediss://h?ssl_ca_certs=words&ssl_certfile=crt&ssl_keyfile=gone",
	} {
		check(t, os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600))
	}
	path := filepath.Join(folder, "config.yml")
	check(t, os.WriteFile(path, []byte(`
modules:
  adhoc: {user: u, allow: ["*"], password_file: empty}
targets:
  t01: {dsn_file: dsn}
  t02: {dsn_file: words, hots: x}
  t03: {dsn_file: good}
  t04: {dsn_file: gone}
  t05: {dsn_file: .}
  t06: {host_file: url, user_file: empty}
  t07: {host_file: url, user_file: gone}
  t08: {host_file: host, user: u, sslmode: verify-full, sslrootcert: words, sslcert: words, sslkey: key, sslcrl: key}
  t09: {host: h, user: u, sslmode: verify-full, sslrootcert: gone, sslcert: crt, sslkey: crt}
  t10: {host: h, user: u, password_file: empty, sslrootcert: crt, sslcert: crt, sslkey: key}
  t11: {host: h, user: u, password_env: GONE, sslpassword_env: GONE, sslmode: disable, sslrootcert: words}
checks:
  c01: {redis_file: redis}
  c02: {redis_file: gone}
  c03: {celery_file: tls-redis}
  c04: {http_file: url, basic_auth: {username: u, password_file: empty}, tls_config: {ca_file: words, cert_file: crt, key_file: crt}}
  c05: {http: "http://h", authorization: {credentials_file: lines}, proxy_url_file: words}
  c06: {tcp_file: words}
`), 0o600))
	want := []string{
		"3: modules.adhoc.password_file: F/empty: is empty",
		"5: targets.t01.dsn_file: holds hots, which is not known; dsn_file: port must be a number from 1 to 65535",
		"6: targets.t02.hots: unknown key",
		"6: targets.t02.dsn_file: is not a list of keyword=value",
		"9: targets.t05.dsn_file: F: is a directory",
		"10: targets.t06.user_file: F/empty: is empty",
		"10: targets.t06.host_file: is a URL",
		"11: targets.t07.host_file: is a URL",
		"12: targets.t08.sslrootcert: holds no certificate in PEM",
		"12: targets.t08.sslcert and sslkey: are not a certificate",
		"12: targets.t08.sslcrl: holds no list",
		"13: targets.t09.sslkey: holds no private key",
		"14: targets.t10.password_file: F/empty: is empty",
		"17: checks.c01.redis_file: must be a URL whose path is the number of a database",
		"19: checks.c03.ssl_ca_certs holds no certificate",
		"20: checks.c04.http_file: has a login, and the check also has basic_auth",
		"20: checks.c04.ca_file holds no certificate",
		"20: checks.c04.cert_file and key_file are not a certificate",
		"20: checks.c04.password_file: is empty",
		"21: checks.c05.credentials_file has a line end",
		"21: checks.c05.proxy_url_file: must be a URL",
		"22: checks.c06.tcp_file: must be host:port",
	}
	code, out, errs := runProgram(t, nil, "--config.file="+path, "--config.check")
	got := strings.Split(strings.TrimSpace(errs), "\n")
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || !strings.HasPrefix(strings.ReplaceAll(got[i], folder, "F"), "F/config.yml:"+want[i]) {
			t.Errorf("code %d, %s\ngot\n%s\nwant\n%s", code, out, errs, strings.Join(want, "\n"))
			break
		}
	}
	if code != 1 || strings.Contains(errs, "hunter") {
		t.Errorf("code %d, or a secret is shown:\n%s", code, errs)
	}
}

// TestConfigCheck: --config.check says what is wrong and nothing else happens.
func TestConfigCheck(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		content, out, errs string
		code               int
	}{
		{"targets: {a: {host: h, user: u, password_file: /nonexistent}}", "config.yml can be used; targets: 1, modules: 0, checks: 0\n", "", 0},
		{"targets:\n  a: {hots: h}\n  b: {host: h, port: x, user: u}\n", "", "config.yml:2: targets.a.hots: unknown key", 1},
	} {
		path := writeFile(t, test.content)
		code, out, errs := runProgram(t, nil, "--config.file="+path, "--config.check")
		if code != test.code || !strings.HasSuffix(out, test.out) || !strings.Contains(errs, test.errs) {
			t.Errorf("code %d\n%s%s", code, out, errs)
		}
		if lines := strings.Count(errs, "\n"); test.code == 1 && lines != 4 { // a has an unknown key, no host and no user
			t.Errorf("%d lines for four problems:\n%s", lines, errs)
		}
	}
}

// TestConfigFileIgnoresService: a configuration file alone says where its targets are, whatever PGSERVICE names.
func TestConfigFileIgnoresService(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "targets: {a: {host: h, user: u}, b: {dsn: 'host=h user=u'}}\n")
	cmd := command(t, []string{"PGSERVICE=missing", "PGSERVICEFILE=/nonexistent"}, "--config.file="+path, "--config.check")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestCheckLivez: check --livez asks the exporter alone, whatever its server does, and takes a status other than 200 for a failure.
func TestCheckLivez(t *testing.T) {
	t.Parallel()
	e := startExporter(t, []string{"DATA_SOURCE_NAME=postgres://u@127.0.0.1:1/postgres"})
	base := "http://" + e.address
	for _, test := range []struct {
		args []string
		code int
		out  string
		errs string
	}{
		{[]string{"--livez=" + base + "/livez"}, 0, "pass (", ""},
		{[]string{"--livez=" + base + "/livez", "--format=json"}, 0, `{"check":"livez","status":"pass","duration_seconds":`, ""},
		{[]string{"--livez=" + base + "/health"}, 1, "fail: status 503, 200 is expected (", ""},
		{[]string{"--livez=https" + strings.TrimPrefix(base, "http") + "/livez"}, 1, "fail: the TLS handshake failed", ""},
		{[]string{"--livez=http://127.0.0.1:1/livez", "--wait=100ms"}, 1, "fail: connection refused", ""},
		{[]string{"--livez=127.0.0.1:1/hidden"}, 3, "", "--livez must be a URL that begins with http"},
		{[]string{"--livez=hidden", "--style=docker"}, 1, "", "--livez must be a URL"},
		{[]string{"orders", "--livez=" + base + "/livez"}, 3, "", "--livez probes nothing: remove the name"},
	} {
		code, out, errs := runProgram(t, []string{"DATA_SOURCE_NAME=no connection string"}, append([]string{"check"}, test.args...)...)
		if code != test.code || !strings.HasPrefix(out, test.out) || !strings.Contains(errs, test.errs) || strings.Contains(out+errs, "hidden") {
			t.Errorf("%q: code %d\n%s%s", test.args, code, out, errs)
		}
	}
}

// TestHelp: --help has the default of every flag that has one, the values of every flag that has a few, and for a command only
// the flags that have an effect on it.
func TestHelp(t *testing.T) {
	t.Parallel()
	help := func(args ...string) string {
		code, out, errs := runProgram(t, nil, args...)
		if code != 0 || errs != "" {
			t.Errorf("%q: code %d, %s", args, code, errs)
		}
		return strings.Join(strings.Fields(out), " ")
	}
	server, once := help("--help"), help("check", "--help")
	for text, want := range map[string][]string{
		server: {
			"usage: pg_liveness_exporter [COMMAND] [FLAG...]", "-h, --help Show", "--version Show", "--config.check Read",
			"--config.file=FILE YAML", "--web.external-url=URL URL", "--probe.timeout=5s Time", "--probe.max-in-flight=1024 Max",
			"--web.telemetry-path=/metrics Path", "--web.listen-address=:10432 ... Addresses",
			"--log.level=info Only log messages with the given severity or above. One of: [debug, info, warn, error]",
			"--[no-]probe.keep Keep a session open", "whatever its key keep says. Default: on.",
			"--[no-]collect.applications Count connections by application name. Default: off.",
			"of port listeners (Linux only). Default: off.", "serve Serve metrics. This is the default.", "check [NAME] [FLAG...] Probe",
		},
		once: {
			"usage: pg_liveness_exporter check [NAME] [FLAG...]", "--config.file=FILE", "--probe.timeout=5s", "[NAME] A target",
			"--format=text Output: text or json.", "--style=pg_isready Exit codes: pg_isready as above, or docker", "--wait=0s How long",
		},
	} {
		for _, part := range want {
			if !strings.Contains(text, part) {
				t.Errorf("%q is missing in:\n%s", part, text)
			}
		}
	}
	var flags []string
	for _, flag := range regexp.MustCompile(` --([a-z.]*[a-z])[ =]`).FindAllStringSubmatch(once, -1) {
		flags = append(flags, flag[1])
	}
	expectEqual(t, "flags of check", []string{"help", "config.file", "probe.timeout", "format", "style", "livez", "wait"}, flags)
	for same, args := range map[string][]string{server: {"help"}, once: {"help", "check"}} {
		if got := help(args...); got != same {
			t.Errorf("%q prints something else than --help:\n%s", args, got)
		}
	}
}

// TestManPage: --help-man has what a manual page has, every flag with its default, every variable that names a server, and
// nothing that man or mandoc warns of.
func TestManPage(t *testing.T) {
	t.Parallel()
	code, page, errs := runProgram(t, nil, "--help-man")
	if code != 0 || errs != "" {
		t.Fatalf("code %d, %s", code, errs)
	}
	// The build of the tests has no date.
	page = strings.Replace(page, `EXPORTER 1 ""`, `EXPORTER 1 "2026-01-02"`, 1)
	lintManPage(t, page)
	path := filepath.Join(t.TempDir(), "page.1")
	check(t, os.WriteFile(path, []byte(page), 0o600))
	text := runIn(t, "", hanging, []string{"MANWIDTH=200", "LC_ALL=C.UTF-8", "MAN_KEEP_FORMATTING="}, testenv.Tool(t, "MAN", "man"), "-l", path)
	text = strings.Join(strings.Fields(text), " ")
	sections := []string{"NAME", "SYNOPSIS", "COMMANDS", "OPTIONS", "ENVIRONMENT", "FILES", "EXIT STATUS", "EXAMPLES", "SEE ALSO"}
	at := 0
	for _, section := range sections {
		i := strings.Index(text[at:], " "+section+" ")
		if i < 0 {
			t.Fatalf("no section %s behind the one before it:\n%s", section, text)
		}
		at += i
	}
	_, server, _ := runProgram(t, nil, "--help")
	_, once, _ := runProgram(t, nil, "check", "--help")
	flags := regexp.MustCompile(`(?m)^ {2,6}(?:-h, )?(--[^\s=]+)(?:=(\S+))?`).FindAllStringSubmatch(server+once, -1)
	entries := map[string]string{} // text of the page by flag
	for _, entry := range strings.Split(strings.NewReplacer(`\-`, "-", `\fB`, "", `\fI`, "", `\fR`, "", "\n", " ").Replace(page), ".TP ") {
		name, _, _ := strings.Cut(strings.TrimPrefix(entry, "-h, "), " ")
		name, _, _ = strings.Cut(name, "=")
		entries[name] = entry
	}
	for _, flag := range flags {
		entry := entries[flag[1]]
		if value := flag[2]; entry == "" || value != strings.ToUpper(value) && !strings.Contains(entry, "Default: "+value+". ") {
			t.Errorf("%s and its default %s are not in %q", flag[1], value, entry)
		}
	}
	if len(flags) < 25 {
		t.Errorf("only %d flags", len(flags))
	}
	_, table, _ := strings.Cut(read(t, "docs/configuration.md"), "## Environment")
	table, _, _ = strings.Cut(table, "\n\nEach of them")
	variables := regexp.MustCompile("`([A-Z_]{6,})`").FindAllStringSubmatch(table, -1)
	for _, variable := range variables {
		if !strings.Contains(text, variable[1]) {
			t.Errorf("the variable %s is missing", variable[1])
		}
	}
	if len(variables) < 10 {
		t.Errorf("only %q", variables)
	}
}

// lintManPage fails the test if man or mandoc warns of a manual page.
func lintManPage(t *testing.T, page string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "page.1")
	check(t, os.WriteFile(path, []byte(page), 0o600))
	for _, args := range [][]string{
		{testenv.Tool(t, "MAN", "man"), "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", path},
		{testenv.Tool(t, "MANDOC", "mandoc"), "-T", "lint", "-W", "warning", path},
	} {
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if strings.HasSuffix(args[0], "mandoc") {
			errs.Write(out) // it prints there what it finds
		}
		if err != nil || errs.Len() > 0 {
			t.Errorf("%q: %v\n%s", args, err, &errs)
		}
	}
}

// TestForeignFlags: every flag of a real postgres_exporter is one here, or the error says what it is here.
func TestForeignFlags(t *testing.T) {
	t.Parallel()
	help, err := exec.CommandContext(t.Context(), testenv.Tool(t, "POSTGRES_EXPORTER", "postgres_exporter"), "--help").CombinedOutput()
	check(t, err)
	_, own, _ := runProgram(t, nil, "--help")
	page := read(t, "docs/migrating.md")
	var args, want []string
	for _, found := range regexp.MustCompile(`(?m)^ +(?:-h, )?--(\[no-\])?([a-zA-Z][\w.-]*)`).FindAllStringSubmatch(string(help), -1) {
		name := found[2]
		// The text of --help goes over two lines, and the second begins with --help-long.
		if name == "help-long" || strings.Contains(own, "--"+name) || strings.Contains(own, "--[no-]"+name) {
			continue
		}
		args, want = append(args, "--"+name+"=x"), append(want, "--"+name+" is a flag of postgres_exporter; here it is: ")
		if !strings.Contains(page, strings.TrimPrefix(name, "collector.")) {
			t.Errorf("docs/migrating.md does not have %s", name)
		}
	}
	if len(args) < 30 {
		t.Fatalf("only %q", args)
	}
	code, _, errs := runProgram(t, []string{"DATA_SOURCE_NAME=host=127.0.0.1"}, args...)
	for _, line := range want {
		if !strings.Contains(errs, line) {
			t.Errorf("%s is missing", line)
		}
	}
	if code != 2 {
		t.Errorf("exit code %d:\n%s", code, errs)
	}
}
