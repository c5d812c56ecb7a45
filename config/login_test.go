// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSources tests the keys of a connection string, a host and a user that a variable or a file has, at each level.
func TestSources(t *testing.T) {
	t.Setenv("THE_DSN", "postgres://a:hunter2@h1:7/d\n")
	t.Setenv("THE_HOST", "h2")
	t.Setenv("THE_USER", "me")
	f := mustParse(t, `
defaults: {user_env: THE_USER}
modules: {m: {user_file: secrets/user}}
targets:
  dsn: {dsn_env: THE_DSN}
  file: {dsn_file: secrets/dsn}
  host: {host_env: THE_HOST}
  module: {host_file: secrets/host, module: m}
  nearest: {host_env: THE_HOST, module: m, user: own}
`)
	got := map[string]string{}
	for _, target := range f.Targets {
		if u := target.Login.Unread; u != nil {
			got[target.Name] = fmt.Sprint(u.Files())
			continue
		}
		c := target.Login.Connection
		got[target.Name] = fmt.Sprint(c.Host, " ", c.Port, " ", c.User, " ", string(c.Password))
	}
	dir, err := filepath.Abs("dir/secrets")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"dsn": "h1 7 a hunter2", "file": "map[dsn_file:" + dir + "/dsn]", "host": "h2 5432 me ",
		"module": "map[host_file:" + dir + "/host user_file:" + dir + "/user]", "nearest": "h2 5432 own ",
	} {
		if got[name] != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got[name], want)
		}
	}
}

// TestSourceProblems tests problems with these keys, also those that the contents of files do not change.
func TestSourceProblems(t *testing.T) {
	t.Setenv("SEVERAL", "postgres://u:hunter2@h1,h2")
	t.Setenv("PORT", "h:5432")
	const user = "\ndir/x.yml:2: targets.a: has no user, and neither its module nor defaults has one"
	for entry, want := range map[string]string{
		"{dsn_env: NONE_OF_THIS_NAME}":                      "targets.a.dsn_env: the variable is not set, or is empty",
		"{host_env: NONE_OF_THIS_NAME, user: u}":            "targets.a.host_env: the variable is not set, or is empty",
		"{host: h, user_env: NONE_OF_THIS_NAME}":            "targets.a.user_env: the variable is not set, or is empty",
		"{dsn_env: SEVERAL}":                                "targets.a.dsn_env: names several servers: make each of them a separate target",
		"{host_env: PORT, user: u}":                         "targets.a.host_env: must be a name, an address or the folder of a unix socket, without a port",
		"{host_file: f, host: h, user: u}":                  "targets.a.host: is given in several ways: keep one of host, host_env and host_file",
		"{dsn_file: f, dsn_env: SEVERAL}":                   "targets.a.dsn_env: is given in several ways: keep one of dsn, dsn_env and dsn_file",
		"{host: h, user: u, user_file: f}":                  "targets.a.user_file: is given in several ways: keep one of user, user_env and user_file",
		"{dsn_file: f, host_file: f}":                       "targets.a.host_file: cannot be combined with dsn_file: write it into the connection string",
		"{dsn_file: f, dbname: d, port: 1}":                 "targets.a.dbname: cannot be combined with dsn_file: write it into the connection string\ndir/x.yml:2: targets.a.port: cannot be combined with dsn_file: write it into the connection string",
		"{host_file: f}":                                    strings.TrimPrefix(user, "\ndir/x.yml:2: "),
		"{host_file: f, user: u, port: 0}":                  "targets.a.port: must be a number from 1 to 65535",
		"{dsn: 'host=h user=u', user_file: f}":              "targets.a.dsn: holds user, which the target also sets with a key of its own: keep one of them",
		"{environment: true, dsn_file: f}":                  "targets.a.dsn_file: cannot be combined with environment: the variables name the server",
		"{host: h, user: u, password_env: $HUNTER2}":        "targets.a.password_env: must be the name of a variable, without $",
		"{dsn_env: '${HUNTER2}'}":                           "targets.a.dsn_env: must be the name of a variable, without $",
		"{host: 'a,b', hots: c}":                            "targets.a.hots: unknown key",
		"{dsn: 'port=1'}":                                   "targets.a.dsn: has no user, and neither the target, its module nor defaults has one\ndir/x.yml:2: targets.a.dsn: has no host",
		"{host_file: f, user: u, commit: true, module: p}":  "targets.a.commit: does not apply to a PgBouncer",
		"{host: h, user: u, kind: pgbouncer, commit: true}": "targets.a.commit: does not apply to a PgBouncer",
	} {
		t.Setenv("PGHOST", "h")
		_, err := parseText(t, "modules: {p: {kind: pgbouncer}}\ntargets: {a: "+entry+"}")
		if err == nil || !containsAll(err.Error(), strings.Split("dir/x.yml:2: "+want, "\n")) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s:\n got %v\nwant %s", entry, err, want)
		}
	}
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// TestKindAndDatabase tests that kind and dbname come from the nearest level, also for ad-hoc targets, and that a PgBouncer
// does not get the database of the servers.
func TestKindAndDatabase(t *testing.T) {
	t.Parallel()
	f := mustParse(t, `
defaults: {user: u, dbname: app, commit: true}
modules:
  pool: {kind: pgbouncer, allow: [h]}
  other: {dbname: other, allow: [h]}
targets:
  defaults: {host: h}
  dsn: {dsn: "host=h"}
  dsn-own: {dsn: "host=h dbname=own"}
  module: {host: h, module: other}
  own: {host: h, module: other, dbname: own}
  pool: {host: h, module: pool}
  pool-own: {host: h, module: pool, dbname: own}
  not-pool: {host: h, module: pool, kind: postgres}
`)
	targets := f.Targets
	for _, module := range []string{"pool", "other"} {
		adHoc, err := f.AdHoc("h:1", module)
		if err != nil {
			t.Fatal(err)
		}
		adHoc.Name = "ad-hoc " + module
		targets = append(targets, adHoc)
	}
	for _, target := range targets {
		got := fmt.Sprint(target.Kind, " ", target.Login.Connection.Database, " ", target.Commit)
		if want := map[string]string{
			"defaults": "postgres app true", "dsn": "postgres app true", "dsn-own": "postgres own true", "module": "postgres other true",
			"own": "postgres own true", "pool": "pgbouncer pgbouncer false", "pool-own": "pgbouncer own false",
			"not-pool": "postgres postgres true", "ad-hoc pool": "pgbouncer pgbouncer false", "ad-hoc other": "postgres other true",
		}[target.Name]; got != want {
			t.Errorf("%s: got %s, want %s", target.Name, got, want)
		}
	}
}

// TestAllAtOnce tests that one error has faults of everything: levels, targets, checks and what they say of each other.
func TestAllAtOnce(t *testing.T) {
	t.Parallel()
	_, err := parseText(t, `defaults: {timeout: 1h}
modules: {m: {allow: [h], x: 1}}
targets:
  a: {dsn: "port=1", hots: h}
  pool: {kind: pgbouncer, host: h, user: u, port: x}
checks:
  a: {tcp: "h:1", ttl: soon}
  b: {sql: SELECT 1, target: none, y: 1}
  c: {sql: SELECT 1, target: pool, ttl: soon}
  d: {redis: "redis://h", fail_above: x, equals: 1}
  e: {redis: "redis://h", length_of: l, status: 1}
  f: {ttl: soon}
health: {max_age: soon}
`)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"1: defaults.timeout: must be", "2: modules.m: has allow but no user, and defaults has none either", "2: modules.m.x: unknown key",
		"4: targets.a.dsn: has no user", "4: targets.a.dsn: has no host", "4: targets.a.hots: unknown key", "5: targets.pool.port: must be",
		"4: targets.a: a check has this name too", "7: checks.a.ttl: must be", "8: checks.b.target: there is no target", "8: checks.b.y: unknown key",
		"9: checks.c.target: is a PgBouncer", "9: checks.c.ttl: must be", "10: checks.d.fail_above: must be", "10: checks.d.equals: cannot be combined with redis",
		"10: checks.d: has limits, but no length_of", "11: checks.e.length_of: has no limits", "11: checks.e.status: cannot be combined with redis",
		"12: checks.f: needs one of", "13: health.max_age: must be",
	} {
		if !strings.Contains(err.Error(), "dir/x.yml:"+want) {
			t.Errorf("%s is missing", want)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
}

// TestFileError tests that an error about a file has its path if it exists, or else the folder, and the user if a permission
// is missing.
func TestFileError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	uid := fmt.Sprintf(" for the user with uid %d", os.Geteuid())
	for _, test := range []struct {
		path  string
		cause error
		want  string
	}{
		{path, errors.New("is empty"), path + ": is empty"},
		{path, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}, path + ": permission denied" + uid},
		{dir + "/hunter2", fs.ErrPermission, "a file in " + dir + ": permission denied" + uid},
		{dir + "/hunter2/hunter2", fs.ErrNotExist, "a file in " + dir + ": file does not exist"},
		{path + "/hunter2", fs.ErrNotExist, "a file in " + dir + ": file does not exist"},
		{"hunter2", fs.ErrNotExist, "a file in .: file does not exist"},
	} {
		if got := NewFileError(test.path, test.cause).Error(); got != strings.Replace(test.want, "permission denied", fs.ErrPermission.Error(), 1) {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}
