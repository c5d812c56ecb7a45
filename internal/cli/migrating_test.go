// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestForeignFlags tests that one error names every flag of postgres_exporter with its counterpart, and repeats no value.
func TestForeignFlags(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	_, code, ended := Parse([]string{
		"--web.listen-address=:1", "--extend.query-path", "hunter2", "--no-collector.locks", "--constantLabels=hunter2", "--dumpmaps",
		"--collector.another", "--collector.one_more", "--collector.postgres://hunter2",
	}, &out, &errs)
	const is = " is a flag of postgres_exporter; here it is: "
	want := []string{
		"error: unknown long flag '--extend.query-path', try --help", "--extend.query-path" + is + "checks with sql in a --config.file",
		"--collector.locks" + is + noCounterpart, "--constantLabels" + is + "labels in a --config.file", "--dumpmaps" + is + noCounterpart,
		"--collector.…" + is + noCounterpart,
	}
	if got, want := errs.String(), "pg_liveness_exporter: "+strings.Join(want, "\npg_liveness_exporter: ")+"\n"; got != want || code != 2 || !ended {
		t.Errorf("code %d\ngot\n%swant\n%s", code, got, want)
	}
}

// TestForeignVariables tests that each variable that is set is logged with its counterpart, and without its value.
func TestForeignVariables(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	WarnOfForeignVariables(func(name string) string {
		return map[string]string{"PG_EXPORTER_EXTEND_QUERY_PATH": "hunter2", "PG_EXPORTER_WEB_TELEMETRY_PATH": "/hunter2"}[name]
	}, slog.New(slog.NewTextHandler(&log, nil)))
	got := log.String()
	if strings.Count(got, "\n") != 2 || strings.Contains(got, "hunter2") ||
		!strings.Contains(got, `variable=PG_EXPORTER_EXTEND_QUERY_PATH here="checks with sql in a --config.file"`) ||
		!strings.Contains(got, "variable=PG_EXPORTER_WEB_TELEMETRY_PATH here=--web.telemetry-path") {
		t.Error(got)
	}
}

// TestMigratingPage tests that docs/migrating.md has every option, with what it is here.
func TestMigratingPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "migrating.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(strings.ReplaceAll(string(page), "`", "")), " ")
	for _, option := range foreignOptions() {
		if option.here == noCounterpart && strings.HasPrefix(option.flag, "collector.") {
			option.here = ""
		}
		for _, name := range []string{option.flag, option.variable} {
			if !strings.Contains(text, strings.TrimPrefix(name, "collector.")) {
				t.Errorf("%s is missing", name)
			}
		}
		if !strings.Contains(text, option.here) {
			t.Errorf("%q is missing", option.here)
		}
	}
}
