// Package config turns what an operator wrote into validated targets. It knows nothing of how a target is asked.
package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Target is one server to watch. It does not change once it was made; what it reads from files does, and is read
// again by every call of ConnConfig.
type Target struct {
	load func() (*pgconn.Config, error)
}

// ConnConfig returns the settings for one login, made anew: files that hold a secret, a certificate or a service are
// read by this call, so that a rotation needs no restart. The caller owns the result.
//
// A file that holds TLS material and cannot be used gives a *TLSError; every other error is a credential or a
// connection string that cannot be read. No error text holds a secret or a connection string.
func (t *Target) ConnConfig() (*pgconn.Config, error) { return t.load() }

// TLSError says that certificates, keys or TLS settings of a target cannot be used.
type TLSError struct{ err error }

func (e *TLSError) Error() string { return "TLS settings: " + e.err.Error() }

// Unwrap returns the cause.
func (e *TLSError) Unwrap() error { return e.err }

// Secret is a text that never prints: every formatting verb and slog show a placeholder.
type Secret string

const redacted = "<secret>"

// String hides the secret.
func (Secret) String() string { return redacted }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return redacted }

// MarshalText hides the secret from JSON, YAML and slog.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

const (
	applicationName = "pg_liveness_exporter"
	// defaultDatabase exists on every server (initdb makes it); libpq's default, the user's name, often does not.
	defaultDatabase = "postgres"
)

// parse reads a connection string as libpq does, libpq's environment, passfile and service file included, and requires
// that it names one server. An error names where the string comes from.
func parse(source string, dsn Secret) (*pgconn.Config, error) {
	cfg, err := parseOne(dsn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	return cfg, nil
}

func parseOne(dsn Secret) (*pgconn.Config, error) {
	if listsSeveral(string(dsn)) {
		return nil, errors.New("holds several connection strings separated by commas: run an exporter for each server")
	}
	if !isURL(string(dsn)) && looksLikeURL(string(dsn)) {
		return nil, errors.New("is a URL that does not begin with postgres:// or postgresql://")
	}
	cfg, err := pgconn.ParseConfig(string(dsn))
	if err == nil && cfg.Database == "" {
		// Said in the connection string, so that libpq's passfile is searched for it.
		cfg, err = pgconn.ParseConfig(withDatabase(string(dsn), defaultDatabase))
	}
	if err != nil {
		return nil, explain(err)
	}
	for _, fallback := range cfg.Fallbacks {
		if fallback.Host != cfg.Host || fallback.Port != cfg.Port {
			return nil, errors.New("names several hosts: run an exporter for each of them")
		}
	}
	if cfg.SSLCertMode == "require" {
		return nil, &TLSError{errors.New("sslcertmode=require is not supported")}
	}
	if _, ok := cfg.RuntimeParams["application_name"]; !ok {
		cfg.RuntimeParams["application_name"] = applicationName
	}
	return cfg, nil
}

func isURL(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

// looksLikeURL tells other kinds of URL, mistyped ones and those in quotes, which would pass for keyword=value if they
// hold a "=".
func looksLikeURL(dsn string) bool {
	return regexp.MustCompile(`^['"]?(?:[A-Za-z][A-Za-z0-9+.-]*:)+/`).MatchString(dsn)
}

// withDatabase adds the name of a database to a connection string that parses and has none.
func withDatabase(dsn, name string) string {
	switch {
	case !isURL(dsn):
		return dsn + " dbname=" + name
	case strings.Contains(dsn, "?"):
		return dsn + "&dbname=" + name
	}
	return dsn + "?dbname=" + name
}

// listsSeveral tells postgres_exporter's comma-separated form of DATA_SOURCE_NAME: a second URL, or a comma followed
// by a keyword that begins a connection string, outside quotes.
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

// explain says what is wrong with a connection string without quoting it. pgconn's own text masks passwords only
// "best effort", so only its fixed sentences are repeated, and a cause only where it cannot hold a part of the string.
func explain(err error) error {
	var parseErr *pgconn.ParseConfigError
	if !errors.As(err, &parseErr) {
		return errors.New("cannot be parsed")
	}
	// The text is "cannot parse `…`: message (cause)"; the masked string itself may hold backticks.
	text := parseErr.Error()
	message := text[strings.LastIndex(text, "`: ")+len("`: "):]
	switch cause := errors.Unwrap(parseErr); {
	case strings.HasPrefix(message, "failed to configure TLS") && cause != nil:
		return &TLSError{cause}
	case strings.HasPrefix(message, "failed to read service") && cause != nil:
		return fmt.Errorf("cannot use the service: %w", cause)
	case strings.HasPrefix(message, "failed to parse as URL"):
		return errors.New("is not a valid URL: percent-encode special characters in the user name and the password")
	case strings.HasPrefix(message, "failed to parse as keyword/value"):
		return errors.New(`is not a list of keyword=value: put values with spaces into single quotes, ` +
			`and a backslash before ' and \`)
	}
	for _, fixed := range []string{
		"invalid port", "invalid connect_timeout", "invalid sslcertmode", "invalid require_auth", "could not match",
		"unknown target_session_attrs", "unknown channel_binding", "invalid min_protocol_version", "invalid max_protocol_version",
		"min_protocol_version cannot be greater than max_protocol_version",
	} {
		if strings.HasPrefix(message, fixed) {
			return errors.New("cannot be parsed: " + fixed)
		}
	}
	return errors.New("cannot be parsed")
}
