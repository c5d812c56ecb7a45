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
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/neterr"
)

// maxUnacknowledged is how long a connection may stay silent while it owes an acknowledgement.
const maxUnacknowledged = 10 * time.Second

// Sessions counts the connections of all probers that share it, for the exporter's own metrics.
type Sessions struct{ open, idle atomic.Int64 }

// Idle is the number of kept sessions that wait for the next question.
func (s *Sessions) Idle() int64 { return s.idle.Load() }

// InUse is the number of all other connections: sessions that are being asked and logins under way.
func (s *Sessions) InUse() int64 { return max(0, s.open.Load()-s.idle.Load()) }

// sockets are all connections made for one session, its cancel requests included, so that they can be closed whatever
// pgconn is waiting for.
type sockets struct {
	sessions *Sessions

	mu     sync.Mutex // protects what follows
	conns  []net.Conn
	closed bool
}

func (s *sockets) add(conn net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.Join(net.ErrClosed, conn.Close())
	}
	if len(s.conns) == 0 {
		s.sessions.open.Add(1)
	}
	s.conns = append(s.conns, conn)
	return nil
}

// closeAll closes every connection, now and later ones too.
func (s *sockets) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) > 0 && !s.closed {
		s.sessions.open.Add(-1)
	}
	s.closed = true
	for _, conn := range s.conns {
		_ = conn.Close() // mostly closed by pgconn before
	}
	s.conns = nil
}

// resolver finds the addresses of a name; *net.Resolver is one.
type resolver interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
}

// dialer makes the connections of one session: resolving, dialling, SSLRequest and handshake, each a phase of its own.
// pgconn would hide the handshake in the start-up, dial twice where a server has no TLS and repeat a login in
// plaintext; here a login has one socket.
type dialer struct {
	resolver           resolver
	permitsAddress     func(address string) bool
	trace              *trace
	logger             *slog.Logger
	tlsConfig          *tls.Config // nil: no TLS
	allowPlaintext     bool        // go on without TLS when the server answers N
	directTLS          bool        // TLS without SSLRequest (PostgreSQL 17)
	requireCertificate bool        // a server that does not ask for our certificate will not do (sslcertmode=require)
	sockets            sockets

	// probeCtx ends with the probe: a name or a server that does not answer before is dropped. What follows TCP is
	// bounded by the login, since the server holds a slot for it by then.
	probeCtx context.Context //nolint:containedctx // DialFunc has room for one context, and a login has two

	loginHandshake     handshake   // of the login's own connection
	loginDialed        bool        // that was made, later ones carry a cancel request
	busy               atomic.Bool // a query is under way, so that a cancel request makes sense
	callerBoundsCancel atomic.Bool // the request's own context bounds it
}

// handshake is what is remembered of one.
type handshake struct {
	sentCertificate bool // a certificate of ours was sent
	conn            *tls.Conn
	raw             *countedConn // what TLS runs on
	received        int64        // how many bytes were received when it was complete
}

// newDialer takes over what cfg says of hosts and TLS, and makes cfg dial through the dialer.
// ParseConfig gives sslmode as a list: [TLS] (require and more), [nil] (disable), both for prefer and allow.
// allow is treated like prefer: plaintext is used only where the server has no TLS.
func newDialer(
	probeCtx context.Context, cfg *pgconn.Config, permitsAddress func(string) bool, options *Options, t *trace,
) *dialer {
	d := &dialer{
		resolver: options.Resolver, permitsAddress: permitsAddress, trace: t, logger: options.Logger, probeCtx: probeCtx,
		sockets:   sockets{sessions: options.Sessions},
		tlsConfig: cfg.TLSConfig, allowPlaintext: cfg.TLSConfig == nil, directTLS: cfg.SSLNegotiation == "direct",
		requireCertificate: cfg.SSLCertMode == "require",
	}
	for _, fallback := range cfg.Fallbacks {
		if fallback.TLSConfig == nil {
			d.allowPlaintext = true
		} else {
			d.tlsConfig = fallback.TLSConfig
		}
	}
	cfg.TLSConfig, cfg.Fallbacks, cfg.SSLCertMode = nil, nil, ""
	cfg.ConnectTimeout = 0 // the probe's deadline counts
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	cfg.DialFunc = d.dial
	return d
}

// dial is pgconn's DialFunc. ctx is the login's, or that of a cancel request.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if d.loginDialed {
		return d.dialCancel(ctx, network, address)
	}
	conn, err := d.dialLogin(network, address)
	if err != nil {
		return nil, err
	}
	d.loginDialed = true
	if d.tlsConfig != nil {
		d.trace.enter(PhaseTLS)
		conn, err = d.encrypt(ctx, conn, &d.loginHandshake)
		d.trace.setTLS(describeTLS(conn, err))
		if err != nil {
			return nil, err
		}
	}
	if d.requireCertificate && !d.loginHandshake.sentCertificate {
		return nil, &tlsError{errNotCertified}
	}
	d.trace.enter(PhaseStartup)
	return conn, nil
}

// dialCancel connects to the address that the session has. An idle session needs no cancel request, which pgconn sends
// whenever a connection breaks, in a time that nobody waits for.
func (d *dialer) dialCancel(ctx context.Context, network, address string) (net.Conn, error) {
	if !d.busy.Load() {
		return nil, net.ErrClosed
	}
	if !d.callerBoundsCancel.Load() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, closeGrace)
		defer cancel()
	}
	conn, err := d.connect(ctx, network, address)
	if err != nil || d.tlsConfig == nil {
		return conn, err
	}
	return d.encrypt(ctx, conn, &handshake{})
}

func (d *dialer) dialLogin(network, address string) (net.Conn, error) {
	if network == "unix" {
		d.trace.enter(PhaseDial)
		ctx, cancel := endingWith(d.probeCtx)
		defer cancel()
		return d.connect(ctx, network, address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("split host and port: %w", err)
	}
	d.trace.enter(PhaseResolve)
	addresses, err := d.resolver.LookupHost(d.probeCtx, host)
	if err != nil {
		return nil, err
	}
	for _, address := range addresses { // the very ones that are dialled: a second look could find others
		if !d.permitsAddress(address) {
			return nil, errForbidden
		}
	}
	d.trace.enter(PhaseDial)
	var errs []error
	for i, address := range addresses {
		// An address that swallows packets must leave time for the next one.
		ctx, cancel := endingWith(d.probeCtx)
		if deadline, ok := d.probeCtx.Deadline(); ok && i < len(addresses)-1 {
			cancel()
			ctx, cancel = context.WithTimeout(d.probeCtx, time.Until(deadline)/time.Duration(len(addresses)-i))
		}
		conn, err := d.connect(ctx, network, net.JoinHostPort(address, port))
		cancel()
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// endingWith returns a context that ends with another one and has no deadline of its own: net.Dialer reads a deadline
// once, and that of a probe moves when callers come who wait longer.
func endingWith(other context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(other))
	stop := context.AfterFunc(other, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

func (d *dialer) connect(ctx context.Context, network, address string) (net.Conn, error) {
	netDialer := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: maxUnacknowledged, Interval: maxUnacknowledged / 2, Count: 2},
		Control:         limitUnacknowledged(maxUnacknowledged),
	}
	conn, err := netDialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if err := d.sockets.add(conn); err != nil {
		return nil, err
	}
	return conn, nil
}

// encrypt negotiates TLS and completes the handshake. It returns the plain connection where the server has no TLS and
// the mode allows that, and else a bare *tls.Conn, in which pgconn looks for channel binding.
func (d *dialer) encrypt(ctx context.Context, conn net.Conn, h *handshake) (net.Conn, error) {
	if !d.directTLS {
		offered, err := requestTLS(ctx, conn)
		if err != nil {
			return nil, err
		}
		if !offered {
			if d.allowPlaintext {
				return conn, nil
			}
			return nil, &tlsError{errNoTLS}
		}
	}
	h.raw = &countedConn{Conn: conn}
	h.conn = tls.Client(h.raw, d.tlsConfigFor(h))
	err := h.conn.HandshakeContext(ctx)
	h.received = h.raw.received.Load()
	var netErr net.Error
	hungUp := errors.Is(err, io.EOF) || neterr.Reset(err)
	switch {
	case err == nil:
		return h.conn, nil
	case ctx.Err() != nil, errors.As(err, &netErr) && netErr.Timeout(), hungUp && !d.directTLS:
		return nil, err
	}
	// What is left is a certificate, an alert, or no TLS: a server below 17 hangs up on a direct negotiation.
	return nil, &tlsError{err}
}

// tlsConfigFor returns the TLS settings, which note when a client certificate is sent, and tell of a certificate that does
// not verify which one it was.
func (d *dialer) tlsConfigFor(h *handshake) *tls.Config {
	cfg := d.tlsConfig.Clone()
	if len(cfg.Certificates) > 0 {
		// The choice is crypto/tls's own (getClientCertificate in handshake_client.go).
		cfg.GetClientCertificate = func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			for i := range cfg.Certificates {
				if request.SupportsCertificate(&cfg.Certificates[i]) == nil {
					h.sentCertificate = true
					return &cfg.Certificates[i], nil
				}
			}
			return new(tls.Certificate), nil
		}
	}
	if verify := cfg.VerifyPeerCertificate; verify != nil { // pgconn's, for verify-ca
		cfg.VerifyPeerCertificate = func( //nolint:gosec // no session is resumed: there is no ClientSessionCache
			raw [][]byte, chains [][]*x509.Certificate,
		) error {
			err := verify(raw, chains)
			if err == nil || len(raw) == 0 {
				return err
			}
			certificate, parseErr := x509.ParseCertificate(raw[0])
			if parseErr != nil {
				return err
			}
			return &tls.CertificateVerificationError{UnverifiedCertificates: []*x509.Certificate{certificate}, Err: err}
		}
	}
	return cfg
}

// countedConn counts what is received.
type countedConn struct {
	net.Conn
	received atomic.Int64
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}

// mayHaveRefusedCertificate says whether a session that ended may have done so for our certificate: with TLS 1.3 that is looked
// at behind the handshake, and before anything else is said.
func (d *dialer) mayHaveRefusedCertificate() bool {
	info := d.trace.tlsInfo()
	return d.loginHandshake.sentCertificate && info != nil && info.Version == tls.VersionName(tls.VersionTLS13) &&
		d.loginHandshake.raw.received.Load() == d.loginHandshake.received
}

// alert returns the alert that a connection, which is closed by now, ended with, if it was read: pgconn reads beside a write
// that takes long (bgreader there), and tells of the write alone. crypto/tls repeats what reading ended with.
func (h *handshake) alert() error {
	if h.conn == nil {
		return nil
	}
	if _, err := h.conn.Read(make([]byte, 1)); isAlert(err) {
		return err
	}
	return nil
}

// describeTLS says what a handshake showed.
func describeTLS(conn net.Conn, err error) *TLS {
	var unverified *tls.CertificateVerificationError
	if errors.As(err, &unverified) && len(unverified.UnverifiedCertificates) > 0 {
		return &TLS{NotAfter: unverified.UnverifiedCertificates[0].NotAfter}
	}
	encrypted, ok := conn.(*tls.Conn)
	if !ok {
		return nil
	}
	state := encrypted.ConnectionState()
	info := &TLS{Version: tls.VersionName(state.Version), Cipher: tls.CipherSuiteName(state.CipherSuite)}
	if len(state.PeerCertificates) > 0 {
		info.NotAfter = state.PeerCertificates[0].NotAfter
	}
	return info
}

// requestTLS sends an SSLRequest and reports whether the server agreed. It reads one byte and no more, so that nothing
// sent before the handshake can pass for part of the session (CVE-2021-23222).
func requestTLS(ctx context.Context, conn net.Conn) (bool, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write([]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}); err != nil {
		return false, err
	}
	var reply [1]byte
	if _, err := io.ReadFull(conn, reply[:]); err != nil {
		return false, err
	}
	switch reply[0] {
	case 'S':
		return true, nil
	case 'N':
		return false, nil
	case 'E':
		return false, forkError{}
	}
	return false, errors.New("answer to SSLRequest is " + strconv.Itoa(int(reply[0])))
}
