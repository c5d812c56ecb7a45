// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package probe asks one server: it opens a session with timed phases, runs SELECT 1, reads the connection figures, and
// says why a server does not answer. Asking does I/O and returns a value, a Result; nothing here knows how it is shown.
package probe

import "time"

// Result is what one probe found. It does not change once it was returned and may be shared.
type Result struct {
	// Start is when the probe began, Duration how long it took, a commit apart, and Deadline how long it was allowed to
	// take.
	Start              time.Time
	Duration, Deadline time.Duration
	// Failure is nil when a session that this probe opened answered in time: SELECT 1, or a PgBouncer's SHOW VERSION.
	Failure *Failure
	// Phases is where the time of the new session went.
	Phases Phases
	// Connect is how many seconds opening the new session took, until the server was ready for a
	// query. It is unknown when it was not opened.
	Connect Number
	// Query is how many seconds that answer took: on the kept session, or on the new one where none is kept.
	Query Number
	// TLS is what the new session's handshake showed; nil where there was none.
	TLS *TLS
	// Superuser says that the new session's role is one, to which the limits of connections do not apply.
	Superuser bool
	// Keep says that a session is kept at all, KeptUp that it answered in this probe.
	Keep, KeptUp bool
	// ServerStats and PoolerStats are what a PostgreSQL server and a PgBouncer say of themselves, nil when no session could read
	// them; StatsFailure says why where a session tried.
	ServerStats  *ServerStats
	PoolerStats  *PoolerStats
	StatsFailure *Failure
	// Commit is the commit that began with this probe, or was under way; nil where there is none.
	Commit *Commit
}

// Up says whether this probe opened a new session and the server answered on it in time.
func (r *Result) Up() bool { return r.Failure == nil }

// State is the verdict in the five words that pg_probe_state shows.
func (r *Result) State() State {
	if r.Failure == nil {
		return StateAccepting
	}
	return r.Failure.State
}

// Unanswered is the result of a probe whose caller could not wait for it any longer.
func Unanswered(start time.Time, waited time.Duration, keep bool) *Result {
	return &Result{
		Start: start, Duration: waited, Deadline: waited, Keep: keep,
		Failure: &Failure{Reason: ReasonTimeout, State: StateNoResponse},
	}
}

// TLS is what a handshake showed.
type TLS struct {
	// NotAfter is when the server's certificate expires, also where that was not accepted.
	NotAfter time.Time
	// Version and Cipher, in crypto/tls's names, are empty where the handshake was not completed.
	Version, Cipher string
}

// Overloaded is the result of a probe for which the exporter had no room in time: it says nothing of the server.
func Overloaded(start time.Time, waited time.Duration, keep bool) *Result {
	r := Unanswered(start, waited, keep)
	r.Failure = &Failure{Reason: ReasonOther, State: StateMisconfigured, Detail: "too many probes are under way in this exporter"}
	return r
}

// Failure says why a probe failed, in terms that hold no address, name or text of the server's.
type Failure struct {
	Reason Reason
	State  State
	// Phase is the one that failed, PhaseNone when none was begun.
	Phase Phase
	// SQLState and Routine are the server's own, empty when it did not answer. Messages are translated, these are not.
	SQLState, Routine string
	// Forbidden says that the server was not asked: the address that its name leads to is not allowed.
	Forbidden bool
	// Detail says more where the failure is on our side of the wire, in words of our own; else it is empty.
	Detail string
}

// String says it in words of ours and codes of the server's, fit to be shown to everybody. Detail is left out: it is for the
// operator.
func (f *Failure) String() string {
	text := string(f.State) + ": " + string(f.Reason)
	if f.Phase != PhaseNone {
		text += " in phase " + f.Phase.String()
	}
	if f.SQLState != "" {
		text += ", SQLSTATE " + f.SQLState
	}
	return text
}

// Number is a value in base units that may be unknown. Unknown is shown as absent, never as 0.
type Number struct {
	Value float64
	Known bool
}

func known(v float64) Number { return Number{Value: v, Known: true} }

func knownDuration(d time.Duration) Number { return known(d.Seconds()) }

// LossReason says how a kept session was ended by the other side.
type LossReason string

// The reasons for the loss of a kept session.
const (
	LossShutdown   LossReason = "shutdown"
	LossCrash      LossReason = "crash"
	LossTerminated LossReason = "terminated"
	LossNetwork    LossReason = "network"
)

// LossReasons returns the closed set.
func LossReasons() []LossReason {
	return []LossReason{LossShutdown, LossCrash, LossTerminated, LossNetwork}
}
