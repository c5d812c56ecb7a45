// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"strings"

	dto "github.com/prometheus/client_model/go"

	"pg_liveness_exporter/check"
	"pg_liveness_exporter/monitor"
)

// checkMetric is a metric of a check. value reports false if the check has no such value.
type checkMetric struct {
	metric
	value func(r *monitor.CheckResult) (float64, bool)
}

func checkMetrics() []checkMetric {
	row := func(name, help string, value func(r *monitor.CheckResult) (float64, bool)) checkMetric {
		return checkMetric{metric{name: name, help: help, kind: gauge, labels: []string{"check"}}, value}
	}
	return []checkMetric{
		row("pg_liveness_check_duration_seconds", "Duration of the check's last run.",
			func(r *monitor.CheckResult) (float64, bool) { return r.Took.Seconds(), true }),
		row("pg_liveness_check_up", "Whether the check's last run did not fail.",
			func(r *monitor.CheckResult) (float64, bool) {
				if r.Status == check.Fail {
					return 0, true
				}
				return 1, true
			}),
		row("pg_liveness_check_value",
			"Number that the check's last run found: what the statement returned, a length, workers.",
			func(r *monitor.CheckResult) (float64, bool) { return r.Value, r.HasValue }),
	}
}

// checkView gathers the metrics of checks from their results. If labelled is set, each series has the label target, which
// is empty for a check without a target, and the target's own labels.
type checkView struct {
	results  []monitor.CheckResult
	labelled bool
}

// Gather returns the metrics. It does no I/O.
func (v checkView) Gather() ([]*dto.MetricFamily, error) {
	var families []*dto.MetricFamily
	for _, m := range checkMetrics() {
		var series []*dto.Metric
		for i := range v.results {
			r := &v.results[i]
			value, ok := m.value(r)
			if !ok {
				continue
			}
			var target []*dto.LabelPair
			if v.labelled {
				target = targetLabels(r.Target, r.Labels)
			}
			series = append(series, m.sample(value, []string{strings.ToValidUTF8(r.Check, "\ufffd")}, target))
		}
		if series != nil {
			families = append(families, &dto.MetricFamily{Name: &m.name, Help: &m.help, Type: &m.kind, Metric: series})
		}
	}
	return families, nil
}
