// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package examples_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pg_liveness_exporter/internal/testenv"
)

// TestSystemd: systemd finds nothing wrong with the units, and little that the service could do beyond its job.
func TestSystemd(t *testing.T) {
	analyze := testenv.Tool(t, "SYSTEMD_ANALYZE", "systemd-analyze")
	const installed = "/usr/local/bin/pg_liveness_exporter"
	folder := t.TempDir()
	units, err := filepath.Glob("systemd/*")
	if err != nil || len(units) != 2 {
		t.Fatalf("%q %v", units, err)
	}
	verify := []string{"verify", "--man=no"}
	for _, unit := range units {
		// It looks whether the program is there, and any will do.
		content := strings.ReplaceAll(string(read(t, unit)), installed, os.Args[0])
		copied := filepath.Join(folder, filepath.Base(unit))
		if err := os.WriteFile(copied, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		verify = append(verify, copied)
	}
	for name, args := range map[string][]string{
		"verify":   verify,
		"security": {"security", "--offline=true", "--threshold=20", filepath.Join("systemd", "pg_liveness_exporter.service")}, // 2.0
	} {
		out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
		if err != nil || name == "verify" && len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
