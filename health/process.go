// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"pg_liveness_exporter/probe"
)

// usageInterval is how long a measurement is used: measuring for each of many requests would cost more than the requests.
const usageInterval = time.Second

// process measures what this process uses.
type process struct {
	gatherer  prometheus.Gatherer
	last      atomic.Pointer[usage]
	measuring atomic.Bool // by one of the callers
}

// usage is what the process used at a time: resident memory in bytes, CPU time in seconds. It is unknown on systems that do
// not tell.
type usage struct {
	memory, cpu probe.Number
	at          time.Time
}

func newProcess() *process {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p := &process{gatherer: registry}
	p.last.Store(p.measure())
	return p
}

// usage returns the last measurement, which is a new one if that is older than usageInterval. Callers do not wait for a
// measurement that another one makes.
func (p *process) usage() (memory, cpu probe.Number) {
	if time.Since(p.last.Load().at) > usageInterval && p.measuring.CompareAndSwap(false, true) {
		p.last.Store(p.measure())
		p.measuring.Store(false)
	}
	last := p.last.Load()
	return last.memory, last.cpu
}

func (p *process) measure() *usage {
	u := &usage{at: time.Now()}
	families, err := p.gatherer.Gather()
	if err != nil {
		return u
	}
	for _, family := range families {
		switch family.GetName() {
		case "process_resident_memory_bytes":
			u.memory = number(family.GetMetric()[0].GetGauge().GetValue())
		case "process_cpu_seconds_total":
			u.cpu = number(family.GetMetric()[0].GetCounter().GetValue())
		}
	}
	return u
}
