// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// Redis is spoken here, and not by a library: those that there are allocate what the other side says that it will send, and a
// port that only looks like Redis could end this process with a line of text.
const (
	longestLine = 4 << 10
	longestBulk = 64 << 10
)

// redisConn is a connection with a Redis, which speaks RESP 2 (redis.io/docs/latest/develop/reference/protocol-spec).
type redisConn struct {
	conn net.Conn
	in   *bufio.Reader
	// broken says that an answer was not read to its end, so that nothing more can be asked.
	broken bool
}

// errNonsense is an answer that is none.
var errNonsense = errors.New("unexpected answer")

// dialRedis connects, and logs in where the URL has a password or names a database. ctx bounds all of it. What the URL says of
// certificates is read as Celery does: ssl_cert_reqs=none trusts any.
func dialRedis(ctx context.Context, d dependency) (*redisConn, error) {
	u, err := d.url()
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	conn, err := dial(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, err
	}
	r := &redisConn{conn: conn}
	if u.Scheme == "rediss" {
		trusted, err := d.roots()
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		settings := &tls.Config{RootCAs: trusted, ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
		switch strings.ToLower(u.Query().Get("ssl_cert_reqs")) {
		case "none", "cert_none":
			settings.InsecureSkipVerify = true
		}
		encrypted := tls.Client(conn, settings)
		if err := encrypted.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		r.conn = encrypted
	}
	r.in = bufio.NewReaderSize(r.conn, longestLine)
	name, password := u.User.Username(), ""
	if secret, ok := u.User.Password(); ok {
		password = secret
	} else { // redis-cli takes a lone word for the password
		name, password = "", name
	}
	login := [][]string{{"AUTH", password}, {"SELECT", strconv.Itoa(database(u))}}
	if name != "" {
		login[0] = []string{"AUTH", name, password}
	}
	if password == "" {
		login = login[1:]
	}
	if database(u) == 0 {
		login = login[:len(login)-1]
	}
	for _, command := range login {
		if _, err := r.do(ctx, command...); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return r, nil
}

func (r *redisConn) close() { _ = r.conn.Close() } // what was asked for is there

// do sends a command and returns its answer: a text, a number or nil. A refusal of Redis's is a Problem.
func (r *redisConn) do(ctx context.Context, command ...string) (any, error) {
	if r.broken {
		return nil, net.ErrClosed
	}
	_ = r.conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = r.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var out strings.Builder
	fmt.Fprintf(&out, "*%d\r\n", len(command))
	for _, word := range command {
		fmt.Fprintf(&out, "$%d\r\n%s\r\n", len(word), word)
	}
	r.broken = true
	if _, err := io.WriteString(r.conn, out.String()); err != nil {
		return nil, err
	}
	answer, err := r.read()
	if err != nil {
		return nil, err
	}
	r.broken = false
	if refused, ok := answer.(refusal); ok {
		return nil, refused.problem()
	}
	return answer, nil
}

// refusal is an error that Redis answers with. It begins with a code, such as NOAUTH, WRONGPASS or LOADING.
type refusal string

func (r refusal) problem() error {
	code, _, _ := strings.Cut(string(r), " ")
	switch {
	case code == "NOAUTH", code == "WRONGPASS":
		return Problem("it wants another password: " + code)
	case strings.HasPrefix(string(r), "ERR DB index"):
		return Problem("it has no database of this number")
	case code == "ERR":
		return Problem("it refused a command or the login")
	case len(code) > 20 || strings.ContainsFunc(code, func(c rune) bool { return c < 'A' || c > 'Z' }):
		return errNonsense
	}
	return Problem("it refused: " + code)
}

// read reads one answer. None of the commands that are sent here is answered with an array.
func (r *redisConn) read() (any, error) {
	line, err := r.in.ReadSlice('\n') // no longer than the buffer
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, errNonsense
	}
	if err != nil {
		return nil, err
	}
	text, ok := strings.CutSuffix(string(line), "\r\n")
	if !ok || text == "" {
		return nil, errNonsense
	}
	kind, text := text[0], text[1:]
	switch kind {
	case '+':
		return text, nil
	case '-':
		return refusal(text), nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return nil, errNonsense
	case kind == ':':
		return n, nil
	case kind != '$' || n > longestBulk || n < -1:
		return nil, errNonsense
	case n == -1:
		return nil, nil //nolint:nilnil // what is not there
	}
	bulk := make([]byte, n+2)
	if _, err := io.ReadFull(r.in, bulk); err != nil {
		return nil, err
	}
	return string(bulk[:n]), nil
}

// number asks for a number.
func (r *redisConn) number(ctx context.Context, command ...string) (int64, error) {
	answer, err := r.do(ctx, command...)
	n, ok := answer.(int64)
	if err == nil && !ok {
		err = errNonsense
	}
	return n, err
}
