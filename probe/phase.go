// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"sync"
	"time"
)

// Phase is a step of a probe.
type Phase uint8

// The phases of a probe, in their order.
const (
	PhaseNone        Phase = iota
	PhaseCredentials       // read the password, or fetch it from a command or a cloud; not part of Result.Connect
	PhaseResolve           // look up the host's addresses; skipped for a Unix socket
	PhaseDial              // connect by TCP or to the Unix socket
	PhaseTLS               // SSLRequest and handshake; skipped for sslmode=disable
	PhaseStartup           // startup packet and authentication, until ReadyForQuery
	PhaseQuery             // SELECT 1
	PhaseCommit            // the commit probe
	phaseCount
)

// AllPhases returns the phases that involve the server, in order.
func AllPhases() []Phase {
	return []Phase{PhaseResolve, PhaseDial, PhaseTLS, PhaseStartup, PhaseQuery}
}

func (p Phase) String() string {
	return [phaseCount]string{"none", "credentials", "resolve", "dial", "tls", "startup", "query", "commit"}[p]
}

// Phases is the time spent in each phase. A phase that was not reached is unknown. A phase that was under
// way when the probe ended counts up to that moment.
type Phases [phaseCount]Duration

// connect returns how long opening a session took: the time of the phases that involve the server, without the query.
func (ps Phases) connect() Duration {
	var sum time.Duration
	for _, phase := range AllPhases() {
		if phase != PhaseQuery {
			sum += ps[phase].Value
		}
	}
	return knownDuration(sum)
}

// trace measures the phases of one login. Any goroutine may call its methods.
type trace struct {
	mu        sync.Mutex // protects what follows: a login may outlive the probe that reads its trace
	current   Phase
	enteredAt time.Time
	times     Phases
	tls       *TLS
	address   string // of the server, as session.address returns it
	// sentPassword reports whether the login has sent a password: the server or pooler has a place for it.
	sentPassword bool
}

// enter ends the current phase and begins p.
func (t *trace) enter(p Phase) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.endLocked(now)
	t.current, t.enteredAt = p, now
}

// setTLS records what the TLS handshake showed.
func (t *trace) setTLS(info *TLS) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tls = info
}

// setPeer records the address of the server that accepted the connection.
func (t *trace) setPeer(address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.address = address
}

// peer returns the address of the server that accepted the connection, "" if none has.
func (t *trace) peer() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.address
}

// recordPassword records that the login has sent a password.
func (t *trace) recordPassword() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sentPassword = true
}

// hasSentPassword reports whether the login has sent a password.
func (t *trace) hasSentPassword() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sentPassword
}

// waitsForPlace reports whether the login is connected, and may be waiting until a pooler or proxy has a place for it:
// it has not sent a password yet, or its first query is unanswered.
func (t *trace) waitsForPlace() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.current == PhaseTLS || t.current == PhaseStartup && !t.sentPassword || t.current == PhaseQuery
}

// tlsInfo returns what the TLS handshake showed, nil if there was none.
func (t *trace) tlsInfo() *TLS {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tls
}

// done ends the current phase.
func (t *trace) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endLocked(time.Now())
	t.current = PhaseNone
}

// endLocked records the time of the current phase. t.mu is held.
func (t *trace) endLocked(now time.Time) {
	if t.current != PhaseNone {
		t.times[t.current] = knownDuration(now.Sub(t.enteredAt))
	}
}

// read returns the times up to now, and the current phase.
func (t *trace) read() (Phases, Phase) {
	t.mu.Lock()
	defer t.mu.Unlock()
	times := t.times
	if t.current != PhaseNone {
		times[t.current] = knownDuration(time.Since(t.enteredAt))
	}
	return times, t.current
}
