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

	"pg_liveness_exporter/config"
)

// The limits on a reply, in bytes. This package implements the protocol itself because the Redis libraries allocate as
// much memory as the other side announces. Any program that listens at the address could crash this process with one
// line of text.
const (
	maxLine = 4 << 10
	maxBulk = 64 << 10
	// maxArray is in entries.
	maxArray = 8
)

// redisConn is a connection to Redis. It uses RESP 2 (redis.io/docs/latest/develop/reference/protocol-spec). Only one
// goroutine may use it at a time.
type redisConn struct {
	conn net.Conn
	in   *bufio.Reader
	// broken reports whether a reply was not read completely, so that no further command can be sent.
	broken bool
}

// errUnexpectedReply is returned for a reply that is not valid RESP or does not suit the command.
var errUnexpectedReply = errors.New("unexpected reply")

// dialRedis connects to a Redis. It then logs in if there is a password, and selects the database unless it is 0, in which
// a connection begins. ctx bounds all of that.
func (d dependency) dialRedis(ctx context.Context, server config.RedisServer) (*redisConn, error) {
	var settings *tls.Config
	if server.TLS != nil {
		host, _, err := net.SplitHostPort(server.Address)
		if err != nil {
			return nil, err
		}
		if settings, err = d.tlsConfig(*server.TLS, host); err != nil {
			return nil, err
		}
	}
	conn, err := dial(ctx, server.Network, server.Address)
	if err != nil {
		return nil, err
	}
	if settings != nil {
		encrypted := tls.Client(conn, settings)
		if err := encrypted.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		conn = encrypted
	}
	r := &redisConn{conn: conn, in: bufio.NewReaderSize(conn, maxLine)}
	var login [][]string
	if server.Password != "" {
		auth := []string{"AUTH", string(server.Password)}
		if server.Username != "" {
			auth = []string{"AUTH", server.Username, string(server.Password)}
		}
		login = append(login, auth)
	}
	if server.Database != 0 {
		login = append(login, []string{"SELECT", strconv.Itoa(server.Database)})
	}
	for _, command := range login {
		if _, err := r.do(ctx, command...); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return r, nil
}

func (r *redisConn) close() { _ = r.conn.Close() } // the error does not affect the result

// do sends a command and returns its reply: a string, an int64, a []string or nil. It returns by the end of ctx. If Redis replies
// with an error, do returns a PublicError.
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
	reply, err := r.read()
	if err != nil {
		return nil, err
	}
	r.broken = false
	if redisErr, ok := reply.(redisError); ok {
		return nil, redisErr.public()
	}
	return reply, nil
}

// redisError is the text of an error reply. It begins with a code such as NOAUTH, WRONGPASS or LOADING.
type redisError string

// public returns an error without the rest of the text.
func (e redisError) public() error {
	code, _, _ := strings.Cut(string(e), " ")
	switch {
	case strings.HasPrefix(string(e), "ERR DB index"):
		return PublicError("no database of this number")
	case strings.HasPrefix(string(e), "ERR AUTH <password> called without any password"):
		return PublicError("it has no password, and the URL has one")
	case code == "ERR":
		return PublicError("it refused a command or the login")
	case words()[code] != "":
		return PublicError(words()[code] + " (" + code + ")")
	case len(code) > 20 || strings.ContainsFunc(code, func(c rune) bool { return c < 'A' || c > 'Z' }):
		return errUnexpectedReply
	}
	return PublicError("it refused a command (" + code + ")")
}

// words returns what the most frequent codes mean (redis/src/server.c, createSharedObjects).
func words() map[string]string {
	return map[string]string{
		"NOAUTH": "it requires a password", "WRONGPASS": "wrong user name or password", "NOPERM": "the user may not do this",
		"LOADING": "it is loading its data", "READONLY": "it is a replica", "MASTERDOWN": "it is a replica without its master",
		"BUSY": "it is busy with a script", "MISCONF": "it cannot save its data", "OOM": "it has no memory left",
		"WRONGTYPE": "a key has another type", "MOVED": "another node of its cluster has the key", "CLUSTERDOWN": "its cluster is down",
	}
}

// read reads one reply. Of arrays it supports those of texts: a sentinel sends the only one that this package asks for.
func (r *redisConn) read() (any, error) {
	line, err := r.in.ReadSlice('\n') // returns ErrBufferFull if the line is longer than maxLine
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, errUnexpectedReply
	}
	if err != nil {
		return nil, err
	}
	text, ok := strings.CutSuffix(string(line), "\r\n")
	if !ok || text == "" {
		return nil, errUnexpectedReply
	}
	kind, text := text[0], text[1:]
	switch kind {
	case '+':
		return text, nil
	case '-':
		return redisError(text), nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return nil, errUnexpectedReply
	case kind == ':':
		return n, nil
	case kind == '*' && n == -1:
		return nil, nil //nolint:nilnil // the null array
	case kind == '*' && n >= 0 && n <= maxArray:
		texts := make([]string, n)
		for i := range texts {
			if texts[i], err = r.text(); err != nil {
				return nil, err
			}
		}
		return texts, nil
	case kind != '$' || n > maxBulk || n < -1:
		return nil, errUnexpectedReply
	case n == -1:
		return nil, nil //nolint:nilnil // the null bulk string
	}
	bulk := make([]byte, n+2)
	if _, err := io.ReadFull(r.in, bulk); err != nil {
		return nil, err
	}
	return string(bulk[:n]), nil
}

// text reads an entry of an array, which must be a text.
func (r *redisConn) text() (string, error) {
	if next, err := r.in.Peek(1); err != nil {
		return "", err
	} else if next[0] != '$' && next[0] != '+' {
		return "", errUnexpectedReply
	}
	entry, err := r.read()
	text, ok := entry.(string)
	if err == nil && !ok {
		err = errUnexpectedReply
	}
	return text, err
}

// integer sends a command and returns its reply, which must be an integer.
func (r *redisConn) integer(ctx context.Context, command ...string) (int64, error) {
	reply, err := r.do(ctx, command...)
	n, ok := reply.(int64)
	if err == nil && !ok {
		err = errUnexpectedReply
	}
	return n, err
}
