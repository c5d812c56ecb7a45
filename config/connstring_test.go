// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import "testing"

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
