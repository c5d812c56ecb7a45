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
	"github.com/jackc/pgx/v5/pgtype"
)

// maxRows is how many rows of a statement are read: one more than a check wants shows that there are several.
const maxRows = 2

// Scalar is what a statement returned, of which a caller wants one value.
type Scalar struct {
	// Columns and Rows are how many the statement returned. Rows after the second are not counted.
	Columns, Rows int
	// Text is the first column of the first row as the server writes it, empty if Null is set or there is none.
	Text string
	Null bool
	// Bool and Number report whether the column has type boolean, and one of PostgreSQL's numeric types (pg_type.dat).
	Bool, Number bool
}

// errClosed is a prober that is not there any more.
var errClosed = errors.New("the prober is closed")

// Query opens a session, runs one statement on it in a read-only transaction, and closes it. It returns what the
// statement returned. The statement may take until ctx ends, and no longer than most. Any goroutine
// may call it, also during a probe, which does not wait for it: only a login that overruns counts among those that later
// ones wait for, as with Probe. A login gets no longer than a probe. What is worth a second try is tried twice, as with
// Probe.
//
// The statement goes by the extended protocol, which takes no second one behind a semicolon that could end the transaction
// (exec_parse_message in src/backend/tcop/postgres.c). The server ends it by itself when its time is over; no request to cancel
// is sent.
func (p *Prober) Query(ctx context.Context, sql string, maxDuration time.Duration) (Scalar, *Failure) {
	k, ok := p.beginWork()
	if !ok {
		return Scalar{}, classify(errClosed, PhaseNone)
	}
	defer p.work.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	for attempt := 1; ; attempt++ {
		result, phase, err := p.queryOnce(ctx, sql, maxDuration, k)
		if err == nil {
			return result, nil
		}
		var loginErr *loginError
		if errors.As(err, &loginErr) {
			phase = loginErr.phase
		}
		f := classify(err, phase)
		if attempt == 2 || ctx.Err() != nil || !p.shouldRetry(f, loginErr) {
			return Scalar{}, f
		}
	}
}

// queryOnce is one try. With an error comes the phase in which it was.
func (p *Prober) queryOnce(ctx context.Context, sql string, maxDuration time.Duration, k *kept) (Scalar, Phase, error) {
	t := &trace{}
	loginCtx, cancel := context.WithTimeout(ctx, p.target.Timeout)
	s, err := p.open(loginCtx, t, true)
	cancel()
	if err != nil {
		_, phase := t.read()
		return Scalar{}, phase, err
	}
	defer s.close(p.ctx)
	s.hasStatementTimeout = true
	queryCtx, cancel := context.WithTimeout(ctx, maxDuration)
	defer cancel()
	result, err := s.queryReadOnly(queryCtx, sql, p.releaseIfStarved(ctx, k))
	return result, PhaseQuery, err
}

// queryReadOnly runs a statement in a transaction that cannot write. begun is called when there is one.
func (s *session) queryReadOnly(ctx context.Context, sql string, onBegin func()) (Scalar, error) {
	begin := "BEGIN READ ONLY"
	if deadline, ok := ctx.Deadline(); ok {
		begin += fmt.Sprintf("; SET LOCAL statement_timeout = %d", max(1, time.Until(deadline).Milliseconds()))
	}
	_, err := s.query(ctx, begin, smallBudget)
	onBegin()
	if err != nil {
		return Scalar{}, err
	}
	result, err := s.queryFirst(ctx, sql)
	if !s.conn.IsClosed() {
		_, _ = s.query(ctx, "ROLLBACK", smallBudget) // or a pooler would drop the server's session with ours
	}
	return result, err
}

// queryFirst runs one statement and reads its first value. If there are more rows, the session is closed with it.
func (s *session) queryFirst(ctx context.Context, sql string) (Scalar, error) {
	var scalar Scalar
	err := s.run(ctx, largeBudget, func() error { return readFirst(ctx, s.conn, sql, &scalar) })
	return scalar, err
}

func readFirst(ctx context.Context, conn *pgconn.PgConn, sql string, scalar *Scalar) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reader := conn.ExecParams(ctx, sql, nil, nil, nil, nil)
	for scalar.Rows < maxRows && reader.NextRow() {
		if values := reader.Values(); scalar.Rows == 0 && len(values) > 0 {
			scalar.Text, scalar.Null = string(values[0]), values[0] == nil
		}
		scalar.Rows++
	}
	if fields := reader.FieldDescriptions(); len(fields) > 0 {
		scalar.Columns = len(fields)
		scalar.Bool = fields[0].DataTypeOID == pgtype.BoolOID
		scalar.Number = slices.Contains(numericTypes(), fields[0].DataTypeOID)
	}
	if scalar.Rows == maxRows {
		cancel()
		_, _ = reader.Close() // ends with that
		return nil
	}
	_, err := reader.Close()
	return err
}

// numericTypes are the OIDs of PostgreSQL's numeric types (pg_type.dat).
func numericTypes() []uint32 {
	return []uint32{
		pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID, pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID,
	}
}
