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

// Reloader loads the configuration again on request: at a signal, or as the handler of /-/reload. It reloads once at a time.
type Reloader struct {
	load     func() (*config.File, error)
	monitor  *monitor.Monitor
	logger   *slog.Logger
	hangup   <-chan os.Signal
	requests chan chan<- error
	ended    chan struct{} // closed when Run has returned
}

// NewReloader returns a reloader, which works while Run runs. hangup gets the signals.
func NewReloader(
	hangup <-chan os.Signal, load func() (*config.File, error), m *monitor.Monitor, logger *slog.Logger,
) *Reloader {
	return &Reloader{load, m, logger, hangup, make(chan chan<- error), make(chan struct{})}
}

// Run reloads at signals and requests until ctx ends.
func (r *Reloader) Run(ctx context.Context) {
	defer close(r.ended)
	for {
		select {
		case <-r.hangup:
			_ = r.reload() // it was logged, and nobody waits
		case reply := <-r.requests:
			reply <- r.reload()
		case <-ctx.Done():
			return
		}
	}
}

// reload applies the configuration. If it cannot be loaded, the one before stays, and the error says what is wrong.
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

// ServeHTTP reloads: 200, or 500 with what is wrong.
func (r *Reloader) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	reply := make(chan error, 1)
	select {
	case r.requests <- reply:
	case <-request.Context().Done():
		panic(http.ErrAbortHandler) // an empty response would mean success
	case <-r.ended:
		panic(http.ErrAbortHandler)
	}
	if err := <-reply; err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// LogProblems writes a line for each problem of a configuration.
func LogProblems(logger *slog.Logger, err error) {
	for line := range strings.Lines(err.Error()) {
		logger.Error("cannot use the configuration", "err", strings.TrimSpace(line))
	}
}
