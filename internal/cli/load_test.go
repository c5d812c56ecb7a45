// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
)

// TestEmptyVariable: a variable that should name the server and is empty ends the start, unless another one names it.
func TestEmptyVariable(t *testing.T) {
	for _, test := range []struct{ empty, other, want string }{
		{"DATABASE_URL", "", "DATABASE_URL is empty, and no other variable names a server"},
		{"DATA_SOURCE_NAME", "PGUSER", "DATA_SOURCE_NAME is empty, and no other variable names a server"},
		{"PGHOST", "", "PGHOST is empty, and no other variable names a server"},
		{"DATABASE_URL", "PGHOST", "<nil>"},
		{"DATABASE_URL", "POSTGRES_HOST", "<nil>"},
		{"PGPASSWORD", "", "<nil>"},
	} {
		t.Run(test.empty+" "+test.other, func(t *testing.T) {
			t.Setenv(test.empty, "")
			if test.other != "" {
				t.Setenv(test.other, "h")
			}
			if _, err := (&Flags{}).Loader(os.Getenv)(); fmt.Sprint(err) != test.want {
				t.Errorf("%v, want %s", err, test.want)
			}
		})
	}
}

// TestLogEnvironment: a start says which variable names the server, and which of libpq's lead elsewhere all the same.
func TestLogEnvironment(t *testing.T) {
	for _, test := range []struct {
		name      string
		variables map[string]string
		moving    []string
	}{
		{"an address", map[string]string{"DATA_SOURCE_NAME": "host=h user=u", "PGHOSTADDR": "10.1.2.3"}, []string{"PGHOSTADDR"}},
		{"a port", map[string]string{"DATABASE_URL": "postgres://u@h/d", "PGPORT": "10123"}, []string{"PGPORT"}},
		{"both", map[string]string{"POSTGRES_HOST": "h", "PGHOSTADDR": "10.1.2.3", "PGPORT": "10123"}, []string{"PGHOSTADDR", "PGPORT"}},
		{"its own", map[string]string{"DATA_SOURCE_NAME": "host=h hostaddr=10.1.2.4 port=1", "PGHOSTADDR": "10.1.2.3", "PGPORT": "10123"}, nil},
		{"libpq's alone", map[string]string{"PGHOST": "h", "PGHOSTADDR": "10.1.2.3", "PGPORT": "10123"}, nil},
		{"no host", map[string]string{"DATABASE_URL": "postgres:///d", "PGHOST": "h", "PGPORT": "10123"}, nil},
		{"the usual port", map[string]string{"DATABASE_URL": "postgres://u@h/d", "PGPORT": "5432"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("HOME", t.TempDir())
			for name, value := range test.variables {
				t.Setenv(name, value)
			}
			file, err := (&Flags{}).Loader(os.Getenv)()
			if err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			LogEnvironment(file, slog.New(slog.NewTextHandler(&log, nil)))
			got := log.String()
			if strings.Count(got, "\n") != 1+len(test.moving) || strings.Count(got, "taken_from=") != 1+len(test.moving) ||
				strings.Contains(got, "10.1.2") || strings.Contains(got, "10123") {
				t.Error(got)
			}
			for _, variable := range test.moving {
				if !strings.Contains(got, `level=WARN msg="A variable of libpq changes where the exporter connects" variable=`+variable) {
					t.Errorf("%s is not named:\n%s", variable, got)
				}
			}
		})
	}
}
