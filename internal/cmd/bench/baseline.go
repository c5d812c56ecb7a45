// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	headerTimeout = 5 * time.Second
	// askLimit bounds a request of the baseline's to the server.
	askLimit = 10 * time.Second
)

// baseline asks what the exporter asks, and does nothing else: no phases, no deadline of the client's, no reasons, no
// reading of the figures, and one series to show.
type baseline struct {
	login      *pgconn.Config
	open       *pgconn.PgConn
	figuresSQL string
	show       http.Handler
}

// serveBaseline returns only with an error. The figures statement is the one that the exporter was seen to send, so that
// the server has the same work.
func serveBaseline(address, dsn, figuresSQL string) error {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	open, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "pg_up", Help: "Whether SELECT 1 answered."})
	registry.MustRegister(gauge)
	gauge.Set(1)
	f := &baseline{
		login: cfg, open: open, figuresSQL: figuresSQL,
		show: promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}),
	}
	server := &http.Server{Addr: address, Handler: f, ReadHeaderTimeout: headerTimeout}
	return server.ListenAndServe()
}

func (f *baseline) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), askLimit)
	defer cancel()
	fresh := make(chan error, 1)
	go func() { fresh <- f.askNew(ctx) }()
	if err := errors.Join(f.askOpen(ctx), <-fresh); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	f.show.ServeHTTP(w, r)
}

func (f *baseline) askNew(ctx context.Context) error {
	conn, err := pgconn.ConnectConfig(ctx, f.login)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "SELECT 1").ReadAll()
	// Closing takes as long as the server needs to end the session. The exporter does it behind its answer, and so does
	// the baseline: its time would be longer otherwise, and the ratio better than it is.
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askLimit)
		defer cancel()
		_ = conn.Close(ctx) // the socket is closed in any case
	}()
	return err
}

func (f *baseline) askOpen(ctx context.Context) error {
	if _, err := f.open.Exec(ctx, "SELECT 1").ReadAll(); err != nil {
		return err
	}
	_, err := f.open.Exec(ctx, f.figuresSQL).ReadAll()
	return err
}
