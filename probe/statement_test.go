// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testservers"
)

// TestQueryDoesNotDelayProbe checks that no probe waits for a login of Query until the login is abandoned. From then on
// it counts among the logins for which the server may still hold a slot.
func TestQueryDoesNotDelayProbe(t *testing.T) {
	t.Parallel()
	var connections atomic.Int64
	s := newFakeServer(t, func(conn net.Conn) {
		if connections.Add(1) == 1 {
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
	go func() {
		_, f := p.Query(ctx, "SELECT true", hanging)
		failed <- f
	}()
	for connections.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	if r := runProbe(t, p, hanging); !r.Up() {
		t.Fatalf("a login of Query delays the probe: %+v", r.Failure)
	}
	cancel()
	if f := <-failed; f == nil || f.Reason != ReasonTimeout {
		t.Errorf("%+v", f)
	}
	start := time.Now()
	if r := runProbe(t, p, 300*time.Millisecond); r.Up() || r.Failure.Reason != ReasonTimeout || connections.Load() != 2 {
		t.Errorf("after a login was abandoned: %+v, %d connections, %s", r.Failure, connections.Load(), time.Since(start))
	}
}
