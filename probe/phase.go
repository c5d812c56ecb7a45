// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"sync"
	"time"
)

// Phase is a step on the way to an answered query.
type Phase uint8

// The phases of a probe, in their order.
const (
	PhaseNone        Phase = iota
	PhaseCredentials       // the password, which a command may have to print; no part of the time to connect
	PhaseResolve           // the name's addresses; not for a unix socket
	PhaseDial              // TCP or the unix socket
	PhaseTLS               // SSLRequest and handshake; not where sslmode is disable
	PhaseStartup           // startup packet, authentication, until ReadyForQuery
	PhaseQuery             // SELECT 1
	PhaseCommit            // the commit probe
	phaseCount
)

// AllPhases returns the phases that concern the server, in their order.
func AllPhases() []Phase {
	return []Phase{PhaseResolve, PhaseDial, PhaseTLS, PhaseStartup, PhaseQuery}
}

func (p Phase) String() string {
	return [phaseCount]string{"none", "credentials", "resolve", "dial", "tls", "startup", "query", "commit"}[p]
}

// Phases is the time spent in each phase, in seconds, unknown for one that was not reached.
// A phase that was under way when the probe ended counts up to then.
type Phases [phaseCount]Number

// trace takes the times of one login's phases.
type trace struct {
	mu        sync.Mutex // protects what follows: a login may outlive the probe that began it and reads its trace
	current   Phase
	enteredAt time.Time
	times     Phases
	tls       *TLS
}

// enter ends the phase under way and begins p.
func (t *trace) enter(p Phase) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.endLocked(now)
	t.current, t.enteredAt = p, now
}

// setTLS notes what a TLS handshake showed.
func (t *trace) setTLS(info *TLS) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tls = info
}

// tlsInfo returns what the TLS handshake showed, if there was one.
func (t *trace) tlsInfo() *TLS {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tls
}

// done ends the phase under way.
func (t *trace) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endLocked(time.Now())
	t.current = PhaseNone
}

func (t *trace) endLocked(now time.Time) {
	if t.current != PhaseNone {
		t.times[t.current] = knownDuration(now.Sub(t.enteredAt))
	}
}

// read returns the times up to now and the phase under way.
func (t *trace) read() (Phases, Phase) {
	t.mu.Lock()
	defer t.mu.Unlock()
	times := t.times
	if t.current != PhaseNone {
		times[t.current] = knownDuration(time.Since(t.enteredAt))
	}
	return times, t.current
}
