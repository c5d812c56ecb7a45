// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/neterr"
)

// Reason is why a probe failed, from a closed set.
type Reason string

// The reasons for a failed probe.
const (
	ReasonResolve            Reason = "resolve"
	ReasonRefused            Reason = "refused"
	ReasonUnreachable        Reason = "unreachable"
	ReasonTimeout            Reason = "timeout"
	ReasonTLS                Reason = "tls"
	ReasonAuth               Reason = "auth"
	ReasonNoDatabase         Reason = "no_database"
	ReasonPermission         Reason = "permission"
	ReasonTooManyConnections Reason = "too_many_connections"
	ReasonReservedSlots      Reason = "reserved_slots"
	ReasonRoleLimit          Reason = "role_limit"
	ReasonDatabaseLimit      Reason = "database_limit"
	ReasonNotAccepting       Reason = "not_accepting"
	ReasonTerminated         Reason = "terminated"
	ReasonResources          Reason = "resources"
	ReasonPooler             Reason = "pooler"
	ReasonProtocol           Reason = "protocol"
	ReasonOther              Reason = "other"
)

// Reasons returns all reasons.
func Reasons() []Reason {
	return []Reason{
		ReasonResolve, ReasonRefused, ReasonUnreachable, ReasonTimeout, ReasonTLS, ReasonAuth, ReasonNoDatabase,
		ReasonPermission, ReasonTooManyConnections, ReasonReservedSlots, ReasonRoleLimit, ReasonDatabaseLimit,
		ReasonNotAccepting, ReasonTerminated, ReasonResources, ReasonPooler, ReasonProtocol, ReasonOther,
	}
}

// State is the verdict on a server, from a closed set.
type State string

// The states of a server.
const (
	StateAccepting       State = "accepting"        // it runs queries on a new session
	StateRejecting       State = "rejecting"        // it rejects every session or fails to run queries
	StateNoResponse      State = "no_response"      // it sends no complete reply of the protocol
	StateConnectionLimit State = "connection_limit" // it has no slot left
	StateMisconfigured   State = "misconfigured"    // it rejects this exporter, or the exporter's settings are wrong
)

// States returns all states.
func States() []State {
	return []State{StateAccepting, StateRejecting, StateNoResponse, StateConnectionLimit, StateMisconfigured}
}

// tlsError marks a failure between SSLRequest and the end of the handshake that is neither a network error nor a
// timeout.
type tlsError struct{ err error }

func (e *tlsError) Error() string { return "tls: " + e.err.Error() }
func (e *tlsError) Unwrap() error { return e.err }

// errNoTLS is returned if the server replies N to SSLRequest and sslmode requires TLS.
var errNoTLS = errors.New("the server has no TLS")

// configError marks settings or credentials that could not be read. Nothing was sent to the server.
type configError struct{ err error }

func (e *configError) Error() string { return "configuration: " + e.err.Error() }
func (e *configError) Unwrap() error { return e.err }

// errNotAccepted is returned if the server ends the connection after it has received the client certificate.
var errNotAccepted = errors.New("the server broke off TLS: it does not accept our certificate or our version")

// errNotCertified is returned if sslcertmode=require is set and no client certificate was sent: the server did not
// request one, or none matches its request.
var errNotCertified = errors.New("the server did not ask for a certificate, or there is none that it takes")

// errForbidden is returned if a host name leads to an address that the module does not allow.
var errForbidden = errors.New("the module does not allow the address that the name leads to")

// errNotAsked is returned if the server lets in without a password, require_auth is set, and this login held the
// password back.
var errNotAsked = errors.New(requireAuthText + ": the server did not request the password")

// errNoCredentials is returned if the probe ended before the password was available.
var errNoCredentials = errors.New("the password was not there in time")

// forkError is an error reply to SSLRequest. The server could not start a process for the session
// (report_fork_failure_to_client in src/backend/postmaster/postmaster.c).
type forkError struct{}

func (forkError) Error() string { return "the server could not start a process for the session" }

// errNoCertificate is returned if the server requested a client certificate, none was sent, and the server broke off.
var errNoCertificate = errors.New("the server requires a client certificate: set sslcert and sslkey to one that it accepts")

// classify returns the failure for err in phase. A server error takes precedence: its SQLSTATE decides, then its
// routine, but never its message, which is translated. Poolers send fixed messages and no routine. Then come network
// errors, then timeouts.
func classify(err error, phase Phase) *Failure {
	f := &Failure{Phase: phase}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		f.SQLState, f.Routine = safeCode(pgErr.Code, 5), safeCode(pgErr.Routine, 63)
		f.Position = int(pgErr.Position)
		f.Reason, f.State = classifySQLState(pgErr, phase)
		f.Detail = serverDetail(pgErr)
		var own *ownSettingError
		if errors.As(err, &own) {
			f.Detail = own.detail
			if own.isParameter {
				f.Reason, f.State = ReasonOther, StateMisconfigured
			}
		}
		return f
	}
	f.Reason, f.State = classifyClientError(err)
	f.Detail = detail(err)
	var fileErr *config.FileError
	if errors.As(err, &fileErr) && strings.Contains(f.Detail, fileErr.Error()) {
		f.FileDetail, f.Detail = f.Detail, strings.Replace(f.Detail, fileErr.Error(), fileErr.Unwrap().Error(), 1)
	}
	f.Forbidden = errors.Is(err, errForbidden)
	f.OutOfDescriptors = neterr.OutOfDescriptors(err)
	return f
}

// safeCode returns text if it is a code or a name of at most maxLength characters, and "" otherwise, so that no other
// text of the server is shown.
func safeCode(text string, maxLength int) string {
	isUnsafe := func(r rune) bool { return r != '_' && (r > 0x7f || !unicode.IsLetter(r) && !unicode.IsDigit(r)) }
	if len(text) > maxLength || strings.ContainsFunc(text, isUnsafe) {
		return ""
	}
	return text
}

// detail describes failures that an operator fixes on the exporter's side. It contains no name, address or secret: the
// text of a configError has none, and the texts of other errors are not repeated.
func detail(err error) string {
	var (
		configErr *configError
		authErr   *authError
		dnsErr    *net.DNSError
	)
	switch {
	case isExhausted(err):
		return "this exporter has no file descriptors or ports left"
	case errors.As(err, &configErr):
		return configErr.err.Error()
	case errors.As(err, &authErr):
		return authErr.detail
	}
	for _, own := range []error{errNoCertificate, errNoTLS, errNotCertified, errForbidden, errNoConsole, errBudget} {
		if errors.Is(err, own) {
			return own.Error()
		}
	}
	if text := tlsDetail(err); text != "" {
		return text
	}
	switch {
	case errors.As(err, &dnsErr) && dnsErr.IsNotFound:
		return "the name has no address"
	case strings.Contains(err.Error(), requireAuthText):
		return "the server asks for no password, which require_auth does not allow"
	case strings.Contains(err.Error(), channelBindingText):
		return "the server authenticates without the channel binding that channel_binding requires"
	}
	return ""
}

// tlsDetail is detail for failures of TLS.
func tlsDetail(err error) string {
	var (
		tlsErr    *tlsError
		unknownCA x509.UnknownAuthorityError
		otherHost x509.HostnameError
		invalid   x509.CertificateInvalidError
		fileErr   *config.TLSError
	)
	switch {
	case errors.As(err, &unknownCA):
		return "the server's certificate is signed by an unknown authority"
	case errors.As(err, &otherHost) && !hasAlternativeNames(otherHost.Certificate):
		return "the server's certificate has a common name and no subject alternative name, which TLS looks at: " +
			"issue one with subjectAltName, or set sslmode=verify-ca"
	case errors.As(err, &otherHost):
		return "the server's certificate is for another host"
	case errors.As(err, &fileErr):
		return fileErr.Unwrap().Error()
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the server's certificate has expired or is not valid yet"
	case isAlert(err), errors.Is(err, errNotAccepted):
		return errNotAccepted.Error()
	case errors.As(err, &tlsErr):
		return "the TLS handshake failed"
	}
	return ""
}

// hasAlternativeNames reports whether a certificate has a name or an address beside its common name.
func hasAlternativeNames(c *x509.Certificate) bool { return len(c.DNSNames)+len(c.IPAddresses) > 0 }

const noHBALine = "no line of pg_hba.conf lets the exporter in, or the line wants a client certificate"

const shuttingDown = "the server is shutting down"

// serverDetail describes what a server's error means, where its SQLSTATE and routine stand for several things. Only the
// message distinguishes them, and the server translates it (lc_messages). Only the English messages are recognized. For any
// other, the result is empty.
func serverDetail(e *pgconn.PgError) string {
	switch e.Code {
	case "57P03": // BackendInitialize in src/backend/tcop/backend_startup.c, until 16 ProcessStartupPacket in postmaster.c
		return map[string]string{
			"the database system is starting up":                   "the server is starting up",
			"the database system is shutting down":                 shuttingDown,
			"the database system is in recovery mode":              "the server is recovering from a crash",
			"the database system is not yet accepting connections": "the server is recovering and not yet ready for queries",
			"the database system is not accepting connections":     "the server is recovering, and hot_standby is off",
		}[e.Message]
	case "28000": // ClientAuthentication and auth_failed in src/backend/libpq/auth.c
		switch {
		case e.Message == "connection requires a valid client certificate":
			return errNoCertificate.Error()
		case strings.HasPrefix(e.Message, "Ident authentication failed"), strings.HasPrefix(e.Message, "Peer authentication failed"):
			return "the server wants the operating system's user of the exporter to be its role (ident or peer in pg_hba.conf)"
		case strings.HasPrefix(e.Message, "certificate authentication failed"):
			return "the client certificate is not that of the exporter's role"
		case e.Routine == "ClientAuthentication":
			return noHBALine
		}
	}
	return ""
}

// explain revises the failure of a probe, if there is one, with what the kept session k shows about the server. k is nil
// if no session is kept.
func (p *Prober) explain(r *Result, k *kept) {
	f := r.Failure
	switch {
	case f == nil || f.Phase != PhaseStartup && f.Phase != PhaseNone: // the latter waited for a login of an earlier probe
	case p.target.Kind != config.KindPgBouncer:
		// If a server refuses new sessions but still serves an old one, it is in a smart shutdown.
		if f.Reason == ReasonNotAccepting && f.Detail == "" && r.KeptUp && !k.isRelayed() && k.address() == r.address {
			f.Detail = shuttingDown
		}
	case r.ranOutOfTime() && !r.KeptUp:
		f.Detail = "the pooler hangs, or waits for a server to look up the password (auth_query)"
	case r.ranOutOfTime(), r.PoolerStats.isPgBouncer() && f.SQLState != "" && f.SQLState != pgbouncerSQLState:
		f.Reason, f.State = ReasonPooler, StateRejecting
		f.Detail = "the pooler answers, and has no server to look up the password (auth_query)"
	}
}

// isRefusalOfCredentials reports whether the server or a pooler refused the user or the password.
func (f *Failure) isRefusalOfCredentials() bool { return f.SQLState != "" && f.Reason == ReasonAuth }

func classifySQLState(e *pgconn.PgError, phase Phase) (Reason, State) {
	if reason, state, ok := classifyPoolerError(e); ok {
		return reason, state
	}
	login := phase != PhaseQuery && phase != PhaseCommit
	switch {
	case e.Code == "57P03": // cannot_connect_now
		return ReasonNotAccepting, StateRejecting
	case e.Code == "53300": // too_many_connections
		switch e.Routine {
		case "":
			return ReasonPooler, StateConnectionLimit
		case "InitPostgres":
			return ReasonReservedSlots, StateConnectionLimit
		case "InitializeSessionUserId":
			return ReasonRoleLimit, StateMisconfigured
		case "CheckMyDatabase":
			return ReasonDatabaseLimit, StateConnectionLimit
		}
		return ReasonTooManyConnections, StateConnectionLimit
	case e.Code == "28P01", e.Code == "28000":
		return ReasonAuth, StateMisconfigured
	case e.Code == "3D000", e.Code == "57P04", e.Code == "55000" && login:
		return ReasonNoDatabase, StateMisconfigured
	case e.Code == "42501":
		return ReasonPermission, StateMisconfigured
	case e.Code == "57P01", e.Code == "57P02", e.Code == "57P05":
		return ReasonTerminated, StateRejecting
	case e.Code == "53100", e.Code == "53200", e.Code == "53400", e.Code == "58030":
		return ReasonResources, StateRejecting
	case e.Code == "57014":
		return ReasonTimeout, StateRejecting
	case e.Code == "08P01" && e.Routine == "":
		return ReasonPooler, StateRejecting
	case login && (e.Code == "08P01" || e.Code == "0A000"): // later on the server does speak the protocol
		return ReasonProtocol, StateNoResponse
	}
	return ReasonOther, StateRejecting
}

func classifyClientError(err error) (Reason, State) {
	var (
		configErr  *configError
		authErr    *authError
		forkErr    forkError
		fileTLSErr *config.TLSError
		tlsErr     *tlsError
	)
	switch {
	case isExhausted(err): // also if a password or a certificate cannot be read because of that
		return ReasonOther, StateMisconfigured
	case errors.As(err, &fileTLSErr), errors.As(err, &tlsErr), isAlert(err):
		return ReasonTLS, StateMisconfigured
	case errors.As(err, &configErr), errors.Is(err, errNoCertificate):
		return ReasonAuth, StateMisconfigured
	case errors.Is(err, errForbidden):
		return ReasonPermission, StateMisconfigured
	case errors.Is(err, errNoConsole):
		return ReasonNoDatabase, StateMisconfigured
	case errors.As(err, &forkErr):
		return ReasonResources, StateRejecting
	case neterr.Unresolved(err):
		return ReasonResolve, StateNoResponse
	case neterr.Forbidden(err):
		return ReasonPermission, StateMisconfigured
	case neterr.Refused(err):
		return ReasonRefused, StateNoResponse
	case neterr.Unreachable(err):
		return ReasonUnreachable, StateNoResponse
	case neterr.TimedOut(err):
		return ReasonTimeout, StateNoResponse
	case neterr.Ended(err):
		return ReasonTerminated, StateNoResponse
	case errors.As(err, &authErr), isAuthText(err.Error()):
		return ReasonAuth, StateMisconfigured
	}
	return ReasonProtocol, StateNoResponse
}

// isExhausted reports whether this process or its machine has run out of something. Of several addresses, one that refuses or
// cannot be reached says more: a machine without IPv6 gives the same error for ::1 as for want of ports.
func isExhausted(err error) bool {
	return neterr.OutOfDescriptors(err) ||
		neterr.Exhausted(err) && !neterr.Refused(err) && !neterr.Unreachable(err) && !neterr.TimedOut(err)
}

// isAlert reports whether err is a TLS alert from the server (readRecordOrCCS in crypto/tls/conn.go). With TLS 1.3 an
// alert about the client certificate arrives after the handshake.
func isAlert(err error) bool {
	var opErr *net.OpError
	return errors.As(err, &opErr) && opErr.Op == "remote error"
}

// Texts of failures on the client side, which pgconn distinguishes by text only (connectOne in pgconn.go).
const (
	requireAuthText    = "require_auth check failed"
	channelBindingText = "channel binding check failed"
)

// isAuthText reports whether text is a credentials failure on the client side.
func isAuthText(text string) bool {
	for _, part := range []string{requireAuthText, channelBindingText, "failed SASL auth", "failed GSS auth"} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}
