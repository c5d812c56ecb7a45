// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials/cloud"
	"pg_liveness_exporter/internal/testservers"
	"pg_liveness_exporter/probe"
)

// hanging bounds what takes much less time unless it hangs.
const hanging = 30 * time.Second

// tokenServer is a fake PostgreSQL that wants a token as the password, over TLS.
type tokenServer struct {
	port  int
	roots string // the file of its certificate
	oauth bool   // it asks for OAUTHBEARER, and not for the password itself

	mu       sync.Mutex // protects what follows
	received []string   // the tokens, in their order
	refused  []string   // it refuses these
}

// newTokenServer starts a server, which accepts no login without TLS.
func newTokenServer(t *testing.T, oauth bool) *tokenServer {
	t.Helper()
	certificate, key, err := testservers.NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	s := &tokenServer{oauth: oauth, roots: filepath.Join(t.TempDir(), "roots.pem")}
	if err := os.WriteFile(s.roots, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	fake, err := testservers.NewFakeServer(t.Context(), func(conn net.Conn) {
		request := make([]byte, 8)
		if _, err := io.ReadFull(conn, request); err != nil {
			return
		}
		if binary.BigEndian.Uint32(request[4:]) != 80877103 { // SSLRequest
			t.Error("a login without TLS")
			return
		}
		if _, err := conn.Write([]byte("S")); err != nil {
			return
		}
		s.serve(tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fake.Close() })
	s.port = fake.Port
	return s
}

// serve answers one session, until the client ends it.
func (s *tokenServer) serve(conn net.Conn) {
	backend := pgproto3.NewBackend(conn, conn)
	if _, err := backend.ReceiveStartupMessage(); err != nil {
		return
	}
	request, authType := pgproto3.BackendMessage(&pgproto3.AuthenticationCleartextPassword{}), uint32(pgproto3.AuthTypeCleartextPassword)
	if s.oauth {
		request, authType = &pgproto3.AuthenticationSASL{AuthMechanisms: []string{"OAUTHBEARER"}}, pgproto3.AuthTypeSASL
	}
	if err := backend.SetAuthType(authType); err != nil {
		return
	}
	if _, err := conn.Write(testservers.Wire(request)); err != nil {
		return
	}
	m, err := backend.Receive()
	if err != nil {
		return
	}
	var token string
	switch m := m.(type) {
	case *pgproto3.PasswordMessage:
		token = m.Password
	case *pgproto3.SASLInitialResponse: // RFC 7628, section 3.1
		rest, begins := strings.CutPrefix(string(m.Data), "n,,\x01auth=Bearer ")
		rest, ends := strings.CutSuffix(rest, "\x01\x01")
		if !begins || !ends || m.AuthMechanism != "OAUTHBEARER" {
			return
		}
		token = rest
	}
	s.mu.Lock()
	s.received = append(s.received, token)
	isRefused := slices.Contains(s.refused, token)
	s.mu.Unlock()
	switch {
	case isRefused && s.oauth:
		_, _ = conn.Write(testservers.Wire(&pgproto3.AuthenticationSASLContinue{
			Data: []byte(`{"status": "invalid_token", "openid-configuration": "https://issuer.invalid/hunter2", "scope": "s"}`),
		}))
		return
	case isRefused:
		_, _ = conn.Write(testservers.Wire(&pgproto3.ErrorResponse{
			Severity: "FATAL", Code: "28P01", Message: "PAM authentication failed for user " + token, Routine: "auth_failed",
		}))
		return
	}
	if _, err := conn.Write(testservers.LetIn()); err != nil {
		return
	}
	testservers.Reply(conn, backend, func(net.Conn, pgproto3.FrontendMessage) []byte { return testservers.One() })
}

// tokens returns the tokens that were received.
func (s *tokenServer) tokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.received)
}

// refuse makes the server refuse tokens from now on.
func (s *tokenServer) refuse(tokens ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = tokens
}

// newProber returns a prober of the server, whose settings are in the form of a target.
func (s *tokenServer) newProber(t *testing.T, store *Store, settings string) *probe.Prober {
	t.Helper()
	f := parseFile(t, fmt.Sprintf("targets: {a: {host: 127.0.0.1, port: %d, user: u, keep: false, sslmode: verify-full, sslrootcert: %s, %s}}", s.port, s.roots, settings))
	p := probe.New(f.Targets[0], store.For(f.Targets[0]), probe.Options{Sessions: &probe.Sessions{}, OnSessionLost: func(probe.Loss) {}})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), hanging)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return p
}

// run probes, and fails the test if the outcome is another one. reason is empty for a server that is up. It returns the result.
func run(t *testing.T, p *probe.Prober, reason probe.Reason, detail string) *probe.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hanging)
	defer cancel()
	r := p.Probe(ctx)
	var got probe.Failure
	if r.Failure != nil {
		got = *r.Failure
	}
	if got.Reason != reason || got.Detail != detail {
		t.Errorf("got %s, %q, want %s, %q", got.Reason, got.Detail, reason, detail)
	}
	if reason != "" && got.State != probe.StateMisconfigured {
		t.Errorf("state %s", got.State)
	}
	return r
}

// TestTokenArrives: the token of each cloud is what the server gets as the password, over TLS. The time that
// the identity service takes does not count as time of the login.
func TestTokenArrives(t *testing.T) {
	const delay = 300 * time.Millisecond
	identities := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(delay)
		switch r.URL.Path {
		case "/aws":
			fmt.Fprintf(w, `{"AccessKeyId": "AKIDPOD", "SecretAccessKey": "s", "Token": "t", "Expiration": %q}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		case "/azure":
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"access_token": "azure-token", "expires_on": "%d", "resource": "r", "token_type": "Bearer"}`, time.Now().Add(time.Hour).Unix())
		default:
			fmt.Fprint(w, `{"access_token": "gcp-token", "expires_in": 3599, "token_type": "Bearer"}`)
		}
	}))
	t.Cleanup(identities.Close)
	t.Setenv("HOME", t.TempDir())
	for _, name := range []string{"GOOGLE_APPLICATION_CREDENTIALS", "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_PROFILE", "AZURE_FEDERATED_TOKEN_FILE"} {
		t.Setenv(name, "")
	}
	for name, value := range map[string]string{
		"AWS_CONTAINER_CREDENTIALS_FULL_URI": identities.URL + "/aws", "GCE_METADATA_HOST": identities.Listener.Addr().String(),
		"IDENTITY_ENDPOINT": identities.URL + "/azure", "IDENTITY_HEADER": "h",
	} {
		t.Setenv(name, value)
	}
	for _, test := range []struct{ name, settings, want string }{
		{
			"aws", "cloud_auth: {provider: aws, region: eu-west-1}",
			"127.0.0.1:PORT?Action=connect&DBUser=u&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDPOD%2F",
		},
		{"gcp", "cloud_auth: gcp", "gcp-token"},
		// MSAL keeps the token of an identity for the life of the process.
		{"azure", fmt.Sprintf("cloud_auth: {provider: azure, client_id: %d}", time.Now().UnixNano()), "azure-token"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newTokenServer(t, false)
			began := time.Now()
			r := run(t, s.newProber(t, NewStore(t.Context()), test.settings), "", "")
			took := time.Since(began)
			want := strings.ReplaceAll(test.want, "PORT", fmt.Sprint(s.port))
			if got := s.tokens(); len(got) != 1 || !strings.HasPrefix(got[0], want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if fetched := r.Phases[probe.PhaseCredentials].Value; fetched < delay || r.Connect.Value > took-delay {
				t.Errorf("%s for the token, %s for the login, %s for all", fetched, r.Connect.Value, took)
			}
		})
	}
}

// TestTokenRenewed: a token that is about to end is renewed without a failed probe, and so is one that the server refuses.
func TestTokenRenewed(t *testing.T) {
	t.Parallel()
	s, store := newTokenServer(t, false), NewStore(t.Context())
	store.providers = &fakeProvider{lifetime: time.Hour}
	p := s.newProber(t, store, "cloud_auth: gcp")
	later := func(by time.Duration) {
		store.cache.mu.Lock()
		defer store.cache.mu.Unlock()
		for _, e := range store.cache.entries {
			e.shift(-by)
		}
	}
	run(t, p, "", "")
	run(t, p, "", "")
	later(58 * time.Minute)
	for deadline := time.Now().Add(hanging); !slices.Contains(s.tokens(), "token-2"); {
		run(t, p, "", "") // with the first token, until the second is there
		if time.Now().After(deadline) {
			t.Fatal("there is no second token")
		}
	}
	s.refuse("token-1")
	run(t, p, "", "")
	s.refuse("token-1", "token-2")
	later(11 * time.Second)
	run(t, p, "", "")
	if got := s.tokens(); got[len(got)-2] != "token-2" || got[len(got)-1] != "token-3" {
		t.Errorf("got %q", got)
	}
	s.refuse("token-3")
	if r := run(t, p, probe.ReasonAuth, ""); r.Failure.SQLState != "28P01" {
		t.Errorf("%+v", r.Failure)
	}
}

// TestTokenUnavailable: a token that cannot be had is a fault of the settings, and the server sees no login.
func TestTokenUnavailable(t *testing.T) {
	t.Parallel()
	s, store := newTokenServer(t, false), NewStore(t.Context())
	provider := &fakeProvider{err: fmt.Errorf("no AWS credentials found")}
	store.providers = provider
	p := s.newProber(t, store, "cloud_auth: aws")
	r := run(t, p, probe.ReasonAuth, "cloud_auth: no AWS credentials found")
	if r.Failure.Phase != probe.PhaseCredentials || len(s.tokens()) > 0 {
		t.Errorf("%+v, %q", r.Failure, s.tokens())
	}

	provider.set(nil, hanging)
	slow := NewStore(t.Context())
	slow.providers = provider
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	r = s.newProber(t, slow, "cloud_auth: aws").Probe(ctx)
	if f := r.Failure; f == nil || f.Reason != probe.ReasonAuth || f.State != probe.StateMisconfigured || f.Detail != "the password was not there in time" {
		t.Errorf("%+v", f)
	}
	if took := time.Since(began); took > hanging/2 {
		t.Errorf("it took %s", took)
	}
}

// TestOAuth: a server that asks for OAuth gets the token that a file or a command gives. A token that it refuses is a fault of the
// settings, and a command gives another one.
func TestOAuth(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := newTokenServer(t, true)
	p := s.newProber(t, NewStore(t.Context()), "require_auth: oauth, password_file: "+file)
	write("one\n")
	run(t, p, "", "")
	s.refuse("one")
	run(t, p, probe.ReasonAuth, "the server refuses the token")
	write("two\n")
	run(t, p, "", "")
	write("t w o\n")
	run(t, p, probe.ReasonAuth, "the password is no token, which require_auth oauth needs: it holds a space or an odd character")
	if got := s.tokens(); !slices.Equal(got, []string{"one", "one", "two"}) {
		t.Errorf("got %q", got)
	}

	const notSaid = "the server asks for OAuth (OAUTHBEARER): set require_auth=oauth and give a token as the password, or give its role another method in pg_hba.conf"
	run(t, s.newProber(t, NewStore(t.Context()), "password_file: "+file), probe.ReasonAuth, notSaid)
	run(t, s.newProber(t, NewStore(t.Context()), "require_auth: oauth"), probe.ReasonAuth, notSaid)

	s = newTokenServer(t, false) // it asks for the password itself
	write("three\n")
	run(t, s.newProber(t, NewStore(t.Context()), "require_auth: oauth, password_file: "+file), probe.ReasonAuth,
		"the server asks for the password itself, which require_auth does not allow")
	if got := s.tokens(); len(got) > 0 {
		t.Errorf("it got %q", got)
	}

	s, store := newTokenServer(t, true), NewStore(t.Context())
	store.providers = &fakeProvider{lifetime: time.Hour}
	p = s.newProber(t, store, "require_auth: oauth, cloud_auth: azure")
	run(t, p, "", "")
	s.refuse("token-1")
	store.cache.mu.Lock()
	for _, e := range store.cache.entries {
		e.shift(-time.Minute)
	}
	store.cache.mu.Unlock()
	run(t, p, "", "")
	if got := s.tokens(); !slices.Equal(got, []string{"token-1", "token-1", "token-2"}) {
		t.Errorf("got %q", got)
	}
}

// TestTokensHidden: no error of a login, and no printed form of what holds a token, has it.
func TestTokensHidden(t *testing.T) {
	t.Parallel()
	const token = config.Secret("hunter2")
	store := NewStore(t.Context())
	store.providers = &fixedProvider{token}
	f := parseFile(t, oneCloudTarget)
	source := store.For(f.Targets[0])
	if password, err := passwordOf(t, source); err != nil || password != token {
		t.Fatalf("%q, %v", string(password), err)
	}
	source.PasswordRefused(token)
	for _, entry := range store.cache.entries {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if text := fmt.Sprintf(verb+verb, entry.grant, source); strings.Contains(text, string(token)) {
				t.Errorf("%s shows the token: %s", verb, text)
			}
		}
	}
}

// fixedProvider gives the same token each time.
type fixedProvider struct{ Token config.Secret }

func (p *fixedProvider) Fetch(context.Context, *config.CloudAuth) (*cloud.Grant, error) {
	return cloud.Fixed(p.Token, time.Now().Add(time.Hour)), nil
}
