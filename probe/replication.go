// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"time"
)

// receiptSlack is added to the longest time that a WAL receiver should go without a message.
const receiptSlack = 5 * time.Second

// replay is what a replica reports about replication.
type replay struct {
	known         bool // the server did not refuse to report it
	replica       bool
	receiver      bool   // there is a receiver process
	streaming     Number // 1 or 0; unknown if the role may not see the receiver's state
	complete      bool   // everything received has been replayed
	receiptAge    Number // seconds since the receiver's last message from the primary
	maxReceiptAge Number // normal maximum of receiptAge: the receiver then requests a reply; unknown if it never does
	replayAge     Number // seconds since the last replayed transaction was committed on the primary
	replayedTo    string // the position in the WAL up to which everything is replayed
	paused        bool   // pg_wal_replay_pause
}

// parseReplay reads the replication columns of the row of totals. Every role may see the receiver's process. Only
// privileged roles may see its state (pg_stat_get_wal_receiver in src/backend/replication/walreceiver.c).
func (p *numberParser) parseReplay(row [][]byte) replay {
	r := replay{
		known:   row[columnReceiverTimeout] != nil,
		replica: string(row[columnIsReplica]) == "t", receiver: row[columnReceiverPID] != nil, complete: string(row[columnReplayed]) == "t",
		receiptAge: p.number(row[columnReceiptAge]), replayAge: p.number(row[columnReplayAge]),
		replayedTo: string(row[columnReplayedTo]), paused: string(row[columnPaused]) == "t",
	}
	// Half of wal_receiver_timeout, never if that is 0 (WalReceiverMain in src/backend/replication/walreceiver.c).
	if timeout := p.number(row[columnReceiverTimeout]); timeout.Value > 0 {
		r.maxReceiptAge = known(timeout.Value/2 + receiptSlack.Seconds())
	}
	switch {
	case string(row[columnReceiverStatus]) == "streaming":
		r.streaming = known(1)
	case row[columnReceiverStatus] != nil, row[columnReceiverPID] == nil:
		r.streaming = known(0)
	}
	return r
}

// setReplication sets WALReceiverUp and ReplicationLag of a replica.
//
// The lag is 0 if everything received has been replayed, the receiver is streaming, and its last message is recent.
// Otherwise it is the age of the last replayed transaction, at most the time since the lag was last 0. Behind an idle
// primary the last transaction may be old although the replica is up to date.
//
// A replica without primary_conninfo restores files from an archive and has no receiver. Its lag is known while it
// replays, and while the replay is paused. If the role may not see that setting, the absence of a receiver means nothing
// until there has been one.
//
// A reader of Amazon Aurora shares the primary's storage. It has no receiver, and its lag is read apart.
func (c *catalogue) setReplication(server *ServerStats, r replay, now time.Time) {
	if !r.replica {
		c.caughtUpAt, c.lagZeroAt, c.replayedTo = time.Time{}, time.Time{}, ""
		return
	}
	if !r.known || c.aurora {
		return
	}
	before := c.replayedTo
	c.replayedTo = r.replayedTo
	if c.archiveOnly {
		// Whether the archive has more WAL is not known. Between two files there is nothing to be behind of.
		if r.paused || before != "" && before != r.replayedTo {
			server.ReplicationLag = r.replayAge
		}
		return
	}
	c.hadReceiver = c.hadReceiver || r.receiver
	if c.sourceHidden && !c.hadReceiver {
		r.streaming = Number{} // there may be nothing to stream from
	}
	server.WALReceiverUp = r.streaming
	if r.complete && r.streaming == known(1) {
		c.caughtUpAt = now.Add(-time.Duration(max(0, r.receiptAge.Value) * float64(time.Second)))
		server.ReplicationLag = known(0)
		// The network may be down. TCP notices that later.
		if r.maxReceiptAge.Known && r.receiptAge.Value > r.maxReceiptAge.Value {
			server.ReplicationLag = r.receiptAge
		} else {
			c.lagZeroAt = now
		}
		return
	}
	if r.complete && !r.streaming.Known {
		return // the receiver may be streaming or not
	}
	if r.replayAge.Value > 0 { // otherwise unknown, or the primary's clock is ahead: 0 would mean that all is replayed
		server.ReplicationLag = r.replayAge
	}
	zeroAt := c.caughtUpAt
	if !r.complete { // the WAL to replay was received since then, so the network was up
		zeroAt = c.lagZeroAt
	}
	if !zeroAt.IsZero() {
		since := now.Sub(zeroAt).Seconds()
		if !server.ReplicationLag.Known || since < server.ReplicationLag.Value {
			server.ReplicationLag = known(since)
		}
	}
}

// auroraLagSQL reads how far a reader of Amazon Aurora is behind, in milliseconds
// (https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora_replica_status.html).
const auroraLagSQL = `SELECT max(replica_lag_in_msec) FROM pg_catalog.aurora_replica_status()
WHERE server_id = pg_catalog.aurora_db_instance_identifier()`

// readAuroraLag sets ReplicationLag of a reader of Amazon Aurora.
func (c *catalogue) readAuroraLag(ctx context.Context, s *session, server *ServerStats) error {
	if !c.aurora || !server.isReplica() {
		return nil
	}
	rows, err := s.queryPart(ctx, PartAuroraLag, auroraLagSQL, 1)
	if err != nil || len(rows) != 1 {
		return err
	}
	var p numberParser
	if lag := p.number(rows[0][0]); lag.Known && lag.Value >= 0 {
		server.ReplicationLag = known(lag.Value / 1000)
	}
	return p.err
}
