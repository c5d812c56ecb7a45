// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"pg_liveness_exporter/probe"
)

// privileges has the privileges that cannot be derived from the golden files, by metric.
var privileges = map[string]string{
	"pg_commit_up":               "`EXECUTE` on `pg_logical_emit_message`, which every role has by default",
	"pg_wal_receiver_up":         "`pg_monitor`",
	"pg_replication_lag_seconds": "`pg_monitor`; without it, present only while something is left to replay",
	"pg_replication_lag":         "as `pg_replication_lag_seconds`",
	"pg_stats_privileged":        "none: it shows whether the role has `pg_monitor`",
	"pg_connections":             "`pg_monitor` for the states; without it, an upper bound with state `unknown`",
	"pg_connections_used":        "`pg_monitor`; without it, an upper bound",
	"pgbouncer_up":               "`stats_users` or `admin_users`",
	"pg_stat_activity_count":     "as `pg_connections`",
}

// TestDocumented tests that docs/metrics.md lists every metric, and that a golden file has every metric of a target.
// The end-to-end tests compare the golden files with the metrics of real servers.
func TestDocumented(t *testing.T) {
	e := newTestExporter(t, healthy(), "")
	var page strings.Builder
	page.WriteString("# Metrics\n\n" +
		"Every metric that pg_liveness_exporter shows. A test writes this page from the metrics of the program\n" +
		"(`go test ./collector -update`). If a value is unknown, its series is absent. It is never 0.\n" +
		"[troubleshooting.md](troubleshooting.md#a-metric-is-absent) says why a metric may be absent.\n\n" +
		"The column \"privilege\" says what the exporter's role needs on the server. `pg_read_all_stats` is enough where the table\n" +
		"says `pg_monitor`.\n\n" +
		"## Of each target\n\n" +
		"On `/probe`, the metrics have the labels of this table. On `/metrics`, each also has the label `target` and the target's own\n" +
		"`labels`, unless the exporter runs without a configuration file.\n\n" +
		"A target of kind `pgbouncer` has the metrics `pgbouncer_*`. Of the others, it has only `pg_probe*`,\n" +
		"`pg_connect_duration_seconds`, `pg_query_duration_seconds`, `pg_kept_session_up` and `pg_tls_*`.\n\n" +
		"These labels have fixed values. All series of `pg_probe_state` and `pg_probe_failures_total` exist from the first probe on, and" +
		"\nthose of `pg_session_losses_total` while a session is kept:\n\n" +
		"| label | of | values |\n|---|---|---|\n" +
		"| `state` | `pg_probe_state` | " + quoted(probe.States()) + ": see [States](troubleshooting.md#states) |\n" +
		"| `reason` | `pg_probe_failures_total` | " + quoted(probe.Reasons()) + ": see [Reasons](troubleshooting.md#reasons) |\n" +
		"| `reason` | `pg_session_losses_total` | " + quoted(probe.LossReasons()) +
		": see [Losses](troubleshooting.md#losses-of-the-kept-session) |\n" +
		"| `phase` | `pg_probe_phase_duration_seconds` | " + quoted(phaseNames()) + ": see [Look deeper](troubleshooting.md#look-deeper) |\n" +
		"| `state` | `pg_connections` | the column `state` of PostgreSQL's `pg_stat_activity`; `unknown` if the role does not see it |\n\n")
	shown := map[string]map[string]bool{}
	for _, name := range []string{"up", "unprivileged", "standby", "tls", "pgbouncer"} {
		shown[name] = namesIn(t, name+".prom")
	}
	header := "| metric | type | labels | meaning | privilege |\n|---|---|---|---|---|\n"
	page.WriteString(header)
	for _, m := range e.table.metrics {
		privilege := "none"
		switch listed, ok := privileges[m.name]; {
		case ok:
			privilege = listed
		case strings.HasPrefix(m.name, "pgbouncer_"):
			privilege = "`stats_users` or `admin_users`"
		case shown["up"][m.name] && !shown["unprivileged"][m.name]:
			privilege = "`pg_monitor`"
		}
		if !shown["up"][m.name] && !shown["standby"][m.name] && !shown["tls"][m.name] && !shown["pgbouncer"][m.name] {
			t.Errorf("%s is in no golden file", m.name)
		}
		writeRow(&page, m.name, m.kind, m.labels, m.help, privilege)
	}
	page.WriteString("\n## With --metrics.compat\n\n" +
		"With this flag, the exporter also shows these metrics, under the names that postgres_exporter has for them.\n\n" + header)
	for _, m := range NewTable(true).metrics {
		if !slices.ContainsFunc(e.table.metrics, func(other metric) bool { return other.name == m.name }) {
			privilege := "none"
			if listed, ok := privileges[m.name]; ok {
				privilege = listed
			} else if m.name == "pg_stat_activity_max_tx_duration" {
				privilege = "`pg_monitor`"
			}
			writeRow(&page, m.name, m.kind, m.labels, m.help, privilege)
		}
	}
	page.WriteString("\n## Of each check\n\n" +
		"On `/metrics`, each also has the label `target`, which is empty for a check without a target, and the `labels` of its target.\n" +
		"A check of a target is also on that target's `/probe`, without these labels.\n\n" +
		"| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, m := range checkMetrics() {
		if !namesIn(t, "checks.prom")[m.name] {
			t.Errorf("%s is in no golden file", m.name)
		}
		writeRow(&page, m.name, m.kind, m.labels, m.help, "")
	}
	page.WriteString("\n## Of the exporter\n\nOnly on `/metrics`, which also has the metrics `go_*`, `process_*` and `promhttp_*`.\n\n" +
		"| metric | type | labels | meaning |\n|---|---|---|---|\n")
	families, err := e.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), Name) {
			continue
		}
		var labels []string
		for _, label := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, label.GetName())
		}
		writeRow(&page, family.GetName(), family.GetType(), labels, family.GetHelp(), "")
	}
	file := filepath.Join("..", "docs", "metrics.md")
	if *update {
		if err := os.WriteFile(file, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != page.String() {
		t.Errorf("differs from %s (go test ./collector -update writes it anew):\n%s", file, &page)
	}
}

// writeRow writes a row of a table of metrics. It leaves out the column for the privilege if that is empty.
func writeRow(page *strings.Builder, name string, kind dto.MetricType, labels []string, help, privilege string) {
	fmt.Fprintf(page, "| `%s` | %s | %s | %s |", name, strings.ToLower(kind.String()), strings.Join(labels, ", "), help)
	if privilege != "" {
		fmt.Fprintf(page, " %s |", privilege)
	}
	page.WriteString("\n")
}

// namesIn returns the names of the metrics in a golden file.
func namesIn(t *testing.T, file string) map[string]bool {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ := strings.Cut(rest, " ")
			names[name] = true
		}
	}
	return names
}

// TestTroubleshooting tests that docs/troubleshooting.md has a heading for each state, reason and loss reason, in the order of the
// code, and for nothing else.
func TestTroubleshooting(t *testing.T) {
	for _, problem := range troubleshootingProblems(readTroubleshooting(t)) {
		t.Error(problem)
	}
}

// TestTroubleshootingSees tests that TestTroubleshooting notices each heading that is missing, misspelt or too many.
func TestTroubleshootingSees(t *testing.T) {
	page := readTroubleshooting(t)
	headings := strings.Count(page, "\n### `")
	if want := len(probe.States()) + len(probe.Reasons()) + len(probe.LossReasons()); headings != want {
		t.Fatalf("%d headings, not %d", headings, want)
	}
	parts := strings.SplitAfter(page, "\n### `")
	for i := 1; i < len(parts); i++ {
		before, after := strings.Join(parts[:i], ""), strings.Join(parts[i:], "")
		name, rest, _ := strings.Cut(after, "`")
		for what, changed := range map[string]string{
			"removed":  strings.TrimSuffix(before, "### `") + rest,
			"misspelt": before + name + "s`" + rest,
			"repeated": before + name + "`\n\nText.\n\n### `" + after,
			"deeper":   strings.TrimSuffix(before, "### `") + "#### `" + after,
		} {
			if len(troubleshootingProblems(changed)) == 0 {
				t.Errorf("the heading %s is %s, which is not noticed", name, what)
			}
		}
	}
}

func readTroubleshooting(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// troubleshootingProblems compares the headings of the page with the names in the code.
func troubleshootingProblems(page string) []string {
	var problems []string
	for section, want := range map[string][]string{
		"States":                     namesOf(probe.States()),
		"Reasons":                    namesOf(probe.Reasons()),
		"Losses of the kept session": namesOf(probe.LossReasons()),
	} {
		if got := headingsIn(page, section); !slices.Equal(got, want) {
			problems = append(problems, fmt.Sprintf("the headings in %q are\n  %q, not\n  %q", section, got, want))
		}
	}
	return problems
}

// headingsIn returns the headings of the third level in a section of the second level, without their backquotes.
func headingsIn(page, section string) []string {
	var headings []string
	current := ""
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "## "); ok {
			current = name
		}
		if name, ok := strings.CutPrefix(line, "### "); ok && current == section {
			headings = append(headings, strings.Trim(name, "`"))
		}
	}
	return headings
}

// quoted returns names as code, separated by commas.
func quoted[T ~string](values []T) string {
	return "`" + strings.Join(namesOf(values), "`, `") + "`"
}

// phaseNames returns the names of the phases that a metric shows.
func phaseNames() []string {
	var names []string
	for _, phase := range probe.AllPhases() {
		names = append(names, phase.String())
	}
	return names
}

func namesOf[T ~string](values []T) []string {
	names := make([]string, len(values))
	for i, value := range values {
		names[i] = string(value)
	}
	return names
}
