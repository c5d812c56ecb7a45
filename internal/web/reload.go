// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
)

// Reloader reloads the configuration on a signal or on a request to /-/reload. Reloads never overlap.
type Reloader struct {
	load     func() (*config.File, error)
	monitor  *monitor.Monitor
	logger   *slog.Logger
	hangup   <-chan os.Signal
	requests chan chan<- error
	ended    chan struct{} // closed when Run has returned
}

// NewReloader returns a reloader. It reloads only while Run runs. hangup receives the signals.
func NewReloader(
	hangup <-chan os.Signal, load func() (*config.File, error), m *monitor.Monitor, logger *slog.Logger,
) *Reloader {
	return &Reloader{load, m, logger, hangup, make(chan chan<- error), make(chan struct{})}
}

// Run reloads on signals and requests until ctx ends.
func (r *Reloader) Run(ctx context.Context) {
	defer close(r.ended)
	for {
		select {
		case <-r.hangup:
			_ = r.reload() // ignored: reload has logged it
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
	file, err := r.load()
	if err != nil {
		r.monitor.ReloadFailed()
		r.logger.Error("the configuration stays as it was")
		LogProblems(r.logger, err)
		return err
	}
	WarnOfDescriptors(r.logger, len(file.Targets))
	r.monitor.ApplyConfig(file)
	r.logger.Info("the configuration was loaded", "targets", len(file.Targets), "checks", len(file.Checks))
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
		logger.Error("cannot use the configuration", "err", strings.TrimSpace(line))
	}
}
