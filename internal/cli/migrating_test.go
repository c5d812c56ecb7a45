// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"fmt"
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

// TestMixin tests what docs/migrating.md says of postgres_exporter's mixin: each alert is there with the metrics that it needs,
// and works if the golden files have all of them.
func TestMixin(t *testing.T) {
	t.Parallel()
	needs := map[string][]string{
		"Down": {"pg_up"}, "ReplicationRoleChanged": {"pg_replication_is_replica"},
		"MaxConnectionsReached":       {"pg_stat_activity_count", "pg_settings_max_connections", "pg_settings_superuser_reserved_connections"},
		"HighConnections":             {"pg_stat_activity_count", "pg_settings_max_connections", "pg_settings_superuser_reserved_connections"},
		"SlowQueries":                 {"pg_stat_activity_max_tx_duration"},
		"ReplicationLaggingMore1Hour": {"pg_replication_lag", "pg_replication_is_replica"},
		"HasExporterErrors":           {"pg_exporter_last_scrape_error"},
		"QPS":                         {"pg_stat_database_xact_commit"}, "HasTooManyRollbacks": {"pg_stat_database_xact_rollback"},
		"CacheHitRatio": {"pg_stat_database_blks_hit"}, "HasHighDeadLocks": {"pg_stat_database_deadlocks"},
		"AcquiredTooManyLocks": {"pg_locks_count", "pg_settings_max_connections"}, "HasReplicationSlotUsed": {"pg_replication_slot_is_active"},
		"TablesNotVaccumed": {"pg_stat_user_tables_n_dead_tup"}, "TooManyCheckpointsRequested": {"pg_stat_bgwriter_checkpoints_req_total"},
	}
	var shown string
	for _, pattern := range []string{"*.prom", "compat/*.prom"} {
		files, err := filepath.Glob(filepath.Join("..", "..", "collector", "testdata", pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			shown += "\n" + string(content)
		}
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "migrating.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "| works |")
	listed, working := 0, 0
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 4 || strings.HasPrefix(line, "|--") {
			continue
		}
		says := strings.HasPrefix(strings.TrimSpace(cells[2]), "yes")
		for alert := range strings.SplitSeq(cells[1], ",") {
			alert = strings.TrimSpace(alert)
			works := len(needs[alert]) > 0
			for _, metric := range needs[alert] {
				works = works && strings.Contains(shown, "\n# TYPE "+metric+" ")
			}
			if needs[alert] == nil || works != says {
				t.Errorf("%s: the page says %t, and the metrics %t", alert, says, works)
			}
			listed++
			if works {
				working++
			}
		}
	}
	want := fmt.Sprintf("That is enough for %d of the %d alerts of its mixin", working, listed)
	if listed != len(needs) || !strings.Contains(strings.Join(strings.Fields(string(page)), " "), want) {
		t.Errorf("the page lists %d alerts and does not say: %s", listed, want)
	}
}
