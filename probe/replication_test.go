// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"
	"time"
)

// TestReplicationLag checks that the lag is 0 only if nothing is left to replay and more would arrive, is unknown if
// nothing is known, and never exceeds the time since it was 0.
func TestReplicationLag(t *testing.T) {
	t.Parallel()
	var (
		start                    = time.Unix(1800000000, 0)
		yes, no, hidden, unknown = known(1), known(0), Number{}, Number{}
	)
	for _, test := range []struct {
		name       string
		zeroAgo    time.Duration // how long ago the lag was 0; 0: never
		receiptAge time.Duration // age of the receiver's last message at that time
		replay     replay
		lag, up    Number
	}{
		{"a primary", 5 * time.Second, 0, replay{streaming: no}, unknown, unknown},
		{"streaming", 0, 0, replay{replica: true, streaming: yes, complete: true, replayAge: known(3600)}, known(0), yes},
		{"streaming, not replayed", 0, 0, replay{replica: true, streaming: yes, replayAge: known(7)}, known(7), yes},
		{"the same behind an idle primary", 15 * time.Second, 0, replay{replica: true, streaming: yes, replayAge: known(3600)}, known(15), yes},
		{"the same, no messages for a while", 2 * time.Second, 29 * time.Second, replay{replica: true, streaming: yes, replayAge: known(3600)}, known(2), yes},
		{"the same, the receiver hidden", 2 * time.Second, 29 * time.Second, replay{replica: true, streaming: hidden, replayAge: known(3600)}, known(2), hidden},
		{"disconnected, no messages for a while", 2 * time.Second, 29 * time.Second, replay{replica: true, streaming: no, complete: true, replayAge: known(3600)}, known(31), no},
		{"streaming, recent message", 0, 0, replay{replica: true, streaming: yes, complete: true, receiptAge: known(29), maxReceiptAge: known(35)}, known(0), yes},
		{"streaming, no recent message", 0, 0, replay{replica: true, streaming: yes, complete: true, receiptAge: known(40), maxReceiptAge: known(35)}, known(40), yes},
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
		if test.zeroAgo > 0 {
			c.lagZeroAt = start.Add(-test.zeroAgo)
			c.caughtUpAt = c.lagZeroAt.Add(-test.receiptAge)
		}
		test.replay.known = true
		c.setReplication(&f, test.replay, start)
		if f.ReplicationLag != test.lag || f.WALReceiverUp != test.up {
			t.Errorf("%s: lag %+v, receiver %+v", test.name, f.ReplicationLag, f.WALReceiverUp)
		}
	}
}
