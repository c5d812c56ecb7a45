// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// mostRows is how many rows of a statement are looked at: who wants one sees that there are more.
const mostRows = 2

// errClosed is a prober that is not there any more.
var errClosed = errors.New("the prober is closed")

// Query opens a session, runs one statement on it in a read-only transaction, and closes it. It returns the first rows of
// what the statement returned, at most two. The statement may take until ctx ends, and no longer than most. Any goroutine
// may call it, also during a probe, which does not wait for it: only a login that overruns counts among those that later
// ones wait for, as with Probe. A login gets no longer than a probe. What is worth a second try is tried twice, as with
// Probe.
//
// The statement goes by the extended protocol, which takes no second one behind a semicolon that could end the transaction
// (exec_parse_message in src/backend/tcop/postgres.c). The server ends it by itself when its time is over; no request to cancel
// is sent.
func (p *Prober) Query(ctx context.Context, sql string, most time.Duration) (*pgconn.Result, *Failure) {
	k, ok := p.begin()
	if !ok {
		return nil, classify(errClosed, PhaseNone)
	}
	defer p.work.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	for try := 1; ; try++ {
		result, phase, err := p.queryOnce(ctx, sql, most, k)
		if err == nil {
			return result, nil
		}
		var loginErr *loginError
		if errors.As(err, &loginErr) {
			phase = loginErr.phase
		}
		f := classify(err, phase)
		if try == 2 || ctx.Err() != nil || !p.again(f, loginErr) {
			return nil, f
		}
	}
}

// queryOnce is one try. With an error comes the phase in which it was.
func (p *Prober) queryOnce(ctx context.Context, sql string, most time.Duration, k *kept) (*pgconn.Result, Phase, error) {
	t := &trace{}
	opening, cancel := context.WithTimeout(ctx, p.target.Timeout)
	s, err := p.open(opening, t, true)
	cancel()
	if err != nil {
		_, phase := t.read()
		return nil, phase, err
	}
	defer s.close(p.ctx)
	s.uncancelled = true
	bounded, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	result, err := s.readOnly(bounded, sql, p.makeRoom(ctx, k))
	return result, PhaseQuery, err
}

// readOnly runs a statement in a transaction that cannot write. begun is called when there is one.
func (s *session) readOnly(ctx context.Context, sql string, begun func()) (*pgconn.Result, error) {
	begin := "BEGIN READ ONLY"
	if deadline, ok := ctx.Deadline(); ok {
		begin += fmt.Sprintf("; SET LOCAL statement_timeout = %d", max(1, time.Until(deadline).Milliseconds()))
	}
	_, err := s.query(ctx, begin, smallBudget)
	begun()
	if err != nil {
		return nil, err
	}
	result, err := s.first(ctx, sql)
	if !s.conn.IsClosed() {
		_, _ = s.query(ctx, "ROLLBACK", smallBudget) // or a pooler would drop the server's session with ours
	}
	return result, err
}

// first runs one statement and reads its first rows. Where there are more, the session is closed with it.
func (s *session) first(ctx context.Context, sql string) (*pgconn.Result, error) {
	result := &pgconn.Result{}
	err := s.run(ctx, largeBudget, func() error { return readFirst(ctx, s.conn, sql, result) })
	return result, err
}

func readFirst(ctx context.Context, conn *pgconn.PgConn, sql string, result *pgconn.Result) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reader := conn.ExecParams(ctx, sql, nil, nil, nil, nil)
	for len(result.Rows) < mostRows && reader.NextRow() {
		row := make([][]byte, len(reader.Values()))
		for i, value := range reader.Values() {
			row[i] = slices.Clone(value) // the reader's own buffer; nil stays nil
		}
		result.Rows = append(result.Rows, row)
	}
	result.FieldDescriptions = slices.Clone(reader.FieldDescriptions())
	if len(result.Rows) == mostRows {
		cancel()
		_, _ = reader.Close() // ends with that
		return nil
	}
	_, err := reader.Close()
	return err
}
