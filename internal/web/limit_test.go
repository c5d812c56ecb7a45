// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// hanging is how long a response may take before a test counts it as hung.
const hanging = 30 * time.Second

// TestClientsThatDoNotRead tests that a client gets its response although more clients than the limit allows do not
// read theirs.
func TestClientsThatDoNotRead(t *testing.T) {
	t.Parallel()
	const maxOpen = 4
	limit := newConnectionLimit(maxOpen)
	large := make([]byte, 16<<20) // more than any kernel buffers for a client that does not read
	server := &http.Server{
		Handler: limit.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/large" {
				_, _ = w.Write(large)
			}
		})),
		ConnState: limit.track, ConnContext: limit.remember,
	}
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	defer func() { _ = server.Close() }()
	var dialer net.Dialer
	for range 3 * maxOpen {
		conn, err := dialer.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := io.WriteString(conn, "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), hanging)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.Addr().String()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if _ = response.Body.Close(); response.StatusCode != http.StatusOK {
		t.Errorf("status %d", response.StatusCode)
	}
}

// TestLargeBodyOnClosingConnection tests that a client that wants the connection closed can send a large body and then
// read its response.
func TestLargeBodyOnClosingConnection(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(withoutBody(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	})))
	defer server.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(hanging))
	if err := conn.(*net.TCPConn).SetWriteBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	const length = 2 << 20 // more than the kernel buffers then, and little enough to be sent within bodyGrace on a busy machine
	head := fmt.Sprintf("POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", length)
	for _, part := range []string{head, strings.Repeat("a", length)} {
		if _, err := io.WriteString(conn, part); err != nil {
			t.Fatal(err)
		}
	}
	response, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(response), "HTTP/1.1 418 ") {
		t.Errorf("%v: %q", err, response)
	}
}

// TestWriteAllocatesNothing: an exposition is written in dozens of pieces.
func TestWriteAllocatesNothing(t *testing.T) {
	limit := newConnectionLimit(1)
	conn, other := net.Pipe()
	defer func() { _, _ = conn.Close(), other.Close() }()
	limit.track(conn, http.StateNew)
	limit.addHandlers(conn, 1)
	w := idleWriter{httptest.NewRecorder(), limit, conn}
	if n := testing.AllocsPerRun(100, func() { _, _ = w.Write(nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
