// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package config turns what an operator wrote into validated targets. It knows nothing of how a target is asked.
package config

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Target is one server to watch. It does not change once it was made; what it reads from files and commands does, and is
// read again by every call of ConnConfig.
type Target struct {
	// Name is what the configuration file calls it; empty for the target from the environment and for ad-hoc ones.
	Name string
	// Module is the one that the target takes settings from, if any.
	Module string
	// Kind is what kind of server it is.
	Kind Kind
	Probing

	load   func(ctx context.Context, refused Secret) (*pgconn.Config, error)
	source source // for a target of a file; else empty

	mu      sync.Mutex // protects refused
	refused Secret     // the password that the server refused last
}

// Kind is a kind of server.
type Kind string

// The kinds of servers. A PgBouncer is asked through its console.
const (
	KindPostgres  Kind = "postgres"
	KindPgBouncer Kind = "pgbouncer"
)

// defaultDatabase is where a session goes when nothing says so. The one of PostgreSQL exists on every server (initdb makes
// it); libpq's default, the user's name, often does not. The one of PgBouncer is its console.
func (k Kind) defaultDatabase() string { return string(k) }

// Probing is how a target is probed.
type Probing struct {
	// Timeout is the most one probe may take.
	Timeout time.Duration
	// Interval is the time from one probe between scrapes to the next; 0: there are none.
	Interval time.Duration
	// Applications also counts connections by application name.
	Applications bool
	// Commit also commits a transaction in each probe.
	Commit bool
}

// Equal says whether two targets were made from the same settings.
func (t *Target) Equal(other *Target) bool {
	return t.Name == other.Name && t.Module == other.Module && t.Kind == other.Kind && t.Probing == other.Probing && t.source.equal(&other.source)
}

// ConnConfig returns the settings for one login, made anew: files that hold a secret, a certificate or a service are
// read by this call, so that a rotation needs no restart. The caller owns the result. ctx bounds a command that prints
// the password.
//
// A file that holds TLS material and cannot be used gives a *TLSError; every other error is a credential or a
// connection string that cannot be read. No error text holds a secret or a connection string.
func (t *Target) ConnConfig(ctx context.Context) (*pgconn.Config, error) {
	t.mu.Lock()
	refused := t.refused
	t.mu.Unlock()
	return t.load(ctx, refused)
}

// HasPasswordCommand reports whether ConnConfig may wait for a command that prints the password.
func (t *Target) HasPasswordCommand() bool { return t.source.password.command != nil }

// PasswordRefused records that the server refused a password that ConnConfig returned. It reports whether there may be
// another one by now: a command printed the password some time ago, and the next ConnConfig runs it again.
func (t *Target) PasswordRefused(refused Secret) bool {
	t.mu.Lock()
	t.refused = refused
	t.mu.Unlock()
	return t.source.renews(refused)
}

// Accepted is told that a login succeeded.
func (t *Target) Accepted() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refused = ""
}

// Permits says whether the server may be found at address. A target of the operator's own may be anywhere; an ad-hoc
// one only where its module allows, so that its credentials go nowhere else.
func (t *Target) Permits(address string) bool { return t.source.permits(address) }

// TLSError says that certificates, keys or TLS settings of a target cannot be used.
type TLSError struct{ err error }

func (e *TLSError) Error() string { return "TLS settings: " + e.err.Error() }

// Unwrap returns the cause.
func (e *TLSError) Unwrap() error { return e.err }

const applicationName = "pg_liveness_exporter"

// parse reads a connection string as libpq does, libpq's environment, passfile and service file included, and requires
// that it names one server. An error names where the string comes from.
func parse(source string, dsn Secret) (*pgconn.Config, error) {
	cfg, err := parseOne(dsn)
	switch {
	case errors.Is(err, errSeveral):
		return nil, fmt.Errorf("%s: %w: list them in a --config.file", source, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	return cfg, nil
}

// errSeveral is a connection string for more than one server.
var errSeveral = errors.New("names several servers, and each is a target of its own")

func parseOne(dsn Secret) (*pgconn.Config, error) {
	if listsSeveral(string(dsn)) {
		return nil, errSeveral
	}
	if !isURL(string(dsn)) && looksLikeURL(string(dsn)) {
		return nil, errors.New("is a URL that does not begin with postgres:// or postgresql://")
	}
	cfg, err := pgconn.ParseConfig(string(dsn))
	if err == nil && cfg.Database == "" {
		// Said in the connection string, so that libpq's passfile is searched for it.
		cfg, err = pgconn.ParseConfig(string(with(dsn, map[string]string{"dbname": KindPostgres.defaultDatabase()})))
	}
	if err != nil {
		return nil, explain(err)
	}
	for _, fallback := range cfg.Fallbacks {
		if fallback.Host != cfg.Host || fallback.Port != cfg.Port {
			return nil, errSeveral
		}
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
	scheme, _, found := strings.Cut(strings.TrimLeft(dsn, `'"`), "/")
	return found && strings.HasSuffix(scheme, ":") && !strings.ContainsAny(scheme, "= @'\\")
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
