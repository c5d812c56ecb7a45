// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
)

// authRequest returns a request to authenticate, as a server sends it.
func authRequest(code uint32, rest string) string {
	body := binary.BigEndian.AppendUint32(nil, code)
	body = append(body, rest...)
	message := binary.BigEndian.AppendUint32([]byte("R"), uint32(len(body)+4))
	return string(append(message, body...))
}

// TestAuthRequests checks what is reported about requests to authenticate that the exporter cannot or must not fulfil.
func TestAuthRequests(t *testing.T) {
	t.Parallel()
	const cannot, notAllowed = "cannot do; give its role another method in pg_hba.conf", "which require_auth does not allow"
	for _, test := range []struct {
		name, sent, settings string
		want                 []string // parts of the detail
	}{
		{"Kerberos 4", authRequest(authKerberos4, ""), "", []string{"Kerberos", cannot}},
		{"Kerberos 5", authRequest(authKerberos5, ""), "", []string{"Kerberos", cannot}},
		{"crypt", authRequest(authCrypt, "ab"), "", []string{"crypt", cannot}},
		{"SCM", authRequest(authSCM, ""), "", []string{"SCM", cannot}},
		{"GSSAPI", authRequest(authGSS, ""), "", []string{"Kerberos (GSSAPI)", cannot}},
		{"GSSAPI, not allowed either", authRequest(authGSS, ""), "require_auth=scram-sha-256", []string{"Kerberos (GSSAPI)", cannot}},
		{"SSPI", authRequest(authSSPI, ""), "", []string{"SSPI", cannot}},
		{"unknown", authRequest(99, "something"), "", []string{"a method that is not known", cannot}},
		{"OAuth", authRequest(authSASL, "OAUTHBEARER\x00\x00"), "", []string{"OAuth", "set require_auth=oauth"}},
		{"OAuth, not allowed either", authRequest(authSASL, "OAUTHBEARER\x00\x00"), "require_auth=md5", []string{"OAuth", "set require_auth=oauth"}},
		{"another SCRAM", authRequest(authSASL, "SCRAM-SHA-512\x00\x00"), "", []string{"SASL without SCRAM-SHA-256", cannot}},
		{"SCRAM that needs TLS", authRequest(authSASL, "SCRAM-SHA-256-PLUS\x00\x00"), "", []string{"SASL without SCRAM-SHA-256", cannot}},
		{"no mechanism", authRequest(authSASL, "\x00"), "", []string{"SASL without SCRAM-SHA-256", cannot}},
		{"mechanisms without an end", authRequest(authSASL, "\x00\x00\x00\x02random"), "", []string{"SASL without SCRAM-SHA-256", cannot}},
		{"a long list", authRequest(authSASL, strings.Repeat("X-MECHANISM\x00", 200)+"\x00"), "", []string{"SASL without SCRAM-SHA-256", cannot}},
		{"password", authRequest(authPassword, ""), "require_auth=scram-sha-256", []string{"the password itself", notAllowed}},
		{"MD5", authRequest(authMD5, "salt"), "require_auth=!md5", []string{"MD5", notAllowed}},
		{"SCRAM", authRequest(authSASL, "SCRAM-SHA-256\x00\x00"), "require_auth=md5", []string{"SCRAM-SHA-256", notAllowed}},
		{"password without channel binding", authRequest(authPassword, ""), "channel_binding=require", []string{"the password itself", "channel_binding"}},
		{"SCRAM without channel binding", authRequest(authSASL, "SCRAM-SHA-256\x00\x00"), "channel_binding=require", []string{"SCRAM-SHA-256", "channel_binding"}},
		{"bad SCRAM", authRequest(authSASL, "SCRAM-SHA-256\x00\x00") + authRequest(authSASLContinue, "r=x"), "", []string{"SCRAM-SHA-256", "rules"}},
		{"none", string(loginOK), "require_auth=scram-sha-256", []string{"no password", "require_auth"}},
		{"none, without channel binding", string(loginOK), "channel_binding=require", []string{"channel_binding"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t, sendBytes(test.sent))
			r := runProbe(t, newTestProber(t, s.Port, "sslmode=disable "+test.settings), hanging)
			if r.Up() {
				t.Fatal("up")
			}
			got, want := *r.Failure, Failure{Reason: ReasonAuth, State: StateMisconfigured, Phase: PhaseStartup}
			for _, part := range test.want {
				if !strings.Contains(got.Detail, part) {
					t.Errorf("detail %q has no %q", got.Detail, part)
				}
			}
			if got.Detail = ""; got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if n := s.Accepted(); n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// TestInvalidAuthRequests checks that what is no request to authenticate is still no protocol.
func TestInvalidAuthRequests(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, sent, detail string }{
		{"too short", "R\x00\x00\x00\x06\x00\x00", ""},
		{"too long", "R\x00\x20\x00\x00\x00\x00\x00\x63", ""},
		{"without end", strings.Repeat(authRequest(authPassword, ""), 1<<13), errBudget.Error()},
		{"MD5 without a salt", authRequest(authMD5, ""), ""},
		{"no message after the request", authRequest(authPassword, "") + "HTTP/1.1 400 Bad Request\r\n\r\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t, sendBytes(test.sent))
			r := runProbe(t, newTestProber(t, s.Port, "sslmode=disable"), hanging)
			want := Failure{Reason: ReasonProtocol, State: StateNoResponse, Phase: PhaseStartup, Detail: test.detail}
			if r.Up() || *r.Failure != want {
				t.Errorf("got %+v, want %+v", r.Failure, want)
			}
		})
	}
}

// TestNoClientCertificate checks what is reported if a server requires a client certificate in the handshake and there
// is none.
func TestNoClientCertificate(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			t.Parallel()
			own := certificate(t, "db.invalid")
			s := newFakeServer(t, func(conn net.Conn) {
				if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil {
					return
				}
				_, _ = conn.Write([]byte("S"))
				_ = tls.Server(conn, &tls.Config{
					Certificates: []tls.Certificate{own}, MinVersion: version, MaxVersion: version, ClientAuth: tls.RequireAnyClientCert,
				}).HandshakeContext(t.Context())
			})
			r := runProbe(t, newTestProber(t, s.Port, "sslmode=require"), hanging)
			if r.Up() || r.Failure.Reason != ReasonAuth || r.Failure.State != StateMisconfigured || r.Failure.Detail != errNoCertificate.Error() {
				t.Errorf("got %+v", r.Failure)
			}
		})
	}
}
