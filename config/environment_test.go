// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFromEnvironment: the first of the variables in the documented order wins, and what they say arrives.
// pgconn reads libpq's variables from the process, so these are set for real.
func TestFromEnvironment(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	passfile := file("pgpass", "h2:5432:postgres:alice:from-passfile\n")
	for _, test := range []struct {
		name                       string
		env                        map[string]string
		used                       string
		user, password, host, base string
		port                       uint16
	}{
		{
			"DATA_SOURCE_NAME first",
			map[string]string{
				"DATA_SOURCE_NAME": "postgres://u:p%20w@h:1/d", "DATA_SOURCE_URI": "other/x", "DATABASE_URL": "postgres://x", "POSTGRES_HOST": "y", "PGHOST": "z",
			},
			"DATA_SOURCE_NAME", "u", "p w", "h", "d", 1,
		},
		{
			"its file",
			map[string]string{"DATA_SOURCE_NAME": "postgres://x", "DATA_SOURCE_NAME_FILE": file("dsn", "host=h user=u password='p, \\'w'\n")},
			"DATA_SOURCE_NAME_FILE", "u", "p, 'w", "h", "postgres", 5432,
		},
		{
			"parts",
			map[string]string{"DATA_SOURCE_URI": "h:7/d?sslmode=disable", "DATA_SOURCE_USER": "u@x/y", "DATA_SOURCE_PASS": "p@:/?#[]%", "DATABASE_URL": "postgres://x"},
			"DATA_SOURCE_URI", "u@x/y", "p@:/?#[]%", "h", "d", 7,
		},
		{
			"parts from files",
			map[string]string{
				"DATA_SOURCE_URI_FILE": file("uri", "h"), "DATA_SOURCE_USER_FILE": file("user", "u\n"), "DATA_SOURCE_PASS_FILE": file("pass", " p \r\n"),
			},
			"DATA_SOURCE_URI_FILE", "u", " p ", "h", "postgres", 5432,
		},
		{
			"a password from libpq's passfile for the parts' user",
			map[string]string{"DATA_SOURCE_URI": "h2", "DATA_SOURCE_USER": "alice", "PGPASSFILE": passfile},
			"DATA_SOURCE_URI", "alice", "from-passfile", "h2", "postgres", 5432,
		},
		{
			"parts with settings",
			map[string]string{"DATA_SOURCE_URI": "h?sslmode=disable", "DATA_SOURCE_USER": "u"},
			"DATA_SOURCE_URI", "u", "", "h", "postgres", 5432,
		},
		{
			"a URI with its scheme",
			map[string]string{"DATA_SOURCE_URI": "postgres://h/d", "DATA_SOURCE_USER": "u"},
			"DATA_SOURCE_URI", "u", "", "h", "d", 5432,
		},
		{
			"DATABASE_URL",
			map[string]string{"DATABASE_URL": "postgresql+asyncpg://u:p@h/d", "POSTGRES_HOST": "y"},
			"DATABASE_URL", "u", "p", "h", "d", 5432,
		},
		{
			"an application's parameters",
			map[string]string{"DATABASE_URL": "postgresql+asyncpg://u:p%3F@h/d?pool_size=3&ssl=disable&schema=public&application_name=pg_liveness_exporter"},
			"DATABASE_URL", "u", "p?", "h", "d", 5432,
		},
		{
			"the container image's names",
			map[string]string{
				"POSTGRES_HOST": "h", "POSTGRES_PORT": "9", "POSTGRES_DB": `d'\ b`, "POSTGRES_USER": "u", "POSTGRES_PASSWORD": "p", "PGHOST": "z",
			},
			"POSTGRES_*", "u", "p", "h", `d'\ b`, 9,
		},
		{
			"Kubernetes' variable for a Service called postgres",
			map[string]string{"POSTGRES_HOST": "h", "POSTGRES_USER": "u", "POSTGRES_PORT": "tcp://10.96.1.2:5432"},
			"POSTGRES_*", "u", "", "h", "postgres", 5432,
		},
		{
			"libpq's names",
			map[string]string{"PGHOST": "h", "PGPORT": "8", "PGUSER": "u", "PGPASSWORD": "p", "PGDATABASE": "d"},
			"libpq's variables and defaults", "u", "p", "h", "d", 8,
		},
		{
			"libpq's service file",
			map[string]string{"PGSERVICE": "s", "PGSERVICEFILE": file("service", "[s]\nhost=h\nuser=u\npassword=p\ndbname=d\n")},
			"libpq's variables and defaults", "u", "p", "h", "d", 5432,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, name := range []string{"PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE", "PGSSLMODE"} {
				t.Setenv(name, test.env[name])
			}
			if test.env["PGPASSFILE"] == "" {
				t.Setenv("PGPASSFILE", filepath.Join(dir, "none"))
			}
			target, used, err := FromEnvironment(func(name string) string { return test.env[name] }, Probing{})
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := target.ConnConfig(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := []any{used, cfg.User, cfg.Password, cfg.Host, cfg.Database, cfg.Port}
			want := []any{test.used, test.user, test.password, test.host, test.base, test.port}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if len(cfg.RuntimeParams) != 1 || cfg.RuntimeParams["application_name"] != applicationName {
				t.Errorf("%v", cfg.RuntimeParams)
			}
			if strings.Contains(test.env["DATABASE_URL"], "ssl=disable") && (cfg.TLSConfig != nil || len(cfg.Fallbacks) != 0) {
				t.Error("ssl is not sslmode")
			}
		})
	}
}

// TestListsSeveral: postgres_exporter's comma-separated form is told from commas that belong to a value.
func TestListsSeveral(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]bool{
		"postgres://u:p@h/d,postgresql://u:p@h/d":     true,
		"postgres://u:p,w@h/d":                        false,
		"host=a user=u password=p,host=b user=u":      true,
		"host=a user=u password='p,host=b'":           false,
		`host=a user=u password=p\',\ host=b`:         false,
		"host=a user=u password=p,w":                  false,
		"host=a user=u options='-c work_mem=1,a=b'":   false,
		"postgres://u:p%2Cpostgres%3A%2F%2Fx@h/d?x=y": false,
	} {
		if got := listsSeveral(dsn); got != want {
			t.Errorf("%s: got %v", dsn, got)
		}
	}
}

// TestTLSFiles: what is wrong with TLS settings is told apart from what is wrong with credentials.
func TestTLSFiles(t *testing.T) {
	t.Parallel()
	for dsn, wantTLS := range map[string]bool{
		"host=h sslmode=verify-full sslrootcert=/nonexistent": true,
		"host=h sslcert=/nonexistent sslkey=/nonexistent":     true,
		"host=h port=99999": false,
	} {
		_, _, err := FromEnvironment(func(name string) string {
			if name == "DATA_SOURCE_NAME" {
				return dsn
			}
			return ""
		}, Probing{})
		var tlsErr *TLSError
		if err == nil || errors.As(err, &tlsErr) != wantTLS {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}

func TestSecret(t *testing.T) {
	t.Parallel()
	s := struct{ Password Secret }{"hunter2"}
	encoded, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("%s %v %+v %#v %q", s.Password, s, s, s, s.Password), string(encoded)} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("shown: %s", text)
		}
	}
}
