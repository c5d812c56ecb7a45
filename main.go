// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Pg_liveness_exporter tells Prometheus whether a PostgreSQL server is alive, how quickly it answers, and whether there are
// connections left.
package main

import (
	"context"
	"io"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/common/version"

	"pg_liveness_exporter/collector"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/health"
	"pg_liveness_exporter/internal/cli"
	"pg_liveness_exporter/internal/credentials"
	"pg_liveness_exporter/internal/web"
	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
	"pg_liveness_exporter/status"
)

const (
	// gcPercent is Go's GOGC with a file of targets, unless the variable is set: most of the memory is sessions that wait, and
	// as much again for garbage would be too much. It costs a hundredth of a core with 1,000 targets.
	gcPercent = 60
	// closeGrace is how long sessions may take to be closed at a signal.
	closeGrace = time.Second
)

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is the program. It returns the exit code.
func run(args []string, getenv func(string) string, out, errs io.Writer) int {
	f, code, ended := cli.Parse(args, out, errs)
	if ended {
		return code
	}
	log.SetOutput(io.Discard) // Go's HTTP client writes there what strangers send
	f.Log.Writer = errs
	logger := promslog.New(&f.Log)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // from the first moment to the last, or it would end the program
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if f.ConfigFile != "" && getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	load, store, fingerprint := f.Loader(getenv), credentials.NewStore(ctx), f.Fingerprint()
	switch {
	case f.IsCheck:
		return f.Check.Run(ctx, load, store, out, errs)
	case f.ConfigCheck:
		return f.CheckConfig(load, out, errs)
	}
	cli.WarnOfForeignVariables(getenv, logger)
	file, err := load()
	if err != nil {
		web.LogProblems(logger, err)
		return 1
	}
	logger.Info("Starting pg_liveness_exporter", "version", version.Info())
	cli.LogEnvironment(file, logger)
	reloading := web.ReloaderOptions{
		Load: load, Hangup: hangup, Interval: f.AutoReloadInterval, Fingerprint: f.Fingerprint, Loaded: fingerprint, Logger: logger,
	}
	if err := serve(ctx, &f, file, store, reloading, logger); err != nil {
		logger.Error("Cannot serve", "err", err)
		return 1
	}
	return 0
}

// serve serves HTTP until ctx ends, and then ends scrapes and sessions in less than five seconds.
func serve(
	ctx context.Context, f *cli.Flags, file *config.File, store *credentials.Store, reloading web.ReloaderOptions,
	logger *slog.Logger,
) error {
	var sessions probe.Sessions
	shortage := web.NewShortage(logger)
	m := monitor.New(monitor.Options{
		MaxInFlight: f.MaxInFlight, NewHistograms: collector.NewHistograms, Logger: logger,
		NewProber: monitor.NewProbers(store, &sessions), Timelines: f.HasPages(), OnOutOfDescriptors: shortage.Report,
	})
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
		defer cancel()
		if err := m.Close(closing); err != nil {
			logger.Warn("Some sessions were not closed in time", "err", err)
		}
	}()
	web.WarnOfDescriptors(logger, len(file.Targets))
	m.ApplyConfig(file)
	reloading.Monitor = m
	reloader := web.NewReloader(reloading)
	go reloader.Run(ctx)

	exporter := collector.New(m, collector.Options{
		TimeoutOffset: f.TimeoutOffset, HideTargets: !f.Targets, Compat: f.Compat, Sessions: &sessions, Logger: logger,
	})
	mux, err := web.NewMux(web.MuxOptions{
		TelemetryPath: f.TelemetryPath, External: f.ExternalURL, Exporter: exporter, Reload: reloader, Lifecycle: f.Lifecycle,
		Pages: newPages(f, m, logger),
	})
	if err != nil {
		return err
	}
	var ready atomic.Bool
	hostname, _ := os.Hostname() // empty if there is none
	healthMux := http.NewServeMux()
	for _, each := range []*http.ServeMux{mux, healthMux} {
		health.New(m, ready.Load, hostname).Register(each)
	}
	return web.Serve(ctx, web.Options{
		Flags: f.Web, Handler: web.WithPrefix(mux, f.RoutePrefix, f.ExternalURL), OnReady: ready.Store,
		HealthAddress: f.HealthAddress, HealthHandler: healthMux, OnOutOfDescriptors: shortage.Report, Logger: logger,
	})
}

// newPages returns the pages for people, or nil if they are off.
func newPages(f *cli.Flags, m *monitor.Monitor, logger *slog.Logger) http.Handler {
	if !f.HasPages() {
		if f.Status {
			logger.Warn("The metrics are at /, so there is no status page; --web.telemetry-path moves them")
		}
		return nil
	}
	return status.New(m, status.Options{
		ConfigFile: f.ConfigFile, TelemetryPath: f.TelemetryPath, Version: version.Version, Logger: logger,
	})
}
