// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Part is a part of what a probe reads that a server may refuse by itself: managed and compatible servers lack functions
// and tables, or do not let every role use them.
type Part string

// The parts.
const (
	PartSettings       Part = "transaction settings"
	PartLockTimeout    Part = "lock timeout"
	PartRole           Part = "role"
	PartRecovery       Part = "recovery"
	PartClientPort     Part = "client port"
	PartStartTime      Part = "start time"
	PartOwnSetting     Part = "own read-only setting"
	PartStatistics     Part = "all statistics"
	PartOwnSession     Part = "own session"
	PartConnections    Part = "connections"
	PartLimits         Part = "connection limits"
	PartReplication    Part = "replication"
	PartStandbyKind    Part = "kind of standby"
	PartAuroraLag      Part = "lag of Aurora"
	PartDatabases      Part = "databases"
	PartRoleLimit      Part = "role limit"
	PartSessionCounter Part = "session counters"
	PartCommit         Part = "commit"
)

// Refusal is a part that the server refused the last time.
type Refusal struct {
	Part     Part
	SQLState string
}

// String returns the part and the SQLSTATE.
func (r Refusal) String() string { return string(r.Part) + " (" + r.SQLState + ")" }

// minRefusalTime and maxRefusalTime bound how long a refused part is left out. The time doubles with each refusal.
const (
	minRefusalTime = time.Minute
	maxRefusalTime = 10 * time.Minute
)

// refusals remembers which parts a server refuses, so that it does not log an error in each probe. All sessions of a
// prober share it.
type refusals struct {
	mu        sync.Mutex // protects what follows
	parts     map[Part]*refusedPart
	forgotten time.Time // when forget last did something
}

type refusedPart struct {
	err      error // the server's last refusal
	sqlState string
	wait     time.Duration
	retryAt  time.Time
}

// refused returns the server's refusal if the part must not be queried yet, and nil if it may be.
func (r *refusals) refused(part Part) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.parts[part]; p != nil && time.Now().Before(p.retryAt) {
		return p.err
	}
	return nil
}

// record records how the server replied to a part. It reports whether err is a refusal that will last, so that the part
// is left out from now on.
func (r *refusals) record(part Part, err error) bool {
	// The session counters have a statement_timeout of their own, which says that they are slow.
	lasts := isRefusal(err) && (!isTransient(err) || part == PartSessionCounter && isCancelled(err))
	r.mu.Lock()
	defer r.mu.Unlock()
	switch p := r.parts[part]; {
	case err == nil:
		delete(r.parts, part)
	case lasts && p == nil:
		if r.parts == nil {
			r.parts = make(map[Part]*refusedPart)
		}
		r.parts[part] = &refusedPart{err, sqlState(err), minRefusalTime, time.Now().Add(minRefusalTime)}
	case lasts && !time.Now().Before(p.retryAt):
		p.err, p.sqlState, p.wait = err, sqlState(err), min(2*p.wait, maxRefusalTime)
		p.retryAt = time.Now().Add(p.wait)
	}
	return lasts
}

// forget makes all parts be queried again: another server or another role may allow them. It does nothing if it was last
// called less than minInterval ago.
func (r *refusals) forget(minInterval time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.forgotten) >= minInterval {
		r.parts, r.forgotten = nil, now
	}
}

// list returns the parts that the server refused the last time, sorted by name, without PartCommit: CommitResult shows that.
// It returns nil if there are none.
func (r *refusals) list() []Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Refusal
	for part, p := range r.parts {
		if part != PartCommit {
			all = append(all, Refusal{part, p.sqlState})
		}
	}
	slices.SortFunc(all, func(a, b Refusal) int { return cmp.Compare(a.Part, b.Part) })
	return all
}

// isRefusal reports whether the server replied with an error that does not end the session.
func isRefusal(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && !isFatal(pgErr)
}

// isTransient reports whether the server sent an error that says nothing about the statement: one of the classes rollback,
// lack of resources, intervention, and system errors, or a lock that was not available (src/backend/utils/errcodes.txt).
// A library that is missing (58P01) stays missing.
func isTransient(err error) bool {
	code := sqlState(err)
	return isLocked(err) || code != "58P01" && len(code) == 5 && slices.Contains([]string{"40", "53", "57", "58"}, code[:2])
}

// isLocked reports whether the statement failed because another session holds a lock.
func isLocked(err error) bool { return sqlState(err) == "55P03" }

// sqlState returns the SQLSTATE of a server's error, empty if err is none.
func sqlState(err error) string {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return ""
	}
	return pgErr.Code
}
