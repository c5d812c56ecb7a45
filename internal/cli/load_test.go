// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
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
