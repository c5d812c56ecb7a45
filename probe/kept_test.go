// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"pg_liveness_exporter/internal/testservers"
)

// TestKeptSessionRests checks that a kept session has no driver while nothing happens, that it reads what the server sends
// meanwhile, and that it notices its end. It runs alone, since it looks for functions in the stacks of all goroutines.
func TestKeptSessionRests(t *testing.T) {
	cert := certificate(t, "db.invalid")
	t.Run("plain", func(t *testing.T) {
		testKeptSessionRests(t, "sslmode=disable", func(conn net.Conn) (net.Conn, error) { return conn, nil })
	})
	t.Run("TLS", func(t *testing.T) {
		testKeptSessionRests(t, "sslmode=require", func(conn net.Conn) (net.Conn, error) {
			if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil { // the SSLRequest
				return nil, err
			}
			_, err := conn.Write([]byte("S"))
			return tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}), err
		})
	})
}

// testKeptSessionRests is the test with one sslmode. accept makes the server's side of it.
func testKeptSessionRests(t *testing.T, sslmode string, accept func(net.Conn) (net.Conn, error)) {
	conns := make(chan net.Conn, 100)
	s := newFakeServer(t, func(conn net.Conn) {
		conn, err := accept(conn)
		if err != nil {
			return
		}
		conns <- conn
		testservers.Converse(loginOK, func(_ net.Conn, m pgproto3.FrontendMessage) []byte {
			if isQuery(m, "SELECT 1") && !isQuery(m, "pg_stat_get_activity") {
				return selectOne
			}
			return testservers.Wire(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42501"}, ready)
		})(conn)
	})
	losses := make(chan Loss, 100)
	dsn := fmt.Sprintf("host=127.0.0.1 port=%d user=u password=p %s", s.Port, sslmode)
	p := newTestProberFor(t, dsn, func(o *Options) { o.OnSessionLost = func(l Loss) { losses <- l } })
	probeUntilResting := func() {
		t.Helper()
		eventually(t, func() bool { // a write that takes long because the machine is busy keeps the driver
			if r := runProbe(t, p, hanging); !r.Up() || !r.KeptUp {
				t.Fatalf("got %+v, kept %v", r.Failure, r.KeptUp)
			}
			time.Sleep(10 * time.Millisecond)
			return inStacks("awaitData") && !inStacks("WaitForNotification")
		})
	}
	probeUntilResting()
	k, first := p.keptNow(), <-conns

	send := func(messages ...pgproto3.BackendMessage) {
		t.Helper()
		if _, err := first.Write(testservers.Wire(messages...)); err != nil {
			t.Fatal(err)
		}
	}
	send(&pgproto3.ParameterStatus{Name: "in_hot_standby", Value: "off"})
	eventually(t, func() bool { return inStacks("WaitForNotification") })
	probeUntilResting()
	if p.keptNow() != k {
		t.Error("the session was exchanged after it got a parameter")
	}

	send(&pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "57P01", Routine: "ProcessInterrupts"})
	_ = first.Close() // the handler may have closed it
	select {
	case l := <-losses:
		if l.Reason != LossTerminated {
			t.Errorf("the reason is %s", l.Reason)
		}
	case <-time.After(hanging):
		t.Error("the end was not noticed")
	}
}

// inStacks reports whether a goroutine is in a function or method of this name.
func inStacks(name string) bool {
	stacks := make([]byte, 1<<20)
	return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), name+"(")
}

// TestReadAhead checks after which queries pgconn may have read ahead: one that was sent slowly, and the one after it.
func TestReadAhead(t *testing.T) {
	t.Parallel()
	m := newMeter(&meteredConn{})
	m.reader = bytes.NewReader(make([]byte, 100))
	if !m.mayReadAhead() {
		t.Error("nothing is known yet")
	}
	const quick = -time.Hour // on any machine
	for i, step := range []struct {
		took time.Duration
		may  bool
	}{{quick, true}, {quick, false}, {slowWrite, true}, {quick, true}, {quick, false}} {
		m.sentAt = time.Now().Add(-step.took)
		for range 2 { // only the first reading shows how long the write took
			if _, err := m.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if got := m.mayReadAhead(); got != step.may {
			t.Errorf("step %d: got %v", i, got)
		}
	}
}
