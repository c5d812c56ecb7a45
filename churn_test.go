// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// TestChurn: sessions are counted by how they ended, also while the catalogue is locked.
func TestChurn(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{HBA: trusting})
	e := startExporter(t, environment(s.Port, "postgres"))
	e.settle()
	if testenv.Major(t) < 14 {
		if hasSeries(e.scrape(), "pg_sessions_") {
			t.Error("PostgreSQL 13 counts sessions")
		}
		return
	}
	connect := func() *pgconn.PgConn {
		conn, err := pgconn.Connect(t.Context(), fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=app sslmode=disable", s.Port))
		check(t, err)
		return conn
	}
	kinds := []string{"", "abandoned_", "fatal_", "killed_"}
	counts := func() (n [4]float64) {
		m := e.scrape()
		for i, kind := range kinds {
			series := "pg_sessions_" + kind + `total{datname="app"}`
			if !hasKey(m, series) {
				t.Errorf("%s is missing", series)
			}
			n[i] = m[series]
		}
		return n
	}
	if n := counts(); n != [4]float64{} {
		t.Errorf("a database that had no session has had %v", n)
	}
	check(t, connect().Close(t.Context()))
	lost := connect()
	check(t, lost.Conn().Close())
	fatal := connect()
	_, err := fatal.Exec(t.Context(), "SET idle_in_transaction_session_timeout = 1; BEGIN").ReadAll()
	check(t, err)
	defer func() { _ = fatal.Close(context.Background()) }()
	killed := connect()
	execute(t, s, fmt.Sprintf("SELECT pg_terminate_backend(%d)", killed.PID()))
	defer func() { _ = killed.Close(context.Background()) }()
	want := [4]float64{4, 1, 1, 1}
	eventually(t, "sessions are not counted by how they ended", func() bool { return counts() == want })

	locker, err := s.Connect(t.Context())
	check(t, err)
	defer func() { _ = locker.Close(context.Background()) }()
	_, err = locker.Exec(t.Context(), "BEGIN; LOCK TABLE pg_database, pg_authid IN ACCESS EXCLUSIVE MODE").ReadAll()
	check(t, err)
	if n := counts(); n != want {
		t.Errorf("while the catalogue is locked: %v", n)
	}
}
