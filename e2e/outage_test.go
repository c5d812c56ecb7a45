// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// faster is how many times as fast as shipped the outage is played.
const faster = 5

// TestOutage stops a server under the whole stack and follows what becomes of it: pg_up, the alert that fires after its time,
// one notification and no other page, and after a restart that all is well again. Before that nobody is paged. Intervals and
// waits are a fifth of those that are shipped, and the server shares a cluster with its standby and its pooler; nothing else differs.
func TestOutage(t *testing.T) {
	t.Parallel()
	for _, interval := range []time.Duration{scrapeInterval, time.Minute} {
		t.Run("scrapes every "+interval.String(), func(t *testing.T) {
			t.Parallel()
			testOutage(t, interval)
		})
	}
}

// testOutage is TestOutage for one scrape interval as it is shipped, before it is divided by faster.
func testOutage(t *testing.T, interval time.Duration) {
	var (
		mu       sync.Mutex // protects what follows
		notified []string
	)
	s := fasterStack(t, func(configuration string) string {
		// The standby of the cluster stays up, so that after a while only replicas are seen.
		const scraped = "    static_configs:\n      - targets: [\"localhost:10432\"]\n"
		if !strings.Contains(configuration, scraped) {
			t.Error("prometheus.yml does not scrape the exporter")
		}
		configuration = strings.Replace(configuration, scraped, "    metric_relabel_configs:\n"+
			"      - {source_labels: [target], regex: primary|standby|pool, target_label: cluster, replacement: orders}\n"+scraped, 1)
		return strings.Replace(configuration, fmt.Sprintf("scrape_interval: %ds", scrapeInterval/faster/time.Second),
			fmt.Sprintf("scrape_interval: %ds", interval/faster/time.Second), 1)
	}, func(n testservers.Notification) {
		mu.Lock()
		defer mu.Unlock()
		for _, a := range n.Alerts {
			if a.Labels["target"] == "primary" || n.Receiver == "pagerduty" {
				notified = append(notified, strings.Join([]string{n.Receiver, a.Labels["alertname"], a.Labels["target"], a.Status}, " "))
				if d := a.Annotations["description"]; a.Labels["alertname"] == "PostgresDown" && !strings.Contains(d, "refused") {
					t.Errorf("the notification does not say why: %q", d)
				}
			}
		}
	})
	got := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(notified)
	}
	const own = `{target="primary"}`
	becomes := func(what string, happened func() bool) time.Time {
		t.Helper()
		for end := time.Now().Add(3 * time.Minute); !happened(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: never. Notifications: %q", what, got())
			}
		}
		return time.Now()
	}
	const alert = `ALERTS{alertname="PostgresDown", target="primary"}`
	becomes("pg_up 1", func() bool { return slices.Equal(instant(t, s, "pg_up"+own), []float64{1}) })
	becomes("a check passes", func() bool {
		return slices.Equal(instant(t, s, `pg_liveness_check_up{target="primary", check="schema"}`), []float64{1})
	})
	time.Sleep(30 * time.Second)
	if critical := got(); len(critical) > 0 {
		t.Errorf("all is well, and notified is %q", critical)
	}
	if err := s.Primary.Stop(testservers.Fast); err != nil {
		t.Fatal(err)
	}
	down := becomes("pg_up 0", func() bool { return slices.Equal(instant(t, s, "pg_up"+own), []float64{0}) })
	firing := becomes("firing", func() bool { return len(instant(t, s, alert)) > 0 })
	// Three failed scrapes, and one evaluation more at the most.
	if took, least := firing.Sub(down), 2*interval/faster-time.Second; took < least {
		t.Errorf("fires %s after pg_up 0, too soon", took)
	}
	page := []string{"pagerduty PostgresDown primary firing"}
	becomes("a notification", func() bool { return slices.Equal(got(), page) })
	time.Sleep(35 * time.Second) // a pooler's alert, and that of a check, would be there
	if !slices.Equal(got(), page) {
		t.Errorf("notified of more than one alert: %q", got())
	}
	if err := s.Primary.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	becomes("pg_up 1 again", func() bool { return slices.Equal(instant(t, s, "pg_up"+own), []float64{1}) })
	page = append(page, "pagerduty PostgresDown primary resolved")
	becomes("a notice that it is over", func() bool {
		// What happened to the kept session, a restart, may be told now.
		return slices.Equal(slices.DeleteFunc(got(), func(n string) bool { return strings.Contains(n, "Restarted") }), page)
	})
	// A page that was sent before an outage is over too.
	told := func(alert, status string) bool {
		return slices.Contains(got()[len(page):], "pagerduty "+alert+" primary "+status)
	}
	execute(t, s.Primary, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
	becomes("a notification that commits hang", func() bool { return told("PostgresCommitsHang", "firing") })
	execute(t, s.Primary, "ALTER SYSTEM RESET synchronous_standby_names")
	if err := s.Primary.Stop(testservers.Immediate); err != nil {
		t.Fatal(err)
	}
	becomes("a notification that it is down", func() bool { return told("PostgresDown", "firing") })
	if err := s.Primary.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	becomes("a notice that both are over", func() bool { return told("PostgresCommitsHang", "resolved") && told("PostgresDown", "resolved") })
}

// TestNotices breaks the stack with each key of `make demo`. Alertmanager sends what the demo promises, in time, and nothing
// else that is critical or a warning.
func TestNotices(t *testing.T) {
	t.Parallel()
	for i, f := range new(testservers.Stack).Faults() {
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			testNotices(t, i)
		})
	}
}

// testNotices is TestNotices for one of the faults of the stack.
func testNotices(t *testing.T, fault int) {
	// Some times are not faster: that of a probe that hangs, and the minute that a replica may be behind.
	const slack = 2 * time.Minute
	// Nor is the hour that this alert looks ahead: here it sees a trend in the first minutes of the load.
	const farsighted = "PostgresConnectionsFillingUp"
	type notice struct{ alert, target, status string }
	var (
		mu       sync.Mutex // protects what follows
		notified = map[notice]time.Time{}
	)
	s := fasterStack(t, nil, func(n testservers.Notification) {
		mu.Lock()
		defer mu.Unlock()
		for _, a := range n.Alerts {
			if a.Labels["severity"] != "info" && a.Labels["alertname"] != farsighted {
				notified[notice{a.Labels["alertname"], a.Labels["target"], a.Status}] = time.Now()
			}
		}
	})
	f := s.Faults()[fault]
	until(t, s, `count(pg_up == 1) == 2 and on () pgbouncer_up == 1`)
	await := func(n testservers.Notice, status string, since time.Time, promised time.Duration) {
		t.Helper()
		for end := since.Add(promised/faster + slack); ; time.Sleep(100 * time.Millisecond) {
			mu.Lock()
			at, found := notified[notice{n.Alert, n.Target, status}]
			mu.Unlock()
			if found {
				t.Logf("%s (%s) is %s after %s, as shipped", n.Alert, n.Target, status, (faster * at.Sub(since)).Round(time.Second))
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s of %s is not notified as %s", n.Alert, n.Target, status)
			}
		}
	}
	broken := time.Now()
	check(t, f.Break(t.Context()))
	want := map[notice]bool{}
	for _, n := range f.Notices {
		want[notice{n.Alert, n.Target, "firing"}], want[notice{n.Alert, n.Target, "resolved"}] = true, true
		await(n, "firing", broken, n.Firing)
	}
	mended := broken
	if f.Mend != nil {
		mended = time.Now()
		check(t, f.Mend(t.Context()))
	}
	for _, n := range f.Notices {
		await(n, "resolved", mended, n.Resolved)
	}
	mu.Lock()
	defer mu.Unlock()
	for n := range notified {
		if !want[n] {
			t.Errorf("not promised: %v", n)
		}
	}
}

// fasterStack starts the stack with fasterExamples. change, if not nil, edits the content of prometheus.yml.
func fasterStack(
	t *testing.T, change func(configuration string) string, notified func(testservers.Notification),
) *testservers.Stack {
	t.Helper()
	s, err := testservers.NewStack(t.Context(), testservers.StackConfig{
		Postgres: testenv.Bin(t), Template: dataTemplate(t), PgBouncer: testenv.Tool(t, "PGBOUNCER", "pgbouncer"),
		Exporter:     plainProgram(t),
		Prometheus:   testenv.Tool(t, "PROMETHEUS", "prometheus"),
		Alertmanager: testenv.Tool(t, "ALERTMANAGER", "alertmanager"),
		Examples:     fasterExamples(t), Change: change, Notified: notified,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// fasterExamples are the configurations in a folder, with shorter intervals and waits.
func fasterExamples(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	times := regexp.MustCompile(`(?m)(^ *(?:interval|for|keep_firing_for|scrape_interval|evaluation_interval|scrape_timeout|group_wait|group_interval): ` +
		`|\[|pg_probe_down_seconds >= )(\d+(?:m\d+s|[smh]|\b))`)
	for _, name := range []string{"alerts.yml", "prometheus.yml", "alertmanager.yml"} {
		content := times.ReplaceAllStringFunc(read(t, "examples/"+name), func(text string) string {
			parts := times.FindStringSubmatch(text)
			if seconds, err := strconv.Atoi(parts[2]); err == nil {
				return fmt.Sprintf("%s%d", parts[1], seconds/faster)
			}
			d, err := time.ParseDuration(parts[2])
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("%s%ds", parts[1], d/faster/time.Second)
		})
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// instant returns the values that an expression has now.
func instant(t *testing.T, s *testservers.Stack, expression string) []float64 {
	t.Helper()
	var values []float64
	for _, series := range instantSeries(t, s, expression) {
		text, _ := series.Value[1].(string)
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, value)
	}
	return values
}

// sample is a series with its value at one time: the time in seconds and the value as a text.
type sample struct {
	Metric map[string]string
	Value  [2]any
}

// instantSeries returns the series that an expression has now.
func instantSeries(t *testing.T, s *testservers.Stack, expression string) []sample {
	t.Helper()
	var body struct {
		Error string
		Data  struct{ Result []sample }
	}
	getJSON(t, "http://"+s.Prometheus+"/api/v1/query?"+url.Values{"query": {expression}}.Encode(), &body)
	if body.Error != "" {
		t.Fatalf("%s: %s", expression, body.Error)
	}
	return body.Data.Result
}
