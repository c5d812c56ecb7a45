// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
)

// Reloader reloads the configuration on a signal, on a request to /-/reload, and when the file has changed. Reloads never
// overlap.
type Reloader struct {
	options  ReloaderOptions
	loaded   string // what Fingerprint returned before the last reload; only Run uses it
	requests chan chan<- error
	ended    chan struct{} // closed when Run has returned
}

// ReloaderOptions has the parameters of NewReloader.
type ReloaderOptions struct {
	// Load returns the configuration, which Monitor gets.
	Load    func() (*config.File, error)
	Monitor *monitor.Monitor
	// Hangup receives signals to reload.
	Hangup <-chan os.Signal
	// Interval is the time between two looks at the configuration. If it is 0 there are none. Fingerprint returns a text that
	// is another one once the configuration has changed, and Loaded is what it returned before Monitor got the first
	// configuration.
	Interval    time.Duration
	Fingerprint func() string
	Loaded      string
	Logger      *slog.Logger
}

// NewReloader returns a reloader. It reloads only while Run runs.
func NewReloader(options ReloaderOptions) *Reloader {
	return &Reloader{options, options.Loaded, make(chan chan<- error), make(chan struct{})}
}

// Run reloads until ctx ends. After a change that cannot be loaded, it tries again when there is another change.
func (r *Reloader) Run(ctx context.Context) {
	defer close(r.ended)
	var look <-chan time.Time
	if r.options.Interval > 0 {
		ticker := time.NewTicker(r.options.Interval)
		defer ticker.Stop()
		look = ticker.C
	}
	for {
		select {
		case <-look:
			if r.options.Fingerprint() != r.loaded {
				_ = r.reload() // ignored: reload has logged it
			}
		case <-r.options.Hangup:
			_ = r.reload()
		case reply := <-r.requests:
			reply <- r.reload()
		case <-ctx.Done():
			return
		}
	}
}

// reload loads and applies the configuration. If it cannot be loaded, the previous one stays and reload returns the
// error.
func (r *Reloader) reload() error {
	r.loaded = r.options.Fingerprint() // before the file is read: a change meanwhile is loaded next time
	logger := r.options.Logger
	file, err := r.options.Load()
	if err != nil {
		r.options.Monitor.ReloadFailed()
		logger.Error("Keeping the previous configuration")
		LogProblems(logger, err)
		return err
	}
	WarnOfDescriptors(logger, len(file.Targets))
	r.options.Monitor.ApplyConfig(file)
	logger.Info("Configuration loaded", "targets", len(file.Targets), "checks", len(file.Checks))
	return nil
}

// ServeHTTP reloads the configuration. It responds with 200 if that succeeds, or with 500 and the error. It aborts the
// request if the client leaves or the reloader stops before the reload begins.
func (r *Reloader) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	reply := make(chan error, 1)
	select {
	case r.requests <- reply:
	case <-request.Context().Done():
		panic(http.ErrAbortHandler) // an empty response would have status 200
	case <-r.ended:
		panic(http.ErrAbortHandler)
	}
	if err := <-reply; err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// LogProblems logs each line of the error of a configuration.
func LogProblems(logger *slog.Logger, err error) {
	for line := range strings.Lines(err.Error()) {
		logger.Error("Invalid configuration", "err", strings.TrimSpace(line))
	}
}
