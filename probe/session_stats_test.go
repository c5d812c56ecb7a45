// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"pg_liveness_exporter/internal/testservers"
)

// resultOf returns a result with these rows.
func resultOf(rows ...[]string) []pgproto3.BackendMessage {
	fields := make([]pgproto3.FieldDescription, len(rows[0]))
	for i := range fields {
		fields[i] = pgproto3.FieldDescription{Name: []byte("x"), DataTypeOID: 25, TypeModifier: -1}
	}
	result := []pgproto3.BackendMessage{&pgproto3.RowDescription{Fields: fields}}
	for _, row := range rows {
		values := make([][]byte, len(row))
		for i, value := range row {
			values[i] = []byte(value)
		}
		result = append(result, &pgproto3.DataRow{Values: values})
	}
	return append(result, &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
}

// TestSessionStats checks that a probe reads the session statistics in the message of the server statistics, and that it gets
// the latter even if the server refuses the former.
func TestSessionStats(t *testing.T) {
	t.Parallel()
	var refuses atomic.Bool
	messages := make(chan string, 1000)
	s := newFakeServer(t, testservers.Converse(loginOK, func(_ net.Conn, m pgproto3.FrontendMessage) []byte {
		sql := m.(*pgproto3.Query).String
		messages <- sql
		var reply []pgproto3.BackendMessage
		if strings.Contains(sql, "pg_stat_get_activity") {
			reply = append(reply, resultOf(total("1"))...)
		}
		switch {
		case len(reply) == 0 && strings.Contains(sql, "SELECT 1"):
			return selectOne
		case strings.Contains(sql, "pg_stat_get_db_sessions(") && refuses.Load():
			reply = append(reply, &pgproto3.ErrorResponse{Severity: "ERROR", Code: "57014"})
		case strings.Contains(sql, "pg_stat_get_db_sessions("):
			reply = append(reply, resultOf([]string{"1", "7", "0", "0", "0"})...)
		case strings.Contains(sql, "datconnlimit"):
			reply = append(reply, resultOf([]string{"1", "app", "-1", "t", "f"})...)
		case strings.Contains(sql, "rolconnlimit"):
			reply = append(reply, resultOf([]string{"-1"})...)
		}
		return testservers.Wire(append(reply, ready)...)
	}))
	p := newTestProberFor(t, dsnOf(s), nil)
	for i := range 4 {
		refuses.Store(i == 3)
		for len(messages) > 0 {
			<-messages
		}
		r := runProbe(t, p, hanging)
		if !r.Up() || !r.KeptUp || r.ServerStats == nil || r.ServerStats.Used.Value != 5 {
			t.Fatalf("probe %d: %+v, kept %v, statistics %+v: %v", i, r.Failure, r.KeptUp, r.ServerStats, r.StatsFailure)
		}
		if n := len(messages); i > 0 && n != 3 {
			t.Errorf("probe %d sent %d messages", i, n)
		}
		stats := r.ServerStats.SessionStats
		switch refused := slices.Contains(r.Refusals, Refusal{PartSessionCounter, "57014"}); {
		case refused != refuses.Load():
			t.Errorf("probe %d: the refusals are %v", i, r.Refusals)
		case refused && len(stats) != 0, !refused && (len(stats) != 1 || stats[0] != SessionStats{Database: "app", Sessions: 7}):
			t.Errorf("probe %d: the session statistics are %v", i, stats)
		}
	}
}
