// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// asExporter makes the test binary run the program, so that tests meet it as a user does: a process of its own. A number
// is how many descriptors it may have.
const asExporter = "PG_LIVENESS_EXPORTER_TEST_RUN"

func TestMain(m *testing.M) {
	if descriptors := os.Getenv(asExporter); descriptors != "" {
		if limit, err := strconv.ParseUint(descriptors, 10, 64); err == nil {
			if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
				panic(err)
			}
		}
		os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

const (
	role     = "monitor"
	password = `pa ss'w\o"rd%&,é=@:/?#` // every character that some syntax would trip over
	// scrapeTimeout is what a scraper announces, probeTime what is left of it for the probe.
	scrapeTimeout = 1500 * time.Millisecond
	// hanging is the most any answer may take on a busy machine before it counts as hung.
	hanging = 10 * time.Second
)

// newServer starts a server with the role that the README recommends.
func newServer(t *testing.T, c testservers.PostgresConfig) *testservers.Postgres {
	t.Helper()
	c.Bin = testenv.Bin(t)
	s, err := testservers.NewPostgres(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("server log:\n%s", s.Log())
		}
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	execute(t, s, "CREATE DATABASE app", createRole)
	return s
}

var createRole = `CREATE ROLE ` + role + ` LOGIN PASSWORD '` + strings.ReplaceAll(password, `'`, `''`) + `' CONNECTION LIMIT 10;
GRANT pg_monitor TO ` + role

// execute runs statements as the superuser, each by itself.
func execute(t *testing.T, s *testservers.Postgres, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if err := s.Exec(context.Background(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// environment names a server the way postgres_exporter's users do.
func environment(port int, database string) []string {
	return []string{
		fmt.Sprintf("DATA_SOURCE_URI=127.0.0.1:%d/%s?sslmode=disable", port, database),
		"DATA_SOURCE_USER=" + role, "DATA_SOURCE_PASS=" + password,
	}
}

// exporter is the program under test.
type exporter struct {
	t       *testing.T
	cmd     *exec.Cmd
	address string
	exited  chan struct{}
	last    metrics // of the scrape before
	quiet   usage   // what it uses when nothing is wrong
	log     testservers.Output
}

func (e *exporter) logged() string { return e.log.String() }

// command prepares the program with a clean environment, so that nothing of the machine's reaches it.
func command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append([]string{asExporter + "=yes", "HOME=/nonexistent", "PATH=" + os.Getenv("PATH")}, env...)
	return cmd
}

func startExporter(t *testing.T, env []string, args ...string) *exporter {
	t.Helper()
	return startProgram(t, os.Args[0], env, args...)
}

// startProgram starts the program at a path, and waits until it listens.
func startProgram(t *testing.T, path string, env []string, args ...string) *exporter {
	t.Helper()
	address := "127.0.0.1:" + freePort(t)
	e := &exporter{t: t, address: address, exited: make(chan struct{})}
	e.cmd = command(context.Background(), env, append([]string{"--web.listen-address=" + address}, args...)...)
	e.cmd.Path = path
	e.cmd.Stderr = &e.log
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = e.cmd.Wait() // its exit code is looked at where it matters
		close(e.exited)
	}()
	t.Cleanup(func() {
		_ = e.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-e.exited:
		case <-time.After(3 * hanging):
			t.Error("the exporter did not stop")
			_ = e.cmd.Process.Kill()
		}
		if strings.Contains(e.logged(), "DATA RACE") || strings.Contains(e.logged(), password) {
			t.Error("a data race or the password is in the log")
		}
		if t.Failed() {
			t.Logf("exporter log:\n%s", e.logged())
		}
	})
	e.listens(address)
	return e
}

// listens waits until the exporter takes connections at an address.
func (e *exporter) listens(address string) {
	e.t.Helper()
	for deadline := time.Now().Add(3 * hanging); ; time.Sleep(10 * time.Millisecond) {
		dialer := net.Dialer{Timeout: time.Second}
		conn, err := dialer.DialContext(e.t.Context(), "tcp", address)
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("the exporter does not listen: %v\n%s", err, e.logged())
		}
	}
}

// get requests a page. announced is the scrape timeout to send, 0 for none.
func (e *exporter) get(ctx context.Context, path string, announced time.Duration) (*http.Response, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.address+path, nil)
	if err != nil {
		return nil, "", err
	}
	if announced > 0 {
		request.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", strconv.FormatFloat(announced.Seconds(), 'f', -1, 64))
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * hanging}
	response, err := client.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return response, string(body), err
}

// metrics are a scrape's series by name and labels, as the text format writes them.
type metrics map[string]float64

func parseMetrics(t *testing.T, body string) metrics {
	t.Helper()
	m := metrics{}
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		m[line[:i]] = value
	}
	return m
}

// scrape scrapes as Prometheus would and requires an answer inside the deadline.
func (e *exporter) scrape() metrics {
	e.t.Helper()
	start := time.Now()
	response, body, err := e.get(context.Background(), "/metrics", scrapeTimeout)
	if err != nil {
		e.t.Fatal(err)
	}
	if took := time.Since(start); took > hanging {
		e.t.Errorf("a scrape took %s", took)
	}
	if response.StatusCode != http.StatusOK {
		e.t.Fatalf("status %d: %s", response.StatusCode, body)
	}
	if strings.Contains(body, password) {
		e.t.Error("the password is on the page")
	}
	e.last = parseMetrics(e.t, body)
	// By the exporter's own clock: a busy machine may keep the answer, but not the probe, from being in time.
	if took := e.last["pg_probe_last_duration_seconds"]; took >= scrapeTimeout.Seconds() {
		e.t.Errorf("a probe took %v s, the scraper waits %s", took, scrapeTimeout)
	}
	return e.last
}

// verdict is what a scrape says of the server.
type verdict struct {
	state, reason string // reason is empty for a server that answers
}

var up = verdict{state: "accepting"}

// expect scrapes and requires a verdict, counted exactly once.
func (e *exporter) expect(want verdict) metrics {
	e.t.Helper()
	before := failures(e.last)
	m := e.scrape()
	got := verdictOf(e.t, m, before)
	if got != want {
		e.t.Fatalf("got %+v, want %+v\n%s", got, want, e.logged())
	}
	return m
}

// verdictOf reads the verdict off a scrape and requires that its parts agree.
func verdictOf(t *testing.T, m metrics, before map[string]float64) verdict {
	t.Helper()
	var v verdict
	for series, value := range m {
		if state, ok := label(series, "pg_probe_state", "state"); ok && value == 1 {
			if v.state != "" {
				t.Fatalf("two states: %s and %s", v.state, state)
			}
			v.state = state
		}
	}
	for reason, count := range failures(m) {
		switch count - before[reason] {
		case 0:
		case 1:
			v.reason = reason
		default:
			t.Fatalf("%s was counted %v times", reason, count-before[reason])
		}
	}
	if want := v.state == "accepting"; (m["pg_up"] == 1) != want || (v.reason == "") != want {
		t.Fatalf("pg_up %v, state %s, reason %q do not agree", m["pg_up"], v.state, v.reason)
	}
	return v
}

func failures(m metrics) map[string]float64 {
	counts := map[string]float64{}
	for series, value := range m {
		if reason, ok := label(series, "pg_probe_failures_total", "reason"); ok {
			counts[reason] = value
		}
	}
	return counts
}

// label returns the value of a metric's only label.
func label(series, name, key string) (string, bool) {
	rest, ok := strings.CutPrefix(series, name+"{"+key+`="`)
	if !ok {
		return "", false
	}
	return strings.TrimSuffix(rest, `"}`), true
}

// usage is what the exporter holds.
type usage struct{ goroutines, descriptors, sessions float64 }

// usage scrapes some times and returns the least and the most: a scrape's own goroutines come and go.
func (e *exporter) usage() (least, most usage) {
	e.t.Helper()
	for i := range 5 {
		m := e.scrape()
		now := usage{
			m["go_goroutines"], m["process_open_fds"],
			m[`pg_liveness_exporter_sessions{state="idle"}`] + m[`pg_liveness_exporter_sessions{state="in_use"}`],
		}
		if i == 0 {
			least, most = now, now
		}
		least = least.least(now)
		most.goroutines = max(most.goroutines, now.goroutines)
	}
	return least, most
}

func (u usage) least(v usage) usage {
	return usage{min(u.goroutines, v.goroutines), min(u.descriptors, v.descriptors), min(u.sessions, v.sessions)}
}

// settle scrapes a healthy server and remembers what that takes.
func (e *exporter) settle() {
	e.t.Helper()
	e.expect(up)
	// Goroutines are compared with the most at rest: how few of a scrape's own are seen is luck.
	least, most := e.usage()
	e.quiet = usage{most.goroutines, least.descriptors, least.sessions}
}

// leavesNothing requires that, soon after a fault ended, the exporter holds no more than before it, and the server no
// more of its sessions than the kept one.
func (e *exporter) leavesNothing(s *testservers.Postgres) {
	e.t.Helper()
	e.usesNoMore()
	eventually(e.t, "the server holds more sessions than the kept one", func() bool {
		rows, err := s.Query(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE usename = '"+role+"'")
		return err == nil && (rows[0] == "0" || rows[0] == "1")
	})
}

// usesNoMore requires that, soon, the exporter holds no more than when nothing was wrong.
func (e *exporter) usesNoMore() {
	e.t.Helper()
	time.Sleep(time.Second)
	now, _ := e.usage()
	for deadline := time.Now().Add(hanging); ; time.Sleep(100 * time.Millisecond) {
		again, _ := e.usage()
		now = now.least(again) // what has leaked is there every time
		if now.goroutines <= e.quiet.goroutines && now.descriptors <= e.quiet.descriptors && now.sessions <= e.quiet.sessions {
			break
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("holds %+v, held %+v before the fault", now, e.quiet)
		}
	}
}

// changes are the verdicts that were logged, in their order: "up" or a reason.
func (e *exporter) changes() []string {
	var changes []string
	lines := bufio.NewScanner(strings.NewReader(e.logged()))
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.Contains(line, `msg="the probe succeeds"`):
			changes = append(changes, "up")
		case strings.Contains(line, `msg="the probe fails"`):
			_, rest, _ := strings.Cut(line, " reason=")
			reason, _, _ := strings.Cut(rest, " ")
			changes = append(changes, reason)
		}
	}
	return changes
}

// expectChanges requires that each change of the verdict was logged once, without a secret or an address.
func (e *exporter) expectChanges(s *testservers.Postgres, want ...string) {
	e.t.Helper()
	eventually(e.t, fmt.Sprintf("logged %v, want %v", e.changes(), want), func() bool {
		return slices.Equal(e.changes(), want)
	})
	for _, secret := range []string{password, ":" + strconv.Itoa(s.Port), role} {
		if strings.Contains(e.logged(), secret) {
			e.t.Errorf("%q is in the log", secret)
		}
	}
}

// eventually waits for something that happens in the background, as long as a user would call it hung.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(hanging); !happened(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// losses are the lost sessions by reason.
func (m metrics) losses() map[string]float64 {
	counts := map[string]float64{}
	for series, value := range m {
		if reason, ok := label(series, "pg_session_losses_total", "reason"); ok && value > 0 {
			counts[reason] = value
		}
	}
	return counts
}

func expectLosses(t *testing.T, m metrics, want map[string]float64) {
	t.Helper()
	if !maps.Equal(m.losses(), want) {
		t.Errorf("losses %v, want %v", m.losses(), want)
	}
}
