// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"cmp"
	"net/http"
	"time"

	"pg_liveness_exporter/check"
)

// healthCheck is the body of /health-check in the format of py-healthcheck (Runscope's HealthCheck, __init__.py and
// core.py there). Times are in seconds since the epoch, ResponseTime is in seconds.
type healthCheck struct {
	Hostname  string         `json:"hostname"`
	Status    string         `json:"status"`
	Timestamp float64        `json:"timestamp"`
	Results   []healthResult `json:"results"`
}

type healthResult struct {
	Checker      string  `json:"checker"`
	Output       string  `json:"output"`
	Passed       bool    `json:"passed"`
	Timestamp    float64 `json:"timestamp"`
	Expires      float64 `json:"expires"`
	ResponseTime float64 `json:"response_time"`
}

// serveHealthCheck serves /health-check. Warn counts as passed. Hysteresis does not apply.
func (h *Health) serveHealthCheck(w http.ResponseWriter, r *http.Request) {
	s := h.subjects(r)
	h.respond(w, r, &s, func(components []component) response {
		body := healthCheck{
			Hostname: h.hostname, Status: "success", Timestamp: epoch(time.Now()),
			Results: make([]healthResult, 0, len(components)),
		}
		code := http.StatusOK
		if worst(components) == check.Fail {
			body.Status, code = "failure", h.monitor.Health().FailureStatus
		}
		for _, c := range components {
			body.Results = append(body.Results, healthResult{
				Checker: c.name, Output: cmp.Or(c.output, "ok"), Passed: c.status != check.Fail, Timestamp: epoch(c.at),
				Expires: epoch(c.expires), ResponseTime: c.took.Value.Seconds(),
			})
		}
		return jsonResponse(code, "application/json", body)
	})
}

func epoch(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
