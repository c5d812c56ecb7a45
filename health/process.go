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

// usageInterval is how long a measurement is reused. A measurement costs more than the rest of a request.
const usageInterval = time.Second

// process measures the memory and the CPU time of this process. Any goroutine may call its methods.
type process struct {
	gatherer  prometheus.Gatherer
	last      atomic.Pointer[usage]
	measuring atomic.Bool // a caller is measuring
}

// usage is one measurement: resident memory in bytes and CPU time in seconds. They are unknown on systems where they
// cannot be read.
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

// usage returns the last measurement, and measures again if that is older than usageInterval. It does not wait for a
// measurement by another caller.
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
