// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// TestPrometheus lets a real Prometheus scrape over protobuf, with native histograms, and over text without: both show
// latency quantiles.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"), "--probe.timeout-offset=0.1s")
	query := startPrometheus(t, fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
  - {job_name: native, scrape_protocols: [PrometheusProto], static_configs: [{targets: ["%[1]s"]}]}
  - {job_name: text, scrape_protocols: [PrometheusText0.0.4], static_configs: [{targets: ["%[1]s"]}]}
  - {job_name: openmetrics, scrape_protocols: [OpenMetricsText1.0.0], static_configs: [{targets: ["%[1]s"]}]}
`, e.address))
	for _, metric := range []string{"pg_connect_duration_seconds", "pg_query_duration_seconds"} {
		for job, expression := range map[string]string{
			"native":      `histogram_quantile(0.9, rate(%s{job="native"}[10s]))`,
			"text":        `histogram_quantile(0.9, rate(%s_bucket{job="text"}[10s]))`,
			"openmetrics": `histogram_quantile(0.9, rate(%s_bucket{job="openmetrics"}[10s]))`,
		} {
			var got string
			deadline := time.Now().Add(10 * hanging)
			for got = ""; time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
				got = query(fmt.Sprintf(expression, metric))
				if v, err := strconv.ParseFloat(got, 64); err == nil && v > 0 && v < hanging.Seconds() {
					break
				}
			}
			if v, err := strconv.ParseFloat(got, 64); err != nil || !(v > 0 && v < hanging.Seconds()) {
				t.Errorf("%s over %s: the quantile is %q", metric, job, got)
			}
		}
	}
	eventually(t, "Prometheus does not see the three up", func() bool {
		return query(`pg_up{job="native"} + on () pg_up{job="text"} + on () pg_up{job="openmetrics"}`) == "3"
	})
	// What is stored, and not only what is shown, keeps to the names of the golden file.
	if got := query(`count(pg_connections{datname="postgres",job="text"})`); got != "6" {
		t.Errorf("%s states of a database, want 6", got)
	}
}

// startPrometheus starts a real Prometheus. The result asks it for the value of an expression that has one series.
func startPrometheus(t *testing.T, configuration string) func(expression string) string {
	t.Helper()
	prometheus := testenv.Tool(t, "PROMETHEUS", "prometheus")
	port, dir := freePort(t), t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(configuration), 0o600))
	startTool(t, "Prometheus", prometheus, "--config.file="+dir+"/prometheus.yml", "--storage.tsdb.path="+dir+"/data",
		"--web.listen-address=127.0.0.1:"+port, "--enable-feature=native-histograms")
	return func(expression string) string { return ask(t, "127.0.0.1:"+port, expression) }
}

// TestDiscovery: two Prometheus servers find 20 targets in /sd with no relabelling, keep their histograms across a reload,
// and see an outage of two seconds between two of their scrapes.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	steady := newServer(t, testservers.PostgresConfig{Settings: []string{"max_connections = 200"}})
	execute(t, steady, "ALTER ROLE "+role+" CONNECTION LIMIT -1")
	blip := newServer(t, testservers.PostgresConfig{})
	file := func(targets int) string {
		var b strings.Builder
		fmt.Fprintf(&b, "defaults: {%s, interval: 500ms}\ntargets:\n", login())
		fmt.Fprintf(&b, "  blip: {host: 127.0.0.1, port: %d, labels: {cluster: eu}}\n", blip.Port)
		fmt.Fprintf(&b, "  'odd \"name\" {}, ü/&?\\ +%%': {host: 127.0.0.1, port: %d}\n", steady.Port)
		for i := range targets - 2 {
			fmt.Fprintf(&b, "  t%02d: {host: 127.0.0.1, port: %d}\n", i, steady.Port)
		}
		return b.String()
	}
	e, path := startWithFile(t, file(20), "--no-metrics.targets", "--web.enable-lifecycle", "--probe.timeout=5s")
	const interval = 10 * time.Second
	configuration := fmt.Sprintf(`
global: {scrape_interval: %s, scrape_timeout: 5s}
scrape_configs:
  - {job_name: postgres, http_sd_configs: [{url: "http://%s/sd", refresh_interval: 1s}]}
`, interval, e.address)
	first, second := startPrometheus(t, configuration), startPrometheus(t, configuration)
	waitFor := func(expression, want string) {
		t.Helper()
		deadline := time.Now().Add(2*interval + 10*hanging)
		for _, query := range []func(string) string{first, second} {
			for query(expression) != want {
				if time.Now().After(deadline) {
					t.Fatalf("%s is %q, want %q", expression, query(expression), want)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
	}
	waitFor(`count(pg_up == 1)`, "20")
	waitFor(`count(up{job="postgres"} == 1 and on (instance) pg_up)`, "20")
	waitFor(`pg_up{instance="blip", target="blip", cluster="eu", exported_cluster=""}`, "1")
	waitFor(`pg_up{target="odd \"name\" {}, ü/&?\\ +%"}`, "1")

	check(t, os.WriteFile(path, []byte(file(21)), 0o600))
	if status, body := e.Reload(); status != http.StatusOK {
		t.Fatalf("status %d: %s", status, body)
	}
	waitFor(`count(pg_up == 1)`, "21")

	// The outage: begun just after both have scraped, over before either scrapes again. Where the two are so far apart that
	// it does not fit in between, the first one's scrapes count alone.
	last, err := strconv.ParseFloat(first(`timestamp(pg_up{target="blip"})`), 64)
	check(t, err)
	next := time.UnixMilli(int64(last * 1000)).Add(2 * time.Second) // a scrape may come late
	for !next.After(time.Now()) {
		next = next.Add(interval)
	}
	time.Sleep(time.Until(next))
	check(t, blip.Stop(testservers.Fast))
	time.Sleep(2 * time.Second)
	check(t, blip.Start(t.Context()))
	waitFor(`increase(pg_probe_failures_total{target="blip", reason="refused"}[1m]) > bool 1`, "1")
	if got := first(`min_over_time(pg_up{target="blip"}[1m])`); got != "1" {
		t.Errorf("the first Prometheus saw pg_up %s at the outage", got)
	}
	waitFor(`sum(pg_session_losses_total{target="blip"}) > bool 0`, "1") // 2 if a probe has just opened a session to keep
	waitFor(`sum(increase(pg_probe_failures_total{target!="blip"}[1m]))`, "0")
	waitFor(`max(resets(pg_connect_duration_seconds[1m]))`, "0")
	waitFor(`max(resets(pg_probes_total[1m]))`, "0")
	waitFor(`min(histogram_count(pg_connect_duration_seconds{target!="t18"})) > bool 10`, "1")
}

// ask returns the value of an expression that has one series, or nothing.
func ask(t *testing.T, address, expression string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/api/v1/query?query="+url.QueryEscape(expression), nil)
	check(t, err)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "" // it starts
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	if json.NewDecoder(response.Body).Decode(&answer) != nil || len(answer.Data.Result) != 1 {
		return ""
	}
	value, _ := answer.Data.Result[0].Value[1].(string)
	return value
}
