// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testenv"
)

// day is the series of a day, sampled each minute, by their names with labels.
type day map[string][]string

// minutesOfDay is how many samples a series has.
const minutesOfDay = 24 * 60

// add adds the series of an exposition for one target. Counters and histograms grow by their value each minute, or not at all if
// they count failures and losses. Gauges do not change.
func (d day) add(exposition, target, cluster string) {
	counter := regexp.MustCompile(`_(total|bucket|sum|count)$`)
	for line := range strings.Lines(exposition) {
		series, text, found := strings.Cut(strings.TrimSpace(line), " ")
		if !found || strings.HasPrefix(line, "#") || strings.Contains(series, "{") && !strings.HasSuffix(series, "}") {
			continue
		}
		name, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			continue
		}
		grows := counter.MatchString(name) && !strings.Contains(name, "failures") && !strings.Contains(name, "losses")
		samples := make([]string, minutesOfDay)
		for i := range samples {
			now := value
			if grows {
				now *= float64(i + 1)
			}
			samples[i] = strconv.FormatFloat(now, 'g', -1, 64)
		}
		d[seriesName(name, target, cluster, labels)] = samples
	}
}

// seriesName returns the name of a series with the labels that it has in Prometheus.
func seriesName(name, target, cluster, labels string) string {
	all := fmt.Sprintf(`job="pg", instance="exporter:10432", target=%q, cluster=%q`, target, cluster)
	if labels != "" {
		all += ", " + labels
	}
	return name + "{" + all + "}"
}

// gone is the value of a series that is not in a scrape any more. Prometheus marks its end.
const gone = "stale"

// change sets a series of a target from one minute to another, which is not included.
func (d day) change(target, series string, from, until int, value string) {
	name, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
	key := seriesName(name, target, "orders", labels)
	if d[key] == nil {
		d[key] = slices.Repeat([]string{"_"}, minutesOfDay)
	}
	for i := from; i < until; i++ {
		d[key][i] = value
	}
}

// file returns the day as a test for promtool, which requires that these alerts and no others fired, by name and target.
func (d day) file(t *testing.T, fired map[string][]string) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "rule_files: [%q]\nevaluation_interval: 1m\ntests:\n  - name: a day\n    interval: 1m\n    input_series:\n",
		inRoot(t, "examples/alerts.yml"))
	for _, series := range slices.Sorted(maps.Keys(d)) {
		fmt.Fprintf(&b, "      - {series: '%s', values: '%s'}\n", series, strings.Join(d[series], " "))
	}
	b.WriteString("    promql_expr_test:\n      - expr: group by (alertname, target) (last_over_time(ALERTS{alertstate=\"firing\"}[24h]))\n" +
		"        eval_time: 24h\n        exp_samples:\n")
	for _, alert := range slices.Sorted(maps.Keys(fired)) {
		for _, target := range fired[alert] {
			fmt.Fprintf(&b, "          - {labels: '{alertname=%q, target=%q}', value: 1}\n", alert, target)
		}
	}
	return b.String()
}

// TestHealthyDay tests that a day with a restart, a failover and a burst of connections notifies of the restart and of the
// failover, and of nothing else. The series are those of the exporter's golden files.
func TestHealthyDay(t *testing.T) {
	t.Parallel()
	tool := testenv.Tool(t, "PROMTOOL", "promtool")
	const restart, failover, burst = 8 * 60, 14 * 60, 18 * 60
	d := day{}
	d.add(read(t, "collector/testdata/tls.prom"), "one", "orders")
	d.add(read(t, "collector/testdata/standby.prom"), "two", "orders")
	d[`up{job="pg", instance="exporter:10432"}`] = slices.Repeat([]string{"1"}, minutesOfDay)
	for _, target := range []string{"one", "two"} {
		// What the golden files have of a server that is not well. promtool's clock begins at 0.
		for series, value := range map[string]string{
			"pg_postmaster_start_time_seconds": "-86400", "pg_checkpointer_start_time_seconds": "-86399", "pg_connections_lock_waiting": "0",
			"pg_session_last_loss_timestamp_seconds": "-80000", "pg_tls_certificate_not_after_timestamp_seconds": "31536000",
			"pg_idle_in_transaction_max_seconds": "0.2", "pg_transaction_max_seconds": "0.2",
		} {
			d.change(target, series, 0, minutesOfDay, value)
		}
	}
	d.change("one", "pg_replication_is_replica", 0, minutesOfDay, "0")
	d.change("one", "pg_transaction_read_only", 0, minutesOfDay, "0")
	d.change("two", "pg_replication_lag_seconds", 0, minutesOfDay, "0")
	d.change("two", "pg_replication_apply_delay_seconds", 0, minutesOfDay, gone)

	// The primary restarts between two scrapes: only the kept session notices.
	start := func(target string, minute int) {
		d.change(target, "pg_postmaster_start_time_seconds", minute, minutesOfDay, strconv.Itoa(minute*60-20))
		d.change(target, "pg_checkpointer_start_time_seconds", minute, minutesOfDay, strconv.Itoa(minute*60-19))
		d.change(target, "pg_session_last_loss_timestamp_seconds", minute, minutesOfDay, strconv.Itoa(minute*60-30))
	}
	start("one", restart)
	d.change("one", `pg_session_losses_total{reason="shutdown"}`, restart, minutesOfDay, "1")

	// The primary dies. The standby is promoted within a minute, and the old primary returns as its standby.
	for minute, down := range []string{"0", "60"} {
		at := failover + minute
		for series, value := range map[string]string{
			"pg_up": "0", "pg_kept_session_up": "0", `pg_probe_state{state="accepting"}`: "0", `pg_probe_state{state="no_response"}`: "1",
			"pg_probe_consecutive_down": strconv.Itoa(minute + 1), "pg_probe_consecutive_failures": strconv.Itoa(minute + 1),
			"pg_probe_down_seconds": down, "pg_replication_is_replica": gone, "pg_transaction_read_only": gone, "pg_connections_used": gone,
			"pg_connections_usable": gone, "pg_postmaster_start_time_seconds": gone, "pg_checkpointer_start_time_seconds": gone,
		} {
			d.change("one", series, at, at+1, value)
		}
		d.change("one", `pg_probe_failures_total{reason="refused"}`, at, minutesOfDay, strconv.Itoa(minute+1))
	}
	d.change("one", `pg_session_losses_total{reason="network"}`, failover, minutesOfDay, "1")
	start("one", failover+2)
	for series, value := range map[string]string{
		"pg_replication_is_replica": "1", "pg_transaction_read_only": "1", "pg_wal_receiver_up": "1", "pg_replication_lag_seconds": "0",
	} {
		d.change("one", series, failover+2, minutesOfDay, value)
	}
	d.change("two", "pg_wal_receiver_up", failover, failover+1, "0")
	d.change("two", "pg_replication_lag_seconds", failover, failover+1, "10")
	for series, value := range map[string]string{
		"pg_replication_is_replica": "0", "pg_transaction_read_only": "0", "pg_wal_receiver_up": gone, "pg_replication_lag_seconds": gone,
	} {
		d.change("two", series, failover+1, minutesOfDay, value)
	}

	// 79 % of the usable slots are taken for three minutes.
	d.change("two", "pg_connections_used", burst, burst+3, "73")

	run := func(fired map[string][]string) (string, error) {
		path := filepath.Join(t.TempDir(), "day_test.yml")
		check(t, os.WriteFile(path, []byte(d.file(t, fired)), 0o600))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, tool, "test", "rules", path).CombinedOutput()
		return string(out), err
	}
	happened := map[string][]string{
		"PostgresRestarted": {"one"}, "PostgresRoleChanged": {"one", "two"},
	}
	if out, err := run(happened); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	// It can fail: with a minute more, the dead primary is a page.
	d.change("one", "pg_probe_down_seconds", failover+2, failover+3, "120")
	d.change("one", "pg_probe_consecutive_down", failover+2, failover+3, "3")
	d.change("one", "pg_up", failover+2, failover+3, "0")
	if out, err := run(happened); err == nil || !strings.Contains(out, "PostgresDown") {
		t.Errorf("a server that is down for three minutes is no alert: %s", out)
	}
}
