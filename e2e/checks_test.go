// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// TestSQLChecks: what a statement can do wrong on a real server, side by side. None delays another one for long, none writes, no
// session is left, and there are never many.
func TestSQLChecks(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	execute(t, s, "CREATE TABLE written (n int)", "CREATE SEQUENCE numbers", "GRANT ALL ON written, numbers TO "+role)
	statements := map[string]struct{ keys, sql, want string }{
		"true": {"", "SELECT true", "pass"}, "shown": {", equals: \"on\"", "SHOW transaction_read_only", "pass"},
		"number":  {", fail_above: 10", "SELECT count(*) FROM pg_class", "fail "},
		"equals":  {", equals: a1", "SELECT 'a1'::varchar", "pass"},
		"no row":  {"", "SELECT true WHERE false", "fail the statement returned no row"},
		"rows":    {"", "VALUES (true), (true)", "fail the statement returned several rows"},
		"many":    {"", "SELECT true FROM generate_series(1, 10000) a, generate_series(1, 10000) b", "fail the statement returned several rows"},
		"columns": {"", "SELECT true, true", "fail the statement returned several columns"},
		"null":    {"", "SELECT NULL::bool", "fail the statement returned NULL"},
		"text":    {", fail_above: 1", "SELECT 'hunter2'", "fail the statement returned no number to compare with the limits"},
		"wide":    {", equals: x", "SELECT repeat('x', 20000000)", "fail the statement failed: protocol"},
		"sleeps":  {", timeout: 500ms", "SELECT pg_sleep(60)", "fail the statement did not end in time"},
		"writes":  {"", "INSERT INTO written VALUES (1) RETURNING true", "fail the statement failed: it tries to write, SQLSTATE 25006"},
		"counts":  {", fail_above: 9", "SELECT nextval('numbers')", "fail the statement failed: it tries to write, SQLSTATE 25006"},
		"several": {"", "SELECT true; COMMIT; INSERT INTO written VALUES (2)", "fail the statement failed: a syntax error, or several statements, SQLSTATE 42601"},
		"missing": {"", "SELECT true FROM app.missing", "fail the statement failed: no table app.missing, SQLSTATE 42P01"},
		"column":  {"", "SELECT nothing, 'hunter2'", "fail the statement failed: no column nothing, SQLSTATE 42703"},
		"quoted":  {"", "SELECT 'hunter2', true FROM \"No Table\"", "fail the statement failed: no table \"No Table\", SQLSTATE 42P01"},
		"call":    {"", "SELECT nothing(7)", "fail the statement failed: no function nothing, SQLSTATE 42883"},
		"divides": {", fail_above: 1", "SELECT 1/0", "fail the statement failed: SQLSTATE 22012"},
		"empty":   {"", "-- hunter2", "fail the statement returned no column"},
		"set":     {"", "SET default_transaction_read_only = off", "fail the statement returned no column"},
	}
	var file strings.Builder
	fmt.Fprintf(&file, "targets:\n  db: {host: 127.0.0.1, port: %d, dbname: postgres, %s}\n  gone: {host: 127.0.0.1, port: 1, %[2]s}\nchecks:\n", s.Port, login())
	for name, statement := range statements {
		fmt.Fprintf(&file, "  %s: {target: db, ttl: 1s, ttl_failed: 1s, sql: %q%s}\n", name, statement.sql, statement.keys)
	}
	fmt.Fprintln(&file, "  no session: {target: gone, sql: SELECT true}")
	e, _ := startWithFile(t, file.String())
	eventually(t, "a check has no result", func() bool {
		for _, output := range e.HealthOutputs() {
			if strings.Contains(output, "no result") {
				return false
			}
		}
		return true
	})
	var rounds []map[string]string
	for range 3 {
		rounds = append(rounds, e.HealthOutputs())
		if n := count(t, s, "SELECT count(*) FROM pg_stat_activity WHERE usename = '"+role+"'"); n > 6 {
			t.Errorf("%d sessions", n)
		}
		time.Sleep(1500 * time.Millisecond)
	}
	for name, statement := range statements {
		t.Run(name, func(t *testing.T) {
			for i, got := range rounds {
				output := got[name]
				if statement.want == "fail " && strings.HasSuffix(output, "is above 10") { // how many is the server's affair
					continue
				}
				if output != statement.want {
					t.Errorf("round %d: %q, want %q", i, output, statement.want)
				}
			}
		})
	}
	t.Run("no session", func(t *testing.T) {
		for i, got := range rounds {
			if want := "fail no session with its target: no_response: refused in phase dial"; got["no session"] != want {
				t.Errorf("round %d: %q, want %q", i, got["no session"], want)
			}
		}
	})
	m := e.ProbeMetrics("db", "")
	if m[`pg_liveness_check_up{check="true"}`] != 1 || m[`pg_liveness_check_up{check="writes"}`] != 0 || m[`pg_liveness_check_value{check="number"}`] < 10 {
		t.Errorf("%v", m)
	}
	_, body, err := e.Get(context.Background(), "/metrics", scrapeTimeout)
	check(t, err)
	if !strings.Contains(body, `pg_liveness_check_up{check="no session",target="gone"} 0`) {
		t.Error("a check is not on /metrics")
	}
	if n := count(t, s, "SELECT count(*) FROM written") + count(t, s, "SELECT last_value - 1 FROM numbers"); n != 0 {
		t.Errorf("%d was written", n)
	}
	check(t, e.cmd.Process.Signal(syscall.SIGTERM))
	<-e.exited
	eventually(t, "a session is left", func() bool {
		return count(t, s, "SELECT count(*) FROM pg_stat_activity WHERE usename = '"+role+"'") == 0
	})
	if strings.Contains(e.Logged(), "hunter2") {
		t.Error("a statement or a value is in the log")
	}
}

// TestExampleAPI: an API's health from the variables it has, and readiness that waits for a schema and a row.
func TestExampleAPI(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, []string{
		"POSTGRES_HOST=127.0.0.1", "POSTGRES_PORT=" + strconv.Itoa(s.Port), "POSTGRES_DB=app", "POSTGRES_USER=" + role, "POSTGRES_PASSWORD=" + password,
	}, "--config.file="+inRoot(t, "examples/health/api.yml"))
	expect := func(path string, status int, want string) {
		t.Helper()
		eventually(t, path+" does not become "+want, func() bool {
			code, body := e.Health(path)
			clean(t, path, body)
			var answer struct{ Status, Service string }
			check(t, json.Unmarshal([]byte(body), &answer))
			return code == status && answer.Status == want && answer.Service == "api"
		})
	}
	app := func(sql string) {
		t.Helper()
		inApp(t, s, sql)
	}
	expect("/health/database", 200, "healthy")
	expect("/health", 503, "unhealthy")
	app("CREATE SCHEMA ensnode; CREATE TABLE ensnode.metadata (k text); GRANT USAGE ON SCHEMA ensnode TO " + role + "; GRANT SELECT ON ensnode.metadata TO " + role)
	expect("/health/schema", 200, "healthy")
	expect("/health/metadata", 503, "unhealthy")
	expect("/health", 503, "unhealthy")
	app("INSERT INTO ensnode.metadata VALUES ('version')")
	expect("/health", 200, "healthy")
	check(t, s.Stop(testservers.Fast))
	expect("/health/database", 503, "unhealthy")
	if code, _ := e.Health("/livez"); code != 200 {
		t.Errorf("/livez: status %d", code)
	}
	check(t, s.Start(t.Context()))
	expect("/health", 200, "healthy")
}

// databaseURL is what SQLAlchemy takes.
func databaseURL(s *testservers.Postgres) string {
	u := url.URL{Scheme: "postgresql+psycopg2", User: url.UserPassword(role, password), Host: fmt.Sprintf("127.0.0.1:%d", s.Port), Path: "/app"}
	return "DATABASE_URL=" + u.String()
}

// TestExampleOpenEvent: database, migrations, workers and Redis in py-healthcheck's format, which a client written for that
// reads; each failure shows under the name of what failed.
func TestExampleOpenEvent(t *testing.T) {
	t.Parallel()
	python := testenv.CeleryPython(t)
	s, r := newServer(t, testservers.PostgresConfig{}), newRedis(t)
	broker := fmt.Sprintf("redis://127.0.0.1:%d/0", r.Port)
	worker, err := testservers.NewCelery(t.Context(), python, "worker", broker)
	check(t, err)
	t.Cleanup(func() { check(t, worker.Remove()) })
	inApp(t, s, "CREATE TABLE users (); CREATE TABLE events (); GRANT SELECT ON users, events TO "+role)
	path := shorter(t, "examples/health/open-event-server.yml")
	e := startExporter(t, []string{databaseURL(s), "REDIS_URL=" + broker}, "--config.file="+path)
	expect := func(status int, failed ...string) {
		t.Helper()
		var last string
		eventually(t, fmt.Sprintf("failed is not %q", failed), func() bool {
			code, body := e.Health("/health-check")
			clean(t, "/health-check", body)
			last = body
			var answer struct {
				Hostname  string  `json:"hostname"`
				Status    string  `json:"status"`
				Timestamp float64 `json:"timestamp"`
				Results   []struct {
					Checker      string  `json:"checker"`
					Output       string  `json:"output"`
					Passed       *bool   `json:"passed"`
					Timestamp    float64 `json:"timestamp"`
					Expires      float64 `json:"expires"`
					ResponseTime float64 `json:"response_time"`
				} `json:"results"`
			}
			decoder := json.NewDecoder(strings.NewReader(body))
			decoder.DisallowUnknownFields()
			check(t, decoder.Decode(&answer))
			var names, found []string
			for _, result := range answer.Results {
				names = append(names, result.Checker)
				if result.Passed == nil || result.Output == "" || result.Timestamp > answer.Timestamp || result.Expires <= result.Timestamp {
					t.Fatal(body)
				}
				if !*result.Passed {
					found = append(found, result.Checker)
				}
			}
			if strings.Join(names, " ") != "health_check_db health_check_celery health_check_migrations health_check_redis" || answer.Hostname == "" {
				t.Fatal(body)
			}
			return strings.Join(found, " ") == strings.Join(failed, " ") && code == status && (answer.Status == "success") == (status == 200)
		})
		if t.Failed() {
			t.Log(last)
		}
	}
	expect(500, "health_check_migrations")
	inApp(t, s, "CREATE TABLE tickets (); GRANT SELECT ON tickets TO "+role)
	expect(200)
	check(t, worker.Signal(syscall.SIGSTOP))
	expect(500, "health_check_celery")
	check(t, worker.Signal(syscall.SIGCONT))
	expect(200)
	check(t, r.Signal(syscall.SIGKILL))
	<-r.Exited()
	expect(500, "health_check_celery", "health_check_redis")
	check(t, r.Start(t.Context()))
	again, err := testservers.NewCelery(t.Context(), python, "again", broker) // the other one comes back when it likes
	check(t, err)
	t.Cleanup(func() { check(t, again.Remove()) })
	expect(200)
	check(t, s.Signal(syscall.SIGSTOP))
	expect(500, "health_check_db", "health_check_migrations")
	check(t, s.Signal(syscall.SIGCONT))
	expect(200)
}

// shorter is an example with short times between two runs of a check, so that a test need not wait long.
func shorter(t *testing.T, file string) string {
	t.Helper()
	return writeFile(t, strings.NewReplacer(
		"environment: true}", "environment: true, timeout: 1s}", ", timeout: 3s}", ", timeout: 1s, ttl: 1s, ttl_failed: 1s}",
		"redis_env: REDIS_URL}", "redis_env: REDIS_URL, timeout: 1s, ttl: 1s, ttl_failed: 1s}",
		"target: health_check_db\n", "target: health_check_db\n    timeout: 1s\n    ttl: 1s\n    ttl_failed: 1s\n",
		"fail_above: 1000\n", "fail_above: 1000\n    ttl: 1s\n    ttl_failed: 1s\n", "ttl: 1m\n", "ttl: 1s\n    ttl_failed: 1s\n",
	).Replace(read(t, file)))
}

// TestExamplePython: a queue that is too long fails, and a service that hangs blocks nobody.
func TestExamplePython(t *testing.T) {
	t.Parallel()
	s, r := newServer(t, testservers.PostgresConfig{}), newRedis(t)
	release := make(chan struct{})
	payments := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(payments.Close)
	e := startExporter(t, []string{
		databaseURL(s), fmt.Sprintf("REDIS_URL=redis://127.0.0.1:%d/0", r.Port), "PAYMENTS_URL=" + payments.URL + "/ready?token=hunter2",
	}, "--config.file="+shorter(t, "examples/health/python-service.yml"))
	expect := func(name, want string) {
		t.Helper()
		eventually(t, name+" is not "+want, func() bool { return e.HealthOutputs()[name] == want })
	}
	expect("queue", "ok")
	expect("payments", "error no answer in time")
	for range 20 {
		start := time.Now()
		if code, _ := e.Health("/health"); code != 503 || time.Since(start) > hanging {
			t.Errorf("status %d after %s", code, time.Since(start))
		}
	}
	close(release)
	expect("payments", "ok")
	push := func(n int) {
		t.Helper()
		args := []string{"RPUSH", "celery"}
		for range n {
			args = append(args, "task")
		}
		_, err := r.Do(t.Context(), args...)
		check(t, err)
	}
	push(600)
	expect("queue", "ok 600 is above 500")
	push(600)
	expect("queue", "error 1200 is above 1000")
	if code, _ := e.Health("/health"); code != 503 {
		t.Errorf("status %d", code)
	}
	_, err := r.Do(t.Context(), "DEL", "celery")
	check(t, err)
	expect("queue", "ok")
	if code, _ := e.Health("/health"); code != 200 {
		t.Errorf("status %d", code)
	}
}
