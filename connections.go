package main

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
)

// connectionBound bounds the open connections of an HTTP server. Over it, the connection that has been out of a handler
// for longest is closed: a client that opens many and says little loses its own, a scrape under way is never cut.
//
// It hangs on ConnState, and not on the listener, so that exporter-toolkit can go on making the listeners (several
// addresses, systemd sockets, TLS).
type connectionBound struct {
	most int

	mu    sync.Mutex // protects what follows
	open  map[net.Conn]*connection
	quiet *list.List // connections that no handler is working for, the longest quiet first
}

// connection is either quiet or has handlers, several at once with HTTP/2.
type connection struct {
	quiet    *list.Element
	handlers int
}

type connectionKey struct{}

func newConnectionBound(most int) *connectionBound {
	return &connectionBound{most: most, open: make(map[net.Conn]*connection), quiet: list.New()}
}

// track is http.Server's ConnState.
func (b *connectionBound) track(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if victim := b.admit(conn); victim != nil {
			_ = victim.Close()
		}
	case http.StateClosed, http.StateHijacked:
		b.mu.Lock()
		defer b.mu.Unlock()
		if c := b.open[conn]; c != nil && c.quiet != nil {
			b.quiet.Remove(c.quiet)
		}
		delete(b.open, conn)
	case http.StateActive, http.StateIdle:
	}
}

// admit adds a connection and returns the one to close for it, if any.
func (b *connectionBound) admit(conn net.Conn) net.Conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open[conn] = &connection{quiet: b.quiet.PushBack(conn)}
	if len(b.open) <= b.most {
		return nil
	}
	first := b.quiet.Front()
	victim, _ := b.quiet.Remove(first).(net.Conn)
	delete(b.open, victim)
	if wrapped, ok := victim.(interface{ NetConn() net.Conn }); ok {
		victim = wrapped.NetConn() // closing TLS politely may wait for the client
	}
	return victim
}

// remember is http.Server's ConnContext.
func (b *connectionBound) remember(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, conn)
}

// base is http.Server's BaseContext.
func (b *connectionBound) base(ctx context.Context) func(net.Listener) context.Context {
	return func(net.Listener) context.Context { return ctx }
}

// protect keeps a request's connection open while next works for it.
func (b *connectionBound) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _ := r.Context().Value(connectionKey{}).(net.Conn)
		b.work(conn, 1)
		defer b.work(conn, -1)
		next.ServeHTTP(w, r)
	})
}

// work counts handlers that begin (1) or end (-1) on a connection, unless it was closed meanwhile.
func (b *connectionBound) work(conn net.Conn, handlers int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.open[conn]
	if c == nil {
		return
	}
	c.handlers += handlers
	switch {
	case c.handlers > 0 && c.quiet != nil:
		b.quiet.Remove(c.quiet)
		c.quiet = nil
	case c.handlers == 0:
		c.quiet = b.quiet.PushBack(conn)
	}
}
