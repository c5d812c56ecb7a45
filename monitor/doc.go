// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package monitor keeps the state of targets and checks between probes: the last results, counters and histograms. It
// has no HTTP and no metric names. The packages collector, health and status render its state.
//
// A Monitor has the configured targets, the ad-hoc targets that were used recently, and the checks. ApplyConfig
// replaces the configuration. Targets and checks that have not changed keep their state.
//
// At most one probe of a Target is under way. Concurrent callers share it. It ends when it has a result or at the target's
// timeout. It is counted then, even if no caller waits for it any more. If an interval is configured, the sampler of a target
// starts probes between scrapes. A limiter bounds the number of probes under way over all targets. A Snapshot is the state of
// a target after a probe.
//
// An ad-hoc target keeps a session only while it is probed often (keeper.go).
//
// A Check runs in the background. Its callers wait only for the first result. The statements of all checks of a target run one
// after the other (turns.go).
//
// Any goroutine may call the exported methods. The context and the deadline of a call bound how long the caller waits.
// They do not end a probe.
package monitor
