// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"pg_liveness_exporter/internal/testenv"
)

const comparisonPage = "docs/comparison.md"

// TestComparisonPage tests that the page is what the committed results give, and that README.md quotes it. With -update
// it writes the page.
func TestComparisonPage(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "comparison.md")
	if *update {
		path = inRoot(t, comparisonPage)
	}
	runIn(t, inRoot(t, ""), hanging, nil, buildComparison(t), "-page", "-out="+path)
	page := read(t, path)
	expectEqual(t, comparisonPage, read(t, comparisonPage), page)

	summary := regexp.MustCompile(`(?m)^Of \d+ cases, .*\.$`).FindString(page)
	if summary == "" {
		t.Fatal("the page has no summary")
	}
	row := regexp.MustCompile(`(?m)^\| pg_liveness_exporter (?:\| \d+ ){4}\| (\d+) \|$`).FindStringSubmatch(page)
	if row == nil {
		t.Fatal("the page does not count wrong verdicts")
	}
	words := strings.Join(strings.Fields(read(t, "README.md")), " ")
	for _, quoted := range []string{summary, "the verdict was wrong in " + row[1] + " cases"} {
		if !strings.Contains(words, quoted) {
			t.Errorf("README.md does not quote the page: %s", quoted)
		}
	}
}

// TestComparison lets three faults happen again: the verdicts of the exporter, of the others and of the application are
// those of the committed results. .ci/nightly does that with all faults.
func TestComparison(t *testing.T) {
	t.Parallel()
	testenv.Bin(t)
	testenv.Need(t, os.Geteuid() == 0, "root", "make test, as root")
	env := append(os.Environ(), "EXPORTER="+program(t),
		"POSTGRES_EXPORTER="+testenv.Tool(t, "POSTGRES_EXPORTER", "postgres_exporter"),
		"BLACKBOX_EXPORTER="+testenv.Tool(t, "BLACKBOX_EXPORTER", "blackbox_exporter"),
		"PGBOUNCER_NEWER="+testenv.Tool(t, "PGBOUNCER_NEWER", "pgbouncer"),
		"PG_ISREADY="+testenv.Tool(t, "PG_ISREADY", "pg_isready"))
	path := buildComparison(t)
	ctx, cancel := context.WithTimeout(t.Context(), 12*hanging) // three faults of about 15 s, on a busy machine
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-check", "-interval=1s", "-faults=^(stopped|no-slot|exporter-password)$")
	cmd.Dir, cmd.Env, cmd.WaitDelay = inRoot(t, ""), env, 6*hanging
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it then ends its servers and removes their folders
	out, err := cmd.CombinedOutput()
	// What another exporter says may depend on how busy the machine is. The exit code does not.
	compared := regexp.MustCompile(`(?m)^[a-z-]+:( as in the committed results)?$`).FindAllString(string(out), -1)
	if err != nil || len(compared) != 3 {
		t.Errorf("%v:\n%s", err, out)
	}
}

// buildComparison builds the program behind `make compare`, and returns its path.
func buildComparison(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "compare")
	runIn(t, inRoot(t, ""), building, nil, "go", "build", "-buildvcs=false", "-o", path, "./internal/cmd/compare")
	return path
}
