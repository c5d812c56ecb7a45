// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials"
	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// hanging is the longest that anything may take on a busy machine before the test counts it as hung.
const hanging = 4 * time.Second

// newFakeServer starts a fake server that is closed when the test ends.
func newFakeServer(t testing.TB, handle func(net.Conn)) *testservers.FakeServer {
	t.Helper()
	s, err := testservers.NewFakeServer(t.Context(), handle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// sendBytes reads the client's first message, sends bytes, and then stays silent.
func sendBytes(bytes string) func(net.Conn) {
	return func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1024))
		_, _ = io.WriteString(conn, bytes)
		testservers.Silent(conn)
	}
}

// sendAndClose is like sendBytes, but closes the connection after sending.
func sendAndClose(bytes string) func(net.Conn) {
	return func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1024))
		_, _ = io.WriteString(conn, bytes)
	}
}

// newTestProber returns a prober of the server on a local port. settings are appended to the connection string.
func newTestProber(t *testing.T, port int, settings string) *Prober {
	t.Helper()
	return newTestProberFor(t, fmt.Sprintf("host=127.0.0.1 port=%d user=u password=p %s", port, settings), nil)
}

// newTestProberFor returns a prober of dsn. change may modify its options.
func newTestProberFor(t testing.TB, dsn string, change func(*Options)) *Prober {
	t.Helper()
	return newTestProberOf(t, config.KindPostgres, dsn, change)
}

// newTestProberOf returns a prober of dsn, a server of the given kind, and closes it when the test ends. No connection may be left
// then.
func newTestProberOf(t testing.TB, kind config.Kind, dsn string, change func(*Options)) *Prober {
	t.Helper()
	target, err := config.FromEnvironment(func(name string) string {
		if name == "DATA_SOURCE_NAME" {
			return dsn
		}
		return ""
	}, config.Probing{})
	if err != nil {
		t.Fatal(err)
	}
	target.Kind = kind
	options := Options{Sessions: &Sessions{}, OnSessionLost: func(Loss) {}}
	if change != nil {
		change(&options)
	}
	p := New(target, credentials.NewStore(t.Context()).For(target), options)
	p.SetKeep(true)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), hanging)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		if n := options.Sessions.InUse() + options.Sessions.Idle(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
	return p
}

// runProbe runs one probe with limit as its timeout, and fails the test if it takes much longer.
func runProbe(t testing.TB, p *Prober, limit time.Duration) *Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	start := time.Now()
	r := p.Probe(ctx)
	if took := time.Since(start); took > limit+hanging {
		t.Errorf("took %s of %s", took, limit)
	}
	return r
}

// TestUnusualReplies checks the failures for replies that a real server cannot be made to send.
func TestUnusualReplies(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		handle func(net.Conn)
		dsn    string
		want   Failure
	}{
		{"accepts and is silent", testservers.Silent, "sslmode=disable", Failure{Reason: ReasonTimeout, State: StateNoResponse, Phase: PhaseStartup}},
		{"silent to SSLRequest", testservers.Silent, "sslmode=prefer", Failure{Reason: ReasonTimeout, State: StateNoResponse, Phase: PhaseTLS}},
		{"half a message", sendBytes("R\x00\x00"), "sslmode=disable", Failure{Reason: ReasonTimeout, State: StateNoResponse, Phase: PhaseStartup}},
		{"half a message and hangs up", sendAndClose("R\x00\x00"), "sslmode=disable", Failure{Reason: ReasonTerminated, State: StateNoResponse, Phase: PhaseStartup}},
		{"hangs up at once", sendAndClose(""), "sslmode=disable", Failure{Reason: ReasonTerminated, State: StateNoResponse, Phase: PhaseStartup}},
		{"hangs up at SSLRequest", sendAndClose(""), "sslmode=require", Failure{Reason: ReasonTerminated, State: StateNoResponse, Phase: PhaseTLS}},
		{"hangs up in the handshake", sendAndClose("S"), "sslmode=require", Failure{Reason: ReasonTerminated, State: StateNoResponse, Phase: PhaseTLS}},
		{"garbage", sendBytes("\x01\x02\x03\x04\x05\x06\x07\x08\x09"), "sslmode=disable", Failure{Reason: ReasonProtocol, State: StateNoResponse, Phase: PhaseStartup}},
		{"an HTTP server", sendAndClose("HTTP/1.1 400 Bad Request\r\n\r\n"), "sslmode=prefer", Failure{Reason: ReasonProtocol, State: StateNoResponse, Phase: PhaseTLS}},
		{"an HTTP server without SSLRequest", sendAndClose("HTTP/1.1 400 Bad Request\r\n\r\n"), "sslmode=disable", Failure{Reason: ReasonProtocol, State: StateNoResponse, Phase: PhaseStartup}},
		{"garbage instead of a handshake", sendBytes("Snonsense nonsense nonsense"), "sslmode=require", Failure{Reason: ReasonTLS, State: StateMisconfigured, Phase: PhaseTLS}},
		{"an error without its last byte", sendAndClose("E\x00\x00\x00\x32SFATAL\x00VFATAL\x00C53300\x00Mconnection pool is full\x00\x00"), "sslmode=disable", Failure{Reason: ReasonPooler, State: StateConnectionLimit, Phase: PhaseStartup, SQLState: "53300"}},
		{"an alert instead of a handshake", sendBytes("S\x15\x03\x03\x00\x02\x02\x28"), "sslmode=require", Failure{Reason: ReasonTLS, State: StateMisconfigured, Phase: PhaseTLS}},
		{"no process for the session", sendAndClose("Ecould not fork\n\x00"), "sslmode=prefer", Failure{Reason: ReasonResources, State: StateRejecting, Phase: PhaseTLS}},
		{"no TLS", sendBytes("N"), "sslmode=require", Failure{Reason: ReasonTLS, State: StateMisconfigured, Phase: PhaseTLS}},
		{"no TLS, and then silent", sendBytes("N"), "sslmode=prefer", Failure{Reason: ReasonTimeout, State: StateNoResponse, Phase: PhaseStartup}},
		{"no direct TLS", sendAndClose(""), "sslmode=require sslnegotiation=direct", Failure{Reason: ReasonTLS, State: StateMisconfigured, Phase: PhaseTLS}},
		{"a password in plain text, not accepted", sendBytes("R\x00\x00\x00\x08\x00\x00\x00\x03"), "sslmode=disable require_auth=scram-sha-256", Failure{Reason: ReasonAuth, State: StateMisconfigured, Phase: PhaseStartup}},
		{"one byte a second", func(conn net.Conn) {
			for _, b := range []byte("R\x00\x00\x00\x08\x00\x00\x00\x00") {
				time.Sleep(time.Second)
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
			}
			testservers.Silent(conn)
		}, "sslmode=disable", Failure{Reason: ReasonTimeout, State: StateNoResponse, Phase: PhaseStartup}},
		{"a message of a gigabyte", sendBytes("R\x3f\xff\xff\xff\x00\x00\x00\x00"), "sslmode=disable", Failure{Reason: ReasonProtocol, State: StateNoResponse, Phase: PhaseStartup}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t, test.handle)
			p := newTestProber(t, s.Port, test.dsn)
			r := runProbe(t, p, 500*time.Millisecond)
			if r.Up() {
				t.Fatal("up")
			}
			got := *r.Failure
			if (got.Detail != "") != (test.want.Reason == ReasonTLS || test.want.Reason == ReasonAuth) {
				t.Errorf("detail %q", got.Detail)
			}
			if got.Detail = ""; got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			if !r.Phases[test.want.Phase].Known {
				t.Errorf("no time recorded for the failed phase: %v", r.Phases)
			}
			if n := s.Accepted(); n > 2 {
				t.Errorf("%d connections for one probe", n)
			}
		})
	}
}

// refuse replies to a login with an error, as a server does.
func refuse(e pgproto3.ErrorResponse) func(net.Conn) {
	return func(conn net.Conn) {
		backend := pgproto3.NewBackend(conn, conn)
		if _, err := backend.ReceiveStartupMessage(); err != nil {
			return
		}
		backend.Send(&e)
		_ = backend.Flush()
	}
}

// TestReasonsBySQLState checks that the server's codes determine the reason, and its message only if it is a pooler's.
func TestReasonsBySQLState(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		code, routine, message string
		reason                 Reason
		state                  State
	}{
		{"57P03", "", "", ReasonNotAccepting, StateRejecting},
		{"53300", "InitPostgres", "", ReasonReservedSlots, StateConnectionLimit},
		{"53300", "InitializeSessionUserId", "", ReasonRoleLimit, StateMisconfigured},
		{"53300", "CheckMyDatabase", "", ReasonDatabaseLimit, StateConnectionLimit},
		{"53300", "InitProcess", "", ReasonTooManyConnections, StateConnectionLimit},
		{"53300", "ProcessStartupPacket", "", ReasonTooManyConnections, StateConnectionLimit},
		{"53300", "", "", ReasonPooler, StateConnectionLimit},
		{"28P01", "auth_failed", "", ReasonAuth, StateMisconfigured},
		{"28000", "ClientAuthentication", "", ReasonAuth, StateMisconfigured},
		{"3D000", "InitPostgres", "", ReasonNoDatabase, StateMisconfigured},
		{"55000", "InitPostgres", "", ReasonNoDatabase, StateMisconfigured},
		{"57P04", "InitPostgres", "", ReasonNoDatabase, StateMisconfigured},
		{"42501", "InitPostgres", "", ReasonPermission, StateMisconfigured},
		{"57P01", "ProcessInterrupts", "", ReasonTerminated, StateRejecting},
		{"57P02", "quickdie", "", ReasonTerminated, StateRejecting},
		{"57P05", "ProcessInterrupts", "", ReasonTerminated, StateRejecting},
		{"53100", "mdextend", "", ReasonResources, StateRejecting},
		{"53200", "AllocSetAlloc", "", ReasonResources, StateRejecting},
		{"53400", "x", "", ReasonResources, StateRejecting},
		{"58030", "x", "", ReasonResources, StateRejecting},
		{"57014", "ProcessInterrupts", "", ReasonTimeout, StateRejecting},
		{"22023", "set_config_option", "", ReasonOther, StateRejecting},
		{"42704", "find_option", "", ReasonOther, StateRejecting},
		{"08P01", "ProcessStartupPacket", "", ReasonProtocol, StateNoResponse},
		{"0A000", "ProcessStartupPacket", "", ReasonProtocol, StateNoResponse},
		{"22012", "int4div", "division by zero", ReasonOther, StateRejecting}, // in an event trigger for logins
		{"XX000", "x", "", ReasonOther, StateRejecting},
		{"40001", "x", "", ReasonOther, StateRejecting},
		{"08P01", "", "no more connections allowed (max_client_conn)", ReasonPooler, StateConnectionLimit},
		{"08P01", "", "no such user: u", ReasonAuth, StateMisconfigured},
		{"08P01", "", "no such database: d", ReasonNoDatabase, StateMisconfigured},
		{"08P01", "", "unsupported startup parameter: options", ReasonOther, StateMisconfigured},
		{"08P01", "", "client connections exceeded (max_db_client_connections)", ReasonPooler, StateConnectionLimit},
		{"08P01", "", "SASL authentication failed", ReasonAuth, StateMisconfigured},
		{"08P01", "", "login rejected", ReasonAuth, StateMisconfigured},
		{"08P01", "", `database "d" is disabled`, ReasonNoDatabase, StateMisconfigured},
		{"08P01", "", "not allowed", ReasonPermission, StateMisconfigured},
		{"08P01", "", "pgbouncer cannot connect to server", ReasonPooler, StateRejecting},
		{"08P01", "", "client_login_timeout (server down)", ReasonPooler, StateRejecting},
		{"08P01", "", "client_login_timeout", ReasonPooler, StateRejecting},
		{"08P01", "", "server login failed: wrong password type", ReasonPooler, StateRejecting},
		{"08P01", "", "server login has been failing, cached error: connect failed (server_login_retry)", ReasonPooler, StateRejecting},
		{"08P01", "", "server login has been failing, cached error: password authentication failed (server_login_retry)", ReasonPooler, StateRejecting},
		{"08P01", "", "query_wait_timeout", ReasonPooler, StateRejecting},
		{"08P01", "", "client connections exceeded (max_user_client_connections)", ReasonRoleLimit, StateMisconfigured},
		{"08P01", "", "invalid server parameter", ReasonOther, StateMisconfigured},
		{"08006", "", "odyssey: c6401466a8dab: failed to connect to remote server s1", ReasonPooler, StateRejecting},
		{"53300", "", "odyssey: c1: too many client tcp connections (client_max for user app.u 1)", ReasonRoleLimit, StateMisconfigured},
		{"53300", "", "odyssey: c1: too many tcp connections (global client_max 1)", ReasonPooler, StateConnectionLimit},
		{"28000", "", `odyssey: c1: password authentication failed for user "u"`, ReasonAuth, StateMisconfigured},
		{"53300", "", "connection refused", ReasonPooler, StateRejecting},
		{"53300", "", "connection pool is full", ReasonPooler, StateConnectionLimit},
		{"28P01", "auth_failed", `password authentication failed for user "u"`, ReasonAuth, StateMisconfigured},
		{"XX000", "", "SCRAM authentication failed", ReasonAuth, StateMisconfigured},
		{"XX000", "", "all backend nodes are down, pgpool requires at least one valid node", ReasonPooler, StateRejecting},
		{"53300", "", "Sorry, too many clients already", ReasonPooler, StateConnectionLimit},
		{"XX000", "", "something else", ReasonOther, StateRejecting},
		{"55P02", "set_config_option", "", ReasonOther, StateRejecting},
		{"53300", "auth_failed", "server failover", ReasonPooler, StateRejecting},
		{"08P01", "", "failure", ReasonNoDatabase, StateMisconfigured},
		{"XX000", "", "a failure of something", ReasonOther, StateRejecting},
		{"58000", "", `No pool configured for database: "d", user: "u"`, ReasonNoDatabase, StateMisconfigured},
		{"58000", "", "could not get connection from the pool - AllServersDown", ReasonPooler, StateRejecting},
		{"XX000", "", "Tenant or user not found", ReasonAuth, StateMisconfigured},
		{"XX000", "", "(ENOTFOUND) tenant/user u.t not found", ReasonNoDatabase, StateMisconfigured},
		{"XX000", "", "(EMAXCONNSESSION) max clients reached in session mode - max clients are limited to pool_size: 15", ReasonPooler, StateConnectionLimit},
		{"XX000", "", "(ECIRCUITBREAKER) too many authentication failures, new connections are temporarily blocked", ReasonAuth, StateMisconfigured},
		{"XX000", "", "Couldn't connect to compute node", ReasonPooler, StateRejecting},
		{"XX000", "", "Control plane request failed: endpoint cannot be found", ReasonNoDatabase, StateMisconfigured},
		{"XX000", "", "Too many connections to this endpoint. Please try again later.", ReasonPooler, StateConnectionLimit},
		{"28000", "", "This RDS proxy has no credentials for the role u. Check the credentials for this role and try again.", ReasonAuth, StateMisconfigured},
		{"08000", "", "Timed-out waiting to acquire database connection", ReasonPooler, StateRejecting},
		{"58000", "", `connection pool for user "u" and database "d" is down`, ReasonPooler, StateRejecting},
		{"08P01", "", "server shutting down", ReasonPooler, StateRejecting},
	} {
		t.Run(strings.Join([]string{test.code, test.routine, test.message}, " "), func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t, refuse(pgproto3.ErrorResponse{
				Severity: "FATALE", SeverityUnlocalized: "FATAL", Code: test.code, Routine: test.routine, Message: test.message,
			}))
			p := newTestProber(t, s.Port, "sslmode=disable")
			r := runProbe(t, p, hanging)
			if r.Up() {
				t.Fatal("up")
			}
			got, want := *r.Failure, Failure{Reason: test.reason, State: test.state, Phase: PhaseStartup, SQLState: test.code, Routine: test.routine}
			if got.Detail = ""; got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			connections := 1
			if test.reason == ReasonTerminated {
				connections = 2 // a second attempt
			}
			if n := s.Accepted(); n != connections {
				t.Errorf("%d connections, want %d", n, connections)
			}
		})
	}
}

// TestNoListener checks the failure if nothing listens at the address.
func TestNoListener(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		dsn  string
		want Failure
	}{
		{"host=127.0.0.1 port=1 user=u", Failure{Reason: ReasonRefused, State: StateNoResponse, Phase: PhaseDial}},
		{"host=/nonexistent user=u", Failure{Reason: ReasonRefused, State: StateNoResponse, Phase: PhaseDial}},
	} {
		r := runProbe(t, newTestProberFor(t, test.dsn, nil), hanging)
		if r.Up() || *r.Failure != test.want {
			t.Errorf("%s: got %+v, want %+v", test.dsn, r.Failure, test.want)
		}
	}
}

// fixedAddresses resolves every name to the same addresses, or fails with err.
type fixedAddresses struct {
	addresses []string
	err       error
}

func (n fixedAddresses) LookupHost(context.Context, string) ([]string, error) {
	return n.addresses, n.err
}

// TestTriesAllAddresses checks that all addresses of a name are tried, and the reason if all fail.
func TestTriesAllAddresses(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t, refuse(pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P03"}))
	for _, test := range []struct {
		names fixedAddresses
		want  Reason
	}{
		// Nothing listens on the first address.
		{fixedAddresses{addresses: []string{"127.0.0.2", "127.0.0.1"}}, ReasonNotAccepting},
		{fixedAddresses{addresses: []string{"127.0.0.2", "127.0.0.3"}}, ReasonRefused},
		{fixedAddresses{err: &net.DNSError{Err: "no such host", IsNotFound: true}}, ReasonResolve},
		{fixedAddresses{err: &net.DNSError{Err: "server misbehaving", IsTemporary: true}}, ReasonResolve},
		{fixedAddresses{err: &net.DNSError{Err: "i/o timeout", IsTimeout: true}}, ReasonTimeout},
	} {
		p := newTestProberFor(t, fmt.Sprintf("host=name.invalid port=%d user=u sslmode=disable", s.Port),
			func(o *Options) { o.Resolver = test.names })
		if r := runProbe(t, p, hanging); r.Up() || r.Failure.Reason != test.want {
			t.Errorf("%+v: got %+v, want %s", test.names, r.Failure, test.want)
		}
	}
}

// TestPendingLogins checks that the number of pending logins is limited if a server accepts connections and never
// replies, and that probes log in again as soon as a pending login ends.
func TestPendingLogins(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := newFakeServer(t, func(conn net.Conn) {
		clientGone := make(chan struct{})
		go func() {
			testservers.Silent(conn)
			close(clientGone)
		}()
		select {
		case <-release:
		case <-clientGone:
		}
	})
	p := newTestProber(t, s.Port, "sslmode=disable")
	p.logins.limits = limits{maxPending: 400 * time.Millisecond, minAge: 100 * time.Millisecond, maxLogins: 4}
	for begin := time.Now(); time.Since(begin) < 2*time.Second; {
		if r := runProbe(t, p, 20*time.Millisecond); r.Up() || r.Failure.Reason != ReasonTimeout {
			t.Fatalf("got %+v", r.Failure)
		}
		if n := p.options.Sessions.InUse(); n > 4 {
			t.Fatalf("%d logins at once, want at most 4", n)
		}
	}
	if n := s.MaxOpen(); n < 2 || n > 5 { // the server may notice late that a login was dropped
		t.Errorf("the server saw %d logins at once", n)
	}
	if n := s.Accepted(); n > 25 {
		t.Errorf("%d logins in 2 s, want one per 100 ms", n)
	}
	close(release) // the server hangs up, which ends the logins
	if r := runProbe(t, p, hanging); r.Up() || r.Failure.Reason != ReasonTerminated {
		t.Errorf("got %+v, want terminated, as the server hangs up now", r.Failure)
	}
}

// TestAnotherPendingLoginEnds checks that a waiting probe continues as soon as any pending login ends.
func TestAnotherPendingLoginEnds(t *testing.T) {
	t.Parallel()
	var (
		logins    atomic.Int64
		endSecond = make(chan struct{})
	)
	s := newFakeServer(t, func(conn net.Conn) {
		switch logins.Add(1) {
		case 1:
			testservers.Silent(conn)
		case 2:
			<-endSecond
		default:
			refuse(pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P03"})(conn)
		}
	})
	p := newTestProber(t, s.Port, "sslmode=disable")
	p.logins.limits = limits{maxPending: time.Minute, minAge: time.Minute, maxLogins: 4}
	runProbe(t, p, 50*time.Millisecond)
	runProbe(t, p, 50*time.Millisecond)
	time.AfterFunc(100*time.Millisecond, func() { close(endSecond) })
	if r := runProbe(t, p, hanging); r.Up() || r.Failure.Reason != ReasonNotAccepting {
		t.Errorf("got %+v, want the failure of a new login", r.Failure)
	}
}

// TestOneLoginHangs checks that a login that hangs does not keep the next probe from logging in, and that with two that
// hang a third one waits.
func TestOneLoginHangs(t *testing.T) {
	t.Parallel()
	var logins, hanging atomic.Int64
	s := newFakeServer(t, func(conn net.Conn) {
		if logins.Add(1) <= hanging.Load() {
			testservers.Silent(conn)
		}
		accept(func(string) [][]string { return [][]string{{"1"}} })(conn)
	})
	p := newTestProber(t, s.Port, "sslmode=disable")
	for step, want := range []struct {
		hanging int64 // so many of all logins so far and the next ones hang
		up      bool
	}{{1, false}, {1, true}, {1, true}, {4, false}, {4, false}} {
		hanging.Store(want.hanging)
		if r := runProbe(t, p, time.Second); r.Up() != want.up {
			t.Errorf("step %d: got %+v", step, r.Failure)
		}
	}
	if n := logins.Load(); n != 4 {
		t.Errorf("%d logins, want 4: two are pending in the end", n)
	}
}

// accept accepts a login and then replies to every query with the rows that rowsFor returns for it.
func accept(rowsFor func(sql string) [][]string) func(net.Conn) {
	return func(conn net.Conn) {
		backend := pgproto3.NewBackend(conn, conn)
		if _, err := backend.ReceiveStartupMessage(); err != nil {
			return
		}
		backend.Send(&pgproto3.AuthenticationOk{})
		for {
			backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			if backend.Flush() != nil {
				return
			}
			message, err := backend.Receive()
			if err != nil {
				return
			}
			q, ok := message.(*pgproto3.Query)
			if !ok {
				return
			}
			rows := rowsFor(q.String)
			if len(rows) == 0 {
				backend.Send(&pgproto3.EmptyQueryResponse{})
				continue
			}
			fields := make([]pgproto3.FieldDescription, len(rows[0]))
			for i := range fields {
				fields[i] = pgproto3.FieldDescription{Name: []byte("x"), DataTypeOID: 25, TypeModifier: -1}
			}
			backend.Send(&pgproto3.RowDescription{Fields: fields})
			for _, row := range rows {
				values := make([][]byte, len(row))
				for i, value := range row {
					values[i] = []byte(value)
				}
				backend.Send(&pgproto3.DataRow{Values: values})
			}
			backend.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
		}
	}
}

// total returns a row of totals, with a value in the column of the oldest transaction.
func total(oldest string) []string {
	return []string{
		"total", "", "", "", "5", "5", "0", "0", oldest, "1", "t", "0", "1", "100", "3", "0", "", "", "18.4", "180004", "f", "off",
		"0", "", "0", "60", "f", "0", "", "f", "0", "1", "1800000000", "app", "",
	}
}

// TestNumbersThatAreNone checks that NaN and the infinities are unknown, in what a server and a PgBouncer report.
func TestNumbersThatAreNone(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"NaN", "Infinity", "-Infinity"} {
		s := newFakeServer(t, accept(func(sql string) [][]string {
			switch {
			case strings.Contains(sql, pingSQL):
				return [][]string{{"1"}}
			case strings.Contains(sql, "pg_stat_get_activity"):
				return [][]string{total(text)}
			}
			return nil
		}))
		r := runProbe(t, newTestProber(t, s.Port, "sslmode=disable"), hanging)
		if !r.Up() || r.ServerStats == nil || r.ServerStats.TransactionMax.Value != 0 || r.ServerStats.Used != known(5) {
			t.Errorf("%s: got %+v, %+v", text, r.Failure, r.ServerStats)
		}
		rows := poolerRows([]*pgconn.Result{{
			FieldDescriptions: []pgconn.FieldDescription{{Name: "database"}, {Name: "cl_active"}, {Name: "maxwait"}},
			Rows:              [][][]byte{{[]byte("app"), []byte("1"), []byte(text)}},
		}}, []string{"database"})
		if len(rows) != 1 || len(rows[0].Values) != 1 || rows[0].Values["cl_active"] != 1 {
			t.Errorf("%s: got %+v", text, rows)
		}
	}
}

// TestInvalidStats checks that malformed rows cost a probe its statistics, and nothing else.
func TestInvalidStats(t *testing.T) {
	t.Parallel()
	valid := total("0")
	for name, rows := range map[string][][]string{
		"none":        nil,
		"short":       {{"total"}},
		"short after": {valid, {"database"}},
		"no number":   {append(append([]string{}, valid[:12]...), "many", "3", "0", "", "", "18.4", "180004")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t, accept(func(sql string) [][]string {
				if strings.Contains(sql, pingSQL) {
					return [][]string{{"1"}}
				}
				return rows
			}))
			r := runProbe(t, newTestProber(t, s.Port, "sslmode=disable"), hanging)
			if !r.Up() || !r.KeptUp || r.ServerStats != nil || r.StatsFailure == nil || r.StatsFailure.Reason != ReasonProtocol {
				t.Errorf("got %+v, %+v", r, r.StatsFailure)
			}
		})
	}
	s := newFakeServer(t, accept(func(string) [][]string { return [][]string{{"2"}} }))
	if r := runProbe(t, newTestProber(t, s.Port, "sslmode=disable"), hanging); r.Up() || r.Failure.Reason != ReasonProtocol {
		t.Errorf("SELECT 1 returned 2: %+v", r.Failure)
	}
}

// TestCloseEndsPendingLogins checks that a closed prober leaves no login behind and starts no probe.
func TestCloseEndsPendingLogins(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t, testservers.Silent)
	p := newTestProber(t, s.Port, "sslmode=disable")
	runProbe(t, p, time.Second)
	if n := p.options.Sessions.InUse(); n != 1 {
		t.Errorf("%d connections, want the pending login", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), hanging)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
	if r := p.Probe(ctx); r.Up() {
		t.Error("a closed prober reports up")
	}
}

// certificate makes a certificate that nobody signed.
func certificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	certificate, key, err := testservers.NewCertificate(func(c *x509.Certificate) {
		c.Subject.CommonName, c.DNSNames, c.IPAddresses = name, []string{name}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// TestNoLoginToUntrustedServer checks that no login, and so no password, is sent to a server whose certificate does not
// verify.
func TestNoLoginToUntrustedServer(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	cert := certificate(t, "db.invalid")
	s := newFakeServer(t, func(conn net.Conn) {
		request := make([]byte, 8)
		if _, err := io.ReadFull(conn, request); err != nil {
			return
		}
		_, _ = conn.Write([]byte("S"))
		encrypted := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
		n, err := encrypted.Read(make([]byte, 64))
		if err == nil || !errors.Is(err, io.EOF) && n > 0 {
			sent.Add(1)
		}
	})
	for _, dsn := range []string{"sslmode=verify-full sslrootcert=system", "sslmode=verify-full"} {
		p := newTestProber(t, s.Port, dsn)
		r := runProbe(t, p, hanging)
		if r.Up() || r.Failure.Reason != ReasonTLS || r.Failure.State != StateMisconfigured || !strings.Contains(r.Failure.Detail, "certificate") {
			t.Errorf("%s: got %+v", dsn, r.Failure)
		}
	}
	if sent.Load() > 0 {
		t.Error("data was sent after a failed handshake")
	}
}

// TestAlertKnownAfterClose checks that an alert about the client certificate can be read after the connection was
// closed, if pgconn has read it in the background. pgconn itself reports only the failed write.
func TestAlertKnownAfterClose(t *testing.T) {
	t.Parallel()
	cert := certificate(t, "client")
	s := newFakeServer(t, func(conn net.Conn) {
		server := tls.Server(conn, &tls.Config{
			Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13,
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool(),
		})
		_ = server.HandshakeContext(t.Context())
	})
	for _, wasRead := range []bool{true, false} {
		var h handshake
		d := &dialer{directTLS: true, tlsConfig: &tls.Config{
			InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13,
		}}
		var netDialer net.Dialer
		conn, err := netDialer.DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", s.Port))
		if err != nil {
			t.Fatal(err)
		}
		metered := &meteredConn{Conn: conn}
		metered.grant(loginBudget)
		encrypted, err := d.encrypt(t.Context(), metered, &h)
		if err != nil || !h.sentCertificate {
			t.Fatal(err, h.sentCertificate)
		}
		if wasRead {
			if _, err := encrypted.Read(make([]byte, 64)); !isAlert(err) {
				t.Fatal(err)
			}
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		if alert := h.alert(); (alert != nil) != wasRead {
			t.Errorf("the alert was read: %t; it is %v", wasRead, alert)
		}
	}
}

// TestSlowServerKeepsSessionFirst checks that the session is kept but its statistics are left to the next probe, if a
// login takes most of the time.
func TestSlowServerKeepsSessionFirst(t *testing.T) {
	t.Parallel()
	const roundTrip = 200 * time.Millisecond
	reply := accept(func(sql string) [][]string {
		time.Sleep(roundTrip)
		switch {
		case strings.Contains(sql, pingSQL):
			return [][]string{{"1"}}
		case strings.Contains(sql, "pg_stat_get_activity"):
			return [][]string{total("0")}
		}
		return nil
	})
	s := newFakeServer(t, func(conn net.Conn) {
		time.Sleep(4 * roundTrip)
		reply(conn)
	})
	p := newTestProber(t, s.Port, "sslmode=disable")
	limit := 7 * roundTrip // enough for the login and two queries, but not for two more
	if r := runProbe(t, p, limit); !r.Up() || r.KeptUp {
		t.Errorf("first: %+v, kept %v", r.Failure, r.KeptUp)
	}
	if r := runProbe(t, p, limit); !r.Up() || !r.KeptUp || r.ServerStats == nil || r.ServerStats.Used != known(5) {
		t.Errorf("second: %+v, kept %v, statistics %+v", r.Failure, r.KeptUp, r.ServerStats)
	}
}

// TestKeptSessionHangsWithoutServer: a probe that does not reach the server does not wait until its deadline for a kept session
// that hangs.
func TestKeptSessionHangsWithoutServer(t *testing.T) {
	t.Parallel()
	var gone atomic.Bool
	reply := accept(func(string) [][]string {
		if gone.Load() {
			<-t.Context().Done()
		}
		return [][]string{{"1"}}
	})
	s := newFakeServer(t, func(conn net.Conn) {
		if gone.Load() {
			sendAndClose("HTTP/1.1 400 Bad Request\r\n\r\n")(conn)
			return
		}
		reply(conn)
	})
	p := newTestProber(t, s.Port, "sslmode=disable")
	if r := runProbe(t, p, hanging); !r.Up() {
		t.Fatalf("at first: got %+v", r.Failure)
	}
	gone.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := time.Now()
	if r := p.Probe(ctx); r.Up() || r.Failure.State != StateNoResponse || r.KeptUp {
		t.Errorf("got %+v, kept %v", r.Failure, r.KeptUp)
	}
	if took := time.Since(start); took > keptGrace+hanging {
		t.Errorf("took %s", took)
	}
}

// TestKeptSessionFollowsName checks that the kept session moves if its host name leads to another address.
func TestKeptSessionFollowsName(t *testing.T) {
	t.Parallel()
	s, err := testservers.NewPostgres(t.Context(), testservers.PostgresConfig{
		Bin: testenv.Bin(t), Settings: []string{"listen_addresses = '127.0.0.1, 127.0.0.2'"}, HBA: "host all all all trust",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Remove() })
	resolver := &fixedAddresses{addresses: []string{"127.0.0.1"}}
	p := newTestProberFor(t, fmt.Sprintf("host=name.invalid port=%d user=postgres sslmode=disable", s.Port), func(o *Options) { o.Resolver = resolver })
	for _, address := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.1"} {
		resolver.addresses = []string{address}
		if r := runProbe(t, p, hanging); !r.Up() || !r.KeptUp || r.ServerStats == nil {
			t.Fatalf("got %+v, kept %v, statistics %v", r.Failure, r.KeptUp, r.ServerStats)
		}
		p.mu.Lock()
		k := p.kept
		p.mu.Unlock()
		if k == nil || !strings.HasPrefix(k.address(), address+":") {
			t.Fatalf("no session is kept at %s", address)
		}
	}
}

// TestForbiddenAddress checks that an ad-hoc target's name may lead only to allowed addresses, at each lookup. A name
// that also leads to another address is not dialled at all.
func TestForbiddenAddress(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t, func(net.Conn) {})
	file, err := config.Parse(strings.NewReader(`
modules:
  loopback: {user: u, password: p, sslmode: disable, allow: ["name.invalid", "127.0.0.1"]}
  anywhere: {user: u, password: p, sslmode: disable, allow: ["name.invalid"]}`), "x.yml", config.Probing{Timeout: time.Second}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for module, cases := range map[string][]struct {
		addresses []string
		connects  bool
	}{
		"loopback": {
			{[]string{"127.0.0.1"}, true},
			{[]string{"127.0.0.2"}, false}, // the same name with another address
			{[]string{"127.0.0.1", "127.0.0.2"}, false},
			{[]string{"127.0.0.1"}, true},
		},
		"anywhere": {{[]string{"127.0.0.1"}, false}, {[]string{"::1"}, false}, {[]string{"169.254.169.254"}, false}, {[]string{"fe80::1%lo"}, false}},
	} {
		target, err := file.AdHoc(fmt.Sprintf("name.invalid:%d", s.Port), module)
		if err != nil {
			t.Fatal(err)
		}
		resolver := &fixedAddresses{}
		p := New(target, credentials.NewStore(t.Context()).For(target), Options{Sessions: &Sessions{}, OnSessionLost: func(Loss) {}, Resolver: resolver})
		p.SetKeep(true)
		for _, c := range cases {
			resolver.addresses = c.addresses
			before := s.Accepted()
			r := runProbe(t, p, hanging)
			if r.Failure == nil || r.Failure.Forbidden == c.connects || (s.Accepted() > before) != c.connects {
				t.Errorf("%s leads to %v: %+v, %d connections", module, c.addresses, r.Failure, s.Accepted()-before)
			}
			if !c.connects && (r.Failure.Reason != ReasonPermission || r.Failure.State != StateMisconfigured) {
				t.Errorf("%s leads to %v: %+v", module, c.addresses, r.Failure)
			}
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestOneStuckCommitAtATime checks that at most one commit is under way if the server neither commits nor obeys cancel
// requests, and that it does not affect the verdict.
func TestOneStuckCommitAtATime(t *testing.T) {
	t.Parallel()
	var (
		commits, cancels atomic.Int64
		release          = make(chan struct{})
	)
	reply := accept(func(sql string) [][]string {
		switch {
		case strings.Contains(sql, pingSQL):
			return [][]string{{"1"}}
		case strings.Contains(sql, commitSQL):
			commits.Add(1)
			<-release
			return [][]string{{"0/0"}}
		}
		return nil
	})
	s := newFakeServer(t, func(conn net.Conn) {
		var length [8]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		if length[3] == 16 || length[4] == 4 { // a cancel request (protocol 1234.5678)
			cancels.Add(1)
			return
		}
		reply(&replayConn{conn, length[:]})
	})
	var reported atomic.Int64
	p := newTestProberFor(t, fmt.Sprintf("host=127.0.0.1 port=%d user=u sslmode=disable", s.Port), func(o *Options) {
		o.OnCommit = func(*CommitResult) { reported.Add(1) }
	})
	p.target.Commit, p.target.Timeout = true, 500*time.Millisecond
	for i := range 3 {
		start := time.Now()
		r := runProbe(t, p, hanging)
		if !r.Up() || r.Commit == nil || time.Since(start) > hanging/2 {
			t.Fatalf("probe %d: %+v, commit %+v after %s", i, r.Failure, r.Commit, time.Since(start))
		}
		<-r.Commit.Done() // after its timeout
		if r.Commit.Result().Up() != known(0) {
			t.Errorf("probe %d: %+v", i, r.Commit.Result())
		}
	}
	if n := commits.Load(); n != 1 || reported.Load() != 1 {
		t.Errorf("%d commits were sent and %d reported, want 1 and 1", n, reported.Load())
	}
	for deadline := time.Now().Add(hanging); cancels.Load() < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d cancel requests, want at least 2", cancels.Load())
		}
	}
	close(release)
	for deadline := time.Now().Add(hanging); ; time.Sleep(10 * time.Millisecond) {
		r := runProbe(t, p, hanging)
		<-r.Commit.Done()
		if r.Commit.Result().Up() == known(1) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no new commit succeeds after the stuck one ended")
		}
	}
}

// TestCloseWhileCommitHangs checks that a prober can be closed while its commit hangs at a server that ignores cancel
// requests.
func TestCloseWhileCommitHangs(t *testing.T) {
	t.Parallel()
	for range 5 {
		release := make(chan struct{})
		s := newFakeServer(t, accept(func(sql string) [][]string {
			if strings.Contains(sql, commitSQL) {
				<-release
			}
			return [][]string{{"1"}}
		}))
		t.Cleanup(func() { close(release) })
		p := newTestProberFor(t, fmt.Sprintf("host=127.0.0.1 port=%d user=u sslmode=disable", s.Port), func(o *Options) {
			o.OnCommit = func(*CommitResult) {}
		})
		p.target.Commit, p.target.Timeout = true, 200*time.Millisecond
		r := runProbe(t, p, hanging)
		if !r.Up() || r.Commit == nil {
			t.Fatalf("got %+v", r.Failure)
		}
		<-r.Commit.Done()
		ctx, cancel := context.WithTimeout(t.Context(), hanging)
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
		cancel()
	}
}

// replayConn returns the bytes in pending before it reads from the connection.
type replayConn struct {
	net.Conn
	pending []byte
}

func (c *replayConn) Read(p []byte) (int, error) {
	if len(c.pending) > 0 {
		n := copy(p, c.pending)
		c.pending = c.pending[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// TestErrorsToSelect1 checks that a server that sends an error for SELECT 1 is never no_response, whatever the error: it speaks
// the protocol.
func TestErrorsToSelect1(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"08P01", "0A000", "25006", "40001", "42501", "53200", "57014", "XX000"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			refusal := testservers.Wire(&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: code, Routine: "exec"}, ready)
			s := newFakeServer(t, testservers.Converse(loginOK, func(net.Conn, pgproto3.FrontendMessage) []byte { return refusal }))
			r := runProbe(t, newTestProber(t, s.Port, "sslmode=disable"), hanging)
			if r.Up() || r.Failure.State == StateNoResponse || r.Failure.SQLState != code {
				t.Errorf("got %+v", r.Failure)
			}
		})
	}
}

// TestServerRefusesPrefix checks that a compatible server that refuses the settings before SELECT 1 is up, and that the prober
// remembers it.
func TestServerRefusesPrefix(t *testing.T) {
	t.Parallel()
	var refused atomic.Int64
	s := newFakeServer(t, testservers.Converse(loginOK, func(_ net.Conn, m pgproto3.FrontendMessage) []byte {
		switch {
		case isQuery(m, "SET TRANSACTION"):
			refused.Add(1)
			return testservers.Wire(&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "42601"}, ready)
		case isQuery(m, "pg_stat_get_activity"):
			return testservers.Wire(&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "42883"}, ready)
		}
		return selectOne
	}))
	p := newTestProber(t, s.Port, "sslmode=disable")
	for range 3 {
		if r := runProbe(t, p, hanging); !r.Up() || !r.KeptUp || r.Role != nil {
			t.Errorf("got %+v, kept %v, role %+v", r.Failure, r.KeptUp, r.Role)
		}
	}
	if n := refused.Load(); n > 2 {
		t.Errorf("%d statements were refused, want those of the first probe", n)
	}
}

// TestCancelledPrefix checks that a statement that the server cancels is sent again, and that the server does not count
// as one that refuses the settings before it.
func TestCancelledPrefix(t *testing.T) {
	t.Parallel()
	var (
		connections sync.Map // that have had a statement cancelled
		plain       atomic.Int64
	)
	s := newFakeServer(t, testservers.Converse(loginOK, func(conn net.Conn, m pgproto3.FrontendMessage) []byte {
		if !isQuery(m, "SET TRANSACTION") {
			plain.Add(1)
		} else if _, had := connections.LoadOrStore(conn, true); !had {
			return testservers.Wire(&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "57014"}, ready)
		}
		return selectOne
	}))
	p := newTestProber(t, s.Port, "sslmode=disable")
	for range 3 {
		if r := runProbe(t, p, hanging); !r.Up() {
			t.Errorf("got %+v", r.Failure)
		}
	}
	if n := plain.Load(); n != 0 || p.refusals.refused(PartSettings) != nil {
		t.Errorf("%d statements without the settings, remembered: %v", n, p.refusals.refused(PartSettings))
	}
}
