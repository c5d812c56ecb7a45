// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestListsSeveral: a comma that belongs to a value does not make a list of connection strings.
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

// TestFilesOfConnString: a configuration is loaded without reading the files of its connection strings.
func TestFilesOfConnString(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"host=h user=u sslmode=verify-full sslrootcert=/dev/zero": "",
		"host=h user=u sslcert=/dev/zero sslkey=/dev/zero":        "",
		"host=h user=u passfile=/dev/zero":                        "holds passfile",
		"postgres://u@h/?service=s&servicefile=%2Fdev/zero":       "holds service",
	} {
		_, err := parseText(t, fmt.Sprintf("targets: {a: {dsn: %q}}", dsn))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", dsn, err, want)
		}
	}
}

// TestAddSettings: what is added changes no value of a connection string, also where its last value is empty.
func TestAddSettings(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"host=h user=u password=": "", `host=h user=u password=a\`: "a", "host=h user=u password='a b' ": "a b",
		"postgres://u:a%20b@h": "a b", "postgres://u:a@h?": "a", "postgres://u:a@h?x=y&": "a", "host=h user=u password=a=": "a=",
	} {
		cfg, err := parseWithoutFiles(AddSettings(Secret(dsn), map[string]string{"passfile": "", "application_name": "it's"}))
		if err != nil || cfg.Password != want || cfg.RuntimeParams["application_name"] != "it's" {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}

// FuzzConnStringSettings: the keys are those that pgconn finds, and the values of run-time parameters are equal. Added
// settings change no other.
func FuzzConnStringSettings(f *testing.F) {
	for _, dsn := range []string{
		"host=h user=u", `host = h  user='a \'b' dbname=d options=-c\ x sslrootcert=`, "host=h\tuser= password=\\",
		"postgres://u:p@h:5/d?sslmode=require&x=y", "postgresql://u%40@[::1]:5,h2/%20?ssl=true&dbname=%41&application_name=a%2Fb",
		"postgres:///?host=/tmp&sslroot%63ert=/x", "postgres://u@/?passfile=/dev/zero", "host='", "a", "=b", "postgres://?a", " ",
	} {
		f.Add(dsn)
	}
	f.Setenv("HOME", "/nonexistent")
	f.Fuzz(func(t *testing.T, dsn string) {
		if strings.ContainsAny(dsn, "[]") { // pgconn does not look into the brackets
			return
		}
		keys, err := dsnKeys(Secret(dsn))
		if err != nil || len(keys) == 0 {
			return
		}
		settings := ConnStringSettings(Secret(dsn))
		added := ConnStringSettings(AddSettings(Secret(dsn), map[string]string{"added": "x"}))
		if delete(added, "added"); !maps.Equal(added, settings) {
			t.Errorf("with an added setting: %q, without: %q", added, settings)
		}
		for _, key := range []string{"service", "servicefile", "passfile", "sslrootcert", "sslcert", "sslkey"} {
			if settings[key] != "" {
				return
			}
		}
		cfg, err := pgconn.ParseConfigWithOptions(dsn, pgconn.ParseConfigOptions{ConnStringAllowedKeys: keys})
		if err != nil {
			if strings.Contains(err.Error(), "is not in ConnStringAllowedKeys") {
				t.Errorf("the keys are %q, but %v", keys, err)
			}
			return
		}
		for name, value := range cfg.RuntimeParams {
			if settings[name] != value {
				t.Errorf("%s is %q, want %q", name, settings[name], value)
			}
		}
		if user := settings["user"]; user != "" && user != cfg.User {
			t.Errorf("the user is %q, want %q", user, cfg.User)
		}
	})
}
