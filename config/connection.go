// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ApplicationName is the application_name of a login unless the connection string sets another one.
const ApplicationName = "pg_liveness_exporter"

// Connection has the settings of a login to one server. It is a plain value that does not change. It has only
// the paths of its files: internal/credentials reads them at each login.
type Connection struct {
	// Host is a name, an IP address, the folder of a Unix socket, or @name for an abstract socket. It is empty if nothing
	// names a server.
	Host string
	// Address is the IP address to dial instead of Host (libpq's hostaddr). It may be empty.
	Address string
	Port    uint16
	// User is empty if nothing names a role.
	User, Database string
	Password       Secret
	TLS            TLS
	// ChannelBinding is disable, prefer or require. RequireAuth is a list of methods, which may be empty.
	ChannelBinding, RequireAuth string
	// MinProtocol and MaxProtocol are 3.0, 3.2, latest or empty.
	MinProtocol, MaxProtocol string
	// Parameters are the run-time parameters of the session, application_name among them.
	Parameters map[string]string
	// PassFile is libpq's file of passwords. It is empty in a configuration file.
	PassFile string
}

// TLS has the settings of an encrypted connection.
type TLS struct {
	// Mode is one of libpq's values of sslmode.
	Mode string
	// Direct reports whether TLS begins without a request for it (sslnegotiation=direct).
	Direct bool
	// Roots is a file of certificates to trust, or "system". If it is empty, the system's are trusted.
	Roots string
	// Certificate and Key are the files of the client certificate. Both are set or none.
	Certificate, Key string
	// KeyPassword is the password of an encrypted key.
	KeyPassword PasswordSource
	// Revoked is a file of revoked certificates (sslcrl).
	Revoked string
	// CertMode is disable, allow or require (sslcertmode).
	CertMode string
	// ServerName is the name for which the server's certificate is verified, and which is sent if SendName is set.
	ServerName string
	SendName   bool
	// MinVersion and MaxVersion are versions of crypto/tls, 0 for its defaults.
	MinVersion, MaxVersion uint16
}

// TLSError reports that certificates, keys or TLS settings of a target cannot be used, or that its server's certificate is
// revoked.
type TLSError struct{ err error }

// NewTLSError returns a TLSError with this cause.
func NewTLSError(cause error) *TLSError { return &TLSError{cause} }

func (e *TLSError) Error() string { return "TLS settings: " + e.err.Error() }

// Unwrap returns the cause.
func (e *TLSError) Unwrap() error { return e.err }

// Libpq's values of sslmode.
const (
	modeDisable    = "disable"
	modeAllow      = "allow"
	modePrefer     = "prefer"
	modeRequire    = "require"
	modeVerifyCA   = "verify-ca"
	modeVerifyFull = "verify-full"
)

func sslModes() []string {
	return []string{modeDisable, modeAllow, modePrefer, modeRequire, modeVerifyCA, modeVerifyFull}
}

// isEncrypted reports whether a value of sslmode allows no connection without TLS.
func isEncrypted(mode string) bool { return slices.Contains(sslModes()[3:], mode) }

// AllowsPlaintext reports whether a connection may go on without TLS if the server has none.
func (t *TLS) AllowsPlaintext() bool { return !isEncrypted(t.Mode) }

// Verifies reports whether the server's certificate must be signed by one of the roots. As in libpq, sslmode=require with a
// file of roots is verify-ca.
func (t *TLS) Verifies() bool {
	return t.Mode == modeVerifyCA || t.VerifiesName() || t.Mode == modeRequire && t.Roots != ""
}

// VerifiesName reports whether the server's certificate must also be for ServerName.
func (t *TLS) VerifiesName() bool { return t.Mode == modeVerifyFull }

// IsSocket reports whether the server is at a Unix socket.
func (c *Connection) IsSocket() bool { return c.Address == "" && isSocket(c.Host) }

// isSocket reports whether a host is the folder of a Unix socket or the name of an abstract one.
func isSocket(host string) bool { return filepath.IsAbs(host) || strings.HasPrefix(host, "@") }

// maxStartup bounds the settings that a login sends, in bytes. A server ends the connection without a word if they have
// more than 10,000 (MAX_STARTUP_PACKET_LENGTH in src/include/libpq/pqcomm.h).
const maxStartup = 9900

// maxSocketPath is the longest path of a Unix socket, in bytes (sun_path in sys/un.h, which has room for 108 on Linux and
// 104 elsewhere, with a NUL byte).
const maxSocketPath = 103

// NewConnection validates settings and returns the connection that they make. An error is a ConnStringError.
func NewConnection(settings ConnSettings) (*Connection, error) {
	v := validation{settings: maps.Clone(settings)}
	for key, value := range settings {
		switch text := valueProblem(key, value); text {
		case "":
			continue
		case ErrSeveralServers.Error():
			v.problem(text)
		default:
			v.problem(key + " " + text)
		}
		delete(v.settings, key)
	}
	c := &Connection{
		User: v.take(keyUser), Database: v.take(keyDatabase), Password: Secret(v.take(keyPassword)), PassFile: v.take("passfile"),
		ChannelBinding: cmp.Or(v.take("channel_binding"), "prefer"), RequireAuth: v.take(keyRequireAuth),
	}
	v.server(c)
	c.MinProtocol, c.MaxProtocol = v.between("min_protocol_version", "max_protocol_version")
	v.tls(c)
	if c.WantsOAuth() {
		if err := c.ProtectsToken(); err != nil {
			v.problem(keyRequireAuth + " " + methodOAuth + " " + err.Error())
		}
	}
	delete(v.settings, "service")
	delete(v.settings, "servicefile")
	c.Parameters = v.settings
	maps.DeleteFunc(c.Parameters, func(_, value string) bool { return value == "" })
	if c.Parameters["application_name"] == "" {
		c.Parameters["application_name"] = ApplicationName
	}
	size := len(c.User) + len(c.Database)
	for name, value := range c.Parameters {
		size += len(name) + len(value) + len("\x00\x00")
	}
	if size > maxStartup {
		v.problem(fmt.Sprintf("has user, dbname, options and parameters of more than %d bytes together, which no server accepts", maxStartup))
	}
	if err := v.problems.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// valueProblem returns what is wrong with the value of a setting, whatever the others are. It is empty if nothing is or if
// there is no value. It does not hold the value.
func valueProblem(key, value string) string {
	host := withoutBrackets(value)
	allowed := allowedValues(key)
	switch {
	case value == "":
	case (key == keyHost || key == keyHostaddr || key == keyPort) && strings.Contains(value, ","):
		return ErrSeveralServers.Error()
	case key == keyHost && strings.Contains(value, "://"):
		return "is a URL: write the name or the address of the server, or the URL as a connection string"
	case key == keyHost && !isHost(host):
		return "must be a name, an address or the folder of a unix socket, without a port"
	case key == keyHostaddr && !isAddress(host):
		return "must be an IP address"
	case key == keyServerName && !isName(strings.TrimSuffix(value, ".")) && !isAddress(value):
		return "must be a name or an address"
	case key == keyPort && !isPort(strings.TrimSpace(value)): // libpq takes spaces around a number (parse_int_param)
		return "must be a number from 1 to 65535"
	case key == keyRequireAuth && !isRequireAuth(value):
		return "must be a list of password, md5, scram-sha-256, gss, sspi, oauth and none, or of these with a ! before each"
	case allowed != nil && !slices.Contains(allowed, value):
		return "must be one of " + strings.Join(allowed, ", ")
	}
	return ""
}

// allowedValues returns the values of a setting that has a few, nil if it has many. Versions are in ascending order.
func allowedValues(key string) []string {
	switch key {
	case keySSLMode:
		return sslModes()
	case "sslnegotiation":
		return []string{"postgres", "direct"}
	case "sslcertmode":
		return []string{"disable", "allow", "require"}
	case "sslsni":
		return []string{"0", "1"}
	case "channel_binding":
		return []string{"disable", "prefer", "require"}
	case "min_protocol_version", "max_protocol_version":
		return []string{"3.0", "3.2", "latest"}
	case keyMinTLS, keyMaxTLS:
		return []string{"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}
	}
	return nil
}

// validation takes settings one after the other and collects problems with their values.
type validation struct {
	settings ConnSettings
	problems ConnStringError
}

// problem adds a problem. text holds no value.
func (v *validation) problem(text string) { v.problems = append(v.problems, text) }

// take removes a setting and returns its value.
func (v *validation) take(key string) string {
	value := v.settings[key]
	delete(v.settings, key)
	return value
}

// between takes two settings with the same allowed values.
func (v *validation) between(lowKey, highKey string) (low, high string) {
	low, high = v.take(lowKey), v.take(highKey)
	values := allowedValues(lowKey)
	if high != "" && slices.Index(values, low) > slices.Index(values, high) {
		v.problem(lowKey + " is above " + highKey)
	}
	return low, high
}

// socketFile matches the path of a unix socket itself, in place of its folder.
var socketFile = regexp.MustCompile(`^(.*)/\.s\.PGSQL\.([1-9][0-9]{0,4})$`)

// server takes the settings that say where the server is.
func (v *validation) server(c *Connection) {
	c.Host, c.Address = withoutBrackets(v.take(keyHost)), withoutBrackets(v.take(keyHostaddr))
	c.Port = 5432
	if port, err := strconv.ParseUint(strings.TrimSpace(v.take(keyPort)), 10, 16); err == nil {
		c.Port = uint16(port)
	}
	if file := socketFile.FindStringSubmatch(c.Host); file != nil && isSocket(c.Host) {
		if port, err := strconv.ParseUint(file[2], 10, 16); err == nil {
			c.Host, c.Port = cmp.Or(file[1], "/"), uint16(port)
		}
	}
	if c.IsSocket() && len(c.Host)+len("/.s.PGSQL.65535") > maxSocketPath {
		v.problem("host is the folder of a unix socket whose path is longer than the system allows")
	}
}

// isHost reports whether host is a name, an address, the folder of a unix socket or the name of an abstract one.
func isHost(host string) bool {
	if name, abstract := strings.CutPrefix(host, "@"); abstract {
		return name != "" && !strings.ContainsAny(name, ":[]")
	}
	return isSocket(host) || isName(strings.TrimSuffix(host, ".")) || isAddress(host)
}

// withoutBrackets returns an IPv6 address without the brackets around it.
func withoutBrackets(host string) string {
	if inside, ok := strings.CutPrefix(host, "["); ok && strings.HasSuffix(inside, "]") && isAddress(inside[:len(inside)-1]) {
		return inside[:len(inside)-1]
	}
	return host
}

// tls takes the settings of TLS.
func (v *validation) tls(c *Connection) {
	given := v.take(keySSLMode)
	t := &c.TLS
	t.Direct = v.take("sslnegotiation") == "direct"
	t.Roots, t.Certificate, t.Key, t.Revoked = v.take("sslrootcert"), v.take("sslcert"), v.take("sslkey"), v.take("sslcrl")
	t.KeyPassword.Text = Secret(v.take(keySSLPassword))
	t.CertMode = cmp.Or(v.take("sslcertmode"), "allow")
	t.SendName = v.take("sslsni") != "0"
	t.ServerName = cmp.Or(v.take(keyServerName), c.Host)
	low, high := v.between(keyMinTLS, keyMaxTLS)
	t.MinVersion, t.MaxVersion = tlsVersion(low), tlsVersion(high)
	if low == "" && high != "" && t.MaxVersion < tls.VersionTLS12 { // libpq, too, has TLSv1.2 as the lowest one
		v.problem(keyMaxTLS + " is below TLSv1.2, which is the lowest version unless " + keyMinTLS + " is set")
	}
	t.Mode = cmp.Or(given, modePrefer)
	if given == "" && t.Roots == "system" {
		t.Mode = modeVerifyFull
	}
	if t.Direct && t.Mode == modePrefer {
		t.Mode = modeRequire
	}
	if t.CertMode == "disable" { // as in libpq, the files are not read then
		t.Certificate, t.Key = "", ""
	}
	if c.IsSocket() { // libpq does not look at sslmode then
		t.Mode = modeDisable
	}
	switch {
	case t.Mode == modeDisable && !t.Direct && t.Roots != "system" && t.Revoked == "", c.IsSocket():
	case (t.Certificate == "") != (t.Key == ""):
		v.problem("has only one of sslcert and sslkey; the certificate of an authority is sslrootcert")
	case t.Roots == "system" && t.Mode != modeVerifyFull:
		v.problem("sslrootcert system needs sslmode verify-full")
	case t.Direct && !isEncrypted(t.Mode):
		v.problem("sslnegotiation direct needs sslmode require, verify-ca or verify-full")
	case t.Revoked != "" && !t.Verifies():
		v.problem("sslcrl needs sslmode verify-ca or verify-full")
	case t.VerifiesName() && c.Address != "" && t.ServerName == "":
		v.problem("hostaddr with sslmode verify-full needs host, for which the certificate is verified")
	}
}

// tlsVersion returns the version of crypto/tls that libpq calls by this name, 0 for none.
func tlsVersion(name string) uint16 {
	return map[string]uint16{"TLSv1": tls.VersionTLS10, "TLSv1.1": tls.VersionTLS11, "TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13}[name]
}

// methodOAuth is the method of require_auth for which the password is a token.
const methodOAuth = "oauth"

// isRequireAuth reports whether a text is a list of methods for require_auth (PQconnectOptions2 in fe-connect.c).
func isRequireAuth(text string) bool {
	var seen []string
	for entry := range strings.SplitSeq(text, ",") {
		method := strings.TrimPrefix(strings.TrimSpace(entry), "!")
		known := slices.Contains([]string{"password", "md5", "scram-sha-256", "gss", "sspi", methodOAuth, "none"}, method)
		if !known || slices.Contains(seen, method) || strings.HasPrefix(strings.TrimSpace(entry), "!") != strings.HasPrefix(strings.TrimSpace(text), "!") {
			return false
		}
		seen = append(seen, method)
	}
	return true
}
