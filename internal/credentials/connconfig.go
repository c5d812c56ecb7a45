// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/config"
)

// blankConfig makes settings of pgconn in which everything is still open. It parses them once: for each login, that took 7 % of the
// CPU time of a probe. Its method may be called by several goroutines at once.
type blankConfig struct{ parsed atomic.Pointer[pgconn.Config] }

// copy returns a copy, which the caller owns.
func (b *blankConfig) copy() (*pgconn.Config, error) {
	if parsed := b.parsed.Load(); parsed != nil {
		return parsed.Copy(), nil
	}
	// pgconn accepts no Config that it has not made. These settings override all that it takes from libpq's environment and
	// from the home directory.
	parsed, err := pgconn.ParseConfig("host=h port=5432 user=u dbname=d password=p passfile='' options='' timezone='' " +
		"sslmode=disable sslnegotiation='' sslrootcert='' sslcert='' sslkey='' sslpassword='' sslcertmode=allow sslsni='' " +
		"channel_binding='' require_auth='' min_protocol_version='' max_protocol_version='' connect_timeout=0 target_session_attrs=any")
	if err != nil {
		return nil, errors.New("PGSERVICE: libpq's service file cannot be used")
	}
	b.parsed.Store(parsed)
	return parsed.Copy(), nil
}

// connConfig turns the settings of a connection into those of pgconn. It reads the files of TLS. An error is a
// *config.TLSError, or is about the password of a key.
func connConfig(blank *blankConfig, c *config.Connection) (*pgconn.Config, error) {
	cfg, err := blank.copy()
	if err != nil {
		return nil, err
	}
	cfg.Host, cfg.Port, cfg.User, cfg.Database = c.Host, c.Port, c.User, c.Database
	if c.Address != "" {
		cfg.Host = c.Address // TLS has the name of its own
	}
	cfg.Password = string(c.Password)
	cfg.RuntimeParams = maps.Clone(c.Parameters)
	cfg.ChannelBinding, cfg.RequireAuth = c.ChannelBinding, c.RequireAuth
	cfg.MinProtocolVersion, cfg.MaxProtocolVersion = protocols(c)
	cfg.SSLCertMode = c.TLS.CertMode
	if c.TLS.Direct {
		cfg.SSLNegotiation = "direct"
	}
	cfg.TLSConfig, err = tlsConfig(&c.TLS)
	if err != nil {
		return nil, err
	}
	cfg.Fallbacks = nil
	if cfg.TLSConfig != nil && c.TLS.AllowsPlaintext() {
		cfg.Fallbacks = []*pgconn.FallbackConfig{{Host: cfg.Host, Port: cfg.Port}}
	}
	return cfg, nil
}

// giveToken makes a login that wants OAuth send its password as a token. A login without a password is left as it is. An error is
// about the token.
func giveToken(cfg *pgconn.Config, c *config.Connection) error {
	if !c.WantsOAuth() || cfg.Password == "" {
		return nil
	}
	token := cfg.Password
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) { // RFC 6750, section 2.1
		return errors.New("the password is no token, which require_auth oauth needs: it holds a space or an odd character")
	}
	cfg.OAuthTokenProvider = func(context.Context) (string, error) { return token, nil }
	return nil
}

// protocols returns the lowest and the highest version of the protocol. As in libpq, the highest one is 3.0 unless the
// lowest one is above it.
func protocols(c *config.Connection) (lowest, highest string) {
	lowest, highest = c.MinProtocol, c.MaxProtocol
	if lowest == "" {
		lowest = "3.0"
	}
	switch {
	case highest != "":
	case lowest == "3.0":
		highest = "3.0"
	default:
		highest = "latest"
	}
	return lowest, highest
}
