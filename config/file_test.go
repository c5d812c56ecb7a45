// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func parseText(t *testing.T, text string) (*File, error) {
	t.Helper()
	return Parse(strings.NewReader(text), "dir/x.yml", Probing{Timeout: 5 * time.Second, Keep: true}, nil)
}

func mustParse(t *testing.T, text string) *File {
	t.Helper()
	f, err := parseText(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestLevels: modules override defaults, and targets override modules. A password replaces one from another source, and
// a connection string overrides a module.
func TestLevels(t *testing.T) {
	t.Parallel()
	f := mustParse(t, `
defaults: {timeout: 2s, sslmode: disable, user: all, password: "0123", commit: true}
modules:
  m: {user: mod, password_env: SECRET, interval: 1s, applications: true}
targets:
  plain: {host: h}
  module: {host: h2, module: m, port: 1, dbname: "d'\\ x"}
  own: {host: "::1", module: m, user: me, password: "p'w\\ ", timeout: 300ms, applications: false}
  url: {dsn: "postgres://u:p%20w@h3:7/d?application_name=x", module: m}
  words: {dsn: "host=h4 dbname=d options='-c work_mem=1MB'", module: m}
  socket: {host: /run/pg}
  pool: {kind: pgbouncer, host: h5, port: 6432, module: m}
  pool-dsn: {kind: pgbouncer, dsn: "host=h6", commit: false}
  'odd "name" {}, ü/&?': {host: h}
`)
	got := map[string]string{}
	for _, target := range f.Targets {
		c, source := target.Login.Connection, target.Login.Password
		password := string(c.Password + source.Text)
		if source.Variable != "" {
			password += "$" + source.Variable
		}
		got[target.Name] = fmt.Sprint(c.Host, " ", c.Port, " ", c.Database, " ", c.User, " ", password, " ", c.TLS.Mode == "disable",
			" ", target.Timeout, " ", target.Interval, " ", target.Applications, " ", c.Parameters)
		if pooler := strings.HasPrefix(target.Name, "pool"); (target.Kind == KindPgBouncer) != pooler || target.Commit == pooler {
			t.Errorf("%s: kind %s, commit %v", target.Name, target.Kind, target.Commit)
		}
	}
	params := " map[application_name:pg_liveness_exporter]"
	for name, want := range map[string]string{
		"plain":               "h 5432 postgres all 0123 true 2s 0s false" + params,
		"module":              "h2 1 d'\\ x mod $SECRET true 2s 1s true" + params,
		"own":                 "::1 5432 postgres me p'w\\  true 300ms 1s false" + params,
		"url":                 "h3 7 d u p w true 2s 1s true map[application_name:x]",
		"words":               "h4 5432 d mod $SECRET true 2s 1s true map[application_name:pg_liveness_exporter options:-c work_mem=1MB]",
		"socket":              "/run/pg 5432 postgres all 0123 true 2s 0s false" + params,
		"pool":                "h5 6432 pgbouncer mod $SECRET true 2s 1s false" + params,
		"pool-dsn":            "h6 5432 pgbouncer all 0123 true 2s 0s false" + params,
		`odd "name" {}, ü/&?`: "h 5432 postgres all 0123 true 2s 0s false" + params,
	} {
		if got[name] != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got[name], want)
		}
	}
}

// TestKeep: a target keeps a session unless the nearest level that has the key, or the flag, says otherwise.
func TestKeep(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		flag                     bool
		defaults, module, target string
		want                     bool
	}{
		"nothing":               {true, "", "", "", true},
		"the defaults":          {true, "keep: false", "", "", false},
		"a module":              {true, "", "keep: false", "", false},
		"a target":              {true, "", "", "keep: false", false},
		"a module over them":    {true, "keep: false", "keep: true", "", true},
		"a target over both":    {true, "keep: true", "keep: false", "keep: true", true},
		"the flag":              {false, "", "", "", false},
		"the flag over all":     {false, "keep: true", "keep: true", "keep: true", false},
		"the flag and a target": {false, "", "", "keep: false", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := fmt.Sprintf("defaults: {%s}\nmodules: {m: {user: u, allow: [h], %s}}\ntargets: {a: {host: h, module: m, %s}}",
				test.defaults, test.module, test.target)
			f, err := Parse(strings.NewReader(text), "x.yml", Probing{Timeout: time.Second, Keep: test.flag}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := f.Targets[0].Keep; got != test.want {
				t.Errorf("the target keeps a session: %v, want %v", got, test.want)
			}
			if test.target != "" {
				return
			}
			adHoc, err := f.AdHoc("h:1", "m")
			if err != nil {
				t.Fatal(err)
			}
			if adHoc.Keep != test.want {
				t.Errorf("an ad-hoc target keeps a session: %v, want %v", adHoc.Keep, test.want)
			}
		})
	}
	if _, err := Parse(strings.NewReader("targets: {a: {host: h, user: u, keep: maybe}}"), "x.yml", Probing{}, nil); err == nil {
		t.Error("a wrong value is no problem if the flag overrides it")
	}
}

// TestProblems: the error holds all problems at once, each with its line and key, and no value.
func TestProblems(t *testing.T) {
	t.Parallel()
	const (
		secret     = "hunter2"
		targetKeys = "applications, cloud_auth, cloud_auth_insecure, commit, dbname, dsn, dsn_env, dsn_file, environment, host, host_env, host_file, hostaddr, interval, keep, kind, labels, module, password, password_command, password_command_ttl, password_env, password_file, port, require_auth, server_name, sslcert, sslcrl, sslkey, sslmode, sslpassword, sslpassword_env, sslpassword_file, sslrootcert, timeout, user, user_env, user_file"
	)
	for name, test := range map[string]struct{ text, want string }{
		"empty":     {"", "dir/x.yml: is empty"},
		"a comment": {"# nothing\n", "dir/x.yml: is empty"},
		"nothing":   {"defaults: {}\n", "dir/x.yml:1: needs at least one of targets, modules and checks"},
		"a text":    {"hunter2", "dir/x.yml:1: must be a mapping (key: value)"},
		"a list":    {"- a\n", "dir/x.yml:1: must be a mapping (key: value)"},
		"syntax":    {"targets:\n  a: {host: h\n", "dir/x.yml:1: did not find expected ',' or '}' somewhere in the list or mapping that begins here"},
		"tabs":      {"targets:\n\ta: {}\n", "dir/x.yml:2: found character that cannot start any token: write spaces instead of tabs, and quotes around a text that begins with %, @ or `"},
		"not UTF-8": {"targets:\n  a: {host: \"\xff\"}\n", "dir/x.yml:2: is not UTF-8"},
		"two":       {"targets: {a: {host: h, user: u}}\n---\nx: y\n", "dir/x.yml:2: begins a second document: a file can have only one"},
		"large":     {strings.Repeat("# "+strings.Repeat("x", 98)+"\n", 100000), "dir/x.yml: is larger than 4096 KiB"},
		"no anchor": {"targets: {a: {password: *hunter2}}\n", "dir/x.yml: an alias (*name) has no anchor (&name); a text that begins with * needs quotes"},
		"merge key": {"targets:\n  a: &a {host: h, user: u}\n  b:\n    <<: *a\n", "dir/x.yml:4: targets.b: has a merge key (<<), which is not supported: write common settings into a module or into defaults" + "\ndir/x.yml:4: targets.b: needs a host or a dsn\ndir/x.yml:4: targets.b: has no user, and neither its module nor defaults has one"},
		"itself":    {"targets: &a {a: *a}\n", "dir/x.yml:1: targets.a.a: unknown key; known here are " + targetKeys + "\ndir/x.yml:1: targets.a: needs a host or a dsn\ndir/x.yml:1: targets.a: has no user, and neither its module nor defaults has one"},
		"binary":    {"targets: {a: {host: !!binary aGk=, user: u}}\n", "dir/x.yml:1: targets.a.host: must be a text"},
		"slips": {
			"targets:\n  a: {host: h, user: u, password:hunter2}\n  b: {host: h, user: u, password: x, hunter}\n  c: {host: h, user: u, hunter2: x}\n",
			"dir/x.yml:2: targets.a: unknown key; known here are " + targetKeys + "\ndir/x.yml:3: targets.b: unknown key; known here are " + targetKeys +
				"\ndir/x.yml:4: targets.c: unknown key; known here are " + targetKeys,
		},
		"spellings": {
			"Defaults: {User: u}\ntargets:\n  a: {host: h, user: u, SSL_Mode: hunter2, passwordFile: hunter2, Hunter2: x}\n",
			"dir/x.yml:1: has another spelling of defaults: write defaults\ndir/x.yml:3: targets.a: has another spelling of sslmode: write sslmode" +
				"\ndir/x.yml:3: targets.a: has another spelling of password_file: write password_file\ndir/x.yml:3: targets.a: unknown key; known here are " + targetKeys,
		},
		"dsn with all faults": {
			"targets:\n  a: {port: 1, dsn: 'host=h:5 hots=z SSLMODE=hunter2 passfile=f port=0 require_auth=x sslnegotiation=hunter2'}\n",
			"dir/x.yml:2: targets.a.port: cannot be combined with dsn: write it into the connection string" +
				"\ndir/x.yml:2: targets.a.dsn: holds another spelling of sslmode: write sslmode\ndir/x.yml:2: targets.a.dsn: holds hots, which is not known" +
				"\ndir/x.yml:2: targets.a.dsn: holds passfile: libpq's files are not read, use the keys of this file" +
				"\ndir/x.yml:2: targets.a.dsn: has no user, and neither the target, its module nor defaults has one" +
				"\ndir/x.yml:2: targets.a.dsn: host must be a name, an address or the folder of a unix socket, without a port" +
				"\ndir/x.yml:2: targets.a.dsn: port must be a number from 1 to 65535" +
				"\ndir/x.yml:2: targets.a.dsn: require_auth must be a list of password, md5, scram-sha-256, gss, sspi, oauth and none, or of these with a ! before each" +
				"\ndir/x.yml:2: targets.a.dsn: sslnegotiation must be one of postgres, direct",
		},
		"system": {
			"defaults: {user: u, sslrootcert: system}\ntargets:\n  a: {host: h}\n  b: {host: h, sslmode: require}\n  c: {host: h, sslmode: verify-full}\n  d: {dsn: 'host=h sslmode=disable'}\n",
			"dir/x.yml:4: targets.b: sslrootcert system needs sslmode verify-full\ndir/x.yml:6: targets.d.dsn: sslrootcert system needs sslmode verify-full",
		},
		"dsn as a name": {
			"targets:\n  postgres://u:hunter2@h/db: {}\n  host=h password=hunter2: {}\n",
			"dir/x.yml:2: targets: has a connection string in place of a name\ndir/x.yml:3: targets: has a connection string in place of a name",
		},
		"mapped": {"modules: {m: {user: u, allow: ['::ffff:10.0.0.0/104']}}\n", "dir/x.yml:1: modules.m.allow[0]: must be written as an IPv4 network"},
		"dsn keys": {
			"targets:\n  a: {dsn: 'host=h user=u hots=z'}\n  b: {dsn: 'postgres://u@h?ssl_mode=require&hunter2=x'}\n",
			"dir/x.yml:2: targets.a.dsn: holds hots, which is not known\ndir/x.yml:3: targets.b.dsn: holds a key that is not known\ndir/x.yml:3: targets.b.dsn: holds another spelling of sslmode: write sslmode",
		},
		"pgbouncer": {
			"targets: {a: {host: h, user: u, kind: pgbouncer, commit: true, applications: true}}\n",
			"dir/x.yml:1: targets.a.applications: does not apply to a PgBouncer\ndir/x.yml:1: targets.a.commit: does not apply to a PgBouncer",
		},
		"health": {
			"health: {max_age: soon, fail_after: 0, failure_status: 99, words: {pass: ok, fail: ok}, extra: {status: x, a: [1]}, x: 1}\ntargets: {a: {host: h, user: u}}\n",
			"dir/x.yml:1: health.max_age: must be a duration such as 5s or 500ms\ndir/x.yml:1: health.fail_after: must be a number from 1 to 1000\n" +
				"dir/x.yml:1: health.failure_status: must be a number from 200 to 599\ndir/x.yml:1: health.words: has the same word for fail as for pass or warn\n" +
				"dir/x.yml:1: health.extra.status: is already a field of the body: choose another name\ndir/x.yml:1: health.extra.a: must be a text\n" +
				"dir/x.yml:1: health.x: unknown key; known here are extra, fail_after, failure_status, max_age, pass_after, words",
		},
		"after an unknown key": {
			"targets: {a: {host: h, user: u}}\ndefaults: {pasword: x, sslmode: maybe}\n",
			"dir/x.yml:2: defaults.pasword: unknown key; known here are applications, cloud_auth, commit, dbname, interval, keep, kind, labels, password, password_command, password_command_ttl, password_env, password_file, require_auth, server_name, sslcert, sslcrl, sslkey, sslmode, sslpassword, sslpassword_env, sslpassword_file, sslrootcert, timeout, user, user_env, user_file\n" +
				"dir/x.yml:2: defaults.sslmode: must be one of disable, allow, prefer, require, verify-ca, verify-full",
		},
		"no host":        {"targets: {a: }\n", "dir/x.yml:1: targets.a: needs a host or a dsn\ndir/x.yml:1: targets.a: has no user, and neither its module nor defaults has one"},
		"names of paths": {"targets: {.: {host: h, user: u}, ..: {host: h, user: u}}\n", "dir/x.yml:1: targets: a name must not be . or .., because the path of a URL cannot contain it\ndir/x.yml:1: targets: a name must not be . or .., because the path of a URL cannot contain it"},
		"odd names":      {"targets:\n  \"\": {host: h, user: u}\n  \"a\\nb\": {host: h, user: u}\n", "dir/x.yml:2: targets: a name must have 1 to 200 bytes and no control character\ndir/x.yml:3: targets: a name must have 1 to 200 bytes and no control character"},
		"many at once": {`
defaults: {timeout: hunter2, sslmode: hunter2, sslcert: c}
modules:
  m: {password: hunter2, password_file: f, allow: ["a b", "10.1.2.3/8", "-x"]}
  n: {allow: [h], user: u, require_auth: hunter2}
  m: {}
targets:
  a: {host: "h1,h2", user: u}
  b: {host: h, user: u, port: 0, hunter: 2, module: nowhere}
  c: {dsn: "postgres://u:hunter2@h", port: 5, password: x}
  d: {dsn: "postgres://u:hunter2@h1,h2"}
  e: {dsn: "service=s"}
  f: {dsn: "hunter2"}
  g: {host: h, user: u, interval: 10ms, applications: maybe, keep: maybe, password_command: hunter2, kind: mysql}
  h: {host: "h:5432", user: u}
  i: {host: h}
`, `dir/x.yml:2: defaults.timeout: must be a duration such as 5s or 500ms
dir/x.yml:2: defaults.sslmode: must be one of disable, allow, prefer, require, verify-ca, verify-full
dir/x.yml:2: defaults: has only one of sslcert and sslkey
dir/x.yml:4: modules.m.password_file: is given in several ways: keep one of cloud_auth, password, password_command, password_env and password_file
dir/x.yml:4: modules.m.allow[0]: must be a name such as db.example.org or *.example.org, an address, or a network such as 10.20.0.0/16
dir/x.yml:4: modules.m.allow[1]: must have no bits set after the prefix: 10.20.0.0/16 and not 10.20.0.1/16
dir/x.yml:4: modules.m.allow[2]: must be a name such as db.example.org or *.example.org, an address, or a network such as 10.20.0.0/16
dir/x.yml:4: modules.m: has allow but no user, and defaults has none either
dir/x.yml:5: modules.n.require_auth: must be a list of password, md5, scram-sha-256, gss, sspi, oauth and none, or of these with a ! before each
dir/x.yml:6: modules: duplicate key, first in line 4
dir/x.yml:8: targets.a.host: names several servers: make each of them a separate target
dir/x.yml:9: targets.b.port: must be a number from 1 to 65535
dir/x.yml:9: targets.b.hunter: unknown key; known here are ` + targetKeys + `
dir/x.yml:9: targets.b.module: there is no module with this name
dir/x.yml:10: targets.c.port: cannot be combined with dsn: write it into the connection string
dir/x.yml:10: targets.c.dsn: holds password, which the target also sets with a key of its own: keep one of them
dir/x.yml:11: targets.d.dsn: names several servers: make each of them a separate target
dir/x.yml:12: targets.e.dsn: holds service: libpq's files are not read, use the keys of this file
dir/x.yml:13: targets.f.dsn: is not a list of keyword=value: put values with spaces into single quotes, and a backslash before ' and \
dir/x.yml:14: targets.g.interval: must be 0s or at least 100ms
dir/x.yml:14: targets.g.applications: must be true or false
dir/x.yml:14: targets.g.keep: must be true or false
dir/x.yml:14: targets.g.password_command: must be a list, such as ["a", "b"]
dir/x.yml:14: targets.g.kind: must be one of postgres, pgbouncer
dir/x.yml:15: targets.h.host: must be a name, an address or the folder of a unix socket, without a port
dir/x.yml:16: targets.i: has no user, and neither its module nor defaults has one`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parseText(t, test.text)
			if err == nil {
				t.Fatal("no error")
			}
			if err.Error() != test.want {
				t.Errorf("got\n%s\nwant\n%s", err, test.want)
			}
			if strings.Contains(err.Error(), secret) {
				t.Error("a value is shown")
			}
		})
	}
}

// TestLoadOdd: Load returns an error for what is no readable file, and does not wait.
func TestLoadOdd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for path, want := range map[string]string{
		dir: dir + ": is a directory", "/dev/zero": "/dev/zero: is not a regular file",
		filepath.Join(dir, "none"): "a file in " + dir + ": no such file or directory",
	} {
		_, err := Load(path, Probing{}, nil)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestEqual: two targets are equal if all their settings are.
func TestEqual(t *testing.T) {
	t.Parallel()
	text := `
modules: {m: {user: u, password_command: [a, b], allow: [x]}}
targets: {a: {host: h, module: m}}`
	before := mustParse(t, text).Targets[0]
	if !before.Equal(mustParse(t, "# moved\n"+text).Targets[0]) {
		t.Error("the same settings make another target")
	}
	for _, change := range [][2]string{
		{"user: u", "user: v"},
		{"[a, b]", "[a, c]"},
		{"host: h", "host: h2"},
		{"host: h", "host: h, timeout: 1s"},
		{"host: h", "host: h, port: 1"},
		{"host: h", "host: h, sslmode: disable"},
		{"host: h", "host: h, interval: 1s"},
		{"a: {", "b: {"},
	} {
		if before.Equal(mustParse(t, strings.Replace(text, change[0], change[1], 1)).Targets[0]) {
			t.Errorf("%v makes the same target", change)
		}
	}
}

// TestAllow: a module's credentials go to the hosts and addresses of its list alone.
func TestAllow(t *testing.T) {
	t.Parallel()
	f := mustParse(t, `
modules:
  names: {user: u, allow: ["*.db.example.org", "exact.example.org", "db-*"]}
  networks: {user: u, allow: ["10.20.0.0/16", "2001:db8::/32", "127.0.0.1"]}
  both: {user: u, allow: ["*.example.org", "10.20.0.0/16"]}
  closed: {user: u}`)
	for _, test := range []struct {
		module, target string
		want           bool
	}{
		{"names", "a.db.example.org:5432", true},
		{"names", "A.DB.example.ORG:5432", true},
		{"names", "exact.example.org:1", true},
		{"names", "db-1:5432", true},
		{"names", "db-1.evil.example:5432", false},
		{"names", "a.b.db.example.org:5432", false},
		{"names", "db.example.org:5432", false},
		{"names", "a.db.example.org.evil.example:5432", false},
		{"names", "10.20.1.2:5432", false},
		{"networks", "10.20.1.2:5432", true},
		{"networks", "[::ffff:10.20.1.2]:5432", true},
		{"networks", "[2001:db8::1]:5432", true},
		{"networks", "127.0.0.1:5432", true},
		{"networks", "127.0.0.2:5432", false},
		{"networks", "10.21.1.2:5432", false},
		{"networks", "0.0.0.0:5432", false},
		{"networks", "a.db.example.org:5432", false},
		{"networks", "10.20.1.2.:5432", false},
		{"both", "x.example.org:5432", true},
		{"both", "10.20.1.2:5432", true},
		{"both", "10.21.1.2:5432", false},
		{"closed", "10.20.1.2:5432", false},
		{"nowhere", "10.20.1.2:5432", false},
		{"networks", "10.20.1.2", false},
		{"networks", "10.20.1.2:", false},
		{"networks", "10.20.1.2:0", false},
		{"networks", "10.20.1.2:+5", false},
		{"networks", "10.20.1.2:65536", false},
		{"networks", "u:p@10.20.1.2:5432", false},
		{"networks", "postgres://10.20.1.2:5432", false},
		{"networks", "host=10.20.1.2:5432", false},
		{"networks", "/tmp:5432", false},
		{"networks", "10.20.1.2:5432\n", false},
		{"networks", "[fe80::1%eth0]:5432", false},
		{"names", "a'b.db.example.org:5432", false},
		{"names", ".db.example.org:5432", false},
		{"names", ":5432", false},
		{"names", "", false},
	} {
		target, err := f.AdHoc(test.target, test.module)
		if (err == nil) != test.want {
			t.Errorf("%s with %s: %v", test.target, test.module, err)
		}
		if err != nil && test.target != "" && strings.Contains(err.Error(), test.target) {
			t.Errorf("%s: the error repeats it: %v", test.target, err)
		}
		if err == nil && target.Permits("169.254.169.254") {
			t.Errorf("%s with %s: the link's addresses are allowed", test.target, test.module)
		}
	}
	for module, want := range map[string]map[string]bool{
		"names": {"192.0.2.1": true, "127.0.0.1": false, "::1": false, "fe80::1%eth0": false, "0.0.0.0": false, "224.0.0.1": false, "::ffff:127.0.0.1": false, "fd00:ec2::254": false, "64:ff9b::169.254.169.254": false, "64:ff9b::192.0.2.1": true},
		"both":  {"10.20.0.1": true, "192.0.2.1": false, "127.0.0.1": false},
	} {
		target, err := f.AdHoc(map[string]string{"names": "exact.example.org:1", "both": "x.example.org:1"}[module], module)
		if err != nil {
			t.Fatal(err)
		}
		for address, want := range want {
			if got := target.Permits(address); got != want {
				t.Errorf("%s leads to %s: %v", module, address, got)
			}
		}
	}
}

// TestManyProblems: an error has at most maxProblems, even if aliases make many more.
func TestManyProblems(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("targets:\n  a: &a {host: h")
	for i := range 700 {
		fmt.Fprintf(&text, ", k%d: x", i)
	}
	text.WriteString("}\n")
	for i := range 700 {
		fmt.Fprintf(&text, "  b%d: *a\n", i)
	}
	_, err := parseText(t, text.String())
	if err == nil || strings.Count(err.Error(), "\n") != maxProblems || !strings.HasSuffix(err.Error(), "and more") {
		t.Errorf("got %d lines", strings.Count(err.Error(), "\n"))
	}
}

// FuzzParse: any file is a valid configuration, or gives an error that names the file.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"targets: {a: {host: h, user: u}}", "modules: {m: {user: u, allow: [x, 10.0.0.0/8]}}", "targets: {a: {dsn: 'host=h user=u'}}",
		"targets: {a: &a {host: *a}}", "targets: {a: {dsn: 'postgres://u:p@h:5/d?sslmode=require&x=y'}}", "? [a]\n: b", "targets: !!binary aGk=",
		"defaults: {password_command: [a], password_command_ttl: 1s, timeout: 1s, interval: 1s, applications: yes}",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		_, err := Parse(bytes.NewReader(content), "x.yml", Probing{Timeout: time.Second}, nil)
		if err == nil {
			return
		}
		for line := range strings.Lines(err.Error()) {
			if !strings.HasPrefix(line, "x.yml:") {
				t.Errorf("%q does not name the file", line)
			}
		}
	})
}

// TestHealthSection: the section sets what it has, and the defaults apply to the rest.
func TestHealthSection(t *testing.T) {
	t.Parallel()
	f := mustParse(t, "health: {max_age: 2s, fail_after: 3, words: {fail: unhealthy}, extra: {s: x, n: 3, b: true}}\ntargets: {a: {host: h, user: u}}\n")
	want := DefaultHealth()
	want.MaxAge, want.FailAfter, want.StatusNames.Fail = 2*time.Second, 3, "unhealthy"
	want.Extra = map[string]any{"s": "x", "n": int64(3), "b": true}
	if !reflect.DeepEqual(f.Health, want) {
		t.Errorf("got %+v, want %+v", f.Health, want)
	}
	if f := mustParse(t, "targets: {a: {host: h, user: u}}\n"); !reflect.DeepEqual(f.Health, DefaultHealth()) {
		t.Errorf("without the section: %+v", f.Health)
	}
}
