// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"pg_liveness_exporter/internal/testservers"
)

// hostileServer lets everybody in and answers each query with what flood writes.
func hostileServer(t *testing.T, flood func(conn net.Conn, sql string)) int {
	t.Helper()
	return newFakeServer(t, testservers.Converse(testservers.LetIn(), func(conn net.Conn, m pgproto3.FrontendMessage) []byte {
		if q, ok := m.(*pgproto3.Query); ok {
			flood(conn, q.String)
		} else {
			_ = conn.Close()
		}
		return nil
	}))
}

var (
	ready     = testservers.Ready()
	oneColumn = testservers.OneColumn()
)

// repeat writes a message until somebody hangs up or so many were written; 0 is no bound.
func repeat(conn net.Conn, message []byte, most int) {
	many := max(1, (64<<10)/len(message))
	if most > 0 {
		many = min(many, most)
	}
	chunk := bytes.Repeat(message, many)
	for sent := 0; most == 0 || sent+many <= most; sent += many {
		if _, err := conn.Write(chunk); err != nil {
			return
		}
	}
}

// TestMemoryOfHostileServers: whatever one server sends, the process stays within 64 MiB of its rest.
func TestMemoryOfHostileServers(t *testing.T) {
	program := plainProgram(t)
	const allowed = 64 << 10 // KiB
	var nulls [][]byte
	for range 1600 { // as many columns as PostgreSQL has at most
		nulls = append(nulls, nil)
	}
	answer := func(conn net.Conn, sql string) bool {
		if strings.Contains(sql, "SELECT 1") {
			_, _ = conn.Write(testservers.One())
			return true
		}
		return false
	}
	row := func(size int) []byte {
		return testservers.Wire(&pgproto3.DataRow{Values: [][]byte{bytes.Repeat([]byte("x"), size)}})
	}
	parameter := func(i int) []byte {
		return testservers.Wire(&pgproto3.ParameterStatus{Name: "p" + strconv.Itoa(i) + strings.Repeat("x", 1000), Value: strings.Repeat("y", 1000)})
	}
	complete := testservers.Wire(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
	for name, flood := range map[string]func(conn net.Conn){
		"endless rows":       func(conn net.Conn) { _, _ = conn.Write(testservers.Wire(oneColumn)); repeat(conn, row(10), 0) },
		"endless large rows": func(conn net.Conn) { _, _ = conn.Write(testservers.Wire(oneColumn)); repeat(conn, row(1<<20-100), 0) },
		"endless empty rows": func(conn net.Conn) {
			_, _ = conn.Write(testservers.Wire(&pgproto3.RowDescription{}))
			repeat(conn, testservers.Wire(&pgproto3.DataRow{}), 0)
		},
		"endless rows of nulls": func(conn net.Conn) {
			_, _ = conn.Write(testservers.Wire(oneColumn))
			repeat(conn, testservers.Wire(&pgproto3.DataRow{Values: nulls}), 0)
		},
		"endless command completes": func(conn net.Conn) { repeat(conn, complete, 0) },
		"endless row descriptions": func(conn net.Conn) {
			repeat(conn, append(testservers.Wire(oneColumn), complete...), 0)
		},
		"endless parameters": func(conn net.Conn) {
			for i := 0; ; i++ {
				if _, err := conn.Write(parameter(i)); err != nil {
					return
				}
			}
		},
		"parameters while idle": func(conn net.Conn) {
			_, _ = conn.Write(append(complete, testservers.Wire(ready)...))
			for i := 0; ; i++ {
				if _, err := conn.Write(parameter(i)); err != nil {
					return
				}
			}
		},
		"just below the budget": func(conn net.Conn) {
			_, _ = conn.Write(testservers.Wire(oneColumn))
			repeat(conn, row(1<<19), 30)
			_, _ = conn.Write(append(complete, testservers.Wire(ready)...))
		},
		"just below the budget, in small rows": func(conn net.Conn) {
			_, _ = conn.Write(testservers.Wire(oneColumn))
			repeat(conn, row(10), 52_000)
			_, _ = conn.Write(append(complete, testservers.Wire(ready)...))
		},
		"just below the budget, in nulls": func(conn net.Conn) {
			_, _ = conn.Write(testservers.Wire(oneColumn))
			repeat(conn, testservers.Wire(&pgproto3.DataRow{Values: nulls}), 280)
			_, _ = conn.Write(append(complete, testservers.Wire(ready)...))
		},
	} {
		for _, everywhere := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, also to SELECT 1: %v", name, everywhere), func(t *testing.T) {
				port := hostileServer(t, func(conn net.Conn, sql string) {
					if everywhere || !answer(conn, sql) {
						flood(conn)
					}
				})
				e := startProgram(t, []string{program}, []string{fmt.Sprintf("DATA_SOURCE_NAME=host=127.0.0.1 port=%d user=u sslmode=disable", port)}, "--probe.timeout=3.5s")
				rest := e.Memory("VmRSS")
				for range 10 {
					response, body, err := e.Get(t.Context(), "/metrics", 4*time.Second)
					check(t, err)
					if up := strings.Contains(body, "\npg_up 1\n"); response.StatusCode != http.StatusOK || up == everywhere {
						t.Fatalf("status %d, pg_up 1: %v", response.StatusCode, up)
					}
				}
				if most := e.Memory("VmHWM"); most-rest > allowed {
					t.Errorf("%d KiB, %d KiB at rest", most, rest)
				} else {
					t.Logf("%d KiB more than at rest", most-rest)
				}
			})
		}
	}
}

// TestMemoryWithManyTargets: 200 targets, five of which are hostile, stay within the limit of our own manifest for Kubernetes.
func TestMemoryWithManyTargets(t *testing.T) {
	program := plainProgram(t)
	s := newServer(t, testservers.PostgresConfig{HBA: trusting, Settings: []string{"max_connections = 500"}})
	execute(t, s, "ALTER ROLE "+role+" CONNECTION LIMIT -1")
	var file strings.Builder
	fmt.Fprintf(&file, "defaults: {%s}\ntargets:\n", login())
	row := testservers.Wire(&pgproto3.DataRow{Values: [][]byte{bytes.Repeat([]byte("x"), 1<<19)}})
	hostile := hostileServer(t, func(conn net.Conn, sql string) {
		_, _ = conn.Write(testservers.Wire(oneColumn))
		if strings.Contains(sql, "SELECT 1") {
			_, _ = conn.Write(testservers.Wire(&pgproto3.DataRow{Values: [][]byte{[]byte("1")}}))
		} else {
			repeat(conn, row, 30)
		}
		_, _ = conn.Write(testservers.Wire(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}, ready))
	})
	for i := range 200 {
		port := s.Port
		if i%40 == 0 {
			port = hostile
		}
		fmt.Fprintf(&file, "  t%03d: {host: 127.0.0.1, port: %d, timeout: 10s}\n", i, port)
	}
	e := startProgram(t, []string{program}, nil, "--config.file="+writeFile(t, file.String()))
	for range 10 {
		response, body, err := e.Get(context.Background(), "/metrics", 10*time.Second)
		check(t, err)
		if n := strings.Count(body, "\npg_up{"); response.StatusCode != http.StatusOK || n != 200 {
			t.Fatalf("status %d, %d targets", response.StatusCode, n)
		}
	}
	limit := memoryLimit(t)
	if most := e.Memory("VmHWM"); most > limit {
		t.Errorf("%d KiB, and the manifest's limit is %d", most, limit)
	} else {
		t.Logf("%d KiB of %d", most, limit)
	}
}

// memoryLimit is the limit of the manifest for Kubernetes, in KiB.
func memoryLimit(t *testing.T) int {
	t.Helper()
	_, after, _ := strings.Cut(read(t, "examples/kubernetes/base/deployment.yaml"), "limits: {memory: ")
	value, _, found := strings.Cut(after, "Mi}")
	if !found {
		t.Fatal("the manifest has no limit in MiB")
	}
	mib, err := strconv.Atoi(value)
	check(t, err)
	return mib << 10
}
