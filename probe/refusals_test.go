// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pg_liveness_exporter/internal/testservers"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// TestRefusals checks that a refused part is asked for again after 1, 2, 4, 8, 10 and 10 minutes, and that a lock, a
// time-out or the end of the session is no refusal.
func TestRefusals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r refusals
		for _, err := range []error{
			&pgconn.PgError{Code: "55P03", Severity: "ERROR"}, &pgconn.PgError{Code: "57014", Severity: "ERROR"},
			&pgconn.PgError{Code: "42501", Severity: "FATAL"}, errors.New("the connection ended"),
		} {
			if r.record(PartDatabases, err) || r.refused(PartDatabases) != nil || r.list() != nil {
				t.Errorf("%v counts as a refusal", err)
			}
		}
		refusal := &pgconn.PgError{Code: "42501", Severity: "ERROR"}
		start := time.Now()
		var asked []time.Duration
		for time.Since(start) < 40*time.Minute {
			if r.refused(PartDatabases) == nil {
				asked = append(asked, time.Since(start))
				r.record(PartDatabases, refusal)
			}
			r.record(PartDatabases, refusal) // of another session: changes nothing
			time.Sleep(15 * time.Second)
		}
		want := []time.Duration{0, time.Minute, 3 * time.Minute, 7 * time.Minute, 15 * time.Minute, 25 * time.Minute, 35 * time.Minute}
		if !slices.Equal(asked, want) {
			t.Errorf("asked after %v, want %v", asked, want)
		}
		if got := r.list(); !slices.Equal(got, []Refusal{{PartDatabases, "42501"}}) || r.refused(PartRole) != nil {
			t.Errorf("got %v", got)
		}
		if r.record(PartDatabases, nil); r.list() != nil {
			t.Error("a part that was read is still refused")
		}
		r.record(PartDatabases, refusal)
		if r.forget(0); r.refused(PartDatabases) != nil {
			t.Error("not forgotten")
		}
	})
}

// TestReportedVersion checks server_version_num, from what logins report.
func TestReportedVersion(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{
		"18.4 (Debian 18.4-1.pgdg12+1)": "180004", "19rc1": "190000", "18devel": "180000", "13.0.0": "130000", "9.6.24": "90624",
		"15.2-YB-2.21.0.0-b0": "150002", "": "", "unknown": "", "9.4.26 (Greenplum 6)": "90426",
	} {
		if got := versionNum(version); got != want {
			t.Errorf("%q: got %q, want %q", version, got, want)
		}
	}
}

// TestCompatibleServer checks a server that speaks the protocol but lacks most of what PostgreSQL has, as CockroachDB does:
// no error in each probe, and everything is shown that can be known.
func TestCompatibleServer(t *testing.T) {
	t.Parallel()
	row := func(values ...string) []byte {
		m := &pgproto3.DataRow{}
		d := &pgproto3.RowDescription{}
		for _, value := range values {
			var bytes []byte
			if value != "NULL" {
				bytes = []byte(value)
			}
			m.Values = append(m.Values, bytes)
			d.Fields = append(d.Fields, pgproto3.FieldDescription{Name: []byte("?column?"), DataTypeOID: 25, TypeModifier: -1})
		}
		return testservers.Wire(d, m, &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
	}
	totals := []string{"total"}
	for len(totals) < columnCount {
		totals = append(totals, "NULL")
	}
	totals[columnIsReplica], totals[columnReadOnly], totals[columnStart] = "f", "off", "1700000000"
	totals[columnBackendPID], totals[columnClock], totals[columnOwnName] = "1", "1800000000", "defaultdb"
	var refused atomic.Int64
	s := newFakeServer(t, testservers.Converse(
		append(testservers.Wire(&pgproto3.ParameterStatus{Name: "server_version", Value: "13.0.0"}), loginOK...),
		func(_ net.Conn, m pgproto3.FrontendMessage) []byte {
			q, ok := m.(*pgproto3.Query)
			if !ok {
				return nil
			}
			for text, code := range map[string]string{
				"SET TRANSACTION": "42601", "set_config": "0A000", "LOCK TABLE": "42601", "pg_stat_get_activity": "42883",
				"pg_last_wal": "42883", "current_setting('max_connections')": "42704",
			} {
				if strings.Contains(q.String, text) {
					refused.Add(1)
					return testservers.Wire(&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: code}, ready)
				}
			}
			var out []byte
			for statement := range strings.SplitSeq(q.String, ";") {
				switch {
				case strings.Contains(statement, "SELECT 'total'"):
					out = append(out, row(totals...)...)
				case strings.Contains(statement, "inet_client_port"):
					refused.Add(1)
					return append(out, testservers.Wire(&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "42883"}, ready)...)
				case strings.Contains(statement, "default_transaction_isolation"):
					out = append(out, row("f", "off", "serializable")...)
				case strings.Contains(statement, "pg_postmaster_start_time"):
					out = append(out, row("1700000000")...)
				case strings.Contains(statement, "SELECT 1"):
					out = append(out, row("1")...)
				}
			}
			return append(out, testservers.Wire(ready)...)
		}))
	p := newTestProber(t, s.Port, "sslmode=disable")
	for i := range 6 {
		r := runProbe(t, p, hanging)
		if !r.Up() || !r.KeptUp || r.Role == nil || r.Role.Replica || r.StatsFailure != nil || r.ServerStats == nil {
			t.Fatalf("got %+v, kept %v, role %+v, statistics %+v", r.Failure, r.KeptUp, r.Role, r.StatsFailure)
		}
		if stats := r.ServerStats; stats.Version != "13.0.0" || stats.VersionNum != "130000" || stats.PostmasterStart != known(1700000000) ||
			stats.Used.Known || stats.Usable.Known || stats.Role == nil {
			t.Errorf("got %+v", stats)
		}
		if parts := r.Refusals; i == 0 && len(parts) != 8 {
			t.Errorf("refused: %v", parts)
		}
		if i == 0 {
			refused.Store(0)
		}
	}
	if n := refused.Load(); n != 0 {
		t.Errorf("%d statements were refused after the first probe", n)
	}
	p.ForgetRefusals()
	if runProbe(t, p, hanging); refused.Load() == 0 {
		t.Error("nothing was asked for again")
	}
}

// TestExhaustedAddress checks that an address that this machine cannot have does not hide that another one refuses.
func TestExhaustedAddress(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		want Reason
	}{
		"no IPv6, and the server is stopped": {errors.Join(syscall.EADDRNOTAVAIL, syscall.ECONNREFUSED), ReasonRefused},
		"no IPv6, and no answer":             {errors.Join(syscall.EADDRNOTAVAIL, context.DeadlineExceeded), ReasonTimeout},
		"no ports":                           {syscall.EADDRNOTAVAIL, ReasonOther},
		"no descriptors":                     {errors.Join(syscall.EMFILE, syscall.ECONNREFUSED), ReasonOther},
	} {
		if f := classify(test.err, PhaseDial); f.Reason != test.want || (f.Detail != "") != (test.want == ReasonOther) {
			t.Errorf("%s: got %+v", name, f)
		}
	}
}
