// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"pg_liveness_exporter/internal/testservers"
)

// TestLossReasons checks the reasons that a new login decides. The times are those of the server's clock.
func TestLossReasons(t *testing.T) {
	t.Parallel()
	started := startTimes{postmaster: known(100), checkpointer: known(101), read: known(500)}
	starting := &Failure{Reason: ReasonNotAccepting, SQLState: "57P03"}
	for name, test := range map[string]struct {
		end   sessionEnd
		f     *Failure
		after startTimes
		want  LossReason
	}{
		"restarted":  {sessionEnd{code: "57P01"}, nil, startTimes{postmaster: known(501)}, LossShutdown},
		"terminated": {sessionEnd{code: "57P01"}, nil, started, LossTerminated},
		"terminated, and then a different server": {sessionEnd{code: "57P01"}, nil, startTimes{postmaster: known(300)}, LossTerminated},
		"cut":                              {sessionEnd{}, nil, started, LossNetwork},
		"cut, and then a different server": {sessionEnd{}, nil, startTimes{postmaster: known(300), checkpointer: known(301)}, LossNetwork},
		"another backend crashed":          {sessionEnd{}, nil, startTimes{postmaster: known(100), checkpointer: known(501)}, LossCrash},
		"a fatal error of its own":         {sessionEnd{code: "53200"}, nil, started, LossTerminated},
		"in recovery":                      {sessionEnd{}, starting, startTimes{}, LossCrash},
		"shutting down":                    {sessionEnd{code: "57P01"}, starting, startTimes{}, LossShutdown},
		"stopped":                          {sessionEnd{code: "57P01"}, &Failure{Reason: ReasonRefused}, startTimes{}, LossShutdown},
		"idle":                             {sessionEnd{byIdleLimit: true}, nil, started, LossTerminated},
		"idle, and then restarted":         {sessionEnd{byIdleLimit: true}, starting, startTimes{}, LossTerminated},
		"idle, and then unreachable":       {sessionEnd{byIdleLimit: true}, &Failure{Reason: ReasonTimeout}, startTimes{}, LossTerminated},
	} {
		test.end.started = started
		if got, _ := test.end.reasonFromLogin(test.f, test.after); got != test.want {
			t.Errorf("%s: got %s, want %s", name, got, test.want)
		}
	}
}

// TestUndecidedLosses checks that every loss that the next probe must decide is counted.
func TestUndecidedLosses(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t, testservers.Converse(loginOK, func(net.Conn, pgproto3.FrontendMessage) []byte { return selectOne }))
	p, _, losses := newObservedProber(t, dsnOf(s))
	for range 2 {
		if p.mayReopen(&sessionEnd{}) {
			t.Error("a session that nobody asked is opened again")
		}
	}
	runProbe(t, p, hanging)
	if n := losses.Load(); n != 2 {
		t.Errorf("%d losses, want 2", n)
	}
}

// TestIdleLimit checks when two unexplained ends count as an idle limit.
func TestIdleLimit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		first, second, survived time.Duration
		want                    bool
	}{
		"the same":                         {2 * time.Second, 2 * time.Second, 0, true},
		"nearly the same":                  {2 * time.Second, 2100 * time.Millisecond, 0, true},
		"short":                            {30 * time.Millisecond, 45 * time.Millisecond, 0, true},
		"different":                        {2 * time.Second, 3 * time.Second, 0, false},
		"it has been idle for longer":      {2 * time.Second, 2 * time.Second, 15 * time.Second, false},
		"the second was not idle":          {2 * time.Second, 0, 0, false},
		"the first one ended in a request": {0, 2 * time.Second, 0, false},
	} {
		p := &Prober{}
		p.mayReopen(&sessionEnd{asked: true, idle: test.first})
		second := &sessionEnd{asked: true, idle: test.second, survived: test.survived}
		if p.mayReopen(second) == test.want || second.byIdleLimit != test.want {
			t.Errorf("%s: limit %v", name, second.byIdleLimit)
		}
	}
}

// TestHungKeptSession checks that a kept session that hangs does not hold up the verdict of a new one, and that the new
// one takes its place.
func TestHungKeptSession(t *testing.T) {
	t.Parallel()
	var connections atomic.Int64
	s := newFakeServer(t, func(conn net.Conn) {
		first := connections.Add(1) == 1
		var queries int
		testservers.Converse(loginOK, func(conn net.Conn, _ pgproto3.FrontendMessage) []byte {
			if queries++; first && queries > 8 { // those of the first probe
				testservers.Silent(conn)
			}
			return selectOne
		})(conn)
	})
	p, _, losses := newObservedProber(t, dsnOf(s))
	hung := false
	for range 20 {
		start := time.Now()
		r := runProbe(t, p, 4*hanging)
		if !r.Up() || time.Since(start) > hanging {
			t.Fatalf("got %+v after %s", r.Failure, time.Since(start))
		}
		if hung = !r.KeptUp; hung {
			break
		}
	}
	if !hung {
		t.Fatal("the kept session never hung")
	}
	if r := runProbe(t, p, hanging); !r.Up() || !r.KeptUp || losses.Load() != 0 {
		t.Errorf("afterwards: %+v, kept %v, %d losses", r.Failure, r.KeptUp, losses.Load())
	}
}

// TestAllowsNoPassword checks which values of require_auth let in a server that does not request a password.
func TestAllowsNoPassword(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{
		"": true, "scram-sha-256": false, "none,scram-sha-256": true, "!password,!md5": true, "!none": false, "!password, !none": false,
	} {
		if got := allowsNoPassword(value); got != want {
			t.Errorf("%q: got %v", value, got)
		}
	}
}
