// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// TestHAProxy: a real HAProxy routes writes to the primary and reads to the replica by what /primary and /replica say, and
// follows a promotion.
func TestHAProxy(t *testing.T) {
	t.Parallel()
	program := testenv.Tool(t, "HAPROXY", "haproxy")
	one := newServer(t, testservers.PostgresConfig{HBA: trusting})
	other, err := one.Standby(t.Context())
	check(t, err)
	t.Cleanup(func() { check(t, other.Remove()) })
	plain, writes, reads := freePort(t), freePort(t), freePort(t)
	startWithFile(t, fmt.Sprintf(`
health: {max_age: 500ms}
targets:
  one: {host: 127.0.0.1, port: %[2]d, %[1]s}
  other: {host: 127.0.0.1, port: %[3]d, %[1]s}
`, login(), one.Port, other.Port), "--health.listen-address=127.0.0.1:"+plain)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	servers := fmt.Sprintf(`
  default-server check inter 200ms fall 2 rise 1 port %s addr 127.0.0.1 on-marked-down shutdown-sessions
  server one 127.0.0.1:%d
  server other 127.0.0.1:%d
`, plain, one.Port, other.Port)
	check(t, os.WriteFile(file, []byte(fmt.Sprintf(`
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout check 2s
listen writes
  bind 127.0.0.1:%s
  option httpchk
  http-check send meth OPTIONS uri-lf /primary/%%[srv_name]%s
listen reads
  bind 127.0.0.1:%s
  option httpchk
  http-check send meth GET uri-lf /replica/%%[srv_name]?lag=10s%s
`, writes, servers, reads, servers)), 0o600))
	var log testservers.Output
	cmd := exec.CommandContext(context.Background(), program, "-db", "-f", file)
	cmd.Stdout, cmd.Stderr = &log, &log
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("HAProxy:\n%s", log.String())
		}
	})
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
