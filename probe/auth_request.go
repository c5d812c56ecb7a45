// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"slices"
	"strings"
)

// authError is a login that pgconn gave up after the server had asked it to authenticate.
type authError struct {
	detail string // for Failure.Detail
	err    error
}

func (e *authError) Error() string { return e.detail + ": " + e.err.Error() }
func (e *authError) Unwrap() error { return e.err }

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
			return "OAuth (OAUTHBEARER)", false
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
	switch text := err.Error(); {
	case method == "":
		return err
	case !can:
		return &authError{request + ", which the exporter cannot do; give its role another method in pg_hba.conf", err}
	case strings.Contains(text, requireAuthText):
		return &authError{request + ", which require_auth does not allow", err}
	case strings.Contains(text, "channel binding"):
		return &authError{request + " without the channel binding that channel_binding requires", err}
	case isAuthText(text):
		return &authError{request + " and then does not follow its rules", err}
	}
	return err
}
