// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/collectors/version"

	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// newRegistry returns a registry with the exporter's own metrics and those of the Go runtime and the process.
func newRegistry(m *monitor.Monitor, sessions *probe.Sessions) *prometheus.Registry {
	gaugeFunc := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: Name + name, Help: help}, value)
	}
	sessionsFunc := func(state string, count func() int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: Name + "_sessions", Help: "Connections to the targets, by state.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(count()) })
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		version.NewCollector(Name),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gaugeFunc("_targets", "Configured targets.", func() float64 { return float64(len(m.Targets())) }),
		gaugeFunc("_config_last_reload_successful", "Whether the last try to load the configuration succeeded.",
			func() float64 {
				if ok, _ := m.LastReload(); ok {
					return 1
				}
				return 0
			}),
		gaugeFunc("_config_last_reload_success_timestamp_seconds", "When the configuration was last loaded.", func() float64 {
			_, at := m.LastReload()
			return float64(at.UnixMilli()) / 1e3
		}),
		sessionsFunc("idle", sessions.Idle),
		sessionsFunc("in_use", sessions.InUse),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: Name + "_shared_probes_total", Help: "Probes that answered more than one caller.",
		}, func() float64 { return float64(m.SharedProbes()) }),
	)
	return registry
}
