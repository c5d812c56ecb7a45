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

// figuresMark is what only the figures statement holds.
const figuresMark = "pg_stat_get_activity"

// counts is what went through a proxy in some scrapes, and what the exporter logged meanwhile.
type counts struct {
	scrapes    int
	connects   int    // startup messages; a cancel request has none
	queries    int    // messages that ask for something: Query, and Execute and FunctionCall of the extended protocol
	figuresSQL string // the text of the Query that reads the figures
	logLines   int
}

// proxy passes connections on to a server and counts what clients send. It knows no TLS.
type proxy struct {
	listener net.Listener
	server   string
	ended    sync.WaitGroup

	mu    sync.Mutex // protects what follows
	seen  counts
	conns []net.Conn
}

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
			p.ended.Go(func() { p.pass(ctx, client) })
		}
	})
	return p, nil
}

func (p *proxy) port() int {
	address, _ := p.listener.Addr().(*net.TCPAddr)
	return address.Port
}

func (p *proxy) read() counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// close ends all connections.
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

func (p *proxy) pass(ctx context.Context, client net.Conn) {
	var dialer net.Dialer
	server, err := dialer.DialContext(ctx, "tcp", p.server)
	if err != nil {
		_ = client.Close() // the client sees the end
		return
	}
	p.mu.Lock()
	p.conns = append(p.conns, client, server)
	p.mu.Unlock()
	p.ended.Go(func() {
		_, _ = io.Copy(client, server) // how it ends is for the client to tell
		_ = client.Close()
	})
	_ = p.count(server, client)
	_ = server.Close()
}

// count passes messages from client to server. A message is a type, which the first one does not have, the length of
// what follows, itself included, and a body (protocol 3.0).
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
			p.message(head[0], body)
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

func (p *proxy) message(kind byte, body []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch kind {
	case 'Q':
		p.seen.queries++
		if text := string(bytes.TrimRight(body, "\x00")); strings.Contains(text, figuresMark) {
			p.seen.figuresSQL = text
		}
	case 'E', 'F':
		p.seen.queries++
	}
}
