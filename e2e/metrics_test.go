// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// TestCompat: beside a real postgres_exporter, --metrics.compat shows the same facts under the same names, and so do the
// names that are the same anyway.
func TestCompat(t *testing.T) {
	t.Parallel()
	program := testenv.Tool(t, "POSTGRES_EXPORTER", "postgres_exporter")
	s := newServer(t, testservers.PostgresConfig{})
	execute(t, s, "ALTER DATABASE app CONNECTION LIMIT 50")
	e := startExporter(t, environment(s.Port, "postgres"), "--metrics.compat")
	e.Settle()
	theirs := &Exporter{t: t, address: "127.0.0.1:" + freePort(t), log: &testservers.Output{}}
	cmd := exec.CommandContext(t.Context(), program, "--collector.postmaster", "--web.listen-address="+theirs.address)
	cmd.Env = environment(s.Port, "postgres")
	cmd.Stderr = theirs.log
	check(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Wait() }) // the context has ended it
	eventually(t, "postgres_exporter does not listen", func() bool {
		_, _, err := theirs.Get(t.Context(), "/metrics", 0)
		return err == nil
	})
	busy, err := s.Connect(t.Context())
	check(t, err)
	defer func() { _ = busy.Close(context.Background()) }()
	_, err = busy.Exec(t.Context(), "BEGIN; SELECT 1").ReadAll()
	check(t, err)
	time.Sleep(1100 * time.Millisecond)

	want, got := families(t, theirs), families(t, e)
	for _, name := range []string{
		"pg_up", "pg_static", "pg_stat_activity_count", "pg_stat_activity_max_tx_duration", "pg_stat_database_numbackends",
		"pg_exporter_last_scrape_error", "pg_settings_max_connections", "pg_settings_superuser_reserved_connections",
		"pg_replication_is_replica", "pg_postmaster_start_time_seconds", "pg_database_connection_limit",
	} {
		a, b := want[name], got[name]
		if a == nil || b == nil {
			t.Errorf("%s: postgres_exporter has it: %v, we: %v\n%s", name, a != nil, b != nil, theirs.Logged())
			continue
		}
		if a.GetType() != b.GetType() && a.GetType() != dto.MetricType_UNTYPED {
			t.Errorf("%s is a %s, want a %s", name, b.GetType(), a.GetType())
		}
		theirLabels := labelNames(a)
		for _, label := range labelNames(b) {
			if !slices.Contains(theirLabels, label) {
				t.Errorf("%s: postgres_exporter has no label %s", name, label)
			}
		}
	}
	for _, test := range []struct{ name, label, value string }{
		{"pg_up", "", ""},
		{"pg_exporter_last_scrape_error", "", ""},
		{"pg_settings_max_connections", "", ""},
		{"pg_settings_superuser_reserved_connections", "", ""},
		{"pg_replication_is_replica", "", ""},
		{"pg_database_connection_limit", "datname", "app"},
		{"pg_stat_activity_count", "state", "idle in transaction"},
	} {
		a, b := sum(want[test.name], test.label, test.value), sum(got[test.name], test.label, test.value)
		if a != b {
			t.Errorf("%s{%s=%q} is %v, postgres_exporter says %v", test.name, test.label, test.value, b, a)
		}
	}
	if a, b := value(want["pg_static"], "short_version"), value(got["pg_static"], "short_version"); a != b {
		t.Errorf("short_version is %q, postgres_exporter says %q", b, a)
	}
	if long, theirs := value(got["pg_static"], "version"), value(want["pg_static"], "version"); !strings.HasPrefix(theirs, long) {
		t.Errorf("version is %q, postgres_exporter says %q", long, theirs)
	}
	if age := sum(got["pg_stat_activity_max_tx_duration"], "state", "idle in transaction"); age < 1 || age > 60 {
		t.Errorf("the transaction is %v s old", age)
	}
}

// families are what an exporter shows, by name.
func families(t *testing.T, e *Exporter) map[string]*dto.MetricFamily {
	t.Helper()
	response, body, err := e.Get(t.Context(), "/metrics", 0)
	check(t, err)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("status %d", response.StatusCode)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(body))
	check(t, err)
	return all
}

func labelNames(f *dto.MetricFamily) []string {
	var names []string
	for _, label := range f.GetMetric()[0].GetLabel() {
		names = append(names, label.GetName())
	}
	return names
}

// sum adds up the gauges of which a label has a value.
func sum(f *dto.MetricFamily, label, value string) float64 {
	var total float64
	for _, m := range f.GetMetric() {
		if label == "" || slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == label && l.GetValue() == value }) {
			total += m.GetGauge().GetValue()
		}
	}
	return total
}

// value is that of a label of the only series.
func value(f *dto.MetricFamily, label string) string {
	for _, l := range f.GetMetric()[0].GetLabel() {
		if l.GetName() == label {
			return l.GetValue()
		}
	}
	return fmt.Sprint(f)
}

// TestExposition: promtool finds nothing in what a real server gives, up and down.
func TestExposition(t *testing.T) {
	t.Parallel()
	promtool := testenv.Tool(t, "PROMTOOL", "promtool")
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"), "--collect.applications")
	for _, change := range []func(){func() {}, func() { check(t, s.Stop(testservers.Fast)) }} {
		change()
		_, body, err := e.Get(t.Context(), "/metrics", scrapeTimeout)
		check(t, err)
		cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
		cmd.Stdin = strings.NewReader(body)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool: %v\n%s", err, out)
		}
	}
}

// TestGoldenNames: a real server gives the metrics of the golden file, and no others.
func TestGoldenNames(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	execute(t, s, "ALTER DATABASE app CONNECTION LIMIT 50")
	e := startExporter(t, environment(s.Port, "app"), "--collect.applications", "--probe.commit")
	e.Settle()
	execute(t, s, "SELECT pg_terminate_backend("+strconv.Itoa(keptPID(t, s))+")")
	time.Sleep(time.Second)
	_, body, err := e.Get(t.Context(), "/metrics", scrapeTimeout)
	check(t, err)
	major := testenv.Major(t)
	likeGolden(t, "up", body, func(help string) bool {
		return major < 16 && strings.Contains(help, "pg_settings_reserved_connections") || major < 14 && strings.Contains(help, "pg_sessions_")
	})
}

// TestReservedByOthers: slots that RDS reserves and those above the limit of Citus are not usable.
func TestReservedByOthers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		settings []string
		want     float64
	}{
		{[]string{"rds.rds_superuser_reserved_connections = 2"}, 95},
		{[]string{"citus.max_client_connections = 40"}, 40},
		{[]string{"citus.max_client_connections = -1", "rds.rds_superuser_reserved_connections = 0"}, 97},
		{[]string{"citus.max_client_connections = 'many'", "rds.rds_superuser_reserved_connections = ''"}, 97},
	} {
		s := newServer(t, testservers.PostgresConfig{Settings: test.settings})
		e := startExporter(t, environment(s.Port, "postgres"))
		if got := e.Expect(up)["pg_connections_usable"]; got != test.want {
			t.Errorf("%v: %v usable, want %v", test.settings, got, test.want)
		}
	}
}
