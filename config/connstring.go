// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// ApplicationName is the application_name of a login unless the connection string sets another one.
const ApplicationName = "pg_liveness_exporter"

// ErrSeveralServers reports that a connection string names more than one server.
var ErrSeveralServers = errors.New("names several servers, and each is a target of its own")

// TLSError reports that certificates, keys or TLS settings of a target cannot be used.
type TLSError struct{ err error }

// NewTLSError returns a TLSError with this cause.
func NewTLSError(cause error) *TLSError { return &TLSError{cause} }

func (e *TLSError) Error() string { return "TLS settings: " + e.err.Error() }

// Unwrap returns the cause.
func (e *TLSError) Unwrap() error { return e.err }

// CheckConnString finds connection strings that pgconn misreads: lists of several, which give ErrSeveralServers, and
// URLs of another scheme. The error's text holds no part of dsn.
func CheckConnString(dsn Secret) error {
	if listsSeveral(string(dsn)) {
		return ErrSeveralServers
	}
	if !isURL(string(dsn)) && looksLikeURL(string(dsn)) {
		return errors.New("is a URL that does not begin with postgres:// or postgresql://")
	}
	return nil
}

// parseWithoutFiles parses a connection string without reading the files of its TLS settings, which may come and go.
// Errors are those of CheckConnString and ConnStringError.
func parseWithoutFiles(dsn Secret) (*pgconn.Config, error) {
	if err := CheckConnString(dsn); err != nil {
		return nil, err
	}
	noFiles := map[string]string{"sslrootcert": "", "sslcert": "", "sslkey": ""}
	cfg, err := pgconn.ParseConfig(string(AddSettings(dsn, noFiles)))
	if err != nil {
		return nil, ConnStringError(err)
	}
	if slices.ContainsFunc(cfg.Fallbacks, func(f *pgconn.FallbackConfig) bool {
		return f.Host != cfg.Host || f.Port != cfg.Port
	}) {
		return nil, ErrSeveralServers
	}
	return cfg, nil
}

// neutralSettings returns the settings that pgconn would otherwise take from libpq's environment or from files in the
// home directory (pgconn/config.go and defaults.go). Only sslcertmode must not be empty.
func neutralSettings() map[string]string {
	return map[string]string{
		"port": "5432", "database": KindPostgres.DefaultDatabase(), "password": "", "passfile": "",
		"sslmode": "", "sslrootcert": "", "sslcert": "", "sslkey": "", "sslpassword": "", "sslcertmode": "allow", "sslsni": "",
		"sslnegotiation": "", "channel_binding": "", "require_auth": "",
		"min_protocol_version": "", "max_protocol_version": "", "connect_timeout": "0", "target_session_attrs": "any",
		"options": "", "timezone": "", "application_name": ApplicationName,
	}
}

// isKnownKey reports whether pgconn knows a key of a connection string, or whether it is a run-time parameter that
// libpq takes there. pgconn sends every other key to the server, which ends the login: mistyped keys, and some of
// libpq's own.
func isKnownKey(key string) bool {
	_, known := neutralSettings()[key]
	return known || slices.Contains([]string{"host", "user", "ssl", "client_encoding", "krbsrvname", "krbspn"}, key)
}

// dsnKeys returns the keys that a connection string sets, sorted. An error is one of its syntax.
func dsnKeys(dsn Secret) ([]string, error) {
	settings := ConnStringSettings(dsn)
	if len(settings) > 0 { // pgconn refuses the first key before it reads any file
		_, err := pgconn.ParseConfigWithOptions(string(dsn), pgconn.ParseConfigOptions{ConnStringAllowedKeys: []string{}})
		if strings.Contains(err.Error(), ": failed to parse as ") {
			return nil, ConnStringError(err)
		}
	}
	return slices.Sorted(maps.Keys(settings)), nil
}

// ConnStringSettings returns what a connection string sets, by pgconn's names of the keys, without reading any file. If
// pgconn cannot parse dsn, the result means nothing. Unlike pgconn, it leaves ssl=true of a URL as it is.
func ConnStringSettings(dsn Secret) map[string]string {
	settings := make(map[string]string)
	set := func(key, value string) {
		if key == "dbname" {
			key = "database"
		}
		settings[key] = value
	}
	rest := string(dsn)
	if !isURL(rest) {
		for {
			var key, value string
			if key, rest, _ = strings.Cut(rest, "="); rest == "" && strings.TrimSpace(key) == "" {
				return settings
			}
			value, rest = cutValue(strings.TrimLeft(rest, asciiSpace))
			if key = strings.Trim(key, asciiSpace); key != "user" || value != "" {
				set(key, value)
			}
		}
	}
	_, rest, _ = strings.Cut(rest, "://")
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		user, password, _ := strings.Cut(rest[:i], ":")
		setNonEmpty(settings, "user", user)
		setNonEmpty(settings, "password", password)
		rest = rest[i+1:]
	}
	location, query, _ := strings.Cut(rest, "?")
	location, path, _ := strings.Cut(location, "/")
	var hosts, ports []string
	for server := range strings.SplitSeq(location, ",") {
		end := strings.Index(server, "]") + 1 // of an IPv6 address
		name, port, _ := strings.Cut(server[end:], ":")
		hosts, ports = append(hosts, strings.Trim(server[:end], "[]")+name), append(ports, port)
	}
	setNonEmpty(settings, "host", strings.Join(hosts, ","))
	setNonEmpty(settings, "port", strings.Join(ports, ","))
	setNonEmpty(settings, "database", path)
	for query != "" {
		var parameter string
		parameter, query, _ = strings.Cut(query, "&")
		key, value, _ := strings.Cut(parameter, "=")
		set(uriDecode(key), uriDecode(value))
	}
	return settings
}

// asciiSpace is what separates keywords in libpq (isspace in the C locale).
const asciiSpace = " \t\n\r\v\f"

// cutValue returns the first value of a list of keyword=value, and what is behind it.
func cutValue(s string) (value, rest string) {
	s, quoted := strings.CutPrefix(s, "'")
	ends := asciiSpace
	if quoted {
		ends = "'"
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case strings.IndexByte(ends, s[i]) >= 0:
			return b.String(), s[i+1:]
		case s[i] != '\\':
			b.WriteByte(s[i])
		case i+1 < len(s):
			i++
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}

// setNonEmpty sets a part of a URL, unless the URL does not have it.
func setNonEmpty(settings map[string]string, key, value string) {
	if value != "" {
		settings[key] = uriDecode(value)
	}
}

// uriDecode decodes a part of a URL that pgconn can parse.
func uriDecode(s string) string {
	decoded, _ := url.PathUnescape(strings.Trim(s, " ")) // pgconn has found no error
	return decoded
}

// AddSettings returns dsn with settings added. They win over those in dsn, which may be a URL or keyword=value that pgconn
// can parse. A list of keyword=value is written anew: what is appended to "password=" would be its value.
func AddSettings(dsn Secret, settings map[string]string) Secret {
	var b strings.Builder
	if !isURL(string(dsn)) {
		all := ConnStringSettings(dsn)
		maps.Copy(all, settings)
		for _, key := range slices.Sorted(maps.Keys(all)) {
			b.WriteString(key + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(all[key]) + "' ")
		}
		return Secret(b.String())
	}
	b.WriteString(string(dsn))
	separator := "?"
	if hasQuery(string(dsn)) {
		separator = "&"
		if strings.HasSuffix(string(dsn), "?") || strings.HasSuffix(string(dsn), "&") {
			separator = ""
		}
	}
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		b.WriteString(separator + key + "=" + strings.ReplaceAll(url.QueryEscape(settings[key]), "+", "%20"))
		separator = "&"
	}
	return Secret(b.String())
}

// hasQuery reports whether a URL has parameters. A "?" before the "@" belongs to the password.
func hasQuery(dsn string) bool {
	_, rest, _ := strings.Cut(dsn, "://")
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		rest = rest[i:]
	}
	return strings.Contains(rest, "?")
}

func isURL(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

// looksLikeURL reports whether a connection string looks like a URL of another scheme, a mistyped one, or one in
// quotes. Such a URL passes for keyword=value if it holds a "=".
func looksLikeURL(dsn string) bool {
	scheme, _, found := strings.Cut(strings.TrimLeft(dsn, `'"`), "/")
	return found && strings.HasSuffix(scheme, ":") && !strings.ContainsAny(scheme, "= @'\\")
}

// listsSeveral reports whether a connection string is postgres_exporter's list of several, separated by commas: it
// holds a second URL, or outside quotes a comma before a keyword that begins a connection string.
func listsSeveral(dsn string) bool {
	quoted := false
	for i := 0; i < len(dsn); i++ {
		switch dsn[i] {
		case '\\':
			i++
		case '\'':
			quoted = !quoted
		case ',':
			rest := strings.TrimLeft(dsn[i+1:], " \t\r\n")
			if isURL(rest) {
				return true
			}
			if quoted || strings.Contains(dsn, "://") {
				continue
			}
			for _, key := range []string{"host", "hostaddr", "user", "dbname", "service"} {
				if strings.HasPrefix(rest, key+"=") {
					return true
				}
			}
		}
	}
	return false
}

// ConnStringError turns an error of pgconn.ParseConfig into one whose text holds no part of the connection string. It
// is a *TLSError if certificates, keys or TLS settings cannot be used.
//
// pgconn masks passwords in its own text only as a "best effort". The result repeats pgconn's fixed sentences, and a
// cause that cannot hold a part of the connection string.
func ConnStringError(err error) error {
	var parseErr *pgconn.ParseConfigError
	if !errors.As(err, &parseErr) {
		return errors.New("cannot be parsed")
	}
	// The text is "cannot parse `…`: message (cause)"; the masked string itself may hold backticks.
	text := parseErr.Error()
	message := text[strings.LastIndex(text, "`: ")+len("`: "):]
	switch cause := errors.Unwrap(parseErr); {
	case strings.HasPrefix(message, "failed to configure TLS") && cause != nil:
		var pathErr *fs.PathError
		if errors.As(cause, &pathErr) { // "unable to read CA file: open …"
			what, _, _ := strings.Cut(cause.Error(), ":")
			cause = fmt.Errorf("%s: %w", what, NewFileError(pathErr.Path, pathErr.Err))
		}
		return &TLSError{cause}
	case strings.HasPrefix(message, "failed to read service") && cause != nil:
		what, _, _ := strings.Cut(cause.Error(), ":") // its name or the file's is behind it
		return errors.New("cannot use the service: " + what)
	case strings.HasPrefix(message, "failed to parse as URL"):
		return errors.New("is not a valid URL: percent-encode special characters in the user name and the password")
	case strings.HasPrefix(message, "failed to parse as keyword/value"):
		return errors.New(`is not a list of keyword=value: put values with spaces into single quotes, ` +
			`and a backslash before ' and \`)
	}
	for _, fixed := range []string{
		"invalid port", "invalid connect_timeout", "invalid sslcertmode", "invalid require_auth", "could not match",
		"unknown target_session_attrs", "unknown channel_binding",
		"invalid min_protocol_version", "invalid max_protocol_version",
		"min_protocol_version cannot be greater than max_protocol_version",
	} {
		if strings.HasPrefix(message, fixed) {
			return errors.New("cannot be parsed: " + fixed)
		}
	}
	return errors.New("cannot be parsed")
}
