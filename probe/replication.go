// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// receiptSlack is how much longer than it should a receiver may hear nothing.
const receiptSlack = 5 * time.Second

// replay is what a replica says of its replay.
type replay struct {
	replica       bool
	streaming     Number // 1 or 0; unknown where the role may not see the receiver
	complete      bool   // everything that was received was replayed
	receiptAge    Number // seconds since the receiver heard of the primary
	maxReceiptAge Number // how long that may be: then it asks for a sign of life
	replayAge     Number // seconds since the last transaction that was replayed was committed
}

// parseReplay reads the columns of a row of totals. The receiver's process can be seen by every role, its state by privileged
// ones (pg_stat_get_wal_receiver in src/backend/replication/walreceiver.c).
func (p *numberParser) parseReplay(row [][]byte) replay {
	r := replay{
		replica: string(row[columnIsReplica]) == "t", complete: string(row[columnReplayed]) == "t",
		receiptAge: p.number(row[columnReceiptAge]), replayAge: p.number(row[columnReplayAge]),
	}
	// Half of wal_receiver_timeout (WalReceiverMain in src/backend/replication/walreceiver.c); never where that is 0.
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

// setReplication says how far a replica may be behind, and fills it in.
//
// It is 0 when all that was received is replayed and more would come at once: the receiver is streaming and has heard of
// the primary lately. Else it is the age of the last replayed transaction, but not longer than the time since it was 0:
// where the primary was idle, that transaction may be old and the replica not behind.
func (c *catalogue) setReplication(server *ServerStats, r replay, now time.Time) {
	if !r.replica {
		c.caughtUpAt, c.lagZeroAt = time.Time{}, time.Time{}
		return
	}
	server.WALReceiverUp = r.streaming
	if r.complete && r.streaming == known(1) {
		c.caughtUpAt = now.Add(-time.Duration(max(0, r.receiptAge.Value) * float64(time.Second)))
		server.ReplicationLag = known(0)
		if r.maxReceiptAge.Known && r.receiptAge.Value > r.maxReceiptAge.Value { // the network may be gone, which is noticed later
			server.ReplicationLag = r.receiptAge
		} else {
			c.lagZeroAt = now
		}
		return
	}
	if r.complete && !r.streaming.Known {
		return // it may be streaming or not
	}
	if r.replayAge.Value > 0 { // else unknown, or the primary's clock is ahead: 0 would say that nothing is left to replay
		server.ReplicationLag = r.replayAge
	}
	zeroAt := c.caughtUpAt
	if !r.complete { // what is to be replayed was received since, so that the network was there
		zeroAt = c.lagZeroAt
	}
	if !zeroAt.IsZero() {
		since := now.Sub(zeroAt).Seconds()
		if !server.ReplicationLag.Known || since < server.ReplicationLag.Value {
			server.ReplicationLag = known(since)
		}
	}
}

// unsupported says whether a statement failed for a function that the server does not have, or not for us.
func unsupported(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "0A000" || pgErr.Code == "42501" || pgErr.Code == "42883")
}
