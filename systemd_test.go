// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"pg_liveness_exporter/internal/testenv"
)

// TestSystemdSocket: the port that systemd opened is the one that is served, and the first request starts the program.
func TestSystemdSocket(t *testing.T) {
	t.Parallel()
	activate := testenv.Tool(t, "SYSTEMD_SOCKET_ACTIVATE", "systemd-socket-activate")
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	e := &exporter{t: t, address: l.Addr().String()}
	check(t, l.Close())
	cmd := exec.CommandContext(t.Context(), activate, "--listen="+e.address,
		"--setenv="+asExporter+"=yes", "--setenv=DATA_SOURCE_NAME=postgres://u@127.0.0.1:1/postgres", os.Args[0], "--web.systemd-socket")
	cmd.Stderr = &e.log
	check(t, cmd.Start())
	eventually(t, "it does not answer", func() bool {
		response, _, err := e.get(t.Context(), "/livez", 0)
		return err == nil && response.StatusCode == http.StatusOK
	})
	check(t, cmd.Process.Signal(syscall.SIGTERM)) // it has become the exporter
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, e.logged())
	}
}
