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

// play is what the exporter shows over some time: the samples of each series, one for each minute, by names with labels.
type play struct {
	minutes int
	series  map[string][]string
}

// newPlay returns a play in which the exporter can be scraped.
func newPlay(minutes int) *play {
	p := &play{minutes, make(map[string][]string)}
	p.series[`up{job="pg", instance="exporter:10432"}`] = slices.Repeat([]string{"1"}, minutes)
	return p
}

// add adds the series of an exposition for one target. Counters and histograms grow by their value each minute, or not at all if
// they count failures and losses. Gauges do not change.
func (p *play) add(exposition, target, cluster string) {
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
		samples := make([]string, p.minutes)
		for i := range samples {
			now := value
			if grows {
				now *= float64(i + 1)
			}
			samples[i] = strconv.FormatFloat(now, 'g', -1, 64)
		}
		p.series[seriesName(name, target, cluster, labels)] = samples
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
func (p *play) change(target, series string, from, until int, value string) {
	name, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
	key := seriesName(name, target, "orders", labels)
	if p.series[key] == nil {
		p.series[key] = slices.Repeat([]string{"_"}, p.minutes)
	}
	for i := from; i < until; i++ {
		p.series[key][i] = value
	}
}

// failScrapes makes Prometheus's scrapes of the exporter fail from one minute to another, which is not included.
func (p *play) failScrapes(from, until int) {
	for name, samples := range p.series {
		value := gone
		if strings.HasPrefix(name, "up{") {
			value = "0"
		}
		for i := from; i < until; i++ {
			samples[i] = value
		}
	}
}

// ask returns what each expression gives at the end of the play, with the rules in a file: the series, sorted. It uses promtool,
// which prints them if a test expects none.
func (p *play) ask(t *testing.T, rules string, expressions ...string) [][]string {
	t.Helper()
	tool := testenv.Tool(t, "PROMTOOL", "promtool")
	var b strings.Builder
	fmt.Fprintf(&b, "rule_files: [%q]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n", rules)
	for _, series := range slices.Sorted(maps.Keys(p.series)) {
		fmt.Fprintf(&b, "      - {series: '%s', values: '%s'}\n", series, strings.Join(p.series[series], " "))
	}
	b.WriteString("    promql_expr_test:\n")
	for _, expression := range expressions {
		fmt.Fprintf(&b, "      - {expr: '%s', eval_time: %dm}\n", expression, p.minutes)
	}
	path := filepath.Join(t.TempDir(), "play_test.yml")
	check(t, os.WriteFile(path, []byte(b.String()), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, tool, "test", "rules", path).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "got: ") {
		t.Fatalf("%v\n%s", err, out)
	}
	found := make([][]string, len(expressions))
	for i, expression := range expressions {
		_, rest, _ := strings.Cut(string(out), "expr: "+strconv.Quote(expression))
		_, rest, _ = strings.Cut(rest, "got: ")
		line, _, _ := strings.Cut(rest, "\n")
		for _, labels := range regexp.MustCompile(`\{[^}]*\}`).FindAllString(line, -1) {
			found[i] = append(found[i], strings.NewReplacer("{alertname=\"", "", "\", target=\"", " ", "{", "", "\"}", "").Replace(labels))
		}
		slices.Sort(found[i])
	}
	return found
}

// standard adds a healthy cluster: the primary one with a check, its replica two, and the PgBouncer pool. promtool's clock begins
// at 0.
func (p *play) standard(t *testing.T) {
	t.Helper()
	p.add(read(t, "collector/testdata/tls.prom"), "one", "orders")
	p.add(read(t, "collector/testdata/standby.prom"), "two", "orders")
	p.add(read(t, "collector/testdata/pgbouncer.prom"), "pool", "orders")
	p.change("pool", `pgbouncer_pools_client_maxwait_seconds{database="app",user="web"}`, 0, p.minutes, "0")
	p.change("pool", `pgbouncer_pools_client_waiting_connections{database="app",user="web"}`, 0, p.minutes, "0")
	p.change("one", `pg_liveness_check_up{check="backlog"}`, 0, p.minutes, "1")
	for _, target := range []string{"one", "two"} {
		for series, value := range map[string]string{ // the golden files have servers that are not well
			"pg_postmaster_start_time_seconds": "-86400", "pg_checkpointer_start_time_seconds": "-86399", "pg_connections_lock_waiting": "0",
			"pg_session_last_loss_timestamp_seconds": "-80000", "pg_tls_certificate_not_after_timestamp_seconds": "31536000",
			"pg_idle_in_transaction_max_seconds": "0.2", "pg_transaction_max_seconds": "0.2",
		} {
			p.change(target, series, 0, p.minutes, value)
		}
	}
	p.change("one", "pg_replication_is_replica", 0, p.minutes, "0")
	p.change("one", "pg_transaction_read_only", 0, p.minutes, "0")
	p.change("two", "pg_replication_lag_seconds", 0, p.minutes, "0")
	p.change("two", "pg_replication_apply_delay_seconds", 0, p.minutes, gone)
}

// startPrimary makes the target one look as if its server had started 20 seconds before a minute.
func (p *play) startPrimary(minute int) {
	const target = "one"
	p.change(target, "pg_postmaster_start_time_seconds", minute, p.minutes, strconv.Itoa(minute*60-20))
	p.change(target, "pg_checkpointer_start_time_seconds", minute, p.minutes, strconv.Itoa(minute*60-19))
	p.change(target, "pg_session_last_loss_timestamp_seconds", minute, p.minutes, strconv.Itoa(minute*60-30))
}

// fail makes all probes of a target fail from one minute to another, and hides what no session could read if there is no
// response.
func (p *play) fail(target string, state, reason string, from, until int) {
	p.failLogins(target, state, reason, from, until)
	if state != "no_response" {
		return
	}
	p.change(target, "pg_kept_session_up", from, until, "0")
	for _, series := range []string{
		"pg_replication_is_replica", "pg_transaction_read_only", "pg_connections_used", "pg_connections_usable",
		"pg_postmaster_start_time_seconds", "pg_checkpointer_start_time_seconds", "pg_wal_receiver_up", "pg_replication_lag_seconds",
		"pgbouncer_used_clients", "pgbouncer_config_max_client_connections",
	} {
		if p.series[seriesName(series, target, "orders", "")] != nil {
			p.change(target, series, from, until, gone)
		}
	}
}

// failLogins makes all probes of a target fail from one minute to another. The kept session goes on.
func (p *play) failLogins(target string, state, reason string, from, until int) {
	for i := from; i < until; i++ {
		n, down := strconv.Itoa(i-from+1), "0"
		if state == "no_response" || state == "rejecting" {
			p.change(target, "pg_probe_consecutive_down", i, i+1, n)
			down = strconv.Itoa((i - from + 1) * 60)
		}
		p.change(target, "pg_probe_down_seconds", i, i+1, down)
		p.change(target, "pg_probe_consecutive_failures", i, i+1, n)
		p.change(target, fmt.Sprintf("pg_probe_failures_total{reason=%q}", reason), i, p.minutes, n)
	}
	up := "pg_up"
	if p.series[seriesName(up, target, "orders", "")] == nil {
		up = "pgbouncer_up"
	}
	for series, value := range map[string]string{
		up: "0", `pg_probe_state{state="accepting"}`: "0", fmt.Sprintf("pg_probe_state{state=%q}", state): "1",
	} {
		p.change(target, series, from, until, value)
	}
}

// TestHealthyDay tests that a day with a restart, a failover and a burst of connections notifies of the restart and of the
// failover, and of nothing else. The series are those of the exporter's golden files.
func TestHealthyDay(t *testing.T) {
	t.Parallel()
	const restart, failover, burst = 8 * 60, 14 * 60, 18 * 60
	p := newPlay(24 * 60)
	p.standard(t)

	// The primary restarts between two scrapes: only the kept session notices.
	p.startPrimary(restart)
	p.change("one", `pg_session_losses_total{reason="shutdown"}`, restart, p.minutes, "1")

	// The primary dies. The standby is promoted within a minute, and the old primary returns as its standby.
	p.fail("one", "no_response", "refused", failover, failover+2)
	p.change("one", `pg_session_losses_total{reason="network"}`, failover, p.minutes, "1")
	p.startPrimary(failover + 2)
	for series, value := range map[string]string{
		"pg_replication_is_replica": "1", "pg_transaction_read_only": "1", "pg_wal_receiver_up": "1", "pg_replication_lag_seconds": "0",
	} {
		p.change("one", series, failover+2, p.minutes, value)
	}
	p.change("two", "pg_wal_receiver_up", failover, failover+1, "0")
	p.change("two", "pg_replication_lag_seconds", failover, failover+1, "10")
	for series, value := range map[string]string{
		"pg_replication_is_replica": "0", "pg_transaction_read_only": "0", "pg_wal_receiver_up": gone, "pg_replication_lag_seconds": gone,
	} {
		p.change("two", series, failover+1, p.minutes, value)
	}

	// 79 % of the usable slots are taken for three minutes.
	p.change("two", "pg_connections_used", burst, burst+3, "73")

	const fired = `group by (alertname, target) (last_over_time(ALERTS{alertstate="firing"}[24h]))`
	rules := inRoot(t, "examples/alerts.yml")
	happened := []string{"PostgresRestarted one", "PostgresRoleChanged one", "PostgresRoleChanged two"}
	if got := p.ask(t, rules, fired)[0]; !slices.Equal(got, happened) {
		t.Errorf("%q fired, want %q", got, happened)
	}
}
