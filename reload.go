// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
)

// reloads loads the configuration again when somebody asks, one after the other.
type reloads struct {
	load     func() (*config.File, error)
	watching *monitor.Monitor
	logger   *slog.Logger
	hangup   <-chan os.Signal
	requests chan chan<- error
	ended    chan struct{} // closed when nobody reloads any more
}

func newReloads(hangup <-chan os.Signal, load func() (*config.File, error), watching *monitor.Monitor, logger *slog.Logger) *reloads {
	return &reloads{load, watching, logger, hangup, make(chan chan<- error), make(chan struct{})}
}

// run reloads at SIGHUP and at requests, until ctx ends.
func (r *reloads) run(ctx context.Context) {
	defer close(r.ended)
	for {
		select {
		case <-r.hangup:
			_ = r.reload() // it was logged, and nobody waits
		case answer := <-r.requests:
			answer <- r.reload()
		case <-ctx.Done():
			return
		}
	}
}

// reload makes the file's content the configuration, or changes nothing and says what is wrong.
func (r *reloads) reload() error {
	file, err := r.load()
	if err != nil {
		r.watching.ReloadFailed()
		r.logger.Error("the configuration stays as it was")
		logProblems(r.logger, err)
		return err
	}
	warnOfDescriptors(r.logger, len(file.Targets))
	r.watching.ApplyConfig(file)
	r.logger.Info("the configuration was loaded", "targets", len(file.Targets), "checks", len(file.Checks))
	return nil
}

// ServeHTTP reloads: 200, or 500 with what is wrong.
func (r *reloads) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	answer := make(chan error, 1)
	select {
	case r.requests <- answer:
	case <-request.Context().Done():
		panic(http.ErrAbortHandler) // an empty answer would say that it was done
	case <-r.ended:
		panic(http.ErrAbortHandler)
	}
	if err := <-answer; err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// logProblems writes a line for each problem of a configuration.
func logProblems(logger *slog.Logger, err error) {
	for line := range strings.Lines(err.Error()) {
		logger.Error("cannot use the configuration", "err", strings.TrimSpace(line))
	}
}
