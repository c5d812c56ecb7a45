// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/json"
	"net/http"
	"net/url"
)

// group is a target group of Prometheus's HTTP service discovery
// (https://prometheus.io/docs/prometheus/latest/http_sd/).
type group struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// Discovery returns a handler for /sd. It lists all configured targets for Prometheus's http_sd_configs. Prometheus
// then scrapes each target through /probe, at external, and gives its series the labels of the target. The label instance has
// the target's name. The target from the environment is scraped at metricsPath instead.
//
// external is the URL of the exporter, without a slash at the end of its path. If it has no host, the host and the scheme are
// those of the request.
func (e *Exporter) Discovery(metricsPath string, external *url.URL) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, host := external.Scheme, external.Host
		if host == "" {
			scheme, host = "http", r.Host
			if r.TLS != nil {
				scheme = "https"
			}
		}
		if host == "" {
			http.Error(w, "the request has no Host header, which is where the targets are scraped", http.StatusBadRequest)
			return
		}
		groups := []group{}
		for _, t := range e.monitor.Targets() {
			labels := map[string]string{"__scheme__": scheme, "__metrics_path__": external.Path + metricsPath}
			if name := t.Name(); !t.Implied() {
				labels["__metrics_path__"] = external.Path + ProbePath
				labels["__param_target"] = name
				labels["instance"] = name
				labels[targetLabel] = name
				for _, l := range t.Labels() {
					labels[l.Name] = l.Value
				}
			}
			groups = append(groups, group{[]string{host}, labels})
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(groups) // ignored: the client may have gone
	})
}
