package main

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/promslog"

	"pg_liveness_exporter/collector"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

const probeTimeout = 5 * time.Second

// serveTarget serves one target's own series. It returns only with an error.
//
// From the outside, the real binary cannot be made to leave out its own metrics, Go's and the process's: promhttp's
// name[] drops them after they were gathered, which is what they cost. So this is /metrics of collector.Exporter with a
// bare registry, as /probe will be; once the binary serves that, it can take this child's place.
func serveTarget(address string, getenv func(string) string) error {
	settings, _, err := config.FromEnvironment(getenv)
	if err != nil {
		return err
	}
	var (
		sessions probe.Sessions
		shared   atomic.Uint64
		table    = collector.NewTable()
	)
	target := collector.NewTarget(
		collector.TargetOptions{
			Timeout: probeTimeout, Keeps: true, Logger: promslog.New(&promslog.Config{}), Shared: &shared,
		},
		func(onLoss func(probe.LossReason, time.Time)) collector.Prober {
			return probe.NewPostgres(settings, probe.Options{Keep: true, Sessions: &sessions, OnLoss: onLoss})
		})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		snapshot, ok := target.Probe(r.Context(), time.Now().Add(probeTimeout))
		if !ok {
			return
		}
		registry := prometheus.NewRegistry()
		if err := registry.Register(table.View(snapshot)); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}).ServeHTTP(w, r)
	})
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: headerTimeout}
	return server.ListenAndServe()
}
