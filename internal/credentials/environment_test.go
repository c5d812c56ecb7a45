// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_liveness_exporter/config"
)

// TestFromEnvironment: a login has what the variables say. pgconn reads libpq's variables from the process, so the test
// sets those in it.
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
				"DATA_SOURCE_URI_FILE": file("uri", "h"), "DATA_SOURCE_USER_FILE": file("user", "u\n"), "DATA_SOURCE_PASS_FILE": file("pass", "\ufeff p \r\n"),
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
			target, err := config.FromEnvironment(func(name string) string { return test.env[name] }, config.Probing{})
			if err != nil {
				t.Fatal(err)
			}
			if err := VerifyEnvironment(target.Login.Environment); err != nil {
				t.Fatal(err)
			}
			cfg, err := NewStore(t.Context()).For(target).ConnConfig(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := []any{target.Login.Environment.Source, cfg.User, cfg.Password, cfg.Host, cfg.Database, cfg.Port}
			want := []any{test.used, test.user, test.password, test.host, test.base, test.port}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if len(cfg.RuntimeParams) != 1 || cfg.RuntimeParams["application_name"] != config.ApplicationName {
				t.Errorf("%v", cfg.RuntimeParams)
			}
			if strings.Contains(test.env["DATABASE_URL"], "ssl=disable") && (cfg.TLSConfig != nil || len(cfg.Fallbacks) != 0) {
				t.Error("ssl is not sslmode")
			}
		})
	}
}

// TestAllFaults: everything that is wrong with variables is reported at once.
func TestAllFaults(t *testing.T) {
	t.Setenv("PGREQUIREPEER", "hunter2")
	t.Setenv("PGCHANNELBINDING", "hunter2")
	err := VerifyEnvironment(&config.Environment{Source: "DATABASE_URL", Form: config.FormDatabaseURL, Variables: map[string]config.Variable{
		"DATABASE_URL": {Text: "postgres://u@h:0/d?hots=x&sslmode=hunter2"},
	}})
	const want = "DATABASE_URL: holds hots, which is not known; " +
		"port must be a number from 1 to 65535; sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full; " +
		"PGREQUIREPEER is refused: the exporter does not check who owns a server's process; use TLS with sslmode verify-full; " +
		"libpq's variables: channel_binding must be one of disable, prefer, require"
	if fmt.Sprint(err) != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// TestUnusableService: an error about libpq's service file says which file is meant and what it lacks. It has no name.
func TestUnusableService(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	other, broken := filepath.Join(home, "other"), filepath.Join(home, "broken")
	for path, content := range map[string]string{other: "[hunter]\nhost=h\n", broken: "hunter\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const file = "the service file (PGSERVICEFILE, otherwise ~/.pg_service.conf) "
	for path, want := range map[string]string{
		"":                       file + "cannot be read: a file in " + home + ": no such file or directory",
		home + "/none/hunter2":   file + "cannot be read: a file in " + home + ": no such file or directory",
		other:                    file + "has no section for the service (PGSERVICE)",
		broken:                   "the service file cannot be parsed: it has sections, and lines of keyword=value in them",
		filepath.Join(home, "."): "servicefile: " + home + ": is a directory",
	} {
		t.Setenv("PGSERVICE", "hunter2")
		t.Setenv("PGSERVICEFILE", path)
		if err := verifyDSN("host=h"); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", path, err, want)
		}
	}
}

// TestEnvironmentFiles: every login reads the files that the variables name. A file that cannot be used is an error
// that names the variable and the path.
func TestEnvironmentFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hunter2")
	target, err := config.FromEnvironment(func(name string) string {
		return map[string]string{"DATA_SOURCE_URI": "h/d", "DATA_SOURCE_USER": "u", "DATA_SOURCE_PASS_FILE": path}[name]
	}, config.Probing{})
	if err != nil {
		t.Fatal(err)
	}
	source := NewStore(t.Context()).For(target)
	for _, password := range []string{"one", "", "two"} {
		if err := os.WriteFile(path, []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := source.ConnConfig(t.Context())
		switch {
		case password == "" && (err == nil || err.Error() != "DATA_SOURCE_PASS_FILE: "+path+": is empty"):
			t.Errorf("an empty file: %v", err)
		case password != "" && (err != nil || cfg.Password != password):
			t.Errorf("%s: %v", password, err)
		}
	}
	if source.FetchesPassword() || source.PasswordRefused("two") {
		t.Error("a password of a file is fetched anew")
	}
}

// TestFileTargetFromEnvironment: a target of a file that the environment names is verified when the file is loaded.
func TestFileTargetFromEnvironment(t *testing.T) {
	for _, name := range []string{"DATA_SOURCE_NAME", "DATA_SOURCE_URI"} {
		t.Setenv(name, "")
	}
	load := func() (*config.File, error) {
		text := "targets:\n  orders: {environment: true}\n"
		return config.Parse(strings.NewReader(text), "x.yml", config.Probing{Timeout: time.Second}, &config.Verifier{Environment: VerifyEnvironment})
	}
	t.Setenv("DATABASE_URL", "postgresql+psycopg2://u:hunter2@db:5433/orders")
	file, err := load()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := NewStore(t.Context()).For(file.Targets[0]).ConnConfig(t.Context())
	if err != nil || cfg.Host != "db" || cfg.Port != 5433 || cfg.Database != "orders" || cfg.User != "u" || cfg.Password != "hunter2" {
		t.Errorf("%v %v", cfg, err)
	}
	t.Setenv("DATABASE_URL_FILE", "/nonexistent/hunter2")
	if _, err := load(); err == nil || err.Error() != "x.yml:2: targets.orders.environment: DATABASE_URL_FILE: a file in /: no such file or directory" {
		t.Errorf("a missing file: %v", err)
	}
	t.Setenv("DATABASE_URL_FILE", "")
	t.Setenv("DATABASE_URL", "postgres://a:hunter2@h,postgres://b:hunter2@h")
	if _, err := load(); err == nil || err.Error() !=
		"x.yml:2: targets.orders.environment: DATABASE_URL: names several servers: make each of them a separate target: list them in a --config.file" {
		t.Errorf("several servers: %v", err)
	}
}

// TestTLSFiles: an error about TLS settings has a type of its own, so that it is told from one about credentials.
func TestTLSFiles(t *testing.T) {
	t.Parallel()
	for dsn, wantTLS := range map[string]bool{
		"host=h sslmode=verify-full sslrootcert=/nonexistent": true,
		"host=h sslcert=/nonexistent sslkey=/nonexistent":     true,
		"host=h port=99999": false,
	} {
		err := VerifyEnvironment(&config.Environment{
			Source: "DATA_SOURCE_NAME", Form: config.FormDataSourceName,
			Variables: map[string]config.Variable{"DATA_SOURCE_NAME": {Text: config.Secret(dsn)}},
		})
		var tlsErr *config.TLSError
		if err == nil || errors.As(err, &tlsErr) != wantTLS {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}
