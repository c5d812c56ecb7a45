// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// TestSystemd: systemd finds nothing wrong with the units, and little that the service could do beyond its job.
func TestSystemd(t *testing.T) {
	t.Parallel()
	analyze := testenv.Tool(t, "SYSTEMD_ANALYZE", "systemd-analyze")
	units := glob(t, "examples/systemd/*")
	if len(units) != 2 {
		t.Fatalf("%q", units)
	}
	this, err := os.Executable()
	check(t, err)
	const example, packaged, socket = "examples/systemd/pg_liveness_exporter.service", "packages/pg_liveness_exporter.service", "examples/systemd/pg_liveness_exporter.socket"
	for _, service := range []string{example, packaged} {
		folder := t.TempDir()
		verify := []string{"verify", "--man=no"}
		for _, unit := range []string{service, socket} {
			// It looks whether the program is there, and any will do.
			content := regexp.MustCompile(`/usr/(local/)?bin/pg_liveness_exporter`).ReplaceAllString(read(t, unit), this)
			copied := filepath.Join(folder, filepath.Base(unit))
			check(t, os.WriteFile(copied, []byte(content), 0o600))
			verify = append(verify, copied)
		}
		for name, args := range map[string][]string{
			"verify":   verify,
			"security": {"security", "--offline=true", "--threshold=20", inRoot(t, service)}, // 2.0
		} {
			out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
			if err != nil || name == "verify" && len(out) > 0 {
				t.Errorf("%s: %s: %v\n%s", service, name, err, out)
			}
		}
	}
	// What the service may do is the same in both.
	sandbox := func(unit string) string {
		_, rest, found := strings.Cut(read(t, unit), "\nDynamicUser=")
		if !found {
			t.Errorf("%s has no DynamicUser", unit)
		}
		return rest
	}
	expectEqual(t, "sandbox", sandbox(example), sandbox(packaged))
}

// TestSystemdSocket: the port that systemd opened is the one that is served, and the first request starts the program.
func TestSystemdSocket(t *testing.T) {
	t.Parallel()
	activate := testenv.Tool(t, "SYSTEMD_SOCKET_ACTIVATE", "systemd-socket-activate")
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	e := &Exporter{t: t, address: l.Addr().String(), log: &testservers.Output{}}
	check(t, l.Close())
	args := []string{"--listen=" + e.address}
	for _, variable := range append(cleanEnvironment(), "DATA_SOURCE_NAME=postgres://u@127.0.0.1:1/postgres") {
		args = append(args, "--setenv="+variable)
	}
	cmd := exec.CommandContext(t.Context(), activate, append(args, program(t), "--web.systemd-socket")...)
	cmd.Stderr = e.log
	check(t, cmd.Start())
	eventually(t, "it does not answer", func() bool {
		response, _, err := e.Get(t.Context(), "/livez", 0)
		return err == nil && response.StatusCode == http.StatusOK
	})
	check(t, cmd.Process.Signal(syscall.SIGTERM)) // it has become the exporter
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, e.Logged())
	}
}
