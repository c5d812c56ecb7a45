// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// TestServerDetails checks that a detail is what the English message says, and is missing or right for translated ones.
func TestServerDetails(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ code, routine, message, want string }{
		{"28000", "ClientAuthentication", "connection requires a valid client certificate", errNoCertificate.Error()},
		{"28000", "ClientAuthentication", "Verbindung erfordert ein gültiges Client-Zertifikat", "no line of pg_hba.conf lets the exporter in, or the line wants a client certificate"},
		{"28000", "ClientAuthentication", `pg_hba.conf rejects connection for host "10.0.0.1", user "u", database "d"`, "no line of pg_hba.conf lets the exporter in, or the line wants a client certificate"},
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
