// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"net/http"
	"net/url"
	"time"

	"pg_liveness_exporter/check"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

// role says whether a server that accepts sessions has it, by what it says of itself. It returns an error for parameters
// that make no sense.
type role func(s *server, query url.Values) (bool, error)

func roles() map[string]role {
	writes := func(f *probe.Figures, _ url.Values) (bool, error) { return !f.ReadOnly, nil }
	figures := func(holds func(f *probe.Figures, query url.Values) (bool, error)) role {
		return func(s *server, query url.Values) (bool, error) {
			f := s.result.Figures
			if f == nil {
				f = &probe.Figures{}
			}
			ok, err := holds(f, query)
			return ok && s.result.Figures != nil, err
		}
	}
	return map[string]role{
		"primary": figures(func(f *probe.Figures, _ url.Values) (bool, error) { return !f.Replica, nil }),
		"replica": figures(func(f *probe.Figures, query url.Values) (bool, error) {
			if !query.Has("lag") {
				return f.Replica, nil
			}
			most, err := time.ParseDuration(query.Get("lag"))
			return f.Replica && f.ReplicationLag.Known && f.ReplicationLag.Value <= most.Seconds(), err
		}),
		"read-write": func(s *server, query url.Values) (bool, error) {
			ok, err := figures(writes)(s, query)
			return ok && s.commits, err
		},
		"read-only": func(*server, url.Values) (bool, error) { return true, nil },
	}
}

// serveRole answers /primary and its siblings: 200 when the target accepts sessions and has the role, by a result that is
// not too old, else 503. Without a name there must be one target and no more. Hysteresis has no part in it.
func (h *Health) serveRole(w http.ResponseWriter, r *http.Request, name string, holds role) {
	settings := h.exporter.Health()
	t := h.find(name)
	if targets := h.exporter.Targets(); name == "" && len(targets) == 1 {
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
	s := h.look(r.Context(), t, settings)
	ok, err := holds(&s, r.URL.Query())
	switch {
	case err != nil:
		h.write(w, http.StatusBadRequest, &body{status: word(check.Fail, settings.Words), output: "lag is no duration such as 10s"})
	case ok && s.result.Up() && s.fresh:
		h.write(w, http.StatusOK, &body{status: word(check.Pass, settings.Words)})
	default:
		output := s.output
		switch {
		case !s.result.Up() || output != "":
		case !s.fresh:
			output = "no result within max_age: the server is slow, or max_age shorter than a probe takes"
		case s.kind != string(config.KindPostgres):
			output = "a pooler has no role"
		default:
			output = "the server does not have this role, or does not say"
		}
		retryAfter(w, settings.MaxAge)
		h.write(w, http.StatusServiceUnavailable, &body{status: word(check.Fail, settings.Words), output: output})
	}
}
