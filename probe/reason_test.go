// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/testservers"
)

// TestServerDetails checks that a detail is what the English message says, and is missing or right for translated ones.
func TestServerDetails(t *testing.T) {
	t.Parallel()
	const notEncrypted = "; if it is hostssl, set sslmode=require, because the login was not encrypted"
	for _, test := range []struct{ code, routine, message, want string }{
		{"57P03", "ProcessStartupPacket", "the database system is starting up", "the server is starting up"},
		{"57P03", "BackendInitialize", "the database system is shutting down", "the server is shutting down"},
		{"57P03", "BackendInitialize", "the database system is in recovery mode", "the server is recovering from a crash"},
		{"57P03", "BackendInitialize", "the database system is not yet accepting connections", "the server is recovering and not yet ready for queries"},
		{"57P03", "BackendInitialize", "the database system is not accepting connections", "the server is recovering, and hot_standby is off"},
		{"57P03", "BackendInitialize", "das Datenbanksystem fährt herunter", ""},
		{"57P03", "BackendInitialize", "le système de bases de données se lance", ""},
		{"57P03", "BackendInitialize", "", ""},
		{"28000", "ClientAuthentication", "connection requires a valid client certificate", errNoCertificate.Error()},
		{"28000", "ClientAuthentication", "Verbindung erfordert ein gültiges Client-Zertifikat", noHBALine + notEncrypted},
		{"28000", "ClientAuthentication", `pg_hba.conf rejects connection for host "10.0.0.1", user "u", database "d"`, noHBALine + notEncrypted},
		{"28000", "auth_failed", `Ident authentication failed for user "u"`, "the server wants the operating system's user of the exporter to be its role (ident or peer in pg_hba.conf)"},
		{"28000", "auth_failed", `Peer authentication failed for user "u"`, "the server wants the operating system's user of the exporter to be its role (ident or peer in pg_hba.conf)"},
		{"28000", "auth_failed", `certificate authentication failed for user "u"`, "the client certificate is not that of the exporter's role"},
		{"28000", "InitializeSessionUserId", `role "u" is not permitted to log in`, ""},
		{"28P01", "auth_failed", `password authentication failed for user "u"`, ""},
		{"53300", "BackendInitialize", "the database system is starting up", ""},
	} {
		t.Run(test.code+" "+test.message, func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t, refuse(pgproto3.ErrorResponse{
				Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: test.code, Routine: test.routine, Message: test.message,
			}))
			r := runProbe(t, newTestProber(t, s.Port, "sslmode=disable"), hanging)
			if r.Up() || r.Failure.Detail != test.want {
				t.Errorf("got %+v, want the detail %q", r.Failure, test.want)
			}
		})
	}
}

// TestTranslatedShutdown checks that a direct server that lets nobody in and still has a session is in a smart shutdown,
// whatever its language, and that nothing is said about a server at another address or behind a proxy.
func TestTranslatedShutdown(t *testing.T) {
	t.Parallel()
	var stopping atomic.Bool
	s := newFakeServer(t, func(conn net.Conn) {
		if stopping.Load() {
			refuse(pgproto3.ErrorResponse{
				Severity: "FATAL", Code: "57P03", Routine: "BackendInitialize", Message: "das Datenbanksystem fährt herunter",
			})(conn)
			return
		}
		testservers.Converse(loginOK, func(net.Conn, pgproto3.FrontendMessage) []byte { return selectOne })(conn)
	})
	newProber := func() *Prober { return newTestProber(t, s.Port, "sslmode=disable") }
	direct, elsewhere, proxied := newProber(), newProber(), newProber()
	for _, p := range []*Prober{direct, elsewhere, proxied} {
		if r := runProbe(t, p, hanging); !r.Up() {
			t.Fatal(r.Failure)
		}
	}
	stopping.Store(true)
	proxied.keptNow().relayed = true
	other := newFakeServer(t, func(conn net.Conn) {
		refuse(pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P03", Message: "das Datenbanksystem startet"})(conn)
	})
	elsewhere.credentials = newTestProber(t, other.Port, "sslmode=disable").credentials
	for _, test := range []struct {
		prober *Prober
		want   string
	}{{direct, shuttingDown}, {elsewhere, ""}, {proxied, ""}} {
		r := runProbe(t, test.prober, hanging)
		if !r.KeptUp || r.Up() || r.Failure.Reason != ReasonNotAccepting || r.Failure.Detail != test.want {
			t.Errorf("got %+v, kept %v, want the detail %q", r.Failure, r.KeptUp, test.want)
		}
	}
}

// TestConsoleError checks that an error that PgBouncer had from a server, while its console answers, is not about the
// exporter. Other poolers send errors of their own with PostgreSQL's SQLSTATEs.
func TestConsoleError(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		version, code, message string
		reason                 Reason
		state                  State
	}{
		{"PgBouncer 1.26.1", "28P01", `password authentication failed for user "lookup"`, ReasonPooler, StateRejecting},
		{"PgBouncer 1.26.1", "53300", "sorry, too many clients already", ReasonPooler, StateRejecting},
		{"PgBouncer 1.26.1", "57P01", "terminating connection due to administrator command", ReasonPooler, StateRejecting},
		{"PgBouncer 1.26.1", "08P01", "password authentication failed", ReasonAuth, StateMisconfigured},
		{"PgBouncer 1.26.1", "08P01", "client connections exceeded (max_user_client_connections)", ReasonRoleLimit, StateMisconfigured},
		{"1.5-odyssey", "28P01", `odyssey: c1: password authentication failed for user "u"`, ReasonAuth, StateMisconfigured},
	} {
		t.Run(test.version+" "+test.code+" "+test.message, func(t *testing.T) {
			t.Parallel()
			var refusing atomic.Bool
			s := newFakeServer(t, func(conn net.Conn) {
				if refusing.Load() {
					refuse(pgproto3.ErrorResponse{Severity: "FATAL", Code: test.code, Message: test.message})(conn)
					return
				}
				testservers.Converse(loginOK, func(_ net.Conn, m pgproto3.FrontendMessage) []byte {
					if isQuery(m, showVersion) {
						return testservers.Wire(
							&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("version"), DataTypeOID: 25, TypeModifier: -1}}},
							&pgproto3.DataRow{Values: [][]byte{[]byte(test.version)}},
							&pgproto3.CommandComplete{CommandTag: []byte("SHOW")}, ready)
					}
					return testservers.Wire(oneColumn, &pgproto3.CommandComplete{CommandTag: []byte("SHOW")}, ready)
				})(conn)
			})
			p := newTestProberOf(t, config.KindPgBouncer, dsnOf(s), nil)
			if r := runProbe(t, p, hanging); !r.Up() || !r.KeptUp {
				t.Fatalf("got %+v, kept %v", r.Failure, r.KeptUp)
			}
			refusing.Store(true)
			r := runProbe(t, p, hanging)
			if r.Up() || r.Failure.Reason != test.reason || r.Failure.State != test.state || r.PoolerStats == nil {
				t.Errorf("got %+v, figures %+v", r.Failure, r.PoolerStats)
			}
		})
	}
}
