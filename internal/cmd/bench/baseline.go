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
	// requestTimeout bounds what the baseline does for one request, and a request of the client.
	requestTimeout = 10 * time.Second
)

// baseline is an HTTP handler that sends the same queries as the exporter and does nothing else: it measures no phases,
// knows no deadline of the client and no reasons, ignores the statistics that it reads, and shows one series.
type baseline struct {
	login    *pgconn.Config
	kept     *pgconn.PgConn
	statsSQL string
	show     http.Handler
}

// serveBaseline serves the baseline on address until it fails. statsSQL is the statement that the exporter sends, so
// that the server has the same work.
func serveBaseline(address, dsn, statsSQL string) error {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	kept, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "pg_up", Help: "Whether SELECT 1 answered."})
	registry.MustRegister(gauge)
	gauge.Set(1)
	b := &baseline{
		login: cfg, kept: kept, statsSQL: statsSQL,
		show: promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}),
	}
	server := &http.Server{Addr: address, Handler: b, ReadHeaderTimeout: headerTimeout}
	return server.ListenAndServe()
}

// ServeHTTP implements http.Handler.
func (b *baseline) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	fresh := make(chan error, 1)
	go func() { fresh <- b.probe(ctx) }()
	if err := errors.Join(b.queryKept(ctx), <-fresh); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	b.show.ServeHTTP(w, r)
}

// probe logs in and runs SELECT 1.
func (b *baseline) probe(ctx context.Context) error {
	conn, err := pgconn.ConnectConfig(ctx, b.login)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "SELECT 1").ReadAll()
	// Close waits until the server has ended the session. The exporter closes sessions after its response, so the baseline
	// does too: otherwise it would be slower, and the ratio too good.
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		_ = conn.Close(ctx) // it closes the socket even if it fails
	}()
	return err
}

// queryKept runs SELECT 1 and the statistics statement on the kept session.
func (b *baseline) queryKept(ctx context.Context) error {
	if _, err := b.kept.Exec(ctx, "SELECT 1").ReadAll(); err != nil {
		return err
	}
	_, err := b.kept.Exec(ctx, b.statsSQL).ReadAll()
	return err
}
