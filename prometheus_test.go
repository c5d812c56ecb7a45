package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pg_liveness_exporter/internal/pgtest"
)

// TestPrometheus lets a real Prometheus scrape over protobuf, with native histograms, and over text without: both show
// latency quantiles.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	prometheus := pgtest.Tool(t, "PROMETHEUS", "prometheus")
	s := newServer(t, pgtest.Config{})
	e := startExporter(t, environment(s.Port, "postgres"), "--probe.timeout-offset=0.1s")
	port := freePort(t)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
  - {job_name: native, scrape_protocols: [PrometheusProto], static_configs: [{targets: ["%[1]s"]}]}
  - {job_name: text, scrape_protocols: [PrometheusText0.0.4], static_configs: [{targets: ["%[1]s"]}]}
  - {job_name: openmetrics, scrape_protocols: [OpenMetricsText1.0.0], static_configs: [{targets: ["%[1]s"]}]}
`, e.address)), 0o644))
	var log strings.Builder
	cmd := exec.CommandContext(context.Background(), prometheus, "--config.file="+dir+"/prometheus.yml", "--storage.tsdb.path="+dir+"/data",
		"--web.listen-address=127.0.0.1:"+port, "--enable-feature=native-histograms")
	cmd.Stdout, cmd.Stderr = &log, &log
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Prometheus:\n%s", log.String())
		}
	})
	query := func(expression string) string { return ask(t, "127.0.0.1:"+port, expression) }
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

func freePort(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	check(t, err)
	return port
}

// TestPromtool: promtool finds nothing in what a real server gives, up and down.
func TestPromtool(t *testing.T) {
	t.Parallel()
	promtool := pgtest.Tool(t, "PROMTOOL", "promtool")
	s := newServer(t, pgtest.Config{})
	e := startExporter(t, environment(s.Port, "postgres"), "--collect.applications")
	for _, change := range []func(){func() {}, func() { check(t, s.Stop(pgtest.Fast)) }} {
		change()
		_, body, err := e.get(t.Context(), "/metrics", scrapeTimeout)
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
	s := newServer(t, pgtest.Config{})
	execute(t, s, "ALTER DATABASE app CONNECTION LIMIT 50")
	e := startExporter(t, environment(s.Port, "app"), "--collect.applications")
	e.settle()
	execute(t, s, "SELECT pg_terminate_backend("+strconv.Itoa(keptPID(t, s))+")")
	time.Sleep(time.Second)
	_, body, err := e.get(t.Context(), "/metrics", scrapeTimeout)
	check(t, err)
	golden, err := os.ReadFile(filepath.Join("collector", "testdata", "up.prom"))
	check(t, err)
	want, got := helps(string(golden), "pg_"), helps(body, "pg_")
	for help := range want {
		if !got[help] && !(strings.Contains(help, "pg_settings_reserved_connections") && s.Major(t) < 16) {
			t.Errorf("a real server does not give: %s", help)
		}
	}
	for help := range got {
		if !want[help] && !strings.Contains(help, "pg_liveness_exporter_") {
			t.Errorf("the golden file lacks: %s", help)
		}
	}
}

// helps are the HELP lines of an exposition, each of which names a metric.
func helps(exposition, prefix string) map[string]bool {
	found := map[string]bool{}
	for line := range strings.Lines(exposition) {
		if strings.HasPrefix(line, "# HELP "+prefix) {
			found[strings.TrimSpace(line)] = true
		}
	}
	return found
}

// TestWebConfiguration: exporter-toolkit's own features work: a password, several addresses, a socket from systemd.
func TestWebConfiguration(t *testing.T) {
	t.Parallel()
	s := newServer(t, pgtest.Config{})
	file := filepath.Join(t.TempDir(), "web.yml")
	// bcrypt of "test", at the least cost
	check(t, os.WriteFile(file, []byte("basic_auth_users: {alice: $2a$04$2qvCXm1EJBs9g/IECrSJTuaN.P4WidOdOzLG7fLcZSs3ckJ0xyHIW}\n"), 0o644))
	second := "127.0.0.1:" + freePort(t)
	e := startExporter(t, environment(s.Port, "postgres"), "--web.config.file="+file, "--web.listen-address="+second)
	for _, address := range []string{e.address, second} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
		check(t, err)
		for _, status := range []int{http.StatusUnauthorized, http.StatusOK} {
			response, err := http.DefaultClient.Do(request)
			check(t, err)
			check(t, response.Body.Close())
			if response.StatusCode != status {
				t.Errorf("status %d, want %d", response.StatusCode, status)
			}
			request.SetBasicAuth("alice", "test")
		}
	}

	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	socket, err := l.(*net.TCPListener).File()
	check(t, err)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" --web.systemd-socket`, os.Args[0])
	cmd.Env = append([]string{asExporter + "=1", "PATH=" + os.Getenv("PATH")}, environment(s.Port, "postgres")...)
	cmd.ExtraFiles = []*os.File{socket}
	check(t, cmd.Start())
	check(t, socket.Close())
	address := l.Addr().String()
	check(t, l.Close())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	activated := &exporter{t: t, address: address}
	activated.expect(up)
}
