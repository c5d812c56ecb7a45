// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestFromEnvironment: the first form of which a variable is set names the server, and its variables are taken as they
// are.
func TestFromEnvironment(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		env       map[string]string
		form      EnvironmentForm
		source    string
		variables string
	}{
		{
			"DATA_SOURCE_NAME first",
			map[string]string{"DATA_SOURCE_NAME": "a", "DATA_SOURCE_URI": "b", "DATABASE_URL": "c", "POSTGRES_HOST": "d", "PGHOST": "e"},
			FormDataSourceName, "DATA_SOURCE_NAME", "DATA_SOURCE_NAME",
		},
		{
			"a file wins over the plain variable",
			map[string]string{"DATA_SOURCE_NAME": "a", "DATA_SOURCE_NAME_FILE": "/f"},
			FormDataSourceName, "DATA_SOURCE_NAME_FILE", "DATA_SOURCE_NAME",
		},
		{
			"parts",
			map[string]string{"DATA_SOURCE_URI": "a", "DATA_SOURCE_USER": "b", "DATA_SOURCE_PASS_FILE": "/c", "DATABASE_URL": "d"},
			FormDataSourceURI, "DATA_SOURCE_URI", "DATA_SOURCE_PASS DATA_SOURCE_URI DATA_SOURCE_USER",
		},
		{"DATABASE_URL", map[string]string{"DATABASE_URL_FILE": "/a", "POSTGRES_HOST": "b"}, FormDatabaseURL, "DATABASE_URL_FILE", "DATABASE_URL"},
		{
			"the container image's names, any of them",
			map[string]string{"POSTGRES_DB": "a", "POSTGRES_PORT": "1", "PGHOST": "z"},
			FormContainerImage, "POSTGRES_*", "POSTGRES_DB POSTGRES_PORT",
		},
		{"libpq", map[string]string{"PGHOST": "h", "POSTGRES_PORT": "1"}, FormLibpq, "libpq's variables and defaults", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			getenv := func(name string) string { return test.env[name] }
			target, err := FromEnvironment(getenv, Probing{Commit: true})
			if err != nil {
				t.Fatal(err)
			}
			e := target.Login.Environment
			if e.Form != test.form || e.Source != test.source || !target.Commit || target.Kind != KindPostgres {
				t.Errorf("%+v of %+v", e, target)
			}
			if got := strings.Join(slices.Sorted(maps.Keys(e.Variables)), " "); got != test.variables {
				t.Errorf("got the variables %s, want %s", got, test.variables)
			}
			for name, v := range e.Variables {
				if string(v.Text) != test.env[name] || v.File != test.env[name+"_FILE"] {
					t.Errorf("%s: text %q, file %q", name, string(v.Text), v.File)
				}
			}
			if again, err := FromEnvironment(getenv, Probing{Commit: true}); err != nil || !target.Equal(again) {
				t.Errorf("the same environment makes another target: %v", err)
			}
		})
	}
	if _, err := FromEnvironment(func(name string) string { return map[string]string{"DATA_SOURCE_PASS": "hunter2"}[name] }, Probing{}); err == nil ||
		err.Error() != "DATA_SOURCE_USER and DATA_SOURCE_PASS need DATA_SOURCE_URI, which is not set" {
		t.Errorf("%v", err)
	}
}
