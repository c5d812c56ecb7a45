// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"crypto/tls"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"

	"pg_liveness_exporter/config"
)

// redisServer asks a Redis for PING, or for the length of a key.
type redisServer struct{ *config.Check }

func (c *redisServer) ask(ctx context.Context) (number, error) {
	conn, err := dialRedis(ctx, c.Check)
	if err != nil {
		return number{}, err
	}
	defer func() { _ = conn.Close() }() // its answer was read
	if c.LengthOf == "" {
		answer, err := redis.String(redis.DoContext(conn, ctx, "PING"))
		if err == nil && answer != "PONG" {
			err = errNonsense
		}
		return number{}, redisError(err)
	}
	kind, err := redis.String(redis.DoContext(conn, ctx, "TYPE", c.LengthOf))
	if err != nil {
		return number{}, redisError(err)
	}
	command, ok := map[string]string{"list": "LLEN", "stream": "XLEN", "set": "SCARD", "zset": "ZCARD"}[kind]
	switch {
	case kind == "none": // a queue without entries is no key
		return measured(0), nil
	case !ok:
		return number{}, Problem("the key is no list, stream, set or sorted set")
	}
	length, err := redis.Int64(redis.DoContext(conn, ctx, command, c.LengthOf))
	if err != nil {
		return number{}, redisError(err)
	}
	return measured(float64(length)), nil
}

// errNonsense is an answer that is none.
var errNonsense = errors.New("unexpected answer")

// dialRedis logs in. What the URL says of certificates is read as Celery does: ssl_cert_reqs=none trusts any.
func dialRedis(ctx context.Context, c *config.Check) (redis.Conn, error) {
	text, err := where(c)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, Problem("its URL cannot be used")
	}
	trusted, err := roots(c.RootCert)
	if err != nil {
		return nil, err
	}
	settings := &tls.Config{RootCAs: trusted, ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	switch strings.ToLower(u.Query().Get("ssl_cert_reqs")) {
	case "none", "cert_none":
		settings.InsecureSkipVerify = true
	}
	left := c.Timeout
	if deadline, ok := ctx.Deadline(); ok {
		left = max(time.Until(deadline), time.Millisecond)
	}
	conn, err := redis.DialURLContext(ctx, text,
		redis.DialContextFunc(dial), redis.DialTLSConfig(settings), redis.DialTLSHandshakeTimeout(left),
		redis.DialReadTimeout(left), redis.DialWriteTimeout(left),
	)
	return conn, redisError(err)
}

// redisError turns what Redis says into words of ours. Its errors begin with a code, such as NOAUTH, WRONGPASS or LOADING.
func redisError(err error) error {
	var refused redis.Error
	if !errors.As(err, &refused) {
		return err
	}
	code, _, _ := strings.Cut(string(refused), " ")
	switch code {
	case "NOAUTH", "WRONGPASS":
		return Problem("it wants another password: " + code)
	case "ERR":
		return Problem("it refused a command or the login")
	}
	if len(code) > 20 || strings.ContainsFunc(code, func(r rune) bool { return r < 'A' || r > 'Z' }) {
		return errNonsense
	}
	return Problem("it refused: " + code)
}
