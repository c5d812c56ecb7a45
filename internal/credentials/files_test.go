// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package credentials

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pg_liveness_exporter/config"
)

// oddFiles returns files whose reading would take all memory or for ever, and what an error calls them.
func oddFiles(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	pipe, huge := filepath.Join(dir, "pipe"), filepath.Join(dir, "huge")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.WriteFile(huge, nil, 0o600), os.Truncate(huge, 1<<30)); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"/dev/zero": "is not a regular file", pipe: "is not a regular file", dir: "is a directory", huge: "is larger than 4096 KiB",
	}
}

// TestOddFiles: no login reads a file that is endless, huge or not a file, whatever names it. The error names the file.
func TestOddFiles(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	if err := os.Mkdir(filepath.Join(home, ".postgresql"), 0o700); err != nil {
		t.Fatal(err)
	}
	serviceFile := filepath.Join(home, "services")
	for path, problem := range oddFiles(t) {
		if err := os.WriteFile(serviceFile, fmt.Appendf(nil, "[s]\nhost=h\nsslrootcert=%s\n", path), 0o600); err != nil {
			t.Fatal(err)
		}
		quoted := "'" + path + "'"
		for _, c := range []struct {
			dsn       string
			variables map[string]string
			key       string
		}{
			{dsn: "host=h sslrootcert=" + quoted, key: "sslrootcert"},
			{dsn: "host=h sslcert=" + quoted + " sslkey=/nonexistent", key: "sslcert"},
			{dsn: "host=h sslcert=" + serviceFile + " sslkey=" + quoted, key: "sslkey"},
			{dsn: "host=h passfile=" + quoted, key: "passfile"},
			{dsn: "service=s servicefile=" + quoted, key: "servicefile"},
			{dsn: "service=s servicefile='" + serviceFile + "'", key: "sslrootcert"},
			{dsn: "postgres://h/d?sslroot%63ert=" + strings.ReplaceAll(path, "/", "%2F"), key: "sslrootcert"},
			{dsn: "host=h", variables: map[string]string{"PGSSLROOTCERT": path}, key: "sslrootcert"},
			{dsn: "host=h", variables: map[string]string{"PGSSLCERT": path, "PGSSLKEY": "/nonexistent"}, key: "sslcert"},
			{dsn: "host=h", variables: map[string]string{"PGSSLCERT": serviceFile, "PGSSLKEY": path}, key: "sslkey"},
			{dsn: "host=h", variables: map[string]string{"PGPASSFILE": path}, key: "passfile"},
			{dsn: "host=h", variables: map[string]string{"PGSERVICE": "s", "PGSERVICEFILE": path}, key: "servicefile"},
			{dsn: "host=h", variables: map[string]string{"PGSERVICE": "s", "PGSERVICEFILE": serviceFile}, key: "sslrootcert"},
		} {
			t.Run("", func(t *testing.T) {
				for name, value := range c.variables {
					t.Setenv(name, value)
				}
				err := verifyDSN(c.dsn)
				want := fmt.Sprintf("%s: %s: %s", c.key, path, problem)
				var tlsErr *config.TLSError
				isTLS := errors.As(err, &tlsErr)
				if isTLS {
					want = "TLS settings: " + want
				}
				if err == nil || err.Error() != want || isTLS != strings.HasPrefix(c.key, "ssl") {
					t.Errorf("%s, %v: %v, want %s", c.dsn, c.variables, err, want)
				}
			})
		}
		if err := os.Symlink(path, filepath.Join(home, ".pgpass")); err != nil {
			t.Fatal(err)
		}
		if err := verifyDSN("host=h"); err == nil || !strings.HasSuffix(err.Error(), problem) {
			t.Errorf("~/.pgpass: %v", err)
		}
		if err := os.Remove(filepath.Join(home, ".pgpass")); err != nil {
			t.Fatal(err)
		}
		// A target of a configuration file, which is also valid while the file is what it is.
		f := parseFile(t, fmt.Sprintf(`
targets:
  fields: {host: h, user: u, sslmode: verify-full, sslrootcert: %[1]q}
  dsn: {dsn: "host=h user=u sslmode=verify-full sslrootcert='%[1]s'"}
checks: {c: {http: "https://h", sslrootcert: %[1]q}}`, path))
		for _, target := range f.Targets {
			var tlsErr *config.TLSError
			if _, err := NewStore(t.Context()).For(target).ConnConfig(t.Context()); !errors.As(err, &tlsErr) || !strings.Contains(err.Error(), path+": "+problem) {
				t.Errorf("%s: %v", target.Name, err)
			}
		}
		if _, err := ForCheck(f.Checks[0]).Read(f.Checks[0].TLS.Roots); err == nil || err.Error() != "sslrootcert: "+problem {
			t.Errorf("check: %v", err)
		}
	}
}

// TestUnusualFiles: what libpq accepts stays accepted: a passfile that is turned off, and files that are not there.
func TestUnusualFiles(t *testing.T) {
	t.Setenv("HOME", os.DevNull)
	for _, path := range []string{os.DevNull, "/nonexistent", os.DevNull + "/x"} {
		t.Setenv("PGPASSFILE", path)
		if err := verifyDSN("host=h"); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestHomeFiles: the files of TLS in the home directory are taken as libpq takes them, for each sslmode.
func TestHomeFiles(t *testing.T) {
	const (
		allFiles = "root.crt root.crl postgresql.crt postgresql.key"
		pair     = " postgresql.crt postgresql.key"
	)
	for _, test := range []struct{ files, dsn, want string }{
		{allFiles, "host=h sslmode=allow", "root.crt " + pair},
		{allFiles, "host=h sslmode=prefer", "root.crt " + pair},
		{allFiles, "host=h sslmode=require", "root.crt root.crl" + pair}, // like verify-ca, since there is a root.crt
		{allFiles, "host=h sslmode=verify-ca", "root.crt root.crl" + pair},
		{allFiles, "host=h sslmode=verify-full", "root.crt root.crl" + pair},
		{allFiles, "host=h sslnegotiation=direct", "root.crt root.crl" + pair},
		{"root.crl", "host=h sslmode=require", "   "},
		{"root.crl", "host=h sslmode=verify-full", "   "}, // the system's roots
		{allFiles, "host=h sslmode=verify-full sslrootcert=system", "system " + pair},
		{allFiles, "host=h sslmode=verify-ca sslrootcert=other", "other root.crl" + pair},
		{allFiles, "host=h sslmode=verify-ca sslcrl=other", "root.crt other" + pair},
		{allFiles, "host=h sslmode=verify-ca sslcrl='' sslrootcert=''", "root.crt root.crl" + pair},
		{allFiles, "host=h sslmode=require sslcertmode=disable", "root.crt root.crl  "},
		{allFiles, "host=h sslmode=prefer sslcert=other", "root.crt  other postgresql.key"},
		{allFiles, "host=h sslmode=prefer sslkey=other", "root.crt  postgresql.crt other"},
		{"postgresql.key", "host=h sslmode=prefer", "   "},
		{"postgresql.crt", "host=h sslmode=prefer", "has only one of sslcert and sslkey; the certificate of an authority is sslrootcert"},
	} {
		t.Run(test.files+" "+test.dsn, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv("HOME", home)
			folder := filepath.Join(home, ".postgresql")
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, name := range strings.Fields(test.files) {
				if err := os.WriteFile(filepath.Join(folder, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			settings, err := config.ParseConnString(config.Secret(test.dsn))
			if err != nil {
				t.Fatal(err)
			}
			var got string
			if c, err, variablesErr := connection(settings, true); err != nil || variablesErr != nil {
				got = fmt.Sprint(err)
			} else {
				got = strings.ReplaceAll(strings.Join([]string{c.TLS.Roots, c.TLS.Revoked, c.TLS.Certificate, c.TLS.Key}, " "), folder+"/", "")
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// verifyDSN reports why no login can be made of DATA_SOURCE_NAME.
func verifyDSN(dsn string) error {
	err := VerifyEnvironment(&config.Environment{
		Form: config.FormDataSourceName, Variables: map[string]config.Variable{"DATA_SOURCE_NAME": {Text: config.Secret(dsn)}},
	})
	if err != nil {
		err = errors.Unwrap(err)
	}
	return err
}
