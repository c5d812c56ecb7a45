// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testservers"
)

// TestQueryDoesNotDelayProbe checks that no probe waits for the logins of Query until they are abandoned. From then on
// they count among the logins for which the server may still hold a slot.
func TestQueryDoesNotDelayProbe(t *testing.T) {
	t.Parallel()
	var connections atomic.Int64
	s := newFakeServer(t, func(conn net.Conn) {
		if connections.Add(1) <= 2 {
			testservers.Silent(conn)
			return
		}
		accept(func(string) [][]string { return [][]string{{"1"}} })(conn)
	})
	p := newTestProber(t, s.Port, "sslmode=disable")
	p.target.Timeout = hanging
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan *Failure)
	for range 2 {
		go func() {
			_, f := p.Query(ctx, "SELECT true", hanging)
			failed <- f
		}()
	}
	eventually(t, func() bool { // a login that still dials ends with its caller
		p.logins.mu.Lock()
		defer p.logins.mu.Unlock()
		return len(p.logins.pending) == 2 && !slices.ContainsFunc(p.logins.pending, func(l *pendingLogin) bool {
			_, phase := l.trace.read()
			return phase != PhaseStartup
		})
	})
	for connections.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	if r := runProbe(t, p, hanging); !r.Up() {
		t.Fatalf("logins of Query delay the probe: %+v", r.Failure)
	}
	cancel()
	for range 2 {
		if f := <-failed; f == nil || f.Reason != ReasonTimeout {
			t.Errorf("%+v", f)
		}
	}
	start := time.Now()
	if r := runProbe(t, p, 300*time.Millisecond); r.Up() || r.Failure.Reason != ReasonTimeout || connections.Load() != 3 {
		t.Errorf("after two logins were abandoned: %+v, %d connections, %s", r.Failure, connections.Load(), time.Since(start))
	}
}
