// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
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

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// TestHealth: the health paths of a real primary and standby, a hanging and a refused server, on both listeners; their
// bodies hold nothing that they must not.
func TestHealth(t *testing.T) {
	t.Parallel()
	primary := newServer(t, testservers.PostgresConfig{Settings: []string{"log_connections = on"}})
	standby := newStandby(t, primary)
	plain := "127.0.0.1:" + freePort(t)
	silent := silentServer(t)
	e, _ := startWithFile(t, fmt.Sprintf(`
health: {max_age: 2s, extra: {service: orders}}
targets:
  primary: {host: 127.0.0.1, port: %[2]d, %[1]s}
  standby: {host: 127.0.0.1, port: %[3]d, %[1]s}
  hangs: {host: 127.0.0.1, port: %[4]d, %[1]s}
  refuses: {host: 127.0.0.1, port: 1, %[1]s}
  wrong: {host: 127.0.0.1, port: %[2]d, user: %[5]s, password: wrong, sslmode: disable}
`, login(), primary.Port, standby.Port, silent, role), "--health.listen-address="+plain)
	clean := func(t *testing.T, path, body string) {
		t.Helper()
		for _, secret := range []string{password, "127.0.0.1", ":" + strconv.Itoa(primary.Port), role, "wrong\n", "authentication", "database"} {
			if strings.Contains(body, secret) {
				t.Errorf("%s holds %q: %s", path, secret, body)
			}
		}
	}
	e.ExpectListening(plain)
	expect := func(t *testing.T, path string, status int) string {
		t.Helper()
		e := e.In(t)
		var last string
		for _, address := range []string{e.address, plain} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
				start := time.Now()
				code, body := e.HealthAt(method, address, path)
				if code != status {
					t.Errorf("%s %s: status %d, want %d: %s", method, path, code, status, body)
				}
				if took := time.Since(start); took > hanging {
					t.Errorf("%s %s took %s", method, path, took)
				}
				clean(t, path, body)
				if method == http.MethodGet {
					last = body
				}
			}
		}
		return last
	}
	eventually(t, "the standby is no replica for /replica", func() bool {
		code, _ := e.HealthAt(http.MethodGet, plain, "/replica/standby?lag=10s")
		return code == http.StatusOK
	})
	for path, status := range map[string]int{
		"/livez": 200, "/readyz": 200, "/-/healthy": 200, "/-/ready": 200, "/health": 503, "/health?verbose": 503, "/health-check": 500,
		"/health/primary": 200, "/health/standby": 200, "/health/hangs": 503, "/health/refuses": 503, "/health/wrong": 503, "/health/none": 404,
		"/health?exclude=hangs&exclude=refuses&exclude=wrong": 200,
		"/primary/primary": 200, "/primary/standby": 503, "/primary": 404, "/primary/none": 404,
		"/replica/standby": 200, "/replica/primary": 503, "/read-write/primary": 200, "/read-write/standby": 503,
		"/read-only/primary": 200, "/read-only/standby": 200, "/read-only/hangs": 503,
	} {
		t.Run(path, func(t *testing.T) { expect(t, path, status) })
	}
	if code, _ := e.HealthAt(http.MethodGet, plain, "/metrics"); code != http.StatusNotFound {
		t.Errorf("/metrics on the address of the health paths: status %d", code)
	}
	var answer struct {
		Status, Service string
		Checks          map[string][]struct{ ComponentID, Status, Output string }
	}
	check(t, json.Unmarshal([]byte(expect(t, "/health", 503)), &answer))
	outputs := map[string]string{}
	for _, entry := range answer.Checks["postgres:responseTime"] {
		outputs[entry.ComponentID] = entry.Status + " " + entry.Output
	}
	for name, want := range map[string]string{
		"primary": "pass ", "standby": "pass ", "hangs": "fail no_response: timeout",
		"refuses": "fail no_response: refused in phase dial", "wrong": "fail misconfigured: auth in phase startup, SQLSTATE 28P01",
	} {
		t.Run("output of "+name, func(t *testing.T) {
			if !strings.HasPrefix(outputs[name], want) { // the phase of one that hangs hangs on which probe it is
				t.Errorf("%q, want %q", outputs[name], want)
			}
		})
	}
	if answer.Status != "fail" || answer.Service != "orders" || len(answer.Checks["system:uptime"]) != 1 {
		t.Errorf("%+v", answer)
	}

	t.Run("one probe for each max_age, however many requests", func(t *testing.T) {
		e := e.In(t)
		before, start := logins(primary), time.Now()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				for range 25 {
					if code, body := e.HealthAt(http.MethodGet, plain, "/health/primary"); code != http.StatusOK {
						t.Errorf("status %d: %s", code, body)
					}
				}
			})
		}
		all.Wait()
		if n, most := logins(primary)-before, 2+int(time.Since(start)/(2*time.Second)); n > most {
			t.Errorf("500 requests in %s made %d logins", time.Since(start), n)
		}
	})
	t.Run("a promotion is seen", func(t *testing.T) {
		e := e.In(t)
		execute(t, standby, "SELECT pg_promote()")
		eventually(t, "/primary/standby does not become 200", func() bool {
			code, _ := e.HealthAt(http.MethodGet, plain, "/primary/standby")
			return code == http.StatusOK
		})
	})
	t.Run("a server that was stopped fails, and the process does not", func(t *testing.T) {
		e := e.In(t)
		check(t, primary.Stop(testservers.Fast))
		eventually(t, "/health/primary does not become 503", func() bool {
			code, _ := e.HealthAt(http.MethodGet, plain, "/health/primary")
			return code == http.StatusServiceUnavailable
		})
		expect(t, "/livez", 200)
		expect(t, "/readyz", 200)
	})
}

// TestAllHung: with every server and every dependency hung, each path answers 500 requests at once, the process's own with 200
// and the others with 503; and when that is over nothing is left of it.
func TestAllHung(t *testing.T) {
	t.Parallel()
	silent := silentServer(t)
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(silent))
	e, _ := startWithFile(t, fmt.Sprintf(`
defaults: {timeout: 2s, %[1]s}
targets:
  a: {host: 127.0.0.1, port: %[2]d}
  b: {host: 127.0.0.1, port: %[2]d}
checks:
  sql: {target: a, sql: SELECT true, timeout: 2s}
  redis: {redis: "redis://:hunter2@%[3]s/1", timeout: 2s}
  celery: {celery: "redis://%[3]s", timeout: 2s}
  http: {http: "http://%[3]s", timeout: 2s}
  tcp: {tcp: "127.0.0.1:1"}
`, login(), silent, address))
	for path, status := range map[string]int{
		"/livez": 200, "/readyz": 200, "/health": 503, "/health?verbose": 503, "/health/a": 503, "/health/redis": 503, "/health/celery": 503,
		"/health-check": 500, "/primary/a": 503, "/replica/a": 503, "/read-write/b": 503, "/read-only/b": 503, "/health/none": 404, "/probe?target=a": 200,
		"/sd": 200, "/config": 200,
	} {
		t.Run(path, func(t *testing.T) {
			e := e.In(t)
			start := time.Now()
			code, body := e.Health(path)
			took := time.Since(start)
			t.Logf("one request at a time took %v", took)
			if took > hanging {
				t.Errorf("took %s", took)
			}
			if !strings.HasPrefix(path, "/sd") {
				clean(t, path, body)
			}
			if code != status {
				t.Errorf("status %d, want %d", code, status)
			}
			var all sync.WaitGroup
			for range 500 {
				all.Go(func() {
					code, body := e.Health(path)
					if code != status {
						t.Errorf("status %d, want %d: %.200s", code, status, body)
					}
				})
			}
			all.Wait()
		})
	}
	eventually(t, "a check has no result", func() bool { return !strings.Contains(fmt.Sprint(e.HealthOutputs()), "no result yet") })
	found := e.HealthOutputs()
	for name, want := range map[string]string{
		"a": "fail no_response: timeout", "b": "fail no_response: timeout",
		"sql":   "fail no session with its target: no_response: timeout",
		"redis": "fail no answer in time", "celery": "fail no answer in time",
		"http": "fail no answer in time", "tcp": "fail connection refused",
	} {
		t.Run("output of "+name, func(t *testing.T) {
			if output, there := found[name]; !there || !strings.HasPrefix(output, want) {
				t.Errorf("%q (there: %v), want %q", output, there, want)
			}
		})
		delete(found, name)
	}
	if len(found) > 0 {
		t.Errorf("nobody asked for %q", found)
	}
	start := time.Now()
	check(t, e.cmd.Process.Signal(syscall.SIGTERM))
	<-e.exited
	if took := time.Since(start); took > hanging {
		t.Errorf("took %s to stop", took)
	}
}

// TestHealthBound: /health answers within 0.8 s while real servers hang, for a kubelet that waits a second.
//
// It waits for half a second, so that the rest is tolerance. A busy machine delays some requests, or all of them for a
// while; an exporter that waits for too long delays most of them always. So the median of several requests counts, in the
// best of a few rounds, and the test has the machine for itself.
func TestHealthBound(t *testing.T) {
	const (
		bound    = 800 * time.Millisecond
		maxAge   = 100 * time.Millisecond
		requests = 5
		rounds   = 3
	)
	one, other := newServer(t, testservers.PostgresConfig{}), newServer(t, testservers.PostgresConfig{})
	e, _ := startWithFile(t, fmt.Sprintf(`
health: {max_age: %[4]s}
defaults: {timeout: 3s, %[1]s}
targets:
  one: {host: 127.0.0.1, port: %[2]d}
  other: {host: 127.0.0.1, port: %[3]d}
checks:
  sql: {target: one, sql: SELECT true}
`, login(), one.Port, other.Port, maxAge))
	eventually(t, "not all is well before the servers hang", func() bool {
		code, _ := e.Health("/health")
		return code == http.StatusOK
	})
	for _, s := range []*testservers.Postgres{one, other} {
		freeze(t, s, append(children(t, s), s.PID())...)
	}
	for _, path := range []string{"/health", "/health?verbose", "/health/one", "/health/sql"} {
		t.Run(path, func(t *testing.T) {
			var medians []time.Duration
			for range rounds {
				var took []time.Duration
				for range requests {
					time.Sleep(2 * maxAge) // so that the last result is too old and a new one is waited for
					start := time.Now()
					e.In(t).Health(path)
					took = append(took, time.Since(start))
				}
				slices.Sort(took)
				median := took[requests/2]
				if median <= bound {
					t.Logf("the median is %s, the most %s", median, took[requests-1])
					return
				}
				medians = append(medians, median)
			}
			t.Errorf("the medians of %d requests each are %v, more than %s", requests, medians, bound)
		})
	}
	eventually(t, "the servers that hang are not seen", func() bool {
		code, _ := e.Health("/health")
		return code == http.StatusServiceUnavailable
	})
}

// TestHAProxy: a real HAProxy routes writes to the primary and reads to the replica by what /primary and /replica say, and
// follows a promotion. Its configuration is the first one of docs/high-availability.md.
func TestHAProxy(t *testing.T) {
	t.Parallel()
	program := testenv.Tool(t, "HAPROXY", "haproxy")
	one := newServer(t, testservers.PostgresConfig{HBA: trusting})
	other := newStandby(t, one)
	plain, writes, reads := freePort(t), freePort(t), freePort(t)
	startWithFile(t, fmt.Sprintf(`
health: {max_age: 500ms}
targets:
  orders-1: {host: 127.0.0.1, port: %[2]d, %[1]s}
  orders-2: {host: 127.0.0.1, port: %[3]d, %[1]s}
`, login(), one.Port, other.Port), "--health.listen-address=127.0.0.1:"+plain)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	configuration := strings.NewReplacer(
		"bind :5000", "bind 127.0.0.1:"+writes, "bind :5001", "bind 127.0.0.1:"+reads, "port 10433", "port "+plain,
		"server orders-1 127.0.0.1:5432", fmt.Sprintf("server orders-1 127.0.0.1:%d", one.Port),
		"server orders-2 127.0.0.1:5432", fmt.Sprintf("server orders-2 127.0.0.1:%d", other.Port),
		"inter 2s", "inter 200ms",
	).Replace(haproxyBlocks(t, "docs/high-availability.md")[0])
	check(t, os.WriteFile(file, []byte(configuration), 0o600))
	startTool(t, "HAProxy", program, "-db", "-f", file)
	// at says which server answers behind a port, 0 for none.
	at := func(port string) int {
		ctx, cancel := context.WithTimeout(t.Context(), hanging)
		defer cancel()
		conn, err := pgconn.Connect(ctx, "host=127.0.0.1 user=postgres dbname=postgres sslmode=disable port="+port)
		if err != nil {
			return 0
		}
		defer func() { _ = conn.Close(ctx) }()
		results, err := conn.Exec(ctx, "SELECT current_setting('port')").ReadAll()
		if err != nil {
			return 0
		}
		var n int
		_, err = fmt.Sscan(string(results[0].Rows[0][0]), &n)
		check(t, err)
		return n
	}
	eventually(t, "writes do not go to the primary, or reads not to the replica", func() bool {
		return at(writes) == one.Port && at(reads) == other.Port
	})
	check(t, one.Stop(testservers.Fast))
	execute(t, other, "SELECT pg_promote()")
	eventually(t, "writes do not follow the promotion", func() bool { return at(writes) == other.Port && at(reads) == 0 })
}
