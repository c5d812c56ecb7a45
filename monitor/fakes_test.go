// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pg_liveness_exporter/probe"
)

// unqueried is embedded in fake probers of tests that run no statements.
type unqueried struct{}

func (unqueried) Query(context.Context, string, time.Duration) (probe.Scalar, *probe.Failure) {
	panic("no statement is expected")
}

func (unqueried) ForgetRefusals() {}
func (unqueried) SetKeep(bool)    {}

// fixedProber is a fake prober whose probes always succeed.
type fixedProber struct{ unqueried }

func (fixedProber) Probe(context.Context) *probe.Result {
	return &probe.Result{Start: time.Now(), Keep: true, KeptUp: true}
}
func (fixedProber) Close(context.Context) error { return nil }

func newHistograms(bool) Histograms {
	one := func() prometheus.Histogram { return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "x"}) }
	return Histograms{Connect: one(), Query: one(), Commit: one()}
}
