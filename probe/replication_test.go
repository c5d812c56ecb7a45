// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"
	"time"
)

// TestReplicationLag: 0 only when nothing is left to replay and more would come; absent when nothing is known; never
// longer than the time since it was 0.
func TestReplicationLag(t *testing.T) {
	t.Parallel()
	var (
		start                    = time.Unix(1800000000, 0)
		yes, no, hidden, unknown = known(1), known(0), Number{}, Number{}
	)
	for _, test := range []struct {
		name     string
		caughtUp time.Duration // before now; 0: never
		heard    time.Duration // how long the receiver had heard nothing by then
		replay   replay
		lag, up  Number
	}{
		{"a primary", 5 * time.Second, 0, replay{streaming: no}, unknown, unknown},
		{"streaming", 0, 0, replay{replica: true, streaming: yes, complete: true, replayAge: known(3600)}, known(0), yes},
		{"streaming, not replayed", 0, 0, replay{replica: true, streaming: yes, replayAge: known(7)}, known(7), yes},
		{"the same behind an idle primary", 15 * time.Second, 0, replay{replica: true, streaming: yes, replayAge: known(3600)}, known(15), yes},
		{"the same after a quiet time", 2 * time.Second, 29 * time.Second, replay{replica: true, streaming: yes, replayAge: known(3600)}, known(2), yes},
		{"the same, the receiver hidden", 2 * time.Second, 29 * time.Second, replay{replica: true, streaming: hidden, replayAge: known(3600)}, known(2), hidden},
		{"disconnected after a quiet time", 2 * time.Second, 29 * time.Second, replay{replica: true, streaming: no, complete: true, replayAge: known(3600)}, known(31), no},
		{"streaming and heard lately", 0, 0, replay{replica: true, streaming: yes, complete: true, receiptAge: known(29), maxReceiptAge: known(35)}, known(0), yes},
		{"streaming, and a silent network", 0, 0, replay{replica: true, streaming: yes, complete: true, receiptAge: known(40), maxReceiptAge: known(35)}, known(40), yes},
		{"disconnected", 20 * time.Second, 0, replay{replica: true, streaming: no, complete: true, replayAge: known(3600)}, known(20), no},
		{"disconnected from the start", 0, 0, replay{replica: true, streaming: no, complete: true, replayAge: known(3600)}, known(3600), no},
		{"nothing was replayed", 0, 0, replay{replica: true, streaming: no, complete: true}, unknown, no},
		{"the primary's clock is ahead", 0, 0, replay{replica: true, streaming: yes, replayAge: known(-1)}, unknown, yes},
		{"the receiver is hidden", 0, 0, replay{replica: true, streaming: hidden, complete: true, replayAge: known(9)}, unknown, hidden},
		{"the receiver is hidden, not replayed", 0, 0, replay{replica: true, streaming: hidden, replayAge: known(9)}, known(9), hidden},
	} {
		var (
			c catalogue
			f ServerStats
		)
		if test.caughtUp > 0 {
			c.lagZeroAt = start.Add(-test.caughtUp)
			c.caughtUpAt = c.lagZeroAt.Add(-test.heard)
		}
		c.setReplication(&f, test.replay, start)
		if f.ReplicationLag != test.lag || f.WALReceiverUp != test.up {
			t.Errorf("%s: lag %+v, receiver %+v", test.name, f.ReplicationLag, f.WALReceiverUp)
		}
	}
}
