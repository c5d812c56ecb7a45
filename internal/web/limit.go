// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package web

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
	// idleGrace is how long every connection may take to send a request, however many others there are.
	idleGrace = 500 * time.Millisecond
	// bodyGrace is how long the rest of a request may take to arrive after the response was sent.
	bodyGrace = time.Second

	// maxHealthConnections is how many connections are set aside for the listener of the health paths, so that clients of
	// other listeners cannot take them.
	maxHealthConnections = 128

	// sessionsPerTarget is what a target needs while it is probed: the kept session, the new one, and one to cancel.
	sessionsPerTarget = 3
)

// maxConnections is the limit for all listeners of this process: half of its descriptors. The rest is for sessions. A Prometheus
// keeps a connection open for each of the targets that it scrapes through /probe.
func maxConnections() int { return min(descriptors()/2, 2048) }

// WarnOfDescriptors logs a warning if the process may open fewer descriptors than so many targets need.
func WarnOfDescriptors(logger *slog.Logger, targets int) {
	if needed := targets*sessionsPerTarget + maxConnections(); needed > descriptors() {
		logger.Warn("there may be too few file descriptors for so many targets: raise the limit (ulimit -n, LimitNOFILE)",
			"targets", targets, "descriptors", descriptors(), "needed", needed)
	}
}

// connectionLimit limits the open connections of an HTTP server. Above it, the connection that has been idle for longest is
// closed: a client that opens many and sends little loses its own, and a scrape under way is never cut off. While all
// connections are younger than idleGrace, no further one is accepted.
//
// It uses ConnState and does not wrap the listener, so that exporter-toolkit can go on making the listeners (several addresses,
// systemd sockets, TLS).
type connectionLimit struct {
	max int

	mu   sync.Mutex // protects what follows
	open map[net.Conn]*connection
	idle *list.List // of idleConn: those without a handler, the longest idle first
}

type idleConn struct {
	net.Conn
	since time.Time
}

// connection is either idle or has handlers, several at once with HTTP/2.
type connection struct {
	idle     *list.Element
	handlers int
}

type connectionKey struct{}

func newConnectionLimit(maxOpen int) *connectionLimit {
	return &connectionLimit{max: maxOpen, open: make(map[net.Conn]*connection), idle: list.New()}
}

// track is http.Server's ConnState. For a new connection it is called by the accepting goroutine, which waits here.
func (l *connectionLimit) track(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		l.mu.Lock()
		l.open[conn] = &connection{}
		l.mu.Unlock()
		for wait := l.evict(); wait > 0; wait = l.evict() {
			time.Sleep(wait)
		}
		l.addHandlers(conn, 0) // it becomes idle only now, so that it was not evicted for its own place
	case http.StateClosed, http.StateHijacked:
		l.mu.Lock()
		defer l.mu.Unlock()
		if c := l.open[conn]; c != nil && c.idle != nil {
			l.idle.Remove(c.idle)
		}
		delete(l.open, conn)
	case http.StateActive, http.StateIdle:
	}
}

// markIdleLocked records that conn has no handler from now on.
func (l *connectionLimit) markIdleLocked(conn net.Conn) *list.Element {
	return l.idle.PushBack(idleConn{conn, time.Now()})
}

// evict closes a connection if there are too many, and returns how long to wait until one may be closed.
func (l *connectionLimit) evict() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) <= l.max {
		return 0
	}
	oldest := l.idle.Front()
	if oldest == nil {
		return idleGrace
	}
	victim, _ := oldest.Value.(idleConn)
	if age := time.Since(victim.since); age < idleGrace {
		return idleGrace - age
	}
	l.idle.Remove(oldest)
	delete(l.open, victim.Conn)
	conn := victim.Conn
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = wrapped.NetConn() // closing TLS properly may wait for the client
	}
	_ = conn.Close() // does not wait
	return 0
}

// remember is http.Server's ConnContext.
func (*connectionLimit) remember(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, conn)
}

// Middleware keeps a request's connection from being evicted while next handles it, except while next waits for the client to
// read.
func (l *connectionLimit) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _ := r.Context().Value(connectionKey{}).(net.Conn)
		l.addHandlers(conn, 1)
		defer l.addHandlers(conn, -1)
		next.ServeHTTP(idleWriter{w, l, conn}, r)
	})
}

// idleWriter is a ResponseWriter whose connection is idle during a write: only the client is waited for then.
type idleWriter struct {
	http.ResponseWriter
	limit *connectionLimit
	conn  net.Conn
}

func (w idleWriter) Write(p []byte) (int, error) {
	w.limit.addHandlers(w.conn, -1)
	defer w.limit.addHandlers(w.conn, 1)
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w idleWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// addHandlers adds n handlers to a connection, unless it was closed meanwhile. Without any it is idle.
func (l *connectionLimit) addHandlers(conn net.Conn, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.open[conn]
	if c == nil {
		return
	}
	c.handlers += n
	switch {
	case c.handlers > 0 && c.idle != nil:
		l.idle.Remove(c.idle)
		c.idle = nil
	case c.handlers == 0:
		c.idle = l.markIdleLocked(conn)
	}
}

// withoutBody responds to a request without waiting for its body, which no path here needs. Without the header, net/http reads
// the body before it sends the response. With it, net/http sends the response, reads what is left of the body, so that the
// client is not reset before it has read the response, and closes the connection.
func withoutBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close")
			defer func() { // a writer without deadlines, as tests have it, has no connection to wait for
				_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyGrace))
			}()
		}
		next.ServeHTTP(w, r)
	})
}
