// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package web serves HTTP. It implements the listeners, with timeouts and a limit on open connections, the routing of paths,
// the reload of the configuration, and the shutdown.
package web

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	toolkit "github.com/prometheus/exporter-toolkit/web"

	"pg_liveness_exporter/config"
)

const (
	// readTimeout bounds the reading of a whole request, including its body. net/http lifts it while a handler runs.
	readTimeout = 5 * time.Second
	idleTimeout = 2 * time.Minute
	// writeTimeout begins with the request and therefore allows for the longest probe. The collector sets a shorter one
	// when it begins to write.
	writeTimeout = config.MaxTimeout + 10*time.Second
	// finishGrace is how long requests under way may take after Serve's context has ended.
	finishGrace = 3 * time.Second
	// maxHeaderBytes bounds the head of a request. The longest sensible one has the names of many targets to exclude.
	maxHeaderBytes = 64 << 10
	// maxStreams is how many requests of a connection may be under way with HTTP/2. Four times as many may wait: those that
	// a client has taken back (a rapid reset) count until their handlers have returned (scheduleHandler in net/http's
	// h2_bundle.go). Go's client, which is Prometheus's, opens another connection for more.
	maxStreams = 32
	// maxReceiveBuffer bounds what a connection with HTTP/2 may hold of the bodies of requests, which no handler reads.
	maxReceiveBuffer = 64 << 10
	// maxWebConfigSize bounds the file of --web.config.file, in bytes.
	maxWebConfigSize = 1 << 20
)

// Options has the parameters of Serve.
type Options struct {
	// Flags are exporter-toolkit's: addresses, TLS, passwords, systemd sockets. They apply to Handler.
	Flags *toolkit.FlagConfig
	// Handler serves all paths.
	Handler http.Handler
	// HealthAddress is the address of HealthHandler, which has neither TLS nor passwords. It is empty if there is none.
	HealthAddress string
	HealthHandler http.Handler
	// OnReady is called with true when Serve opens the listeners, and with false before it closes them.
	OnReady func(ready bool)
	// OnOutOfDescriptors is called each time that a connection cannot be accepted for lack of file descriptors.
	OnOutOfDescriptors func()
	Logger             *slog.Logger
}

// Serve serves requests until ctx ends or a listener fails, and returns the error of the listener, or of the file of
// --web.config.file. Requests under way may then take finishGrace longer. After that, Serve ends their contexts and closes
// their connections.
func Serve(ctx context.Context, o Options) error {
	// exporter-toolkit would read any kind of file, of any size.
	if path := *o.Flags.WebConfigFile; path != "" {
		if _, err := config.ReadFile(path, maxWebConfigSize); err != nil {
			return fmt.Errorf("--web.config.file: %w", err)
		}
	}
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	servers := newListeners(requests, &o)
	failed := servers.listen(o.Logger)
	o.OnReady(true)
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
		o.Logger.Info("Stopping")
	}
	o.OnReady(false)
	servers.stop(requests, endRequests)
	return err
}

// listener is an HTTP server with its flags for exporter-toolkit.
type listener struct {
	server *http.Server
	flags  toolkit.FlagConfig
}

type listeners []listener

// newListeners makes a server for each address: exporter-toolkit modifies the server, so that there would be a data
// race if several addresses shared one. All systemd sockets share one server because the toolkit makes their listeners
// itself.
//
// The address of the health paths has its own server and its own limit, and neither TLS nor passwords. The contexts of
// all requests derive from requests.
func newListeners(requests context.Context, o *Options) listeners {
	newServer := func(handler http.Handler, limit *connectionLimit) *http.Server {
		return &http.Server{
			Handler:        limit.Middleware(withoutBody(handler)),
			ConnState:      limit.track,
			ConnContext:    limit.remember,
			BaseContext:    func(net.Listener) context.Context { return requests },
			ReadTimeout:    readTimeout,
			WriteTimeout:   writeTimeout,
			IdleTimeout:    idleTimeout,
			MaxHeaderBytes: maxHeaderBytes,
			HTTP2: &http.HTTP2Config{
				MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: maxReceiveBuffer, MaxReceiveBufferPerStream: maxReceiveBuffer,
			},
			ErrorLog: log.New(serverLog{o.Logger, o.OnOutOfDescriptors}, "", 0),
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

// listen starts all servers. It returns a channel that receives the error of each server that fails.
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

// stop closes the listeners and waits at most finishGrace for the requests under way. Then it ends them.
func (all listeners) stop(requests context.Context, endRequests func()) {
	grace, cancel := context.WithTimeout(requests, finishGrace)
	defer cancel()
	var stopping sync.WaitGroup
	for _, l := range all {
		stopping.Go(func() {
			if l.server.Shutdown(grace) != nil {
				endRequests()
				_ = l.server.Close() // ignored: the process exits
			}
		})
	}
	stopping.Wait()
}
