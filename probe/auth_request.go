// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
)

// authError is a login that pgconn gave up after the server had asked it to authenticate.
type authError struct {
	detail string // for Failure.Detail
	err    error
	// refused reports whether the server refused a token of OAuth. It says so without a SQLSTATE.
	refused bool
}

func (e *authError) Error() string { return e.detail + ": " + e.err.Error() }
func (e *authError) Unwrap() error { return e.err }

const (
	// oauthName is what authRequest calls OAuth.
	oauthName = "OAuth (OAUTHBEARER)"
	// refusedTokenText is in the error of a token that a server refuses (oauthAuth in pgconn).
	refusedTokenText = "OAuth authentication failed" //nolint:gosec // no credentials
)

// The codes of the requests to authenticate (src/include/libpq/protocol.h of PostgreSQL, and pqcomm.h of old versions).
const (
	authOK           = 0
	authKerberos4    = 1
	authKerberos5    = 2
	authPassword     = 3
	authCrypt        = 4
	authMD5          = 5
	authSCM          = 6
	authGSS          = 7
	authGSSContinue  = 8
	authSSPI         = 9
	authSASL         = 10
	authSASLContinue = 11
	authSASLFinal    = 12
)

// authRequest returns the name of the method by which the server's last message asks to authenticate, and whether the
// exporter can do it. The name is "" if that message was no such request.
func (m *meter) authRequest() (method string, can bool) {
	if m.kind != 'R' || m.bodyLeft > 0 || len(m.body) < 4 {
		return "", false
	}
	switch code, rest := binary.BigEndian.Uint32(m.body), string(m.body[4:]); code {
	case authOK:
		return "", false
	case authPassword:
		return "the password itself", true
	case authMD5:
		return "MD5", true
	case authSASLContinue, authSASLFinal:
		return "SCRAM-SHA-256", true
	case authSASL:
		switch mechanisms := strings.Split(rest, "\x00"); {
		case slices.Contains(mechanisms, "SCRAM-SHA-256"):
			return "SCRAM-SHA-256", true
		case slices.Contains(mechanisms, "OAUTHBEARER"):
			return oauthName, true
		}
		return "SASL without SCRAM-SHA-256", false
	case authGSS, authGSSContinue:
		return "Kerberos (GSSAPI)", false
	case authSSPI:
		return "SSPI", false
	case authSCM:
		return "credentials of the Unix socket (SCM)", false
	case authCrypt:
		return "crypt", false
	case authKerberos4, authKerberos5:
		return "Kerberos in its old form", false
	}
	return "a method that is not known", false
}

// authError returns what err means if pgconn gave up a login because of the server's request to authenticate, and err
// itself otherwise. err is not an error of the server or the network.
func (m *meter) authError(err error) error {
	method, can := m.authRequest()
	request := "the server asks for " + method
	detail, text := "", err.Error()
	switch {
	case method == "":
		return err
	case strings.Contains(text, refusedTokenText):
		return &authError{detail: "the server refuses the token", err: err, refused: true}
	case !can:
		detail = ", which the exporter cannot do; give its role another method in pg_hba.conf"
	case strings.Contains(text, "channel binding"):
		detail = " without the channel binding that channel_binding requires"
	case method == oauthName:
		detail = ": set require_auth=oauth and give a token as the password, or give its role another method in pg_hba.conf"
	case strings.Contains(text, requireAuthText):
		detail = ", which require_auth does not allow"
	case isAuthText(text):
		detail = " and then does not follow its rules"
	default:
		return err
	}
	return &authError{detail: request + detail, err: err}
}

// hasRefusedToken reports whether err is a server's refusal of a token.
func hasRefusedToken(err error) bool {
	var authErr *authError
	return errors.As(err, &authErr) && authErr.refused
}
