// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package probe probes one server. A Prober opens a new session with timed phases, runs SELECT 1, reads the server
// statistics, and determines the reason of a failure. Results are plain values. The package does not know how they are shown.
//
// Each session has one owner at a time, and only the owner may send queries on it:
//
//   - Probe owns the session that it opens. Before it returns, it keeps the session, hands it to the commit, or has it
//     closed in the background.
//   - The kept session stays open between probes. Its own goroutine owns it and handles the requests of Probe. Between
//     requests the goroutine listens, so that it notices a loss at once. If the end does not show the reason, the
//     goroutine logs in again to find it, or leaves that to the next probe (loss.go). A prober closes the kept session if it
//     may take the place of a new login or block a shutdown (guest.go).
//   - The goroutine of a commit owns its session until the commit ends, even if the commit hangs (commit.go).
//   - Query owns the session that it opens, and closes it.
//   - Each login has its own goroutine, which passes the session to the caller. If the caller has stopped waiting, the
//     goroutine closes the session (login_queue.go).
//
// A server may refuse any part of the statistics (refusals.go). Only that part is then unknown. The verdict depends only on
// SELECT 1.
//
// The context of Probe bounds how long Probe takes. If a query is still running at its deadline, its session is closed. A
// login that waits for credentials or has reached the server continues in the background for at most maxPendingTime,
// because the server may hold a slot for it anyway. The context of Query bounds its login and its statement. In
// addition, the target's timeout bounds the login, and the parameter maxDuration bounds the statement. A commit counts as failed
// after the target's timeout. It is then cancelled repeatedly until it ends. closeGrace bounds closing a session. The
// context of Close bounds how long Close waits.
//
// One goroutine at a time may call Probe. Any goroutine may call Query and Close, even during a probe. Goroutines of
// the prober call the functions in Options.
package probe
