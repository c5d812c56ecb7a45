// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testservers"
)

// TestCommit: the commits of a real primary, whose synchronous standby goes away and comes back.
func TestCommit(t *testing.T) {
	t.Parallel()
	primary := newServer(t, testservers.PostgresConfig{})
	standby := newStandby(t, primary)
	content := fmt.Sprintf(`
defaults: {commit: true}
targets:
  primary: {host: 127.0.0.1, port: %[2]d, %[1]s}
  standby: {host: 127.0.0.1, port: %[3]d, %[1]s}
  off: {host: 127.0.0.1, port: %[2]d, commit: false, %[1]s}`, login(), primary.Port, standby.Port)
	e, _ := startWithFile(t, content, "--probe.timeout=6s")
	execute(t, primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
	commits := func(name string, want float64) {
		t.Helper()
		m := e.ProbeMetrics(name, "")
		if got, ok := m["pg_commit_up"]; !ok || got != want || m["pg_up"] != 1 || m[`pg_probe_state{state="accepting"}`] != 1 {
			t.Errorf("%s: pg_commit_up is %v (there: %v), pg_up %v; want %v and 1", name, got, ok, m["pg_up"], want)
		}
	}
	waiting := func() int {
		rows, err := primary.Query(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
		check(t, err)
		n := 0
		_, err = fmt.Sscan(rows[0], &n)
		check(t, err)
		return n
	}
	noneWaits := func(when string) {
		t.Helper()
		eventually(t, when+": a commit is left waiting", func() bool { return waiting() == 0 })
	}
	eventually(t, "the standby is not synchronous", func() bool {
		rows, err := primary.Query(context.Background(), "SELECT sync_state FROM pg_stat_replication")
		return err == nil && len(rows) == 1 && rows[0] == "sync"
	})

	commits("primary", 1) // on the first probe, whose session is kept, too
	commits("primary", 1)
	for _, name := range []string{"standby", "off"} {
		for range 2 {
			if m := e.ProbeMetrics(name, ""); m["pg_up"] != 1 || hasKey(m, "pg_commit_up") || m["pg_commit_duration_seconds_count"] != 0 {
				t.Errorf("%s: pg_up %v, pg_commit_up there: %v", name, m["pg_up"], hasKey(m, "pg_commit_up"))
			}
		}
	}
	if n := e.ProbeMetrics("primary", "")["pg_commit_duration_seconds_count"]; n != 3 {
		t.Errorf("%v commits in 3 probes", n)
	}
	_, e.quiet = e.Usage()
	committed := e.ProbeMetrics("primary", "")["pg_commit_duration_seconds_count"]

	check(t, standby.Stop(testservers.Fast))
	for range 3 {
		commits("primary", 0)
		noneWaits("the standby is away")
	}
	if m := e.ProbeMetrics("primary", ""); m["pg_kept_session_up"] != 1 || m["pg_connections_used"] < 1 || m["pg_commit_duration_seconds_count"] != committed {
		t.Errorf("while commits hang: kept session %v, connections %v, commits %v", m["pg_kept_session_up"], m["pg_connections_used"], m["pg_commit_duration_seconds_count"])
	}
	if !strings.Contains(e.Logged(), "Commit probe failed") {
		t.Error("no line says that commits fail")
	}

	for path, status := range map[string]int{"/read-write/primary": 503, "/primary/primary": 200, "/health/primary": 200} {
		if code, body := e.Health(path); code != status {
			t.Errorf("%s while commits hang: status %d, want %d: %s", path, code, status, body)
		}
	}
	if _, body := e.Probe("primary", "&debug=true"); !strings.Contains(body, "The commit that followed failed: timeout") {
		t.Errorf("debug says nothing of the commit:\n%.1500s", body)
	}

	// Somebody who can wait longer keeps nobody from the verdict.
	longer := make(chan Metrics)
	go func() {
		_, body, err := e.Get(context.Background(), "/probe?target=primary", 6*time.Second)
		if err != nil {
			t.Error(err)
		}
		longer <- parseMetrics(t, body)
	}()
	eventually(t, "no commit waits", func() bool { return waiting() == 1 })
	commits("primary", 0)

	// A commit that an administrator cancels ends with success and a warning, and is not one.
	execute(t, primary, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
	if m := <-longer; m["pg_up"] != 1 || m["pg_commit_up"] != 0 || m["pg_commit_duration_seconds_count"] != committed {
		t.Errorf("cancelled: pg_up %v, pg_commit_up %v", m["pg_up"], m["pg_commit_up"])
	}

	// An exporter that is stopped meanwhile leaves nothing behind.
	second, _ := startWithFile(t, content, "--probe.timeout=6s")
	go func() { _, _, _ = second.Get(context.Background(), "/probe?target=primary", 6*time.Second) }()
	eventually(t, "no commit waits", func() bool { return waiting() == 1 })
	check(t, second.cmd.Process.Signal(syscall.SIGTERM))
	<-second.exited
	noneWaits("the exporter was stopped")

	check(t, standby.Start(t.Context()))
	eventually(t, "commits do not succeed again", func() bool { return e.ProbeMetrics("primary", "")["pg_commit_up"] == 1 })
	e.ExpectNoMoreUsed()
	if !strings.Contains(e.Logged(), "Commit probe succeeded again") {
		t.Error("no line says that commits succeed again")
	}

	// What the server does not let us try says nothing of its commits. A role that reads by default commits all the same.
	execute(t, primary, "ALTER ROLE "+role+" SET default_transaction_read_only = on")
	commits("primary", 1)
	execute(t, primary, `DO $$ DECLARE f regprocedure; BEGIN
		FOR f IN SELECT oid FROM pg_proc WHERE proname = 'pg_logical_emit_message' LOOP
			EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f); END LOOP; END $$`)
	if m := e.ProbeMetrics("primary", ""); m["pg_up"] != 1 || hasKey(m, "pg_commit_up") {
		t.Errorf("not permitted: pg_up %v, pg_commit_up there: %v", m["pg_up"], hasKey(m, "pg_commit_up"))
	}
	eventually(t, "no line says that it is not permitted", func() bool { return strings.Contains(e.Logged(), "reason=permission phase=commit") })
}

// TestLeftoverCommit: an exporter that is killed while its commit hangs leaves a session waiting for a standby. Another
// exporter of the same role cancels it after a minute, and nobody else's.
func TestLeftoverCommit(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{HBA: trusting})
	path := writeFile(t, fmt.Sprintf("defaults: {commit: true, interval: 500ms}\ntargets:\n  primary: {host: 127.0.0.1, port: %d, %s}\n", s.Port, login()))
	execute(t, s, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
	waiting := func() []string {
		pids, err := s.Query(context.Background(), "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' ORDER BY backend_start")
		check(t, err)
		return pids
	}
	eventually(t, "commits do not wait", func() bool { // not before the checkpointer has read the setting (syncrep.c)
		emit(t, s.Port, testservers.Superuser, "first")
		time.Sleep(100 * time.Millisecond)
		return len(waiting()) > 0
	})
	// waitsFor returns the process that a function makes wait.
	waitsFor := func(begin func()) string {
		before := waiting()
		begin()
		eventually(t, "no commit waits", func() bool { return len(waiting()) > len(before) })
		return waiting()[len(before)]
	}
	others := map[string]string{
		"another role with the same statement":    waitsFor(func() { emit(t, s.Port, testservers.Superuser, "pg_liveness_exporter") }),
		"the same role with another statement":    waitsFor(func() { emit(t, s.Port, role, "something else") }),
		"another statement that names the prefix": waitsFor(func() { emit(t, s.Port, role, "of pg_liveness_exporter") }),
	}
	leftover := waitsFor(func() {
		before := len(waiting())
		killed := command(t, nil, "--config.file="+path, "--web.listen-address=127.0.0.1:"+freePort(t), "--probe.timeout=50s")
		check(t, killed.Start())
		eventually(t, "the commit does not begin", func() bool { return len(waiting()) > before })
		check(t, killed.Process.Kill())
		_ = killed.Wait()
	})
	age := time.Now()
	isWaiting := func(pid string) bool { return slices.Contains(waiting(), pid) }

	patient := startExporter(t, nil, "--config.file="+path, "--probe.timeout=45s")
	e := startExporter(t, nil, "--config.file="+path)
	eventually(t, "no probes", func() bool { return e.ProbeMetrics("primary", "")["pg_probes_total"] > 5 })
	if !isWaiting(leftover) {
		t.Error("a commit that has waited for a few seconds was cancelled")
	}
	time.Sleep(time.Until(age.Add(time.Minute)))
	eventually(t, "the commit that was left is not cancelled", func() bool { return !isWaiting(leftover) })
	for whose, pid := range others {
		if !isWaiting(pid) {
			t.Errorf("the commit of %s was cancelled", whose)
		}
	}
	for _, of := range []*Exporter{e, patient} {
		eventually(t, "no line says that commits time out", func() bool { return strings.Contains(of.Logged(), "reason=timeout phase=commit") })
		if strings.Contains(of.Logged(), "was cancelled") {
			t.Errorf("the commit of a living exporter was cancelled:\n%s", of.Logged())
		}
	}
	execute(t, s, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
}

// emit commits a message with this prefix, in the background and until the test ends.
func emit(t *testing.T, port int, user, prefix string) {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=postgres sslmode=disable", port, user))
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = conn.Exec(ctx, fmt.Sprintf("SELECT pg_logical_emit_message(true, '%s', '')", prefix)).ReadAll()
	}()
	t.Cleanup(func() {
		cancel()
		<-sent
	})
}
