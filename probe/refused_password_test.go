// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials"
	"pg_liveness_exporter/internal/testservers"
)

// askForPassword requests a password in plain text, counts the passwords that arrive, and refuses them with an error,
// or lets in while letIn is set.
func askForPassword(passwords *atomic.Int64, letIn *atomic.Bool, refusal pgproto3.ErrorResponse) func(net.Conn) {
	return func(conn net.Conn) {
		backend := pgproto3.NewBackend(conn, conn)
		if _, err := backend.ReceiveStartupMessage(); err != nil {
			return
		}
		if letIn.Load() {
			_, _ = conn.Write(testservers.LetIn())
			testservers.Silent(conn)
			return
		}
		backend.Send(&pgproto3.AuthenticationCleartextPassword{})
		if backend.Flush() != nil || backend.SetAuthType(pgproto3.AuthTypeCleartextPassword) != nil {
			return
		}
		if _, err := backend.Receive(); err != nil {
			return
		}
		passwords.Add(1)
		backend.Send(&refusal)
		_ = backend.Flush()
	}
}

// TestRefusedPassword checks that a password that is refused three times is then sent once a minute, that nothing about
// the verdict changes meanwhile, that a different password is sent at once, and that a server that stops is noticed.
func TestRefusedPassword(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]pgproto3.ErrorResponse{
		"PostgreSQL":     {Severity: "FATAL", Code: "28P01", Routine: "auth_failed"},
		"LDAP":           {Severity: "FATAL", Code: "28000", Routine: "auth_failed"},
		"PgBouncer 1.18": {Severity: "FATAL", Code: "08P01", Message: "SASL authentication failed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var (
				passwords atomic.Int64
				letIn     atomic.Bool
			)
			s := newFakeServer(t, askForPassword(&passwords, &letIn, refusal))
			p, file := newProberWithPasswordFile(t, s.Port)
			expect := func(step string, probes int, sent int64) {
				t.Helper()
				before := passwords.Load()
				for range probes {
					r := runProbe(t, p, hanging)
					if r.Up() || r.Failure.State != StateMisconfigured || r.Failure.SQLState != refusal.Code || r.Failure.Detail != "" {
						t.Fatalf("%s: got %+v", step, r.Failure)
					}
				}
				if n := passwords.Load() - before; n != sent {
					t.Errorf("%s: %d passwords sent, want %d", step, n, sent)
				}
			}
			expect("at first", 8, 3)
			p.refusedPassword.mu.Lock()
			p.refusedPassword.sent = p.refusedPassword.sent.Add(-resendInterval)
			p.refusedPassword.mu.Unlock()
			expect("a minute later", 3, 1)
			if err := os.WriteFile(file, []byte("second"), 0o600); err != nil {
				t.Fatal(err)
			}
			expect("another password", 5, 3)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if r := runProbe(t, p, hanging); r.Up() || r.Failure.Reason != ReasonRefused {
				t.Errorf("after the server has stopped: got %+v", r.Failure)
			}
		})
	}
}

// TestAcceptedPassword: a password that the server accepted, before it refused the role, is sent each time.
func TestAcceptedPassword(t *testing.T) {
	t.Parallel()
	var (
		passwords atomic.Int64
		letIn     atomic.Bool
	)
	s := newFakeServer(t, askForPassword(&passwords, &letIn, pgproto3.ErrorResponse{
		Severity: "FATAL", Code: "28000", Routine: "InitializeSessionUserId",
	}))
	p := newTestProber(t, s.Port, "sslmode=disable")
	for range 2 * maxRefusals {
		if r := runProbe(t, p, hanging); r.Up() || r.Failure.Reason != ReasonAuth {
			t.Fatalf("got %+v", r.Failure)
		}
	}
	if n := passwords.Load(); n < 2*maxRefusals {
		t.Errorf("the password was sent %d times in %d probes", n, 2*maxRefusals)
	}
}

// TestHeldPasswordNotRequested checks that a server that no longer asks for the password lets in, unless require_auth
// demands that it asks.
func TestHeldPasswordNotRequested(t *testing.T) {
	t.Parallel()
	for settings, want := range map[string]Reason{"": ReasonTimeout, "require_auth=password": ReasonAuth} {
		var (
			passwords atomic.Int64
			letIn     atomic.Bool
		)
		s := newFakeServer(t, askForPassword(&passwords, &letIn, pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01"}))
		p := newTestProber(t, s.Port, "sslmode=disable "+settings)
		for range maxRefusals {
			runProbe(t, p, hanging)
		}
		letIn.Store(true)
		r := runProbe(t, p, time.Second) // the server is silent after the login
		if r.Up() || r.Failure.Reason != want || r.Connect.Known != (want == ReasonTimeout) {
			t.Errorf("%q: got %+v", settings, r.Failure)
		}
	}
}

// newProberWithPasswordFile returns a prober of the server on a local port, and the file with its password.
func newProberWithPasswordFile(t *testing.T, port int) (*Prober, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newTestProber(t, port, "sslmode=disable")
	target := *p.target
	target.Login.Environment = nil
	connection, err := config.NewConnection(config.ConnSettings{
		"host": "127.0.0.1", "port": strconv.Itoa(port), "user": "u", "dbname": "d", "sslmode": "disable",
	})
	if err != nil {
		t.Fatal(err)
	}
	target.Login.Connection = connection
	target.Login.Password = config.PasswordSource{File: file}
	p.credentials = credentials.NewStore(t.Context()).For(&target)
	return p, file
}
