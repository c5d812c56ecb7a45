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

// maxRows is how many rows of a result are read. Checks expect at most one, and a second one shows that there are more.
const maxRows = 2

// Scalar is the first value that a statement returned, and the shape of the result.
type Scalar struct {
	// Columns and Rows are how many the statement returned. Rows is at most 2: further rows are not read.
	Columns, Rows int
	// Text is the first column of the first row in text format. It is empty if Null is set or there is no such value.
	Text string
	Null bool
	// Bool reports whether the column has type boolean. Number reports whether it has one of PostgreSQL's numeric types
	// (pg_type.dat).
	Bool, Number bool
}

// errClosed is returned after the prober was closed.
var errClosed = errors.New("the prober is closed")

// Query opens a session, runs one statement in a read-only transaction, closes the session, and returns the first
// value. The statement may take maxDuration, but not longer than until ctx ends. A login may take as long as a probe.
// Like Probe, Query tries again after a failure that is worth a second attempt.
//
// Any goroutine may call it, also during a probe. Probes do not wait for its login, unless the login was abandoned
// because ctx ended first.
//
// The statement uses the extended protocol, which does not allow a second statement after a semicolon that could end
// the transaction (exec_parse_message in src/backend/tcop/postgres.c). The server ends the statement by
// statement_timeout, so no cancel request is sent.
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

// queryOnce is one attempt. If it fails, it returns the phase that failed.
func (p *Prober) queryOnce(ctx context.Context, sql string, maxDuration time.Duration, k *kept) (Scalar, Phase, error) {
	t := &trace{}
	openCtx, cancel := context.WithTimeout(ctx, p.target.Timeout)
	defer cancel()
	watch := p.watchLogin(openCtx, k)
	watch.follow(t)
	s, err := p.logins.open(openCtx, t, true)
	if err != nil {
		watch.end(false)
		_, phase := t.read()
		return Scalar{}, phase, err
	}
	defer s.close(p.ctx)
	t.enter(PhaseQuery)
	s.hasStatementTimeout = true
	queryCtx, cancel := context.WithTimeout(ctx, maxDuration)
	defer cancel()
	result, err := s.queryReadOnly(queryCtx, sql, watch.end)
	return result, PhaseQuery, err
}

// queryReadOnly runs a statement in a read-only transaction. It calls onBegin after BEGIN, with whether BEGIN succeeded.
func (s *session) queryReadOnly(ctx context.Context, sql string, onBegin func(succeeded bool)) (Scalar, error) {
	begin := "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE"
	if s.refusals.refused(PartSettings) != nil {
		begin = "BEGIN READ ONLY"
	}
	if deadline, ok := ctx.Deadline(); ok {
		begin += fmt.Sprintf("; SET LOCAL statement_timeout = %d", max(1, time.Until(deadline).Milliseconds()))
	}
	_, err := s.query(ctx, begin, smallBudget)
	onBegin(err == nil)
	if err != nil {
		return Scalar{}, err
	}
	result, err := s.queryFirst(ctx, sql)
	if !s.conn.IsClosed() {
		_, _ = s.query(ctx, "ROLLBACK", smallBudget) // without it, a pooler would close its server connection too
	}
	return result, err
}

// queryFirst runs one statement and reads its first value. If there are several rows, the session is closed.
func (s *session) queryFirst(ctx context.Context, sql string) (Scalar, error) {
	var scalar Scalar
	err := s.run(ctx, largeBudget, func() error { return readFirst(ctx, s.conn, sql, &scalar) })
	return scalar, err
}

// readFirst reads the first value of sql's result and the result's shape into scalar.
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
		_, _ = reader.Close() // cancel ends the session
		return nil
	}
	_, err := reader.Close()
	return err
}

// numericTypes returns the OIDs of PostgreSQL's numeric types (pg_type.dat).
func numericTypes() []uint32 {
	return []uint32{
		pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID, pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID,
	}
}
