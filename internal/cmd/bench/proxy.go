// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// statsMark is text that only the statistics statement contains.
const statsMark = "pg_stat_get_activity"

// counts is what the exporter sent through a proxy, and what it logged, in a number of scrapes.
type counts struct {
	scrapes  int
	connects int    // startup messages; cancel requests are not counted
	queries  int    // Query messages, and Execute and FunctionCall of the extended protocol
	statsSQL string // text of the Query that reads the statistics
	logLines int
}

// proxy forwards connections to a server and counts the messages of the clients. It does not support TLS.
type proxy struct {
	listener net.Listener
	server   string
	ended    sync.WaitGroup

	mu    sync.Mutex // guards seen and conns
	seen  counts
	conns []net.Conn
}

// newProxy starts a proxy for the server on port of 127.0.0.1. The caller closes it.
func newProxy(ctx context.Context, port int) (*proxy, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, server: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	p.ended.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.ended.Go(func() { p.forward(ctx, client) })
		}
	})
	return p, nil
}

// port returns the port of 127.0.0.1 where the proxy listens.
func (p *proxy) port() int {
	address, _ := p.listener.Addr().(*net.TCPAddr)
	return address.Port
}

// snapshot returns what was counted so far.
func (p *proxy) snapshot() counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// close stops the proxy and closes all its connections.
func (p *proxy) close() error {
	err := p.listener.Close()
	p.mu.Lock()
	for _, conn := range p.conns {
		_ = conn.Close() // most have ended by themselves
	}
	p.mu.Unlock()
	p.ended.Wait()
	return err
}

// forward connects a client to the server, until one of them closes the connection.
func (p *proxy) forward(ctx context.Context, client net.Conn) {
	var dialer net.Dialer
	server, err := dialer.DialContext(ctx, "tcp", p.server)
	if err != nil {
		_ = client.Close() // the client reports the error
		return
	}
	p.mu.Lock()
	p.conns = append(p.conns, client, server)
	p.mu.Unlock()
	p.ended.Go(func() {
		_, _ = io.Copy(client, server) // the client reports the error
		_ = client.Close()
	})
	_ = p.count(server, client)
	_ = server.Close()
}

// count forwards messages from client to server and counts them, until an error. A message consists of a type, which
// the first one lacks, the length of itself without the type, and a body (protocol 3.0).
func (p *proxy) count(server io.Writer, client io.Reader) error {
	const (
		lengthSize = 4
		maxSize    = 1 << 20
		cancel     = 80877102
		sslRequest = 80877103
		gssRequest = 80877104
	)
	started, headSize := false, lengthSize
	for {
		head := make([]byte, headSize)
		if _, err := io.ReadFull(client, head); err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(head[headSize-lengthSize:])
		if size < lengthSize || size > maxSize {
			return fmt.Errorf("message of %d bytes", size)
		}
		body := make([]byte, size-lengthSize)
		if _, err := io.ReadFull(client, body); err != nil {
			return err
		}
		switch {
		case started:
			p.countMessage(head[0], body)
		case len(body) < lengthSize:
			return errors.New("short startup message")
		default:
			switch binary.BigEndian.Uint32(body) {
			case cancel, sslRequest, gssRequest:
			default:
				started, headSize = true, lengthSize+1
				p.mu.Lock()
				p.seen.connects++
				p.mu.Unlock()
			}
		}
		if _, err := server.Write(append(head, body...)); err != nil {
			return err
		}
	}
}

// countMessage counts a message of the given type.
func (p *proxy) countMessage(kind byte, body []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch kind {
	case 'Q':
		p.seen.queries++
		if text := string(bytes.TrimRight(body, "\x00")); strings.Contains(text, statsMark) {
			p.seen.statsSQL = text
		}
	case 'E', 'F':
		p.seen.queries++
	}
}
