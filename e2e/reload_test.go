// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testservers"
)

// TestReload: unchanged targets keep their session and all that was counted, others come and go, and a bad file changes
// nothing and says why.
func TestReload(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	target := func(name, more string) string {
		return fmt.Sprintf("  %s: {host: 127.0.0.1, port: %d, %s%s}\n", name, s.Port, login(), more)
	}
	e, path := startWithFile(t, "targets:\n"+target("stays", "")+target("changes", "")+target("goes", ""), "--web.enable-lifecycle")
	write := func(content string) { check(t, os.WriteFile(path, []byte(content), 0o600)) }
	e.Scrape()
	e.Scrape()
	session := keptSession(t, s)
	write("targets:\n" + target("stays", "") + target("changes", ", timeout: 3s") + target("comes", ""))
	if status, body := e.Reload(); status != http.StatusOK {
		t.Fatalf("status %d: %s", status, body)
	}
	m := e.Scrape()
	for name, want := range map[string]float64{"stays": 3, "changes": 1, "comes": 1, "goes": 0} {
		own := m.of(name)
		if own["pg_probes_total"] != want || own["pg_connect_duration_seconds_count"] != want || (want == 0) != (len(own) == 0) {
			t.Errorf("%s: %v probes, %v in the histogram, %d series", name, own["pg_probes_total"], own["pg_connect_duration_seconds_count"], len(own))
		}
	}
	if m["pg_liveness_exporter_config_last_reload_successful"] != 1 || m["pg_liveness_exporter_targets"] != 3 {
		t.Error("the exporter's own metrics do not say that it reloaded")
	}
	eventually(t, "not three sessions are kept, the unchanged target's among them", func() bool {
		now := keptSession(t, s)
		return len(now) == 3 && slices.ContainsFunc(now, func(pid string) bool { return slices.Contains(session, pid) })
	})
	at := m["pg_liveness_exporter_config_last_reload_success_timestamp_seconds"]
	probes := 3.0
	for name, content := range map[string]string{
		"syntax": "targets: {", "unknown key": "targets:\n" + target("new", ", hunter2: 1"), "empty": "", "not UTF-8": "\xff\xfe",
		"large": strings.Repeat("# 10 MB of nothing\n", 10<<20/19), "twice": "targets:\n" + target("a", "") + target("a", ""),
		"anchor": "targets: {a: &a {host: *a}}", "wrong type": "targets: [1, 2]",
	} {
		t.Run(name, func(t *testing.T) {
			e := e.In(t)
			write(content)
			status, body := e.Reload()
			if status != http.StatusInternalServerError || !strings.Contains(body, "config.yml") {
				t.Errorf("status %d: %s", status, body)
			}
			if strings.Contains(body, password) {
				t.Error("the password is in the answer")
			}
			after := e.Scrape()
			probes++
			for metric, want := range map[string]float64{
				"pg_liveness_exporter_config_last_reload_successful":                0,
				"pg_liveness_exporter_config_last_reload_success_timestamp_seconds": at,
				"pg_liveness_exporter_targets":                                      3,
			} {
				if got, there := after[metric]; !there || got != want {
					t.Errorf("%s is %v (there: %v), want %v", metric, got, there, want)
				}
			}
			expectEqual(t, "targets", []string{"changes", "comes", "stays"}, e.Discovered())
		})
	}
	if n := e.Scrape().of("stays")["pg_probes_total"]; n != probes+1 {
		t.Errorf("%v probes in the end, want %v", n, probes+1)
	}
	if strings.Count(e.Logged(), `msg="Invalid configuration"`) < 8 {
		t.Errorf("the log does not say what is wrong:\n%s", e.Logged())
	}
	// SIGHUP does the same.
	write("targets:\n" + target("stays", ""))
	check(t, e.cmd.Process.Signal(syscall.SIGHUP))
	eventually(t, "SIGHUP does not reload", func() bool { return slices.Equal(e.Discovered(), []string{"stays"}) })
	check(t, os.Remove(path))
	check(t, os.Mkdir(path, 0o700))
	check(t, e.cmd.Process.Signal(syscall.SIGHUP))
	eventually(t, "a directory is not refused", func() bool { return strings.Contains(e.Logged(), "is a directory") })
}

// TestReloadIsOff: without the flag nobody can reload, with it a body does not matter, and without a file SIGHUP ends
// nothing.
func TestReloadIsOff(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e, _ := startWithFile(t, fmt.Sprintf("targets: {a: {host: 127.0.0.1, port: %d, %s}}", s.Port, login()))
	if status, _ := e.Reload(); status != http.StatusForbidden {
		t.Errorf("status %d", status)
	}
	file := writeFile(t, fmt.Sprintf("targets: {a: {host: 127.0.0.1, port: %d, %s}}", s.Port, login()))
	on := startExporter(t, nil, "--config.file="+file, "--web.enable-lifecycle")
	for _, text := range []string{"", "now", strings.Repeat("now ", 1<<18)} {
		if status, _ := on.ReloadWith(text); status != http.StatusOK {
			t.Errorf("with a body of %d bytes: status %d", len(text), status)
		}
	}
	if response, _, err := e.Get(t.Context(), "/-/reload", 0); err != nil || response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %v", err)
	}
	one := startExporter(t, environment(s.Port, "postgres"))
	one.Settle()
	check(t, one.cmd.Process.Signal(syscall.SIGHUP))
	time.Sleep(200 * time.Millisecond)
	one.Expect(up)
}

// TestManyReloads: reloads while 50 scrapes are under way, and a hundred in a row, lose no answer and leave nothing.
func TestManyReloads(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{HBA: trusting, Settings: []string{"max_connections = 200"}})
	execute(t, s, "ALTER ROLE "+role+" CONNECTION LIMIT -1")
	file := func(generation int) string {
		var b strings.Builder
		fmt.Fprintf(&b, "targets:\n")
		for i := range 10 {
			more := ""
			if i >= 5 { // half of them are made anew each time
				more = fmt.Sprintf(", timeout: %dms", 20_000+generation)
			}
			fmt.Fprintf(&b, "  t%d: {host: 127.0.0.1, port: %d, %s%s}\n", i, s.Port, login(), more)
		}
		return b.String()
	}
	// 500 logins at once must not be measured here.
	e, path := startWithFile(t, file(0), "--web.enable-lifecycle", "--probe.timeout=20s")
	e.Scrape()
	_, e.quiet = e.Usage()
	before := e.last.byTarget()
	var scrapes sync.WaitGroup
	for range 50 {
		scrapes.Go(func() {
			for range 4 {
				response, body, err := e.Get(context.Background(), "/metrics", 2*hanging)
				switch {
				case err != nil:
					t.Error(err)
				case response.StatusCode != http.StatusOK || strings.Count(body, "\npg_up{") != 10:
					t.Errorf("status %d\n%.300s", response.StatusCode, body)
				default:
					for line := range strings.Lines(body) {
						if strings.HasPrefix(line, "pg_up{") && strings.HasSuffix(line, " 0\n") {
							t.Error(line)
						}
					}
				}
			}
		})
	}
	for generation := range 100 {
		check(t, os.WriteFile(path, []byte(file(generation+1)), 0o600))
		if status, body := e.Reload(); status != http.StatusOK {
			t.Fatalf("reload %d: status %d: %s", generation, status, body)
		}
	}
	scrapes.Wait()
	e.ExpectNoMoreUsed()
	for metric, targets := range e.last.byTarget() {
		if targets != before[metric] {
			t.Errorf("%d targets have %s, %d had it before", targets, metric, before[metric])
		}
	}
	eventually(t, "the server holds more sessions than the kept ones", func() bool { return len(keptSession(t, s)) == 10 })
}

// byTarget counts the targets that have a metric, whatever else it is split by: a database may be seen later than others.
func (m Metrics) byTarget() map[string]int {
	targets := map[string]map[string]bool{}
	for series := range m {
		name, labels, _ := strings.Cut(series, "{")
		_, target, _ := strings.Cut(labels, `target="`)
		if targets[name] == nil {
			targets[name] = map[string]bool{}
		}
		targets[name][target] = true
	}
	counts := map[string]int{}
	for name, all := range targets {
		counts[name] = len(all)
	}
	return counts
}

// TestEarlyHangup: SIGHUP ends the exporter neither while it starts nor while it stops.
func TestEarlyHangup(t *testing.T) {
	t.Parallel()
	var file strings.Builder
	fmt.Fprintf(&file, "targets:\n")
	for i := range 1000 {
		fmt.Fprintf(&file, "  t%d: {host: 127.0.0.1, port: 1, %s}\n", i, login())
	}
	path := writeFile(t, file.String())
	// How long a process takes before it can be told anything is the machine's affair, so the first signal comes later and
	// later, until one comes after that and before the file was read.
	tries := 0
	for wait := 50 * time.Millisecond; ; wait = wait * 3 / 2 {
		cmd := command(t, nil, "--config.file="+path, "--web.listen-address=127.0.0.1:0")
		var log testservers.Output
		cmd.Stderr = &log
		check(t, cmd.Start())
		exited := make(chan error, 1)
		go func() { exited <- cmd.Wait() }()
		time.Sleep(wait)
		early := !strings.Contains(log.String(), `msg="Starting pg_liveness_exporter"`)
		for range 20 {
			_ = cmd.Process.Signal(syscall.SIGHUP) // it may have ended
			time.Sleep(20 * time.Millisecond)
		}
		if !early && len(exited) == 0 {
			_ = cmd.Process.Kill()
			if <-exited == nil {
				t.Fatal("it ended by itself")
			}
			if tries++; tries > 5 {
				t.Fatal("a SIGHUP while the file is read ends the exporter")
			}
			wait = 50 * time.Millisecond
			continue
		}
		eventually(t, "the file is not loaded again", func() bool {
			return len(exited) > 0 || strings.Contains(log.String(), "Configuration loaded")
		})
		if len(exited) > 0 { // nothing of it had run yet; on a busy machine its end is noticed late
			continue
		}
		check(t, cmd.Process.Signal(syscall.SIGTERM))
		for range 10 {
			_ = cmd.Process.Signal(syscall.SIGHUP) // it may have ended
			time.Sleep(time.Millisecond)
		}
		if err := <-exited; err != nil {
			t.Errorf("%v\n%.2000s", err, log.String())
		}
		return
	}
}

// TestRemovedWhileProbed: a scrape of a target that hangs gets its answer although the target is removed meanwhile, and
// then nothing of it is left.
func TestRemovedWhileProbed(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	silent := silentServer(t)
	stays := fmt.Sprintf("targets:\n  stays: {host: 127.0.0.1, port: %d, %s}\n", s.Port, login())
	e, path := startWithFile(t, stays, "--web.enable-lifecycle")
	e.Scrape()
	_, e.quiet = e.Usage()
	check(t, os.WriteFile(path, []byte(stays+fmt.Sprintf("  hangs: {host: 127.0.0.1, port: %d, %s}\n", silent, login())), 0o600))
	if status, body := e.Reload(); status != http.StatusOK {
		t.Fatalf("status %d: %s", status, body)
	}
	answer := make(chan Metrics)
	go func() { answer <- e.ProbeMetrics("hangs", "") }()
	time.Sleep(300 * time.Millisecond)
	check(t, os.WriteFile(path, []byte(stays), 0o600))
	if status, body := e.Reload(); status != http.StatusOK {
		t.Fatalf("status %d: %s", status, body)
	}
	if m := <-answer; m["pg_up"] != 0 || m[`pg_probe_failures_total{reason="timeout"}`] != 1 {
		t.Errorf("up %v, %v time-outs", m["pg_up"], m[`pg_probe_failures_total{reason="timeout"}`])
	}
	if status, _ := e.Probe("hangs", ""); status != http.StatusBadRequest {
		t.Errorf("a removed target: status %d", status)
	}
	e.ExpectNoMoreUsed()
}

// TestAutoReload: a file that changes as a mounted ConfigMap does, by a link to another folder, is loaded without a signal. One
// that cannot be used, or is away, changes nothing and is logged once.
func TestAutoReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	generation := 0
	publish := func(content string) { // as a kubelet does
		generation++
		folder := filepath.Join(dir, fmt.Sprintf("..%d", generation))
		check(t, os.Mkdir(folder, 0o700))
		check(t, os.WriteFile(filepath.Join(folder, "config.yml"), []byte(content), 0o600))
		check(t, os.Symlink(filepath.Base(folder), filepath.Join(dir, "..data_tmp")))
		check(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	target := func(name string) string {
		return fmt.Sprintf("  %s: {host: 127.0.0.1, port: 1, %s}\n", name, login())
	}
	publish("targets:\n" + target("a"))
	path := filepath.Join(dir, "config.yml")
	check(t, os.Symlink("..data/config.yml", path))
	e := startExporter(t, nil, "--config.file="+path, "--config.auto-reload-interval=1s")
	expect := func(names ...string) {
		t.Helper()
		eventually(t, "the change is not loaded", func() bool { return slices.Equal(e.Discovered(), names) })
	}
	failures := func() int { return strings.Count(e.Logged(), `msg="Keeping the previous configuration"`) }
	expectFailures := func(want int) {
		t.Helper()
		eventually(t, "the failure is not logged", func() bool { return failures() == want })
		time.Sleep(3 * time.Second) // for three more looks
		if n := failures(); n != want {
			t.Errorf("%d failures are logged, want %d", n, want)
		}
		if m := e.Scrape(); m["pg_liveness_exporter_config_last_reload_successful"] != 0 {
			t.Error("the metric says that the file was loaded")
		}
	}
	publish("targets:\n" + target("a") + target("b"))
	expect("a", "b")
	publish("targets: {a: {hots: h}}")
	expectFailures(1)
	expect("a", "b")
	publish("targets:\n" + target("c"))
	expect("c")
	check(t, os.Remove(filepath.Join(dir, "..data")))
	expectFailures(2)
	expect("c")
	publish("targets:\n" + target("c"))
	eventually(t, "the file that is back is not loaded", func() bool {
		return e.Scrape()["pg_liveness_exporter_config_last_reload_successful"] == 1
	})
}
