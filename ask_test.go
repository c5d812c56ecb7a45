// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testservers"
)

// runCheck runs the command and returns its exit code and what it wrote.
func runCheck(t *testing.T, env []string, args ...string) (code int, out, errs string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*hanging)
	defer cancel()
	cmd := command(ctx, env, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if strings.Contains(stdout.String()+stderr.String(), password) {
		t.Error("the password is in the output")
	}
	return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

// TestCheck: exit codes and output of the command check, against real servers and none.
func TestCheck(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	silent := silentServer(t)
	path := writeFile(t, fmt.Sprintf(`
defaults: {timeout: 1s, commit: true, %[1]s}
targets:
  up: {host: 127.0.0.1, port: %[2]d}
  gone: {host: 127.0.0.1, port: 1}
  hangs: {host: 127.0.0.1, port: %[3]d}
  wrong: {host: 127.0.0.1, port: %[2]d, password: wrong}
checks:
  'true': {target: up, sql: SELECT true}
  'false': {target: up, sql: SELECT false}
  refused: {target: gone, sql: SELECT true}
  many: {target: up, sql: SELECT 7, warn_above: 5}
  port: {tcp: "127.0.0.1:1"}
`, login(), s.Port, silent))
	file := "--config.file=" + path
	for _, test := range []struct {
		args []string
		code int
		line string
	}{
		{[]string{"check", "up", file}, 0, "accepting ("},
		{[]string{"check", "gone", file}, 2, "no_response: refused in phase dial"},
		{[]string{"check", "hangs", file}, 2, "no_response: timeout in phase startup"},
		{[]string{"check", "wrong", file}, 3, "misconfigured: auth in phase startup, SQLSTATE 28P01"},
		{[]string{"check", "gone", file, "--style=docker"}, 1, "no_response"},
		{[]string{"check", "true", file}, 0, "pass ("},
		{[]string{"check", "false", file}, 1, "fail: the statement returned false ("},
		{[]string{"check", "refused", file, "--style=docker"}, 1, "fail: no session with its target: no_response: refused"},
		{[]string{"check", "many", file, "--format=json"}, 0, `{"check":"many","status":"warn","output":"7 is above 5","value":7,"duration_seconds":`},
		{[]string{"check", "port", file}, 1, "fail: refused ("},
		{[]string{"check", "up", file, "--style=docker"}, 0, "accepting"},
		{[]string{"check", "none", file}, 3, ""},
		{[]string{"check", file}, 3, ""},
		{[]string{"check", file, "--format=xml"}, 3, ""},
		{[]string{"check", file, "--style", "docker", "--wait=abc"}, 1, ""},
		{[]string{"check", "--config.file=/nonexistent", "--wait=60s"}, 3, ""},
	} {
		code, out, errs := runCheck(t, nil, test.args...)
		if code != test.code || !strings.HasPrefix(out, test.line) || (test.line == "") != (out == "" && errs != "") {
			t.Errorf("%v: exit code %d, want %d: %s%s", test.args, code, test.code, out, errs)
		}
	}

	code, out, _ := runCheck(t, nil, "check", "none", file, "--format=json")
	if code != 3 || !strings.HasPrefix(out, `{"target":"none","up":false,"state":"not_tried","detail":"there is no target`) {
		t.Errorf("exit code %d: %s", code, out)
	}
	env := environment(s.Port, "postgres")
	code, out, _ = runCheck(t, env, "check", "--format=json")
	var answer struct {
		Up     bool
		State  string
		Phases map[string]float64 `json:"phase_durations_seconds"`
	}
	check(t, json.Unmarshal([]byte(out), &answer))
	if code != 0 || !answer.Up || answer.State != "accepting" || answer.Phases["startup"] <= 0 || answer.Phases["query"] <= 0 {
		t.Errorf("exit code %d: %s", code, out)
	}

	execute(t, s, "ALTER ROLE "+role+" CONNECTION LIMIT 0")
	if code, out, _ := runCheck(t, env, "check"); code != 3 || !strings.HasPrefix(out, "misconfigured: role_limit") {
		t.Errorf("no connections for the role: exit code %d: %s", code, out)
	}
	execute(t, s, "ALTER ROLE "+role+" CONNECTION LIMIT -1", "ALTER DATABASE app CONNECTION LIMIT 0")
	if code, out, _ := runCheck(t, environment(s.Port, "app"), "check"); code != 1 || !strings.HasPrefix(out, "connection_limit: database_limit") {
		t.Errorf("no connections for the database: exit code %d: %s", code, out)
	}

	// Waiting for a server that starts.
	check(t, s.Stop(testservers.Fast))
	started := make(chan error, 1)
	go func() {
		time.Sleep(2 * time.Second)
		started <- s.Start(context.Background())
	}()
	if code, out, _ := runCheck(t, env, "check", "--wait=60s"); code != 0 {
		t.Errorf("exit code %d: %s", code, out)
	}
	check(t, <-started)
	start := time.Now()
	if code, _, _ := runCheck(t, nil, "check", "gone", file, "--wait=2s"); code != 2 || time.Since(start) < 2*time.Second {
		t.Errorf("exit code %d after %s", code, time.Since(start))
	}
}
