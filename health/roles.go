// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"pg_liveness_exporter/check"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

// role returns why a server that accepts sessions does not have the role, empty if it has it. The error is for parameters that
// cannot be parsed.
type role func(s *server, query url.Values) (problem string, err error)

const (
	isPrimary = "it is a primary"
	isReplica = "it is a replica"
)

func roles() map[string]role {
	figures := func(problem func(f *probe.ServerStats) string) role {
		return func(s *server, _ url.Values) (string, error) {
			if s.result.ServerStats == nil {
				return "its role is not known: no session could read it", nil
			}
			return problem(s.result.ServerStats), nil
		}
	}
	writes := figures(func(f *probe.ServerStats) string {
		switch {
		case f.Replica:
			return isReplica
		case f.ReadOnly:
			return "transactions of the exporter's role are read-only by default"
		}
		return ""
	})
	return map[string]role{
		"primary": figures(func(f *probe.ServerStats) string {
			if f.Replica {
				return isReplica
			}
			return ""
		}),
		"replica": func(s *server, query url.Values) (string, error) {
			var maxLag time.Duration
			if query.Has("lag") {
				var err error
				if maxLag, err = time.ParseDuration(query.Get("lag")); err != nil {
					return "", err
				}
			}
			return figures(func(f *probe.ServerStats) string {
				switch {
				case !f.Replica:
					return isPrimary
				case !query.Has("lag") || f.ReplicationLag.Known && f.ReplicationLag.Value <= maxLag.Seconds():
					return ""
				case f.ReplicationLag.Known:
					return fmt.Sprintf("it is %.1f s behind, more than %s", f.ReplicationLag.Value, maxLag)
				case !f.Privileged:
					return "its lag is not known: the exporter's role lacks pg_monitor"
				}
				return "its lag is not known"
			})(s, query)
		},
		"read-write": func(s *server, query url.Values) (string, error) {
			if !s.commits {
				return s.output, nil
			}
			return writes(s, query)
		},
		"read-only": func(*server, url.Values) (string, error) { return "", nil },
	}
}

// serveRole serves /primary and the other role paths: 200 if the target accepts sessions and has the role, by a result that is at
// most max_age old, otherwise 503. Without a name there must be exactly one target. Hysteresis does not apply.
func (h *Health) serveRole(w http.ResponseWriter, r *http.Request, name string, wanted role) {
	settings := h.monitor.Health()
	t := h.findTarget(name)
	if targets := h.monitor.Targets(); name == "" && len(targets) == 1 {
		t = targets[0]
	}
	switch {
	case t == nil && name == "":
		h.unknown(w, "there is not just one target: add a target's name to the path")
		return
	case t == nil:
		h.unknown(w, unknownName)
		return
	}
	s := h.server(r.Context(), t, settings)
	problem, err := wanted(&s, r.URL.Query())
	switch {
	case !s.result.Up():
		problem = s.output
	case !s.fresh:
		problem = "no result within max_age: the server is slow, or max_age shorter than a probe takes"
	case s.kind != string(config.KindPostgres) && problem != "":
		problem = "a pooler has no role"
	}
	switch {
	case err != nil:
		h.write(w, http.StatusBadRequest, &body{status: statusName(check.Fail, settings.StatusNames), output: "lag is no duration such as 10s"})
	case problem == "" && s.result.Up() && s.fresh:
		h.write(w, http.StatusOK, &body{status: statusName(check.Pass, settings.StatusNames)})
	default:
		retryAfter(w, settings.MaxAge)
		h.write(w, http.StatusServiceUnavailable, &body{status: statusName(check.Fail, settings.StatusNames), output: problem})
	}
}
