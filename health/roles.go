package health

import (
	"net/http"
	"net/url"
	"time"

	"pg_liveness_exporter/probe"
)

// role says whether a server that accepts sessions has it, by what it says of itself. It returns an error for parameters
// that make no sense.
type role func(c *component, query url.Values) (bool, error)

func roles() map[string]role {
	writes := func(f *probe.Figures, _ url.Values) (bool, error) { return !f.ReadOnly, nil }
	figures := func(holds func(f *probe.Figures, query url.Values) (bool, error)) role {
		return func(c *component, query url.Values) (bool, error) {
			f := c.result.Figures
			if f == nil {
				f = &probe.Figures{}
			}
			ok, err := holds(f, query)
			return ok && c.result.Figures != nil, err
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
		"read-write": func(c *component, query url.Values) (bool, error) {
			ok, err := figures(writes)(c, query)
			return ok && c.commits, err
		},
		"read-only": func(*component, url.Values) (bool, error) { return true, nil },
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
	c := h.look(r.Context(), t, settings)
	ok, err := holds(&c, r.URL.Query())
	switch {
	case err != nil:
		h.write(w, http.StatusBadRequest, &body{status: fail.word(settings.Words), output: "lag is no duration such as 10s"})
	case ok && c.result.Up() && c.age <= settings.MaxAge:
		h.write(w, http.StatusOK, &body{status: pass.word(settings.Words)})
	default:
		output := c.output
		if c.result.Up() && output == "" {
			output = "the server does not have this role, or does not say"
		}
		retryAfter(w, settings.MaxAge)
		h.write(w, http.StatusServiceUnavailable, &body{status: fail.word(settings.Words), output: output})
	}
}
