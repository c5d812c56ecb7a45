// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pg_liveness_exporter/config"
)

// parseFile returns a configuration file that has no problems.
func parseFile(t *testing.T, text string) *config.File {
	t.Helper()
	f, err := config.Parse(strings.NewReader(text), "dir/x.yml", config.Probing{Timeout: 5 * time.Second}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestNoEnvironment: libpq's variables and files do not change a target of a configuration file.
func TestNoEnvironment(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	write := func(name, content string) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write(".pgpass", "*:*:*:*:from-passfile\n")
	write(".postgresql/root.crt", "nonsense")
	write(".postgresql/postgresql.crt", "nonsense")
	write(".postgresql/postgresql.key", "nonsense")
	for name, value := range map[string]string{
		"PGHOST": "evil", "PGPORT": "99", "PGDATABASE": "evil", "PGUSER": "evil", "PGPASSWORD": "evil", "PGAPPNAME": "evil",
		"PGSSLMODE": "disable", "PGOPTIONS": "evil", "PGTZ": "evil", "PGCONNECT_TIMEOUT": "7", "PGSSLCERTMODE": "",
		"PGTARGETSESSIONATTRS": "read-only", "PGCHANNELBINDING": "require", "PGREQUIREAUTH": "none", "PGSSLROOTCERT": "/evil",
		"PGSSLCERT": "/evil", "PGSSLKEY": "/evil", "PGSSLNEGOTIATION": "direct", "PGSSLSNI": "0", "PGSSLPASSWORD": "evil",
		"PGMINPROTOCOLVERSION": "3.2", "PGMAXPROTOCOLVERSION": "3.2", "PGPASSFILE": filepath.Join(dir, ".pgpass"),
	} {
		t.Setenv(name, value)
	}
	store := NewStore(t.Context())
	f := parseFile(t, `
modules: {m: {user: u, allow: ["10.0.0.0/8"]}}
targets: {fields: {host: h, user: u}, words: {dsn: "host=h user=u"}, url: {dsn: "postgres://u@h"}}`)
	adHoc, err := f.AdHoc("10.1.2.3:6000", "m")
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range append(f.Targets, adHoc) {
		cfg, err := store.For(target).ConnConfig(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", target.Name, err)
		}
		got := fmt.Sprintf("%s %s %q %s %q %d %v %q %q %s %s %v", cfg.User, cfg.Database, cfg.Password, cfg.RuntimeParams, cfg.RequireAuth, len(cfg.Fallbacks),
			cfg.TLSConfig.RootCAs == nil && cfg.TLSConfig.Certificates == nil, cfg.ChannelBinding, cfg.SSLNegotiation, cfg.MinProtocolVersion, cfg.MaxProtocolVersion, cfg.ValidateConnect == nil)
		if want := `u postgres "" map[application_name:pg_liveness_exporter] "" 1 true "prefer" "" 3.0 3.0 true`; got != want {
			t.Errorf("%s:\n got %s\nwant %s", target.Name, got, want)
		}
		if cfg.Host == "evil" || cfg.Port == 99 {
			t.Errorf("%s: %s:%d", target.Name, cfg.Host, cfg.Port)
		}
	}
}

// TestRunTimeParams: a login has the run-time parameters of the operator's connection string, and no others.
func TestRunTimeParams(t *testing.T) {
	t.Setenv("PGOPTIONS", "evil")
	t.Setenv("PGTZ", "evil")
	f := parseFile(t, `targets: {a: {dsn: "host=h user=u options='-c work_mem=1MB' application_name=x"}}`)
	cfg, err := NewStore(t.Context()).For(f.Targets[0]).ConnConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(cfg.RuntimeParams), "map[application_name:x options:-c work_mem=1MB]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestLoginAllocates checks that a login does not parse a connection string again, which takes 50 more allocations. It runs alone,
// since those of all goroutines count.
func TestLoginAllocates(t *testing.T) {
	s := NewStore(t.Context()).For(parseFile(t, "targets: {a: {host: h, user: u, sslmode: disable}}").Targets[0])
	n := testing.AllocsPerRun(100, func() {
		if _, err := s.ConnConfig(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	if n > 30 {
		t.Errorf("%.0f allocations", n)
	}
}

// TestPasswordFile: every login reads the file. The error about one that cannot be used has its path, and no part of its content.
func TestPasswordFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hunter2")
	f := parseFile(t, "targets: {a: {host: h, user: u, password_file: "+path+"}}")
	source := NewStore(t.Context()).For(f.Targets[0])
	for content, want := range map[string]string{"one\n": "one", "two w \r\n": "two w ", "": "", "a\x00b": "", strings.Repeat("x", 100000): ""} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := source.ConnConfig(t.Context())
		switch {
		case want == "" && (err == nil || !strings.HasPrefix(err.Error(), "password_file: "+path+": ") || strings.Contains(err.Error(), "xx")):
			t.Errorf("%.10q: %v", content, err)
		case want != "" && (err != nil || cfg.Password != want):
			t.Errorf("%.10q: %v", content, err)
		}
	}
}

// TestPasswordVariable: every login reads the variable.
func TestPasswordVariable(t *testing.T) {
	source := NewStore(t.Context()).For(parseFile(t, "targets: {a: {host: h, user: u, password_env: SECRET}}").Targets[0])
	for _, password := range []string{"one", "", "two"} {
		t.Setenv("SECRET", password)
		cfg, err := source.ConnConfig(t.Context())
		switch {
		case password == "" && (err == nil || err.Error() != "password_env: the variable is not set, or is empty"):
			t.Errorf("no variable: %v", err)
		case password != "" && (err != nil || cfg.Password != password):
			t.Errorf("%s: %v", password, err)
		}
	}
}

// shift makes everything that happened to an entry happen at another time.
func (e *entry) shift(by time.Duration) {
	e.began, e.fetched, e.renewed = e.began.Add(by), e.fetched.Add(by), e.renewed.Add(by)
	if e.grant != nil {
		e.grant.Expires = e.grant.Expires.Add(by)
	}
}

// TestPasswordCommand: targets with the same command share its output. It runs again once after its output was refused.
// The error about a command that fails does not hold what it printed.
func TestPasswordCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	runs := filepath.Join(dir, "runs")
	f := parseFile(t, fmt.Sprintf(`
modules: {m: {user: u, password_command: [sh, -c, 'echo x >> %[1]s; echo "{host}{port}{user}{dbname} $(wc -l < %[1]s)"']}}
targets:
  a: {host: h, module: m}
  b: {dsn: "host=h", module: m}
  c: {host: h2, module: m, port: 1}
  silent: {host: h, user: u, password_command: ["true"]}
  lines: {host: h, user: u, password_command: [printf, 'hunter2\n\n2']}
  failing: {host: h, user: u, password_command: [sh, -c, "echo hunter2; exit 1"]}
  missing: {host: h, user: u, password_command: [/nonexistent/hunter2]}
  endless: {host: h, user: u, password_command: ["yes"]}
  long: {host: h, user: u, password_command: [sh, -c, "head -c 65537 /dev/zero | tr '\\0' x"]}
  longest: {host: h, user: u, password_command: [sh, -c, "head -c 65536 /dev/zero | tr '\\0' x"]}
  hanging: {host: h, user: u, password_command: [sh, -c, "sleep 1000 & sleep 1000"]}
`, runs))
	store := NewStore(t.Context())
	sources := make(map[string]*Source)
	for _, target := range f.Targets {
		sources[target.Name] = store.For(target)
	}
	password := func(name string) string {
		t.Helper()
		cfg, err := sources[name].ConnConfig(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return cfg.Password
	}
	for _, name := range []string{"a", "a", "b"} { // the same command: one run
		if got := password(name); got != "h5432upostgres 1" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := password("c"); got != "h21upostgres 2" {
		t.Errorf("c: %q", got)
	}
	if sources["a"].PasswordRefused("h5432upostgres 1") {
		t.Error("a password from just now is fetched anew")
	}
	kept := store.cache
	kept.mu.Lock()
	e := kept.entries[store.commands.fetcher(f.Targets[0].Login.Password.Command).key]
	e.shift(-time.Minute)
	kept.mu.Unlock()
	if !sources["a"].PasswordRefused("h5432upostgres 1") || !sources["b"].PasswordRefused("h5432upostgres 1") {
		t.Error("a password from before is not fetched anew")
	}
	if got := password("b"); got != "h5432upostgres 3" {
		t.Errorf("after it was refused: %q", got)
	}
	if !sources["a"].PasswordRefused("h5432upostgres 1") {
		t.Error("another one that is there by now is not used")
	}
	kept.mu.Lock()
	e.shift(-refusedInterval / 2)
	kept.mu.Unlock()
	if sources["a"].PasswordRefused("h5432upostgres 3") {
		t.Error("fetched anew again at once")
	}
	kept.mu.Lock()
	e.shift(-refusedInterval)
	kept.mu.Unlock()
	if !sources["a"].PasswordRefused("h5432upostgres 3") {
		t.Error("not fetched anew although the server goes on refusing it")
	}
	for name, want := range map[string]string{
		"silent": "its output is empty", "lines": "its output has several lines", "failing": "exit status 1",
		"missing": "no such file or directory", "endless": "printed more than 64 KiB", "long": "printed more than 64 KiB",
	} {
		if _, err := sources[name].ConnConfig(t.Context()); err == nil || err.Error() != "password_command: "+want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := password("longest"); got != strings.Repeat("x", maxSecretSize) {
		t.Errorf("longest: %d bytes", len(got))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := sources["hanging"].ConnConfig(ctx); err == nil || err.Error() != "password_command: has not ended yet" {
		t.Errorf("hanging: %v", err)
	}
}

// TestPasswordCommandRefused: a target whose password was refused waits for another one, even if the command is running
// already. Other targets keep using the password that they have, even if the command fails.
func TestPasswordCommandRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := parseFile(t, `
modules: {m: {user: u, password_command: [./password], password_command_ttl: 1h}}
targets: {a: {host: h, module: m}, b: {host: h2, module: m}, c: {host: h, user: u, password_command: [sh, -c, "sleep 1000 & echo left a child"]}}
`)
	store := NewStore(t.Context())
	kept := store.cache
	a, b, c := store.For(f.Targets[0]), store.For(f.Targets[1]), store.For(f.Targets[2])
	script := func(text string) {
		path := filepath.Join(dir, "password")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		kept.mu.Lock()
		defer kept.mu.Unlock()
		a.login.Password.Command.Argv[0] = path // the folder of the file does not exist
		b.login.Password.Command.Argv[0] = path
	}
	if got := a.login.Password.Command.Argv[0]; !filepath.IsAbs(got) || !strings.HasSuffix(got, filepath.Join("credentials", "dir", "password")) {
		t.Errorf("the command is looked for at %s", got)
	}
	age := func(d time.Duration) {
		kept.mu.Lock()
		defer kept.mu.Unlock()
		for _, e := range kept.entries {
			e.shift(-d)
		}
	}
	expect := func(source *Source, want, wantErr string) {
		t.Helper()
		cfg, err := source.ConnConfig(t.Context())
		switch {
		case wantErr == "" && (err != nil || cfg.Password != want):
			t.Errorf("%v, want %s", err, want)
		case wantErr != "" && (err == nil || err.Error() != wantErr):
			t.Errorf("%v, want %s", err, wantErr)
		}
	}
	script("echo one")
	expect(a, "one", "")
	expect(b, "one", "")
	// It is older than its TTL, is used while the command runs, and is refused meanwhile.
	mayEnd := filepath.Join(dir, "may end")
	script("until [ -e '" + mayEnd + "' ]; do sleep 0.01; done; echo two")
	age(61 * time.Minute)
	expect(a, "one", "")
	if !a.PasswordRefused("one") {
		t.Error("no second try while the command runs")
	}
	if err := os.WriteFile(mayEnd, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect(a, "two", "")
	expect(b, "two", "")
	// After a login that succeeds, the target does not run the command any more, and a failing command does not matter.
	a.Accepted()
	script("exit 1")
	age(30 * time.Minute)
	expect(a, "two", "")
	// One server refuses it, and the command fails. The other server still accepts the password.
	script("sleep 0.5; exit 1")
	age(2 * fetchTimeout)
	a.PasswordRefused("two")
	age(2 * time.Hour)
	kept.mu.Lock()
	for _, e := range kept.entries {
		e.fetched = time.Now().Add(-time.Minute)
	}
	kept.mu.Unlock()
	if !a.PasswordRefused("two") {
		t.Error("no second try for a password from before")
	}
	expect(a, "", "password_command: exit status 1")
	expect(b, "two", "")
	expect(c, "left a child", "")
}

// TestAccepted: a login that succeeds ends the refusal, so that the target uses an old password again while the command
// runs.
func TestAccepted(t *testing.T) {
	t.Parallel()
	once := filepath.Join(t.TempDir(), "once")
	f := parseFile(t, fmt.Sprintf(`
targets: {a: {host: h, user: u, password_command_ttl: 1h, password_command: [sh, -c, "mkdir %s && echo one"]}}`, once))
	store := NewStore(t.Context())
	source := store.For(f.Targets[0])
	password := func() (string, error) {
		cfg, err := source.ConnConfig(t.Context())
		if err != nil {
			return "", err
		}
		return cfg.Password, nil
	}
	if got, err := password(); got != "one" {
		t.Fatalf("%q, %v", got, err)
	}
	store.cache.mu.Lock()
	for _, e := range store.cache.entries {
		e.shift(-61 * time.Minute)
	}
	store.cache.mu.Unlock()
	source.PasswordRefused("one")
	if _, err := password(); err == nil { // the command fails the second time
		t.Error("a refused password is used")
	}
	source.Accepted()
	if got, err := password(); got != "one" {
		t.Errorf("after a login: %q, %v", got, err)
	}
}

// TestCommandLimit: commands with one template that hang leave slots for those with another template.
func TestCommandLimit(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("defaults: {user: u}\nmodules: {hanging: {password_command: [sh, -c, sleep 1000, '{host}']}}\ntargets:\n")
	for i := range maxSameTemplate + 2 {
		fmt.Fprintf(&text, "  h%d: {host: h%d, module: hanging}\n", i, i)
	}
	text.WriteString("  other: {host: h, password_command: [echo, one]}\n")
	f := parseFile(t, text.String())
	store := NewStore(t.Context())
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var waiting sync.WaitGroup
	for _, target := range f.Targets[:maxSameTemplate+2] {
		waiting.Go(func() {
			if _, err := store.For(target).ConnConfig(ctx); err == nil || err.Error() != "password_command: has not ended yet" {
				t.Errorf("%s: %v", target.Name, err)
			}
		})
	}
	waiting.Wait()
	if n := len(store.commands.slotsOf(f.Targets[0].Login.Password.Command)); n != maxSameTemplate {
		t.Errorf("%d commands run, want %d", n, maxSameTemplate)
	}
	if cfg, err := store.For(f.Targets[maxSameTemplate+2]).ConnConfig(t.Context()); err != nil || cfg.Password != "one" {
		t.Errorf("another command: %v", err)
	}
}

// FuzzConnConfig: the targets of every valid file make logins, unless a file or a variable is missing.
func FuzzConnConfig(f *testing.F) {
	for _, text := range []string{
		"targets: {a: {host: h, user: u}}", "targets: {a: {dsn: 'host=h user=u'}}", "targets: {a: {dsn: 'postgres://u:p@h:5/d?sslmode=require&x=y'}}",
		"targets: {a: {host: h, user: u, password: p, sslmode: verify-full, sslrootcert: system}}",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := config.Parse(strings.NewReader(text), "x.yml", config.Probing{Timeout: time.Second}, nil)
		if err != nil {
			return
		}
		store := NewStore(t.Context())
		for _, target := range file.Targets {
			source := target.Login.Password
			if target.Login.Environment != nil || source.File != "" || source.Variable != "" || source.IsFetched() {
				continue
			}
			var tlsErr *config.TLSError
			if _, err := store.For(target).ConnConfig(t.Context()); err != nil && !errors.As(err, &tlsErr) {
				t.Errorf("the file is valid, but a login fails: %v", err)
			}
		}
	})
}
