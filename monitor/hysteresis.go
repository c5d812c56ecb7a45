// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

// hysteresis delays changes between passing and failing. Failing begins after failAfter failures in a row and ends after
// passAfter successes in a row. Until the first success, a single failure is enough to begin it. The first success ends
// it.
type hysteresis struct {
	failAfter, passAfter uint64
	failures, successes  uint64 // in a row; at least one of them is 0
	succeeded            bool   // at least once
	failing              bool
}

func newHysteresis() hysteresis { return hysteresis{failAfter: 1, passAfter: 1} }

// count counts one result.
func (h *hysteresis) count(ok bool) {
	if ok {
		h.failures = 0
		h.successes++
		h.failing = h.failing && h.succeeded && h.successes < h.passAfter
		h.succeeded = true
		return
	}
	h.successes = 0
	h.failures++
	h.failing = h.failing || !h.succeeded || h.failures >= h.failAfter
}
