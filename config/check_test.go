// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// checkText returns a file with these checks, and the targets that they may name.
func checkText(lines ...string) string {
	return "targets:\n  orders: {host: h, user: u}\n  pool: {host: h, user: u, kind: pgbouncer}\nchecks:\n  " + strings.Join(lines, "\n  ") + "\n"
}

func TestChecks(t *testing.T) {
	t.Setenv("QUEUE", "redis://:hunter2@queue:6380/3")
	file, err := parseText(t, checkText(
		`migrations: {target: orders, sql: "SELECT 1", equals: 5, ttl: 1m, ttl_failed: 2s}`,
		`backlog: {target: orders, sql: "SELECT 1", warn_above: 1.5, fail_above: 1000, timeout: 2s}`,
		`queue: {redis_env: QUEUE, length_of: celery, fail_above: 0}`,
		`workers: {celery: "rediss://broker"}`,
		`up: {http: "https://example.org/ready", status: 204, match: "^o[k]$"}`,
		`smtp: {tcp: "mail:25"}`,
	))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range file.Checks {
		names = append(names, c.Name)
	}
	if want := []string{"backlog", "migrations", "queue", "smtp", "up", "workers"}; !slices.Equal(names, want) {
		t.Fatalf("got %q, want %q", names, want)
	}
	backlog, migrations, queue, up, workers := file.Checks[0], file.Checks[1], file.Checks[2], file.Checks[4], file.Checks[5]
	if backlog.Kind != CheckSQL || backlog.Target != "orders" || *backlog.Limits.WarnAbove != 1.5 || backlog.Timeout != 2*time.Second ||
		backlog.TTL != 27*time.Second || backlog.TTLFailed != 9*time.Second || backlog.Equals != nil {
		t.Errorf("%+v", backlog)
	}
	if *migrations.Equals != "5" || migrations.TTL != time.Minute || migrations.TTLFailed != 2*time.Second {
		t.Errorf("%+v", migrations)
	}
	if queue.Location != "redis://:hunter2@queue:6380/3" || *queue.Limits.FailAbove != 0 {
		t.Errorf("%s %+v", string(queue.Location), queue)
	}
	if *workers.Limits.FailBelow != 1 || !slices.Equal(up.HTTP.Statuses, []StatusRange{{204, 204}}) || !up.HTTP.Match.MatchString("ok") {
		t.Errorf("%+v %+v", workers, up)
	}
}

func TestCheckProblems(t *testing.T) {
	t.Setenv("BAD", "hunter2")
	for line, want := range map[string]string{
		`a: {}`: "checks.a: needs one of sql, redis, celery, http and tcp, or one of the last four with _env or _file",

		`a: {tcp: "h:1", redis: "redis://h"}`:                              "checks.a: has both redis and tcp: keep one of them",
		`a: {redis: "redis://:hun#ter2/@h/0"}`:                             "checks.a.redis: is not a valid URL (host, optional port from 1 to 65535): percent-encode special characters in the password",
		`a: {redis: "redis://h:99999"}`:                                    "checks.a.redis: is not a valid URL (host, optional port from 1 to 65535): percent-encode special characters in the password",
		`a: {http: "https:///hunter2"}`:                                    "checks.a.http: is not a valid URL (host, optional port from 1 to 65535): percent-encode special characters in the password",
		`a: {celery: "redis://h", fail_above: 0.5}`:                        "checks.a.fail_below: is 1 unless set, which is above fail_above",
		`a: {tcp: "hunter2"}`:                                              "checks.a.tcp: must be host:port",
		`a: {tcp: "h:0"}`:                                                  "checks.a.tcp: must be host:port",
		`a: {redis: "hunter2"}`:                                            "checks.a.redis: must be a URL that begins with redis://, redis+socket://, rediss://, sentinel://, unix://, valkey://, valkeys://",
		`a: {celery: "amqp://h"}`:                                          "checks.a.celery: is the URL of a RabbitMQ, which cannot be checked as a broker: check its port with tcp",
		`a: {redis: "redis://h/hunter2"}`:                                  "checks.a.redis: must be a URL whose path is the number of a database",
		`a: {tcp: "h:1", sentinel_password: x}`:                            "checks.a.sentinel_password: cannot be combined with tcp",
		`a: {redis: "sentinel://h", master_name: m, sentinel_username: x}`: "checks.a.sentinel_username: needs a sentinel_password",
		`a: {redis: "sentinel://h", master_name: m, sentinel_password: x, sentinel_password_env: BAD}`: "checks.a.sentinel_password_env: is given in several ways: keep one of sentinel_password, sentinel_password_env and sentinel_password_file",
		`a: {redis_env: BAD}`:                                                             "checks.a.redis_env: must be a URL that begins with redis://, redis+socket://, rediss://, sentinel://, unix://, valkey://, valkeys://",
		`a: {http_env: BAD}`:                                                              "checks.a.http_env: must be a URL that begins with http:// or https://",
		`a: {http_env: NONE_OF_THIS_NAME}`:                                                "checks.a.http_env: the variable is not set, or is empty",
		`a: {sql: "SELECT 1"}`:                                                            "checks.a: needs a target to run its SQL on",
		`a: {sql: "SELECT 1", target: none}`:                                              "checks.a.target: there is no target with this name",
		`a: {sql: "SELECT 1", target: pool}`:                                              "checks.a.target: is a PgBouncer: a check with sql needs a target of kind postgres",
		`orders: {tcp: "h:1"}`:                                                            "targets.orders: a check has this name too: give one of them another name",
		`a: {sql: "SELECT 1", target: orders, equals: x, fail_above: 1}`:                  "checks.a.equals: cannot be combined with limits",
		`a: {sql: "SELECT 1", target: orders, fail_above: .nan}`:                          "checks.a.fail_above: must be a number",
		`a: {sql: "SELECT 1", target: orders, warn_above: 2, fail_above: 1}`:              "checks.a.warn_above: is above fail_above",
		`a: {sql: "SELECT 1", target: orders, warn_below: 1, fail_below: 2}`:              "checks.a.fail_below: is above warn_below",
		`a: {redis: "redis://h", fail_above: 1}`:                                          "checks.a: has limits, but no length_of: add it, or remove the limits",
		`a: {redis: "redis://h", length_of: q}`:                                           "checks.a.length_of: has no limits: add warn_above, fail_above, warn_below or fail_below",
		`a: {sql: "SELECT 1", target: orders, warn_above: 5, fail_below: 10}`:             "checks.a.fail_below: is above warn_above",
		`a: {sql: "SELECT 1", target: orders, warn_below: 20, fail_above: 10}`:            "checks.a.warn_below: is above fail_above",
		`a: {tcp: "h:1", key_prefix: x}`:                                                  "checks.a.key_prefix: cannot be combined with tcp",
		`a: {redis: "redis://h", queue: x}`:                                               "checks.a.queue: cannot be combined with redis",
		`a: {tcp: "h:1", target: orders}`:                                                 "checks.a.target: cannot be combined with tcp",
		`a: {http: "http://h", fail_above: 1}`:                                            "checks.a.fail_above: cannot be combined with http",
		`a: {http: "http://h", match: "("}`:                                               "checks.a.match: must be a regular expression in Go's syntax (RE2)",
		`a: {http: "http://h", status: 99}`:                                               "checks.a.status: must be a status from 100 to 599, a class such as 2xx, or a list of them",
		`a: {tcp: "h:1", ttl: 0s}`:                                                        "checks.a.ttl: must be a duration from 1s to 24h",
		`a: {tcp: "h:1", timeout: 1h}`:                                                    "checks.a.timeout: must be a duration from 100ms to 1m",
		`a: {tcp: "h:1", hunter: 2}`:                                                      "checks.a.hunter: unknown key; known here are authorization, basic_auth, celery, celery_env, celery_file, equals, fail_above, fail_below, follow_redirects, http, http_env, http_file, http_headers, key_prefix, length_of, master_name, match, no_proxy, proxy_connect_header, proxy_from_environment, proxy_url, proxy_url_env, proxy_url_file, queue, redis, redis_env, redis_file, sentinel_password, sentinel_password_env, sentinel_password_file, sentinel_tls, sentinel_username, sql, sslrootcert, status, target, tcp, tcp_env, tcp_file, timeout, tls_config, ttl, ttl_failed, warn_above, warn_below",
		`a: {sql: "SELECT 1", target: orders, celery_file: x}`:                            "checks.a: has both sql and celery_file: keep one of them",
		"orders: {tcp: \"h:1\"}\n  a: {sql: \"SELECT 1\", target: orders, fail_above: 1}": "targets.orders: a check has this name too: give one of them another name",
	} {
		_, err := parseText(t, checkText(line))
		if err == nil {
			t.Errorf("%s: no error", line)
			continue
		}
		lineOf := "5"
		if strings.HasPrefix(want, "targets.") {
			lineOf = "2"
		}
		if got := err.Error(); got != "dir/x.yml:"+lineOf+": "+want {
			t.Errorf("%s:\n got %s\nwant dir/x.yml:%s: %s", line, got, lineOf, want)
		}
	}
}

// TestTargetFromEnvironment: the environment may name a target of the file, which then has no key that says where it
// is.
func TestTargetFromEnvironment(t *testing.T) {
	for _, name := range []string{"DATA_SOURCE_NAME", "DATA_SOURCE_URI", "DATABASE_URL", "POSTGRES_HOST", "POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "PGHOST"} {
		t.Setenv(name, "")
	}
	text := "defaults: {timeout: 3s}\ntargets:\n  orders: {environment: true, interval: 2s%s}\n"
	if _, err := parseText(t, strings.Replace(text, "%s", "", 1)); err == nil || !strings.HasPrefix(err.Error(), "dir/x.yml:3: targets.orders.environment: no variable names a server: set one of DATA_SOURCE_NAME, ") {
		t.Errorf("%v", err)
	}
	t.Setenv("DATABASE_URL", "postgresql+psycopg2://u:hunter2@db:5433/orders")
	file, err := parseText(t, strings.Replace(text, "%s", "", 1))
	if err != nil {
		t.Fatal(err)
	}
	target := file.Targets[0]
	if e := target.Login.Environment; e == nil || e.Form != FormDatabaseURL || e.Source != "DATABASE_URL" {
		t.Errorf("%+v", e)
	}
	if target.Name != "orders" || target.Timeout != 3*time.Second || target.Interval != 2*time.Second {
		t.Errorf("%+v", target.Probing)
	}
	again, err := parseText(t, strings.Replace(text, "%s", "", 1))
	if err != nil || !target.Equal(again.Targets[0]) {
		t.Errorf("not the same again: %v", err)
	}
	if _, err := parseText(t, strings.NewReplacer("timeout: 3s", "user: u, password: hunter2, sslmode: verify-full", "%s", "").Replace(text)); err == nil ||
		err.Error() != "dir/x.yml:3: targets.orders: is from the environment, so sslmode of defaults has no effect on it: set it in the variables, and move it from defaults into modules" {
		t.Errorf("%v", err)
	}
	for more, want := range map[string]string{
		", host: h":          "targets.orders.host: cannot be combined with environment: the variables name the server",
		", user: u":          "targets.orders: has user, which cannot be combined with environment: the variables set it",
		", kind: pgbouncer":  "targets.orders.kind: cannot be combined with environment",
		", environment: yes": "targets.orders: duplicate key, first in line 3",
	} {
		if _, err := parseText(t, strings.Replace(text, "%s", more, 1)); err == nil || err.Error() != "dir/x.yml:3: "+want {
			t.Errorf("%s: %v", more, err)
		}
	}
}
