// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package web serves HTTP: listeners with time-outs and a limit on open connections, what is served under which path, reloading
// the configuration, and shutdown.
package web

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	toolkit "github.com/prometheus/exporter-toolkit/web"

	"pg_liveness_exporter/config"
)

const (
	// readTimeout bounds the reading of a whole request, its body included. net/http lifts it while a handler runs.
	readTimeout = 5 * time.Second
	idleTimeout = 2 * time.Minute
	// writeTimeout begins with the request, so it leaves time for the longest probe. The collector shortens it once it has
	// something to write.
	writeTimeout = config.MaxTimeout + 10*time.Second
	// finishGrace is how long requests under way may take after the end of Serve's context.
	finishGrace = 3 * time.Second
)

// Options of Serve.
type Options struct {
	// Flags are exporter-toolkit's: addresses, TLS, passwords, systemd's sockets. They are for Handler.
	Flags *toolkit.FlagConfig
	// Handler serves all paths.
	Handler http.Handler
	// HealthAddress is where HealthHandler is served as well, without TLS and passwords; empty for nowhere.
	HealthAddress string
	HealthHandler http.Handler
	// OnReady is called when the listeners are being opened, with true, and when they are about to be closed, with false.
	OnReady func(ready bool)
	Logger  *slog.Logger
}

// Serve serves requests until ctx ends, or until a listener fails, which is the error. Requests under way may then take
// finishGrace, before their contexts and connections end.
func Serve(ctx context.Context, o Options) error {
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	servers := newListeners(requests, &o)
	failed := servers.listen(o.Logger)
	o.OnReady(true)
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
		o.Logger.Info("stopping")
	}
	o.OnReady(false)
	servers.stop(requests, endRequests)
	return err
}

// listener is an HTTP server with what exporter-toolkit needs to serve it.
type listener struct {
	server *http.Server
	flags  toolkit.FlagConfig
}

type listeners []listener

// newListeners makes a server for each address: exporter-toolkit changes the server that it serves, and has a data race if it
// serves one at several addresses. systemd's sockets have one server, since the toolkit makes their listeners itself.
//
// The address of the health paths has a server of its own, with a limit of its own, and without TLS and passwords.
func newListeners(requests context.Context, o *Options) listeners {
	newServer := func(handler http.Handler, limit *connectionLimit) *http.Server {
		return &http.Server{
			Handler:      limit.Middleware(withoutBody(handler)),
			ConnState:    limit.track,
			ConnContext:  limit.remember,
			BaseContext:  func(net.Listener) context.Context { return requests },
			ReadTimeout:  readTimeout,
			WriteTimeout: writeTimeout,
			IdleTimeout:  idleTimeout,
			ErrorLog:     slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		}
	}
	var all listeners
	maxOpen := maxConnections()
	if o.HealthAddress != "" {
		maxHealth := min(maxOpen/4, maxHealthConnections)
		maxOpen -= maxHealth
		plain, off := "", false
		all = append(all, listener{newServer(o.HealthHandler, newConnectionLimit(maxHealth)), toolkit.FlagConfig{
			WebListenAddresses: &[]string{o.HealthAddress}, WebConfigFile: &plain, WebSystemdSocket: &off,
		}})
	}
	limit := newConnectionLimit(maxOpen)
	if *o.Flags.WebSystemdSocket {
		return append(all, listener{newServer(o.Handler, limit), *o.Flags})
	}
	for _, address := range *o.Flags.WebListenAddresses {
		one := *o.Flags
		one.WebListenAddresses = &[]string{address}
		all = append(all, listener{newServer(o.Handler, limit), one})
	}
	return all
}

// listen starts all servers. The returned channel gets the error of a server that fails.
func (all listeners) listen(logger *slog.Logger) <-chan error {
	failed := make(chan error, len(all))
	for _, l := range all {
		go func() {
			if err := toolkit.ListenAndServe(l.server, &l.flags, logger); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		}()
	}
	return failed
}

// stop waits for the requests under way, for at most finishGrace, and then ends them.
func (all listeners) stop(requests context.Context, endRequests func()) {
	grace, cancel := context.WithTimeout(requests, finishGrace)
	defer cancel()
	var stopping sync.WaitGroup
	for _, l := range all {
		stopping.Go(func() {
			if l.server.Shutdown(grace) != nil {
				endRequests()
				_ = l.server.Close() // closes the connections; nobody is left to tell
			}
		})
	}
	stopping.Wait()
}
