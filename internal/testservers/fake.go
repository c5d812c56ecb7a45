// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/jackc/pgx/v5/pgproto3"
)

// FakeServer listens on a port of this machine and lets a function answer each connection. It does what no real server
// can be made to do. It runs until Close.
type FakeServer struct {
	Port int

	listener net.Listener
	handlers sync.WaitGroup

	mu       sync.Mutex // protects what follows
	conns    map[net.Conn]bool
	accepted int
	maxOpen  int
	closed   bool
}

// NewFakeServer starts a server that runs handle for each connection, and closes the connection when handle returns.
func NewFakeServer(ctx context.Context, handle func(net.Conn)) (*FakeServer, error) {
	return NewFakeServerOn(ctx, 0, handle)
}

// NewFakeServerOn is NewFakeServer on a given port, such as that of a server that has stopped. 0 means a free one.
func NewFakeServerOn(ctx context.Context, port int, handle func(net.Conn)) (*FakeServer, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	s := &FakeServer{Port: l.Addr().(*net.TCPAddr).Port, listener: l, conns: make(map[net.Conn]bool)}
	s.handlers.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.add(conn)
			s.handlers.Go(func() {
				defer s.remove(conn)
				handle(conn)
			})
		}
	})
	return s, nil
}

func (s *FakeServer) add(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed { // it was accepted just before
		_ = conn.Close()
	}
	s.conns[conn] = true
	s.accepted++
	s.maxOpen = max(s.maxOpen, len(s.conns))
}

func (s *FakeServer) remove(conn net.Conn) {
	_ = conn.Close() // the client may have closed it
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

// Accepted returns how many connections there have been.
func (s *FakeServer) Accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// MaxOpen returns how many connections there have been at once, at most.
func (s *FakeServer) MaxOpen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.maxOpen
}

// Close stops listening, closes the connections and waits until their functions have returned.
func (s *FakeServer) Close() error {
	err := s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for conn := range s.conns {
		_ = conn.Close() // the client may have closed it
	}
	s.mu.Unlock()
	s.handlers.Wait()
	return err
}

// Silent reads until the client goes, and says nothing.
func Silent(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// Converse returns what answers a connection as PostgreSQL would: it lets the login through with greeting, and answers
// each message with what reply returns for it, which may also write to the connection itself.
func Converse(greeting []byte, reply func(conn net.Conn, m pgproto3.FrontendMessage) []byte) func(net.Conn) {
	return func(conn net.Conn) {
		backend := pgproto3.NewBackend(conn, conn)
		if _, err := backend.ReceiveStartupMessage(); err != nil {
			return
		}
		if _, err := conn.Write(greeting); err != nil {
			return
		}
		Reply(conn, backend, reply)
	}
}

// Reply answers each message of a session, after its login, with what reply returns for it, which may also write to the
// connection itself. It returns when either side ends the session.
func Reply(conn net.Conn, backend *pgproto3.Backend, reply func(conn net.Conn, m pgproto3.FrontendMessage) []byte) {
	for {
		m, err := backend.Receive()
		if err != nil {
			return
		}
		if _, ok := m.(*pgproto3.Terminate); ok {
			return
		}
		if _, err := conn.Write(reply(conn, m)); err != nil {
			return
		}
	}
}

// Wire returns messages as a server sends them. It panics if one of them cannot be encoded.
func Wire(messages ...pgproto3.BackendMessage) []byte {
	var out []byte
	for _, m := range messages {
		var err error
		if out, err = m.Encode(out); err != nil {
			panic(err)
		}
	}
	return out
}

// LetIn returns the greeting that ends a login with success.
func LetIn() []byte {
	return Wire(&pgproto3.AuthenticationOk{}, &pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte("1234")}, Ready())
}

// Ready returns the message that ends an answer.
func Ready() *pgproto3.ReadyForQuery { return &pgproto3.ReadyForQuery{TxStatus: 'I'} }

// OneColumn returns the description of rows with one column of text.
func OneColumn() *pgproto3.RowDescription {
	return &pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{
		{Name: []byte("x"), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1},
	}}
}

// One returns the whole answer to SELECT 1.
func One() []byte {
	return Wire(OneColumn(), &pgproto3.DataRow{Values: [][]byte{[]byte("1")}},
		&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}, Ready())
}
