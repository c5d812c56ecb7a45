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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/neterr"
)

// maxUnacknowledged is how long a connection may go without an acknowledgement for data or keepalives that were sent.
const maxUnacknowledged = 10 * time.Second

// Sessions counts the connections of all probers that share it, for the exporter's own metrics.
type Sessions struct{ open, idle atomic.Int64 }

// Idle returns the number of kept sessions that wait for a request.
func (s *Sessions) Idle() int64 { return s.idle.Load() }

// InUse returns the number of all other connections: sessions that run a query and logins under way.
func (s *Sessions) InUse() int64 { return max(0, s.open.Load()-s.idle.Load()) }

// sockets holds all connections made for one session, including those of its cancel requests. It can close them
// whatever pgconn is waiting for.
type sockets struct {
	sessions *Sessions

	mu     sync.Mutex // protects what follows
	conns  []net.Conn
	closed bool
}

// add registers conn. If closeAll was called before, it closes conn and returns an error.
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

// closeAll closes every connection. Connections added later are closed at once.
func (s *sockets) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) > 0 && !s.closed {
		s.sessions.open.Add(-1)
	}
	s.closed = true
	for _, conn := range s.conns {
		_ = conn.Close() // pgconn has usually closed it already
	}
	s.conns = nil
}

// resolver looks up the addresses of a host name. *net.Resolver is one.
type resolver interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
}

// dialer makes the connections of one session. Resolving, dialling and TLS (SSLRequest and handshake) are timed as
// separate phases. Left to itself, pgconn would count the handshake as part of the startup, dial twice if a server has
// no TLS, and repeat a login in plaintext. Here a login uses one socket.
type dialer struct {
	resolver           resolver
	permitsAddress     func(address string) bool
	trace              *trace
	logger             *slog.Logger
	tlsConfig          *tls.Config // nil: no TLS
	allowPlaintext     bool        // continue without TLS if the server replies N to SSLRequest
	directTLS          bool        // TLS without SSLRequest (PostgreSQL 17)
	requireCertificate bool        // fail if the server does not request a client certificate (sslcertmode=require)
	sockets            sockets

	// probeCtx ends with the probe. It bounds resolving and dialling. The login's context bounds everything after TCP
	// is connected, since the server holds a slot for the login from then on.
	probeCtx context.Context //nolint:containedctx // DialFunc has room for one context, and a login has two

	loginHandshake     handshake    // on the connection of the login
	loginDialed        bool         // the login has its connection; later ones carry a cancel request
	metered            *meteredConn // that connection, below TLS
	busy               atomic.Bool  // a query is running that a cancel request would end
	callerBoundsCancel atomic.Bool  // the caller's context bounds a cancel request, instead of closeGrace
}

// handshake records one TLS handshake.
type handshake struct {
	requestedCertificate bool // the server requested a client certificate
	sentCertificate      bool // one was sent
	conn                 *tls.Conn
	raw                  *meteredConn // the connection below TLS
	received             int64        // bytes received until the handshake was complete
}

// newDialer takes hosts and TLS settings out of cfg, and makes cfg dial through the dialer.
//
// A list of TLS settings stands for sslmode: [TLS] for require and stricter, [nil] for disable, and both for prefer and
// allow. The dialer treats allow like prefer: it uses plaintext only if the server has no TLS.
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
	cfg.ConnectTimeout = 0 // the contexts of the probe and the login bound it instead
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	cfg.DialFunc = d.dial
	return d
}

// dial is pgconn's DialFunc. ctx is the context of the login or of a cancel request.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if host, port, err := net.SplitHostPort(address); err == nil && strings.HasPrefix(host, "@") {
		network, address = "unix", host+"/.s.PGSQL."+port // an abstract socket, which pgconn does not know
	}
	if d.loginDialed {
		return d.dialCancel(ctx, network, address)
	}
	metered, err := d.dialLogin(network, address)
	if err != nil {
		return nil, err
	}
	d.loginDialed, d.metered = true, metered
	d.trace.setPeer(metered.RemoteAddr().String())
	var conn net.Conn = metered
	if d.tlsConfig != nil {
		d.trace.enter(PhaseTLS)
		conn, err = d.encrypt(ctx, metered, &d.loginHandshake)
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

// dialCancel connects to the session's address for a cancel request. It refuses if the session is idle: pgconn sends a
// cancel request whenever a connection breaks. Unless callerBoundsCancel is set, closeGrace bounds the connection.
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
	if err != nil {
		return nil, err
	}
	if d.tlsConfig == nil {
		return conn, nil
	}
	return d.encrypt(ctx, conn, &handshake{})
}

// dialLogin resolves the host and connects to the first address that accepts, within probeCtx.
func (d *dialer) dialLogin(network, address string) (*meteredConn, error) {
	if network == "unix" {
		d.trace.enter(PhaseDial)
		return d.connect(d.probeCtx, network, address)
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
	for _, address := range addresses { // check the addresses that are dialled: a second lookup could return others
		if !d.permitsAddress(address) {
			return nil, errForbidden
		}
	}
	d.trace.enter(PhaseDial)
	var errs []error
	for i, address := range addresses {
		// An address that drops packets must leave time for the next one.
		ctx, cancel := d.probeCtx, context.CancelFunc(func() {})
		if deadline, ok := ctx.Deadline(); ok {
			ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(len(addresses)-i))
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

// connect opens one connection and registers it in sockets.
func (d *dialer) connect(ctx context.Context, network, address string) (*meteredConn, error) {
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
	metered := &meteredConn{Conn: conn}
	metered.grant(loginBudget)
	return metered, nil
}

// encrypt negotiates TLS and completes the handshake. ctx bounds both. It returns conn itself if the server has no TLS
// and the mode allows plaintext. Otherwise it returns a bare *tls.Conn, since pgconn needs that type for channel
// binding.
func (d *dialer) encrypt(ctx context.Context, conn *meteredConn, h *handshake) (net.Conn, error) {
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
	h.raw = conn
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
	// The rest is a certificate, an alert, or no TLS: PostgreSQL before 17 hangs up on direct TLS.
	return nil, &tlsError{err}
}

// tlsConfigFor returns a copy of the TLS settings that records in h whether a client certificate is requested and sent.
// If verification of the server's certificate fails, the error contains that certificate.
func (d *dialer) tlsConfigFor(h *handshake) *tls.Config {
	cfg := d.tlsConfig.Clone()
	// This chooses like crypto/tls does (getClientCertificate in handshake_client.go).
	cfg.GetClientCertificate = func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		h.requestedCertificate = true
		for i := range cfg.Certificates {
			if request.SupportsCertificate(&cfg.Certificates[i]) == nil {
				h.sentCertificate = true
				return &cfg.Certificates[i], nil
			}
		}
		return new(tls.Certificate), nil
	}
	if verify := cfg.VerifyPeerCertificate; verify != nil {
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

// mayHaveRefusedCertificate reports whether a session that ended may have ended because of our certificate. With TLS
// 1.3 the server checks the certificate after the client's handshake is complete, and before it sends anything else.
func (d *dialer) mayHaveRefusedCertificate() bool {
	info := d.trace.tlsInfo()
	return d.loginHandshake.sentCertificate && info != nil && info.Version == tls.VersionName(tls.VersionTLS13) &&
		d.loginHandshake.raw.received.Load() == d.loginHandshake.received
}

// lacksCertificate reports whether the server requested a client certificate and none was sent.
func (h *handshake) lacksCertificate() bool { return h.requestedCertificate && !h.sentCertificate }

// alert returns the alert that ended the connection, if it was read, and nil otherwise. The connection must be closed.
// pgconn reads in the background during a long write (bgreader) and reports only the error of the write. crypto/tls
// returns the error that ended reading again on each further read.
func (h *handshake) alert() error {
	if h.conn == nil {
		return nil
	}
	if _, err := h.conn.Read(make([]byte, 1)); isAlert(err) {
		return err
	}
	return nil
}

// describeTLS returns what the handshake showed: version, cipher and certificate expiry of an encrypted conn, or only
// the expiry if err is about a certificate that did not verify. It returns nil if there was no TLS.
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

// requestTLS sends an SSLRequest and reports whether the server agreed. It reads exactly one byte, so that nothing sent
// before the handshake is mistaken for part of the session (CVE-2021-23222).
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
