// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"math"
	"strconv"
	"time"
)

// Result is what one probe found. It does not change after it is returned, and may be shared.
type Result struct {
	// Start is when the probe began. Duration is how long it took without its commit. Deadline is how long it was
	// allowed to take.
	Start              time.Time
	Duration, Deadline time.Duration
	// Failure is nil if a session that this probe opened ran SELECT 1, or SHOW VERSION on a PgBouncer, in time.
	Failure *Failure
	// Phases holds how long each phase of the new session took.
	Phases Phases
	// Connect is how long opening the new session took, until the server was ready for a query. It is unknown if the session
	// was not opened.
	Connect Duration
	// Query is how long that query took: on the kept session if there is one, otherwise on the new one.
	Query Duration
	// TLS is what the new session's handshake showed, nil if there was none.
	TLS *TLS
	// address is the address of the server that refused the new session, as session.address returns it. It is empty if
	// none was reached.
	address string
	// Superuser reports whether the new session's role is a superuser. Connection limits do not apply to superusers.
	Superuser bool
	// Keep reports whether the prober keeps a session. KeptUp reports whether the kept session replied in this probe.
	Keep, KeptUp bool
	// Role is the role of the server that the new session reached, nil if it is not known.
	Role *Role
	// postmasterStart is when the server started that the new session reached, as session.postmasterStart.
	postmasterStart Number
	// ServerStats is set for a PostgreSQL server and PoolerStats for a PgBouncer, unless no session could read them.
	// StatsFailure is why the session that tried failed.
	ServerStats  *ServerStats
	PoolerStats  *PoolerStats
	StatsFailure *Failure
	// Refusals are the parts that the server refuses. A refused part is queried again after one to ten minutes.
	Refusals []Refusal
	// Commit is the commit that started with this probe or was still running, nil if there is none.
	Commit *Commit
}

// Up reports whether this probe opened a new session and the server replied on it in time.
func (r *Result) Up() bool { return r.Failure == nil }

// Down reports whether this probe found the server down. A server that is full, or refuses only the exporter, is not.
func (r *Result) Down() bool {
	return r.State() == StateNoResponse || r.State() == StateRejecting
}

// State returns the verdict, as in pg_probe_state.
func (r *Result) State() State {
	if r.Failure == nil {
		return StateAccepting
	}
	return r.Failure.State
}

// ClientConnections returns how many connections are in use and how many are usable, for PgBouncer those of clients. They
// are unknown if no session could read them.
func (r *Result) ClientConnections() (used, usable Number) {
	switch {
	case r.ServerStats != nil:
		return r.ServerStats.Used, r.ServerStats.Usable
	case r.PoolerStats != nil:
		u, isUsed := r.PoolerStats.Lists["used_clients"]
		maxClients, isUsable := r.PoolerStats.Config["max_client_conn"]
		return Number{Value: u, Known: isUsed}, Number{Value: maxClients, Known: isUsable}
	}
	return used, usable
}

// Unanswered returns the result of a probe whose caller stopped waiting after waited.
func Unanswered(start time.Time, waited time.Duration, keep bool) *Result {
	return &Result{
		Start: start, Duration: waited, Deadline: waited, Keep: keep,
		Failure: &Failure{Reason: ReasonTimeout, State: StateNoResponse},
	}
}

// Role is the role of a server: whether it is a primary or a replica, and what new transactions may do.
type Role struct {
	// Replica reports whether the server is in recovery. ReadOnly reports whether transactions of a new session are read-only by
	// default. A setting of the exporter's own role does not count.
	Replica, ReadOnly bool

	// Serializable reports whether transactions of a new session are serializable by default. A hot standby refuses them.
	Serializable bool
}

// TLS is what a TLS handshake showed.
type TLS struct {
	// NotAfter is when the server's certificate expires, even if the certificate was not accepted.
	NotAfter time.Time
	// Version and Cipher are named as in crypto/tls. They are empty if the handshake was not completed.
	Version, Cipher string
}

// Overloaded returns the result of a probe that the exporter could not start in time. It contains no information about
// the server.
func Overloaded(start time.Time, waited time.Duration, keep bool) *Result {
	r := Unanswered(start, waited, keep)
	r.Failure = &Failure{Reason: ReasonOther, State: StateMisconfigured, Detail: "too many probes are under way in this exporter"}
	return r
}

// Failure describes why a probe failed. It contains no address, no name and no text from the server.
type Failure struct {
	Reason Reason
	State  State
	// Phase is the phase that failed, PhaseNone if none was begun.
	Phase Phase
	// SQLState and Routine are from the server's error, empty if it sent none. Unlike the message, they are not
	// translated.
	SQLState, Routine string
	// Position is where in the statement the server found the error, in characters from 1. It is 0 if the server named no
	// place.
	Position int
	// Forbidden reports whether the host name leads to an address that is not allowed. The server was not contacted.
	Forbidden bool
	// OutOfDescriptors reports whether this process or its machine had no file descriptor left.
	OutOfDescriptors bool
	// Detail describes the failure in the exporter's own words: what to change on its side, or which of several causes a
	// server's error means. It is empty if the other fields say everything.
	Detail string
	// FileDetail is Detail with the path of the file that could not be read, and with the user's number if a permission is
	// missing. Only the log and the command line may show it. It is empty if Detail is about no file.
	FileDetail string
}

// OperatorDetail returns the detail for the log and the command line.
func (f *Failure) OperatorDetail() string { return cmp.Or(f.FileDetail, f.Detail) }

// String describes the failure without Detail, which is for the operator. Its text is safe to show to anyone.
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

// Number is a value in base units that may be unknown. An unknown value is shown as absent, never as 0.
type Number struct {
	Value float64
	Known bool
}

// maxNumber bounds the numbers of a server. No real one comes near it, and a sum of as many as a server may send is finite.
const maxNumber = 1e300

// parseNumber parses a number in text format. NaN, the infinities and what exceeds maxNumber are unknown: they mean
// nothing as a count or a duration, and JSON has no word for infinity.
func parseNumber(text []byte) (Number, error) {
	v, err := strconv.ParseFloat(string(text), 64)
	if err != nil || math.IsNaN(v) || math.Abs(v) > maxNumber {
		return Number{}, err
	}
	return known(v), nil
}

func known(v float64) Number { return Number{Value: v, Known: true} }

// Duration is a time that the exporter measured. It may be unknown.
type Duration struct {
	Value time.Duration
	Known bool
}

// Seconds returns the duration in seconds.
func (d Duration) Seconds() Number { return Number{Value: d.Value.Seconds(), Known: d.Known} }

func knownDuration(d time.Duration) Duration { return Duration{Value: d, Known: true} }
