// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnread tests that every login reads the files of a connection string, a host and a user, and that the error about what
// they hold names the key and holds no part of it.
func TestUnread(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := parseFile(t, fmt.Sprintf(`
defaults: {user_file: %[1]s/user, dbname: orders}
modules: {m: {allow: ["db-*"], password_command: [printf, "{host} {port} {user} {dbname}"]}}
targets:
  dsn: {dsn_file: %[1]s/dsn}
  host: {host_file: %[1]s/host, port: 6000, module: m}
  user: {host: h, user_file: %[1]s/user}
  own: {host_file: %[1]s/host, user: me}
`, dir))
	adHoc, err := f.AdHoc("db-1:7", "m")
	if err != nil {
		t.Fatal(err)
	}
	store := NewStore(t.Context())
	sources := map[string]*Source{"ad-hoc": store.For(adHoc)}
	for _, target := range f.Targets {
		sources[target.Name] = store.For(target)
	}
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		files map[string]string
		want  map[string]string
	}{
		{
			map[string]string{"dsn": "postgres://a:hunter2@h1:1/d\n", "host": "h2\r\n", "user": "u1\n"},
			map[string]string{
				"dsn": "h1 1 d a hunter2", "host": "h2 6000 orders u1 h2 6000 u1 orders", "user": "h 5432 orders u1 ", "own": "h2 5432 orders me ",
				"ad-hoc": "db-1 7 orders u1 db-1 7 u1 orders",
			},
		},
		{
			map[string]string{"dsn": "host=h3", "host": "::1", "user": "u 2"},
			map[string]string{
				"dsn": "h3 5432 orders u 2 ", "host": "::1 6000 orders u 2 ::1 6000 u 2 orders", "user": "h 5432 orders u 2 ",
				"own": "::1 5432 orders me ", "ad-hoc": "db-1 7 orders u 2 db-1 7 u 2 orders",
			},
		},
		{
			map[string]string{"dsn": "host=h user=u hunter2", "host": "h,hunter2", "user": ""},
			map[string]string{
				"dsn":    "user_file: " + dir + "/user: is empty",
				"host":   "user_file: " + dir + "/user: is empty",
				"own":    "host_file: names several servers: make each of them a separate target",
				"ad-hoc": "user_file: " + dir + "/user: is empty",
			},
		},
		{
			map[string]string{"dsn": "postgres://u:hunter2@h1,h2", "host": "hunter2:5432", "user": "u"},
			map[string]string{
				"dsn": "dsn_file: names several servers: make each of them a separate target",
				"own": "host_file: must be a name, an address or the folder of a unix socket, without a port",
			},
		},
	} {
		for name, content := range test.files {
			write(name, content)
		}
		for name, want := range test.want {
			cfg, err := sources[name].ConnConfig(t.Context())
			var got string
			if err != nil {
				got = err.Error()
				if strings.Contains(got, "hunter2") {
					t.Errorf("%s: a part of a file is shown: %s", name, got)
				}
			} else {
				got = fmt.Sprint(cfg.Host, " ", cfg.Port, " ", cfg.Database, " ", cfg.User, " ", cfg.Password)
			}
			if got != want {
				t.Errorf("%s with %q:\n got %s\nwant %s", name, test.files, got, want)
			}
		}
	}
	if !sources["host"].FetchesPassword() || sources["own"].FetchesPassword() {
		t.Error("whether there is a command")
	}
	if err := os.Remove(filepath.Join(dir, "host")); err != nil {
		t.Fatal(err)
	}
	want := "host_file: a file in " + dir + ": no such file or directory"
	if _, err := sources["own"].ConnConfig(t.Context()); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
