// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// source is where a target of a file is, and who asks: all that is needed to make the settings of a login.
type source struct {
	// dsn is the connection string with everything in it but a password that is read anew, so that neither libpq's
	// environment nor its files have a say.
	dsn Secret
	// parameters are the run-time parameters in dsn. pgconn adds those of libpq's environment.
	parameters []string
	password   password
	allow      *allow // for an ad-hoc target; nil: no limit
	commands   *Commands
}

// password says where the password comes from: one of these, or dsn where all are empty.
type password struct {
	text    Secret
	file    string
	env     string
	command *command
}

func (p *password) isSet() bool {
	return p.text != "" || p.file != "" || p.env != "" || p.command != nil
}

func (s *source) equal(other *source) bool {
	return s.dsn == other.dsn && reflect.DeepEqual(s.password, other.password) && reflect.DeepEqual(s.allow, other.allow)
}

// load makes the settings of one login. refused is the password that the server refused last.
func (s *source) load(ctx context.Context, refused Secret) (*pgconn.Config, error) {
	cfg, err := parseOne(s.dsn)
	if err != nil {
		return nil, err
	}
	for name := range cfg.RuntimeParams {
		if name != "application_name" && !slices.Contains(s.parameters, name) {
			delete(cfg.RuntimeParams, name)
		}
	}
	if !s.password.isSet() {
		return cfg, nil
	}
	value, err := s.read(ctx, refused)
	if err != nil {
		return nil, err
	}
	cfg.Password = string(value)
	return cfg, nil
}

func (s *source) read(ctx context.Context, refused Secret) (Secret, error) {
	var (
		value Secret
		err   error
		p     = &s.password
	)
	switch {
	case p.file != "":
		value, err = readSecret(p.file)
		return value, wrap("password_file", err)
	case p.env != "":
		if value = Secret(os.Getenv(p.env)); value == "" {
			return "", errors.New("password_env: the variable is not set")
		}
		return value, nil
	case p.command != nil:
		value, err = s.commands.get(ctx, p.command, refused)
		return value, wrap("password_command", err)
	}
	return p.text, nil
}

func wrap(key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", key, err)
}

func (s *source) renews(refused Secret) bool {
	return s.password.command != nil && s.commands.renews(s.password.command, refused)
}

func (s *source) permits(address string) bool {
	if s.allow == nil {
		return true
	}
	addr, err := netip.ParseAddr(address)
	return err == nil && s.allow.address(addr)
}

// neutral are the settings that pgconn would otherwise take from libpq's environment or from files in the home
// directory (pgconn/config.go and defaults.go); sslcertmode must not be empty.
func neutral() map[string]string {
	return map[string]string{
		"port": "5432", "database": KindPostgres.defaultDatabase(), "passfile": "", "sslmode": "", "sslrootcert": "", "sslcert": "",
		"sslkey": "", "sslpassword": "", "sslcertmode": "allow", "sslsni": "", "sslnegotiation": "", "channel_binding": "",
		"require_auth": "", "min_protocol_version": "", "max_protocol_version": "", "connect_timeout": "0",
		"target_session_attrs": "any", "options": "", "timezone": "", "application_name": applicationName, "password": "",
	}
}

// knownKey says whether pgconn understands a key of a connection string, or PostgreSQL a run-time parameter that libpq takes
// there. pgconn would send any other one to the server, which ends the login: mistyped ones, and some of libpq's own.
func knownKey(key string) bool {
	_, known := neutral()[key]
	return known || slices.Contains([]string{"host", "user", "ssl", "client_encoding", "krbsrvname", "krbspn"}, key)
}

// dsnKeys returns the keys that a connection string sets, as pgconn reads it: it names the first one that is not allowed.
func dsnKeys(dsn Secret) ([]string, error) {
	allowed := []string{}
	for {
		_, err := pgconn.ParseConfigWithOptions(string(dsn), pgconn.ParseConfigOptions{ConnStringAllowedKeys: allowed})
		if err == nil {
			slices.Sort(allowed)
			return allowed, nil
		}
		_, after, _ := strings.Cut(err.Error(), `connection string key "`)
		key, found := strings.CutSuffix(after, `" is not in ConnStringAllowedKeys`)
		if strings.Contains(err.Error(), ": failed to parse as ") {
			return nil, explain(err)
		}
		if !found {
			slices.Sort(allowed)
			return allowed, nil // what else is wrong shows when the whole is parsed
		}
		if slices.Contains(allowed, key) || len(allowed) > 100 {
			return nil, errors.New("cannot be parsed")
		}
		allowed = append(allowed, key)
	}
}

// with adds settings to a connection string of either form; they win over those in it.
func with(dsn Secret, settings map[string]string) Secret {
	var b strings.Builder
	b.WriteString(string(dsn))
	separator := "?"
	if hasQuery(string(dsn)) {
		separator = "&"
	}
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		value := settings[key]
		if isURL(string(dsn)) {
			b.WriteString(separator + key + "=" + strings.ReplaceAll(url.QueryEscape(value), "+", "%20"))
			separator = "&"
		} else {
			b.WriteString(" " + key + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'")
		}
	}
	return Secret(b.String())
}

// hasQuery says whether a URL has parameters; a "?" before the "@" belongs to the password.
func hasQuery(dsn string) bool {
	_, rest, _ := strings.Cut(dsn, "://")
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		rest = rest[i:]
	}
	return strings.Contains(rest, "?")
}

// CanonicalAddress returns the one spelling of an ad-hoc target's address, host:port. The error is a plain sentence that
// repeats nothing.
func CanonicalAddress(target string) (string, error) {
	host, port, err := splitAddress(target)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(host, port), nil
}

// splitAddress splits an ad-hoc target's address.
func splitAddress(target string) (host, port string, err error) {
	switch {
	case strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return "", "", errors.New("the target holds a space or a control character")
	case strings.Contains(target, "://"), strings.ContainsAny(target, "=?&"):
		return "", "", errors.New("the target is a connection string; write host:port, credentials come from the module")
	case strings.Contains(target, "@"):
		return "", "", errors.New("the target holds a user; write host:port, credentials come from the module")
	case strings.ContainsAny(target, `/\`):
		return "", "", errors.New("the target is a path; write host:port")
	}
	host, port, err = net.SplitHostPort(target)
	if err != nil {
		return "", "", errors.New("the target is not host:port")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", "", errors.New("the target's port is not a number from 1 to 65535")
	}
	port = strconv.FormatUint(n, 10)
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return "", "", errors.New("the target's address has a zone")
		}
		return addr.Unmap().String(), port, nil
	}
	if !isName(host) || target[0] == '[' {
		return "", "", errors.New("the target's host is neither a name nor an address")
	}
	return strings.ToLower(host), port, nil
}
