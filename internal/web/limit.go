// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// idleGrace is how long a connection may be idle before it can be evicted. A client has at least that long to send
	// a request.
	idleGrace = 500 * time.Millisecond
	// bodyGrace is how long the rest of a request may take to arrive after the handler has returned. If the client wants
	// the connection closed, it is how long the body may take before the handler is called.
	bodyGrace = time.Second

	// maxHealthConnections is how many connections are reserved for the listener of the health paths. Clients of other
	// listeners cannot use them.
	maxHealthConnections = 128

	// sessionsPerTarget is how many sessions a target needs during a probe: the kept session, the new session, and one
	// to cancel a query.
	sessionsPerTarget = 3
)

// maxConnections returns the limit on connections to all listeners of this process: half of its descriptors, at most
// 2048. The other half is for sessions. Prometheus keeps a connection open for each target that it scrapes through
// /probe.
func maxConnections() int { return min(descriptors()/2, 2048) }

// WarnOfDescriptors logs a warning if the process may open fewer descriptors than it needs for this number of targets.
func WarnOfDescriptors(logger *slog.Logger, targets int) {
	if needed := targets*sessionsPerTarget + maxConnections(); needed > descriptors() {
		logger.Warn("There may be too few file descriptors for so many targets: raise the limit (ulimit -n, LimitNOFILE)",
			"targets", targets, "descriptors", descriptors(), "needed", needed)
	}
}

// connectionLimit limits the open connections of an HTTP server. Above the limit, it closes the connection that has
// been idle for longest. A connection with a request under way is not idle, so that no scrape is interrupted (see
// Middleware). While every connection either is in use or has been idle for less than idleGrace, the server accepts no
// further connection.
//
// It uses ConnState instead of a listener of its own because exporter-toolkit makes the listeners (several addresses,
// systemd sockets, TLS).
type connectionLimit struct {
	max int

	mu   sync.Mutex // protects what follows
	open map[net.Conn]*connection
}

// connection is an open connection. It is idle while it has no handlers. It has several at once with HTTP/2.
type connection struct {
	handlers  int
	idleSince time.Time // while it has no handlers
}

type connectionKey struct{}

func newConnectionLimit(maxOpen int) *connectionLimit {
	return &connectionLimit{max: maxOpen, open: make(map[net.Conn]*connection)}
}

// track is http.Server's ConnState. The goroutine that accepts connections calls it for each new one, and accepts no
// other until track returns.
func (l *connectionLimit) track(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		l.mu.Lock()
		l.open[conn] = &connection{handlers: 1} // evict must not close it
		l.mu.Unlock()
		for wait := l.evict(); wait > 0; wait = l.evict() {
			time.Sleep(wait)
		}
		l.addHandlers(conn, -1)
	case http.StateClosed, http.StateHijacked:
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, conn)
	case http.StateActive, http.StateIdle:
	}
}

// evict closes a connection if there are too many. If none can be closed yet, it returns how long to wait, otherwise 0.
func (l *connectionLimit) evict() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) <= l.max {
		return 0
	}
	var (
		conn  net.Conn // the one that has been idle for longest
		since time.Time
	)
	for other, c := range l.open {
		if c.handlers == 0 && (conn == nil || c.idleSince.Before(since)) {
			conn, since = other, c.idleSince
		}
	}
	if conn == nil {
		return idleGrace
	}
	if age := time.Since(since); age < idleGrace {
		return idleGrace - age
	}
	delete(l.open, conn)
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = wrapped.NetConn() // an orderly end of TLS may wait for the client
	}
	_ = conn.Close() // does not wait
	return 0
}

// remember is http.Server's ConnContext. It stores the connection for Middleware.
func (*connectionLimit) remember(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, conn)
}

// Middleware protects a request's connection from eviction while next handles the request, except while a write waits
// for the client to read.
func (l *connectionLimit) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _ := r.Context().Value(connectionKey{}).(net.Conn)
		l.addHandlers(conn, 1)
		defer l.addHandlers(conn, -1)
		next.ServeHTTP(idleWriter{w, l, conn}, r)
	})
}

// idleWriter is a ResponseWriter whose connection is idle during a write, which only the client can delay.
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

// Unwrap returns the writer for http.ResponseController.
func (w idleWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// addHandlers adds n handlers to a connection, unless it has been closed. A connection without handlers becomes idle.
func (l *connectionLimit) addHandlers(conn net.Conn, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.open[conn]
	if c == nil {
		return
	}
	if c.handlers += n; c.handlers == 0 {
		c.idleSince = time.Now()
	}
}

// withoutBody makes the server respond to a request without waiting for its body, which no handler here reads. By
// default, net/http reads the body before it sends the response. With the header "Connection: close", it sends the
// response, keeps the connection open for a moment so that the client can read the response before the connection is
// reset, and closes the connection.
//
// If the request itself has that header, net/http closes the connection at once (body.Close in net/http/transfer.go),
// and a client that is still sending may lose the response. Therefore the body of such a request is read first, for
// bodyGrace at most.
func withoutBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// Errors of SetReadDeadline are ignored: writers of tests have no deadlines.
			connection := http.NewResponseController(w)
			if r.Close {
				_ = connection.SetReadDeadline(time.Now().Add(bodyGrace))
				_, _ = io.Copy(io.Discard, r.Body)
				_ = connection.SetReadDeadline(time.Time{})
			}
			w.Header().Set("Connection", "close")
			defer func() { _ = connection.SetReadDeadline(time.Now().Add(bodyGrace)) }()
		}
		next.ServeHTTP(w, r)
	})
}
