// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/neterr"
)

// Budgets of memory, in bytes, for the messages of a server. If a server exceeds one, nothing more is read from it.
const (
	// loginBudget bounds a login. A real server sends about 1 KiB, 16 KiB with the longest list of parameters seen.
	loginBudget = 1 << 20
	// smallBudget bounds the reply to a statement that needs one row at most.
	smallBudget = 1 << 20
	// largeBudget bounds the reply to a statement that returns a row for each database, pool or user.
	largeBudget = 16 << 20
	// idleBudget bounds what the server sends between two statements: notices and changed parameters.
	idleBudget = 64 << 10
	// parameterBudget bounds the sum of all ParameterStatus messages of a session, since pgconn keeps every name.
	parameterBudget = 256 << 10

	// messageCost is the cost of a message on top of its bytes: pgconn makes a result, a row or a text from it.
	messageCost = 256
	// parameterCost is the cost of a parameter on top of its bytes, for the rest of the session's life.
	parameterCost = 32
	// columnCost is the cost of a column on top of its bytes, of which there may be none.
	columnCost = 32
)

// maxBody is how much of a message's body the meter remembers, in bytes.
const maxBody = 1 << 10

// errBudget is returned if a server sent more than the budget of a session or of one reply allows.
var errBudget = errors.New("the server sent more than this exporter reads")

// meter limits how much memory a server can make this process allocate. It sits between the connection, above TLS, and
// pgconn's frontend. It charges each message before the frontend sees the header, because the frontend allocates as
// many bytes as a header announces. It belongs to the goroutine that owns the session.
type meter struct {
	reader     io.Reader
	conn       *meteredConn
	sentAt     time.Time // when the last query began to be sent, the zero time once its reply is being read
	fastWrites int       // how many queries in a row were sent in less than slowWrite
	remaining  int       // rest of the budget that grant set
	parameters int       // rest of parameterBudget
	header     []byte
	bodyLeft   int    // bytes of the current message's body that have not been read
	kind       byte   // type of the current message
	body       []byte // the beginning of that body if it is an error or a request to authenticate, at most maxBody bytes
	// err is the error that ended reading: errBudget or an error of the connection, but not a timeout. Read keeps
	// returning it.
	err error
}

func newMeter(conn *meteredConn) *meter {
	return &meter{conn: conn, remaining: loginBudget, parameters: parameterBudget, header: make([]byte, 0, 7)}
}

// grant sets the budget for what begins now: a login, a statement or idle time.
func (m *meter) grant(budget int) {
	m.remaining = budget
	m.conn.grant(budget)
}

// exceeded reports whether the server exceeded a budget.
func (m *meter) exceeded() bool { return errors.Is(m.err, errBudget) || m.conn.exceeded.Load() }

// Read reads from the connection. It returns data up to the first message that the budget does not cover, and errBudget
// from then on.
func (m *meter) Read(p []byte) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	m.countWrite()
	n, err := m.reader.Read(p)
	if covered := m.chargeAll(p[:n]); covered < n {
		m.err = errBudget
		if covered > 0 {
			return covered, nil
		}
		return 0, m.err
	}
	if err != nil && !neterr.TimedOut(err) {
		m.err = err
	}
	return n, err
}

// slowWrite is how long a write takes at least during which pgconn reads in the background
// (enterPotentialWriteReadDeadlock in pgconn).
const slowWrite = 15 * time.Millisecond

// countWrite counts the query that was sent before this reading.
func (m *meter) countWrite() {
	switch {
	case m.sentAt.IsZero():
		return
	case time.Since(m.sentAt) < slowWrite:
		m.fastWrites++
	default:
		m.fastWrites = 0
	}
	m.sentAt = time.Time{}
}

// mayReadAhead reports whether pgconn may hold bytes that the frontend has not seen, or may be reading in the background. It starts
// to read in the background during a slow write, and stops when the reply to the next query comes. Nothing is left of what it
// read once the reply to a second query has been read.
func (m *meter) mayReadAhead() bool { return m.fastWrites < 2 }

// chargeAll charges the messages that begin in p. It returns how many bytes of p precede the header of the first
// message that is not covered, or len(p) if all are covered.
func (m *meter) chargeAll(p []byte) int {
	headerStart := 0 // offset in p of the header being read
	for i := 0; i < len(p); {
		if len(m.header) == 0 {
			if m.bodyLeft > 0 {
				skipped := min(m.bodyLeft, len(p)-i)
				if m.kind == 'E' || m.kind == 'R' {
					m.body = append(m.body, p[i:i+min(skipped, maxBody-len(m.body))]...)
				}
				m.bodyLeft -= skipped
				i += skipped
				continue
			}
			headerStart = i
		}
		m.header = append(m.header, p[i])
		i++
		if len(m.header) < headerLength(m.header) {
			continue
		}
		if !m.charge(m.header) {
			return headerStart
		}
		m.bodyLeft = max(0, bodyLength(m.header)-(len(m.header)-5))
		m.kind, m.body, m.header = m.header[0], m.body[:0], m.header[:0]
	}
	return len(p)
}

// unterminatedError returns the last message if it is an ErrorResponse whose length leaves out the zero byte that ends
// the fields, and nil otherwise. pgagroal sends such errors (pgagroal_write_pool_full and others in its
// src/libpgagroal/message.c). libpq reads them, and pgproto3 takes them for the end of the connection.
func (m *meter) unterminatedError() error {
	const fieldEnd = "\x00"
	body := string(m.body)
	if m.kind != 'E' || m.bodyLeft > 0 || !strings.HasSuffix(body, fieldEnd) || strings.HasSuffix(body, fieldEnd+fieldEnd) {
		return nil
	}
	e := &pgconn.PgError{}
	for field := range strings.SplitSeq(body, fieldEnd) {
		if field == "" {
			continue
		}
		switch kind, value := field[0], field[1:]; kind {
		case 'S':
			e.Severity = value
		case 'V':
			e.SeverityUnlocalized = value
		case 'C':
			e.Code = value
		case 'M':
			e.Message = value
		case 'R':
			e.Routine = value
		}
	}
	return e
}

// headerLength returns how many bytes determine a message's cost: type and length, and for messages that begin with a
// number of columns, that number.
func headerLength(header []byte) int {
	if hasColumns := header[0] == 'D' || header[0] == 'T'; hasColumns && (len(header) < 5 || bodyLength(header) >= 2) {
		return 7
	}
	return 5
}

// bodyLength returns the length of the body that a header of at least 5 bytes announces. It is negative in an invalid
// header.
func bodyLength(header []byte) int {
	return int(int32(binary.BigEndian.Uint32(header[1:5]))) - 4 //nolint:gosec // as pgproto3 reads it
}

// charge deducts the cost of a message from the budgets and reports whether they cover it. It does not charge a message
// longer than maxMessage: the frontend rejects it, and it usually is not a message at all.
func (m *meter) charge(header []byte) bool {
	if bodyLength(header) > maxMessage {
		return true
	}
	cost := 5 + max(0, bodyLength(header)) + messageCost
	if len(header) == 7 {
		cost += columnCost * int(binary.BigEndian.Uint16(header[5:7]))
	}
	if header[0] == 'S' {
		m.parameters -= cost - messageCost + parameterCost
	}
	m.remaining -= cost
	return m.remaining >= 0 && m.parameters >= 0
}

// rawSlack is how many bytes more than a budget a connection may carry: TLS adds some to each record.
const rawSlack = 64 << 10

// meteredConn limits the bytes that a connection carries below pgconn. If a write takes longer than 15 ms, pgconn reads all that
// the server sends into memory until the write ends, before the meter sees any of it (bgreader in pgconn).
type meteredConn struct {
	net.Conn
	received atomic.Int64 // bytes
	limit    atomic.Int64 // of received
	exceeded atomic.Bool
	peeked   *peeked // what awaitData read, nil if Read has returned it
}

// peeked is the result of a Read of one byte.
type peeked struct {
	data [1]byte
	n    int
	err  error
}

// grant lets the connection carry budget bytes from now on.
func (c *meteredConn) grant(budget int) {
	c.limit.Store(c.received.Load() + int64(budget+budget/8+rawSlack))
}

// Read reads from the connection, and returns errBudget once the server has sent more than was granted. pgconn may call it from a
// goroutine of its own.
func (c *meteredConn) Read(p []byte) (int, error) {
	if c.exceeded.Load() {
		return 0, errBudget
	}
	n, err := c.read(p)
	if c.received.Add(int64(n)) > c.limit.Load() {
		c.exceeded.Store(true)
		return 0, errBudget
	}
	return n, err
}

func (c *meteredConn) read(p []byte) (int, error) {
	if first := c.peeked; first != nil {
		c.peeked = nil
		return copy(p, first.data[:first.n]), first.err
	}
	return c.Conn.Read(p)
}

// awaitData waits until the other side sends something, the connection breaks or ctx ends. The next Read returns what came.
// Nothing else may use the connection meanwhile.
func (c *meteredConn) awaitData(ctx context.Context) {
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.SetReadDeadline(time.Unix(1, 0))
		close(woken)
	})
	var first peeked
	first.n, first.err = c.Conn.Read(first.data[:])
	if !stop() {
		<-woken
		_ = c.SetReadDeadline(time.Time{})
	}
	if !errors.Is(first.err, os.ErrDeadlineExceeded) {
		c.peeked = &first
	}
}
