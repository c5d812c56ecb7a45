// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testservers"
)

// TestManyTargets: of 500 targets 100 hang and 100 refuse. The others answer as if those were not there, through /probe
// and in one scrape of all, which comes inside its deadline; and in the end nothing is left.
func TestManyTargets(t *testing.T) {
	s := newServer(t, testservers.PostgresConfig{HBA: trusting, Settings: []string{"max_connections = 900"}})
	execute(t, s, "ALTER ROLE "+role+" CONNECTION LIMIT -1")
	silent, closed := silentServer(t), freePort(t)
	var file strings.Builder
	fmt.Fprintf(&file, "defaults: {%s}\ntargets:\n", login())
	for i := range 500 {
		// Three hundred logins take their time on a busy machine. A target that hangs needs less, but its probe must begin in time.
		port, timeout := strconv.Itoa(s.Port), "20s"
		switch i % 5 {
		case 0:
			port, timeout = strconv.Itoa(silent), "5s"
		case 1:
			port = closed
		}
		fmt.Fprintf(&file, "  t%03d: {host: 127.0.0.1, port: %s, timeout: %s}\n", i, port, timeout)
	}
	e, _ := startWithFile(t, file.String())
	const announced = 20 * time.Second
	scrape := func() {
		t.Helper()
		start := time.Now()
		response, body, err := e.Get(t.Context(), "/metrics", announced)
		check(t, err)
		if took := time.Since(start); took > announced+hanging || response.StatusCode != http.StatusOK {
			t.Fatalf("status %d after %s", response.StatusCode, took)
		}
		m := parseMetrics(t, body)
		wrong := map[string]int{}
		for i := range 500 {
			want := "accepting"
			if i%5 < 2 {
				want = "no_response"
			}
			name := fmt.Sprintf("t%03d", i)
			got := "missing"
			for _, state := range []string{"accepting", "rejecting", "no_response", "connection_limit", "misconfigured"} {
				if m[`pg_probe_state{state="`+state+`",target="`+name+`"}`] == 1 {
					got = state
				}
			}
			if got != want {
				wrong[want+" is "+got]++
			}
			isUp, there := m[`pg_up{target="`+name+`"}`]
			if !there || (isUp == 1) != (want == "accepting") {
				wrong[fmt.Sprintf("%s has pg_up %v (there: %v)", want, isUp, there)]++
			}
			reason := []string{"timeout", "refused"}
			if i%5 < 2 && m[`pg_probe_failures_total{reason="`+reason[i%5]+`",target="`+name+`"}`] == 0 {
				wrong["no "+reason[i%5]]++
			}
		}
		if len(wrong) > 0 {
			t.Errorf("%v\n%.3000s", wrong, e.Logged())
		}
	}
	for range 3 {
		at := time.Now()
		scrape()
		t.Logf("a scrape of all took %s", time.Since(at))
	}
	// The healthy ones while the others hang, as a Prometheus asks that found them in /sd.
	var probes sync.WaitGroup
	for worker := range 21 { // each meets all kinds
		probes.Go(func() {
			for i := worker; i < 500; i += 21 {
				path := fmt.Sprintf("/probe?target=t%03d", i)
				start := time.Now()
				response, body, err := e.Get(context.Background(), path, announced)
				if took := time.Since(start); took > hanging {
					t.Errorf("%s took %s", path, took)
				}
				if err != nil || response.StatusCode != http.StatusOK || strings.Contains(body, "\npg_up 1\n") != (i%5 >= 2) {
					t.Errorf("%s: %v\n%.200s", path, err, body)
				}
			}
		})
	}
	probes.Wait()
	if n := e.ScrapePatiently()[`pg_liveness_exporter_sessions{state="in_use"}`]; n > 100*4+50 {
		t.Errorf("%v connections in use", n)
	}
}

// TestProbeAndMetrics: both show the same of a target, whatever its name; and without --metrics.targets only /probe does.
func TestProbeAndMetrics(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	names := []string{"plain", `odd "name" {}, ü/&?\ +%`, "127.0.0.1:5432", "a=b"}
	var file strings.Builder
	fmt.Fprintf(&file, "targets:\n")
	for _, name := range names {
		fmt.Fprintf(&file, "  %q: {host: 127.0.0.1, port: %d, %s}\n", name, s.Port, login())
	}
	e, _ := startWithFile(t, file.String())
	e.Scrape()
	all := e.Scrape()
	for _, name := range names {
		one, labelled := e.ProbeMetrics(name, ""), all.of(name)
		if one["pg_up"] != 1 || labelled["pg_up"] != 1 || one["pg_probes_total"] != 3 {
			t.Errorf("%s: up %v %v, probes %v", name, one["pg_up"], labelled["pg_up"], one["pg_probes_total"])
		}
		// A login under way on 18 is there one time and not the next.
		maps.DeleteFunc(one, func(series string, _ float64) bool { return strings.Contains(series, `datname=""`) })
		maps.DeleteFunc(labelled, func(series string, _ float64) bool { return strings.Contains(series, `datname=""`) })
		for series := range one {
			if _, ok := labelled[series]; !ok {
				t.Errorf("%s: /metrics lacks %s", name, series)
			}
		}
		for series := range labelled {
			if _, ok := one[series]; !ok {
				t.Errorf("%s: /probe lacks %s", name, series)
			}
		}
	}
	if all["pg_liveness_exporter_targets"] != 4 || all["pg_liveness_exporter_config_last_reload_successful"] != 1 {
		t.Error("the exporter's own metrics are not right")
	}
	own, _ := startWithFile(t, file.String(), "--no-metrics.targets")
	_, body, err := own.Get(t.Context(), "/metrics", scrapeTimeout)
	check(t, err)
	if strings.Contains(body, "pg_up") || !strings.Contains(body, "\npg_liveness_exporter_targets 4\n") {
		t.Errorf("with --no-metrics.targets:\n%.500s", body)
	}
	if own.ProbeMetrics("plain", "")["pg_up"] != 1 {
		t.Error("/probe does not work with --no-metrics.targets")
	}
}

// TestAdHocTargets: what a module allows can be probed, with its credentials; nothing else can, nor gets to see them.
func TestAdHocTargets(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	stranger, seen := recorder(t)
	e, _ := startWithFile(t, fmt.Sprintf(`
defaults: {sslmode: disable}
modules:
  near: {%[1]s, allow: ["127.0.0.1", "localhost"]}
  names: {%[1]s, allow: ["localhost"]}
  far: {%[1]s, allow: ["10.0.0.0/8", "localhost"]}
  strict: {%[1]s, require_auth: scram-sha-256, allow: ["127.0.0.1"]}
targets:
  named: {host: 127.0.0.1, port: %[2]d, module: near}`, login(), s.Port))
	server := fmt.Sprintf("127.0.0.1:%d", s.Port)
	for range 2 {
		if m := e.ProbeMetrics(server, "&module=near"); m["pg_up"] != 1 {
			t.Fatalf("an allowed address: %v", m)
		}
	}
	if m := e.ProbeMetrics(fmt.Sprintf("localhost:%d", s.Port), "&auth_module=near"); m["pg_up"] != 1 {
		t.Fatalf("an allowed name: %v", m)
	}
	if m := e.ProbeMetrics(server, "&module=near"); m["pg_probes_total"] != 3 || m["pg_kept_session_up"] != 1 {
		t.Errorf("nothing is kept of an ad-hoc target: %v", m)
	}
	if m := e.ScrapePatiently(); m.of(server)["pg_up"] != 0 || m["pg_liveness_exporter_targets"] != 1 {
		t.Error("an ad-hoc target is on /metrics")
	}
	address := fmt.Sprintf("127.0.0.1:%d", stranger)
	for target, module := range map[string]string{
		address:                                     "far",   // not in the network
		fmt.Sprintf("127.0.0.2:%d", stranger):       "near",  // likewise
		fmt.Sprintf("localhost:%d", stranger):       "far",   // a name that is allowed, an address that is not
		fmt.Sprintf("LOCALHOST.:%d", stranger):      "names", // a name that leads to this machine, without a network
		fmt.Sprintf("evil.example:%d", stranger):    "near",  // another name
		fmt.Sprintf("[::ffff:7f00:2]:%d", stranger): "near",  // an address in disguise
		fmt.Sprintf("2130706433:%d", stranger):      "near",  // likewise
		fmt.Sprintf("0.0.0.0:%d", stranger):         "near",
		"postgres://" + address:                     "near",
		"x@" + address:                              "near",
		"host=" + address:                           "near",
		address + "\x00":                            "near",
		"/tmp:5432":                                 "near",
		"unknown":                                   "",
		"named":                                     "far",
	} {
		name := strings.ReplaceAll(target, strconv.Itoa(stranger), "PORT")
		t.Run(fmt.Sprintf("%q with module %s", name, module), func(t *testing.T) {
			status, body := e.In(t).Probe(target, "&module="+module)
			if status != http.StatusBadRequest || strings.Contains(body, target) || strings.Contains(body, "127.0.0.1") {
				t.Errorf("status %d: %s", status, body)
			}
		})
	}
	if got := seen(); len(got) > 0 {
		t.Errorf("a server that is not allowed received %q", got)
	}
	// The recorder asks for the password in the clear. It does not get it where a stronger way is required, and does where
	// not: so it does record.
	for _, test := range []struct {
		module string
		gets   bool
	}{{"strict", false}, {"near", true}} {
		if m := e.ProbeMetrics(address, "&module="+test.module); m["pg_up"] != 0 {
			t.Error("the recorder is up")
		}
		if got := string(seen()); !strings.Contains(got, role) || strings.Contains(got, password) != test.gets {
			t.Errorf("with %s, an allowed server received %q", test.module, got)
		}
	}
	// One server is one target, however its address is written.
	for _, spelling := range []string{"127.0.0.1:0%d", "[::ffff:127.0.0.1]:%d", "127.0.0.1:000%d"} {
		e.ProbeMetrics(fmt.Sprintf(spelling, s.Port), "&module=near")
	}
	if m := e.ProbeMetrics(server, "&module=near"); m["pg_probes_total"] != 7 {
		t.Errorf("%v probes of one server", m["pg_probes_total"])
	}
}

// TestAdHocSessions: whoever names one server in many ways does not take its slots. A target of /probe keeps a session
// from its third probe on, and 32 of a module do.
func TestAdHocSessions(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{
		HBA: "host all all 127.0.0.0/8 scram-sha-256", Settings: []string{"listen_addresses = '*'", "max_connections = 100"},
	})
	execute(t, s, "ALTER ROLE "+role+" CONNECTION LIMIT -1")
	e, _ := startWithFile(t, fmt.Sprintf(`
modules:
  many: {%[1]s, allow: ["127.0.0.0/8", "localhost"]}
  few: {%[1]s, allow: ["127.0.0.0/8", "localhost"]}
  none: {%[1]s, keep: false, allow: ["127.0.0.0/8"]}`, login()))
	kept := func() int {
		return int(e.Scrape()[`pg_liveness_exporter_sessions{state="idle"}`])
	}
	probeAll := func(first, n int, module string, times float64) (keeping int) {
		t.Helper()
		for i := range n {
			address := fmt.Sprintf("127.0.%d.%d:%d", first, i+1, s.Port)
			m := e.ProbeMetrics(address, "&module="+module)
			if m["pg_up"] != 1 || m["pg_probes_total"] != times || m["pg_query_duration_seconds_count"] != times || m["pg_connections_used"] == 0 {
				t.Errorf("%s in module %s: up %v, %v probes, %v queries, %v connections", address, module,
					m["pg_up"], m["pg_probes_total"], m["pg_query_duration_seconds_count"], m["pg_connections_used"])
			}
			up, keeps := m["pg_kept_session_up"]
			if _, counts := m[`pg_session_losses_total{reason="crash"}`]; counts != keeps || keeps && up != 1 {
				t.Errorf("%s in module %s: kept session %v %v, losses %v", address, module, keeps, up, counts)
			}
			if keeps {
				keeping++
			}
		}
		return keeping
	}
	for times := range 2 {
		if n := probeAll(1, 150, "many", float64(times+1)); n != 0 {
			t.Fatalf("%d of 150 addresses keep a session after %d probes", n, times+1)
		}
	}
	localhost := fmt.Sprintf("localhost:%d", s.Port)
	for times := range 3 {
		_, keeps := e.ProbeMetrics(localhost, "&module=few")["pg_kept_session_up"]
		if keeps != (times == 2) {
			t.Errorf("a name keeps a session at probe %d: %v", times+1, keeps)
		}
	}
	eventually(t, "sessions of addresses that were probed twice stay open", func() bool { return kept() == 1 })
	if n := probeAll(1, 40, "many", 3); n != 32 {
		t.Errorf("%d of 40 addresses keep a session", n)
	}
	if n := probeAll(1, 40, "many", 4); n != 32 {
		t.Errorf("%d of 40 addresses still keep a session", n)
	}
	for times := range 4 {
		if n := probeAll(2, 2, "none", float64(times+1)); n != 0 {
			t.Errorf("%d addresses of a module with keep: false keep a session", n)
		}
	}
	eventually(t, "there are not 32 sessions of one module and one of another", func() bool {
		rows, err := s.Query(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE usename = '"+role+"'")
		return err == nil && rows[0] == "33" && kept() == 33
	})
}

// recorder is a server that asks for the password in the clear and keeps what it receives.
func recorder(t *testing.T) (port int, seen func() []byte) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", ":0")
	check(t, err)
	var (
		mu       sync.Mutex
		received []byte
	)
	t.Cleanup(func() { check(t, l.Close()) })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			received = append(received, "(connected)"...)
			mu.Unlock()
			go func() {
				defer func() { _ = conn.Close() }()
				_, _ = conn.Write([]byte{'R', 0, 0, 0, 8, 0, 0, 0, 3}) // AuthenticationCleartextPassword
				buffer := make([]byte, 4096)
				for {
					_ = conn.SetReadDeadline(time.Now().Add(hanging))
					n, err := conn.Read(buffer)
					mu.Lock()
					received = append(received, buffer[:n]...)
					mu.Unlock()
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, func() []byte {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(received)
	}
}

// TestMaxInFlight: a probe that finds no room in time says so, and not that the server is down; with room it is up again.
func TestMaxInFlight(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e, _ := startWithFile(t, fmt.Sprintf(`
targets:
  hangs: {host: 127.0.0.1, port: %[2]d, timeout: 4s, %[1]s}
  up: {host: 127.0.0.1, port: %[3]d, %[1]s}`, login(), silentServer(t), s.Port), "--probe.max-in-flight=1")
	hung := make(chan error, 1)
	go func() {
		_, _, err := e.Get(context.Background(), "/probe?target=hangs", 2*scrapeTimeout)
		hung <- err
	}()
	eventually(t, "nothing hangs", func() bool {
		m := e.ProbeMetrics("up", "")
		return m["pg_up"] == 0 && m[`pg_probe_state{state="misconfigured"}`] == 1 && m[`pg_probe_failures_total{reason="other"}`] > 0
	})
	check(t, <-hung)
	eventually(t, "not up although there is room", func() bool { return e.ProbeMetrics("up", "")["pg_up"] == 1 })
	if m := e.ProbeMetrics("up", ""); m[`pg_probe_failures_total{reason="timeout"}`] != 0 {
		t.Error("waiting for room counts as the server's silence")
	}
}

// TestDebug: debug=true tells the steps, the log lines and the result, of a server that answers and of others, and no
// secret or address.
func TestDebug(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e, _ := startWithFile(t, fmt.Sprintf(`
targets:
  up: {host: 127.0.0.1, port: %[2]d, %[1]s}
  wrong: {host: 127.0.0.1, port: %[2]d, user: %[3]s, password: nonsense, sslmode: disable}
  closed: {host: 127.0.0.1, port: %[4]s, %[1]s}`, login(), s.Port, role, freePort(t)))
	for target, want := range map[string][]string{
		"up":     {"Verdict: accepting", "  resolve ", "  startup ", "SELECT 1 answered", "The connection figures were read", `msg="Probe succeeded"`, "\npg_up 1\n"},
		"wrong":  {"Verdict: misconfigured", "Reason: auth", "failed in phase startup", "SQLSTATE is 28P01", `msg="Probe failed"`, "\npg_up 0\n"},
		"closed": {"Verdict: no_response", "Reason: refused", "failed in phase dial", "\npg_up 0\n"},
	} {
		t.Run(target, func(t *testing.T) {
			e := e.In(t)
			e.Probe(target, "") // its log line is there by the second one
			status, body := e.Probe(target, "&debug=true")
			if status != http.StatusOK {
				t.Errorf("status %d", status)
			}
			for _, text := range want {
				if !strings.Contains(body, text) {
					t.Errorf("lacks %q:\n%s", text, body)
				}
			}
			for _, secret := range []string{"nonsense", "127.0.0.1", strconv.Itoa(s.Port), `user=`} {
				if strings.Contains(body, secret) {
					t.Errorf("shows %q:\n%s", secret, body)
				}
			}
		})
	}
}

// TestPasswordCommands: a token is fetched, kept, and fetched anew in the same probe when the server refuses it; what is
// wrong with a command is our fault and not the server's, in time.
func TestPasswordCommands(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	token, runs := filepath.Join(t.TempDir(), "token"), filepath.Join(t.TempDir(), "runs")
	set := func(secret string) { check(t, os.WriteFile(token, []byte(secret+"\n"), 0o600)) }
	set(password)
	e, _ := startWithFile(t, fmt.Sprintf(`
defaults: {user: %s, sslmode: disable}
targets:
  token: {host: 127.0.0.1, port: %[2]d, password_command: [sh, -c, "echo x >> %[3]s; cat %[4]s"]}
  hangs: {host: 127.0.0.1, port: %[2]d, password_command: [sh, -c, "sleep 987654 & sleep 987654"]}
  silent: {host: 127.0.0.1, port: %[2]d, password_command: ["true"]}
  fails: {host: 127.0.0.1, port: %[2]d, password_command: [sh, -c, "echo secret; exit 1"]}
  missing: {host: 127.0.0.1, port: %[2]d, password_command: [/nonexistent/command]}`, role, s.Port, runs, token))
	for range 3 {
		if m := e.ProbeMetrics("token", ""); m["pg_up"] != 1 {
			t.Fatalf("with a token: %v\n%s", m["pg_up"], e.Logged())
		}
	}
	content, err := os.ReadFile(runs)
	check(t, err)
	if string(content) != "x\n" {
		t.Errorf("the command ran %d times for three logins", len(content)/2)
	}
	for range 2 {
		for _, target := range []string{"hangs", "silent", "fails", "missing"} {
			m := e.ProbeMetrics(target, "")
			if m["pg_up"] != 0 || m[`pg_probe_state{state="misconfigured"}`] != 1 || m[`pg_probe_failures_total{reason="auth"}`] != m["pg_probes_total"] {
				t.Errorf("%s: up %v, %v of %v failures are auth", target, m["pg_up"], m[`pg_probe_failures_total{reason="auth"}`], m["pg_probes_total"])
			}
		}
	}
	time.Sleep(10 * time.Second) // a token that is just fetched is not fetched again
	execute(t, s, "ALTER ROLE "+role+" PASSWORD 'another'")
	set("another")
	m := e.ProbeMetrics("token", "")
	if m["pg_up"] != 1 || m[`pg_probe_failures_total{reason="auth"}`] != 0 {
		t.Errorf("after a rotation: up %v, failures %v", m["pg_up"], m[`pg_probe_failures_total{reason="auth"}`])
	}
	check(t, e.cmd.Process.Signal(syscall.SIGTERM))
	<-e.exited
	eventually(t, "a command is left", func() bool { return !running("987654") })
}

// running says whether a process has this argument.
func running(argument string) bool {
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range processes {
		if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), "\x00"+argument+"\x00") {
			return true
		}
	}
	return false
}

// TestImpliedTarget: the target from the environment is called postgres in /probe, and has no label on /metrics.
func TestImpliedTarget(t *testing.T) {
	t.Parallel()
	e := startExporter(t, []string{"DATA_SOURCE_NAME=host=127.0.0.1 port=1 user=u sslmode=disable"})
	if m := e.ProbeMetrics("postgres", ""); m["pg_up"] != 0 || m["pg_probes_total"] != 1 {
		t.Errorf("/probe?target=postgres: pg_up %v, %v probes", m["pg_up"], m["pg_probes_total"])
	}
	if m := e.Scrape(); m["pg_probes_total"] != 2 {
		t.Errorf("/metrics: %v probes without a label", m["pg_probes_total"])
	}
}

// TestTargetLabels: the labels of targets are on every series of /metrics that has the label target, in /sd and in /health, and
// not on /probe. A reload changes them and nothing else.
func TestTargetLabels(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	file := func(zone string) string {
		return fmt.Sprintf(`
defaults: {%s, labels: {cluster: eu, zone: a}}
targets:
  one: {host: 127.0.0.1, port: %[2]d, labels: {zone: %[3]s}}
  two: {host: 127.0.0.1, port: %[2]d, labels: {team: "ü \"x\""}}
checks:
  sql: {target: one, sql: SELECT true}
  port: {tcp: "127.0.0.1:%[2]d"}
`, login(), s.Port, zone)
	}
	e, path := startWithFile(t, file("b"), "--web.enable-lifecycle")
	eventually(t, "no result of the checks", func() bool {
		m := e.Scrape()
		return m[`pg_liveness_check_up{check="sql",cluster="eu",target="one",zone="b"}`] == 1 &&
			m[`pg_liveness_check_up{check="port",target=""}`] == 1
	})
	expectLabels := func(zone string) {
		t.Helper()
		for series := range e.Scrape() {
			one := strings.Contains(series, `target="one"`) && strings.Contains(series, `cluster="eu"`) && strings.Contains(series, `zone="`+zone+`"`)
			two := strings.Contains(series, `team="ü \"x\"",zone="a"`) || strings.Contains(series, `target="two",team="ü \"x\"",`)
			if strings.Contains(series, "target=") && !one && !two && !strings.Contains(series, `target=""`) {
				t.Errorf("without the labels: %s", series)
			}
		}
	}
	expectLabels("b")
	for series := range e.ProbeMetrics("one", "") {
		if strings.Contains(series, "cluster") || strings.Contains(series, "zone") {
			t.Errorf("on /probe: %s", series)
		}
	}
	_, listed, err := e.Get(t.Context(), "/sd", 0)
	check(t, err)
	if !strings.Contains(listed, `"cluster":"eu"`) || !strings.Contains(listed, `"zone":"b"`) || !strings.Contains(listed, `"team":"ü \"x\""`) {
		t.Error(listed)
	}
	if _, body := e.Health("/health/sql"); !strings.Contains(body, `"labels":{"cluster":"eu","zone":"b"}`) {
		t.Error(body)
	}
	before := e.Scrape().of("one")
	check(t, os.WriteFile(path, []byte(file("c")), 0o600))
	if status, body := e.Reload(); status != http.StatusOK {
		t.Fatalf("status %d: %s", status, body)
	}
	expectLabels("c")
	after := e.Scrape().of("one")
	if n, m := before[`pg_probes_total{cluster="eu",zone="b"}`], after[`pg_probes_total{cluster="eu",zone="c"}`]; n == 0 || m <= n {
		t.Errorf("%v probes before the reload, %v after it", n, m)
	}
}

// TestFilesOfLogin: a host, a user and a connection string in files are read at each login, so that what rotates them needs no
// reload. A file that is missing is misconfigured.
func TestFilesOfLogin(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	execute(t, s, "CREATE ROLE rotated LOGIN PASSWORD 'new'", "CREATE ROLE app LOGIN PASSWORD 'old'")
	dir := t.TempDir()
	write := func(name, content string) { check(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)) }
	e, _ := startWithFile(t, fmt.Sprintf(`
defaults: {sslmode: disable, keep: false}
targets:
  parts: {host_file: %[1]s/host, user_file: %[1]s/user, password_file: %[1]s/password, port: %[2]d, dbname: app}
  uri: {dsn_file: %[1]s/uri}
`, dir, s.Port))
	expect := func(target string, want verdict) {
		t.Helper()
		m := e.ProbeMetrics(target, "")
		if m[fmt.Sprintf("pg_probe_state{state=%q}", want.state)] != 1 {
			t.Errorf("%s is not %s\n%s", target, want.state, e.Logged())
		}
	}
	missing := verdict{"misconfigured", "auth"}
	expect("parts", missing)
	expect("uri", missing)
	write("host", "127.0.0.1\n")
	write("user", "app\n")
	write("password", "old\n")
	write("uri", fmt.Sprintf("postgresql://app:old@127.0.0.1:%d/app\n", s.Port))
	expect("parts", up)
	expect("uri", up)
	execute(t, s, "DROP ROLE app")
	expect("parts", missing)
	expect("uri", missing)
	write("user", "rotated")
	write("password", "new")
	write("uri", fmt.Sprintf("postgresql://rotated:new@127.0.0.1:%d/app\n", s.Port))
	expect("parts", up)
	expect("uri", up)
	if logged := e.Logged(); !strings.Contains(logged, "host_file: a file in "+dir+": no such file") || strings.Contains(logged, "rotated") {
		t.Errorf("logged:\n%s", logged)
	}
}
