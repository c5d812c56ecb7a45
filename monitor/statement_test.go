// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import "testing"

// TestNameAt: a name of the statement and nothing else, whatever position a server sends.
func TestNameAt(t *testing.T) {
	t.Parallel()
	const sql = "SELECT ä, 'hunter2 x', f(1) FROM a.b, \"C d\".\"e\" WHERE 'it''s x' = $$x$$"
	for position, want := range map[int]string{
		1: "SELECT", 8: "ä", 11: "", 12: "", 20: "", 24: "f", 34: "a.b", 36: "b", 39: "\"C d\".\"e\"", 40: "", 58: "", 69: "", 0: "", -1: "", 1000: "",
	} {
		if got := nameAt(sql, position); got != want {
			t.Errorf("at %d: %q, want %q", position, got, want)
		}
	}
	if got := nameAt("SELECT 1 -- hunter2", 13); got != "" {
		t.Errorf("in a comment: %q", got)
	}
}
