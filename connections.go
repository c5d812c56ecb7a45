// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"container/list"
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// quietGrace is how long every connection may take to say what it wants, however many others there are.
	quietGrace = 500 * time.Millisecond
	// bodyGrace is how long the rest of a request may take to arrive after its answer was sent.
	bodyGrace = time.Second
)

// mostConnections is the bound for this process: half of its descriptors, the rest is for sessions. A Prometheus keeps a
// connection open for each of the targets that it scrapes through /probe.
func mostConnections() int { return min(descriptors()/2, 2048) }

// healthConnections is how many of them are set aside for the listener of the health paths, so that no client of
// another listener can take them.
const healthConnections = 128

// sessionsPerTarget is what a target needs while it is probed: the kept session, the new one, and one to cancel.
const sessionsPerTarget = 3

// warnOfDescriptors tells an operator who has more targets than the process can have sockets.
func warnOfDescriptors(logger *slog.Logger, targets int) {
	if needed := targets*sessionsPerTarget + mostConnections(); needed > descriptors() {
		logger.Warn("there may be too few file descriptors for so many targets: raise the limit (ulimit -n, LimitNOFILE)",
			"targets", targets, "descriptors", descriptors(), "needed", needed)
	}
}

// connectionBound bounds the open connections of an HTTP server. Over it, the connection that has been out of a handler
// for longest is closed: a client that opens many and says little loses its own, a scrape under way is never cut. While
// all are young, no further one is accepted.
//
// It hangs on ConnState, and not on the listener, so that exporter-toolkit can go on making the listeners (several
// addresses, systemd sockets, TLS).
type connectionBound struct {
	most int

	mu    sync.Mutex // protects what follows
	open  map[net.Conn]*connection
	quiet *list.List // of quietConn: those that no handler is working for, the longest quiet first
}

type quietConn struct {
	net.Conn
	since time.Time
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
		b.mu.Lock()
		b.open[conn] = &connection{}
		b.mu.Unlock()
		for wait := b.shrink(); wait > 0; wait = b.shrink() {
			time.Sleep(wait) // this is the accepting goroutine
		}
		b.work(conn, 0) // it becomes quiet now, so that it was not the one to be closed for its own place
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

// hush says that no handler works for conn. The caller holds b.mu.
func (b *connectionBound) hush(conn net.Conn) *list.Element {
	return b.quiet.PushBack(quietConn{conn, time.Now()})
}

// shrink closes a connection if there are too many, and returns how long to wait for one that may be closed.
func (b *connectionBound) shrink() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.open) <= b.most {
		return 0
	}
	oldest := b.quiet.Front()
	if oldest == nil {
		return quietGrace
	}
	victim, _ := oldest.Value.(quietConn)
	if age := time.Since(victim.since); age < quietGrace {
		return quietGrace - age
	}
	b.quiet.Remove(oldest)
	delete(b.open, victim.Conn)
	conn := victim.Conn
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = wrapped.NetConn() // a polite end of TLS may wait for the client
	}
	_ = conn.Close() // does not wait
	return 0
}

// remember is http.Server's ConnContext.
func (b *connectionBound) remember(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, conn)
}

// withoutBody answers a request without waiting for its body, which no path here needs. Without the header, net/http
// reads the body before it sends the answer. With it, net/http sends the answer, reads what is left of the body, so
// that the client is not reset before it has read the answer, and closes the connection.
func withoutBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close")
			defer func() { // without deadlines, such as a writer of a test, there is no connection to wait for
				_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyGrace))
			}()
		}
		next.ServeHTTP(w, r)
	})
}

// protect keeps a request's connection open while next works for it, but not while next waits for the client to read.
func (b *connectionBound) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _ := r.Context().Value(connectionKey{}).(net.Conn)
		b.work(conn, 1)
		defer b.work(conn, -1)
		next.ServeHTTP(quietWriter{w, b, conn}, r)
	})
}

// quietWriter is a ResponseWriter whose connection is quiet while it writes: only the client is waited for then.
type quietWriter struct {
	http.ResponseWriter
	bound *connectionBound
	conn  net.Conn
}

func (w quietWriter) Write(p []byte) (int, error) {
	w.bound.work(w.conn, -1)
	defer w.bound.work(w.conn, 1)
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w quietWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// work counts handlers that begin (1) or end (-1) on a connection, unless it was closed meanwhile. Without
// one it is quiet.
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
		c.quiet = b.hush(conn)
	}
}
