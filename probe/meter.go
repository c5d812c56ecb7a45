// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"errors"
	"io"

	"pg_liveness_exporter/internal/neterr"
)

// What the messages of a server may cost us, in bytes of memory. A server that sends more is not read any further.
const (
	// loginBudget bounds a login: a real server sends about 1 KiB, 16 KiB with the largest list of parameters seen.
	loginBudget = 1 << 20
	// smallBudget bounds the reply to a statement that returns one row at most.
	smallBudget = 1 << 20
	// largeBudget bounds the reply to a statement that returns a row for each database, pool or user.
	largeBudget = 16 << 20
	// idleBudget bounds what comes between two statements: notices, and parameters that were changed.
	idleBudget = 64 << 10
	// parameterBudget bounds all ParameterStatus messages of a session's life, since pgconn keeps every name.
	parameterBudget = 256 << 10

	// messageCost is what a message costs beside its bytes: pgconn makes a result, a row or a text of it.
	messageCost = 256
	// columnCost is what a column of a row costs beside its bytes, which may be none.
	columnCost = 32
)

// errBudget is a server that sent more than a session, or the reply to one statement, may hold.
var errBudget = errors.New("the server sent more than this exporter reads")

// meter bounds what a server can make this process allocate. It stands between the connection and pgconn's frontend, above
// TLS, and charges each message before the frontend sees its header: the frontend allocates as many bytes as a header
// announces. It belongs to the goroutine that owns the session.
type meter struct {
	reader     io.Reader
	remaining  int // of the budget of what is under way
	parameters int // of parameterBudget
	header     []byte
	bodyLeft   int // bytes of the message's body that are still to come
	// err is what reading ended with, errBudget or an error of the connection's, a time-out apart. It is returned from then on.
	err error
}

func newMeter(r io.Reader) *meter {
	return &meter{reader: r, remaining: loginBudget, parameters: parameterBudget, header: make([]byte, 0, 7)}
}

// grant sets the budget of what begins now.
func (m *meter) grant(budget int) { m.remaining = budget }

// exceeded reports whether the server sent more than it may.
func (m *meter) exceeded() bool { return errors.Is(m.err, errBudget) }

// Read reads from the connection up to the first message that the budget does not cover, and returns errBudget from then on.
func (m *meter) Read(p []byte) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
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

// chargeAll takes what the messages that begin in p cost off the budgets. It returns how many bytes of p lie before the header of
// the first one that is not covered, and len(p) when all are.
func (m *meter) chargeAll(p []byte) int {
	headerStart := 0 // of the header that is being read
	for i := 0; i < len(p); {
		if len(m.header) == 0 {
			if m.bodyLeft > 0 {
				skipped := min(m.bodyLeft, len(p)-i)
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
		m.header = m.header[:0]
	}
	return len(p)
}

// headerLength is how many bytes of a message tell what it costs: type and length, and the number of columns of those that
// begin with it.
func headerLength(header []byte) int {
	if hasColumns := header[0] == 'D' || header[0] == 'T'; hasColumns && (len(header) < 5 || bodyLength(header) >= 2) {
		return 7
	}
	return 5
}

// bodyLength is the length of the body that a header of 5 bytes or more announces, negative in one that is invalid.
func bodyLength(header []byte) int { return int(int32(binary.BigEndian.Uint32(header[1:5]))) - 4 } //nolint:gosec // as pgproto3 reads it

// charge takes what a message costs off the budgets, and reports whether they covered it. The frontend itself refuses a message
// that is longer than any may be, which mostly is no message at all.
func (m *meter) charge(header []byte) bool {
	if bodyLength(header) > maxMessage {
		return true
	}
	cost := 5 + max(0, bodyLength(header)) + messageCost
	if len(header) == 7 {
		cost += columnCost * int(binary.BigEndian.Uint16(header[5:7]))
	}
	if header[0] == 'S' {
		m.parameters -= cost
	}
	m.remaining -= cost
	return m.remaining >= 0 && m.parameters >= 0
}
