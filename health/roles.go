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

// role returns the reason why a server that accepts sessions does not have the role, or an empty text if it has it.
// It returns an error if a parameter in query cannot be parsed.
type role func(s *server, query url.Values) (problem string, err error)

// roles returns the roles by the first segment of their paths.
func roles() map[string]role {
	return map[string]role{
		"primary": primaryProblem, "replica": replicaProblem, "read-write": readWriteProblem, "read-only": readOnlyProblem,
	}
}

const (
	isPrimary = "it is a primary"
	isReplica = "it is a replica"
	noRole    = "its role is not known: no session could read it"
)

// primaryProblem is the role of /primary.
func primaryProblem(s *server, _ url.Values) (string, error) {
	switch found := s.result.Role; {
	case found == nil:
		return noRole, nil
	case found.Replica:
		return isReplica, nil
	}
	return "", nil
}

// replicaProblem is the role of /replica. The parameter lag is a duration, and the most that the replica may be behind.
func replicaProblem(s *server, query url.Values) (string, error) {
	limited := query.Has("lag")
	var maxLag time.Duration
	if limited {
		var err error
		if maxLag, err = time.ParseDuration(query.Get("lag")); err != nil {
			return "", err
		}
	}
	switch found := s.result.Role; {
	case found == nil:
		return noRole, nil
	case !found.Replica:
		return isPrimary, nil
	case !limited:
		return "", nil
	}
	return lagProblem(s.result.ServerStats, maxLag), nil
}

// lagProblem returns the reason why a replica is not known to be at most maxLag behind, or an empty text if it is. stats
// may be nil.
func lagProblem(stats *probe.ServerStats, maxLag time.Duration) string {
	switch {
	case stats == nil:
		return "its lag is not known: no session could read it"
	case stats.ReplicationLag.Known && stats.ReplicationLag.Value <= maxLag.Seconds():
		return ""
	case stats.ReplicationLag.Known:
		return fmt.Sprintf("it is %.1f s behind, more than %s", stats.ReplicationLag.Value, maxLag)
	case stats.Used.Known && !stats.Privileged:
		return "its lag is not known: the exporter's role lacks pg_monitor"
	}
	return "its lag is not known"
}

// readWriteProblem is the role of /read-write.
func readWriteProblem(s *server, _ url.Values) (string, error) {
	switch found := s.result.Role; {
	case !s.commits:
		return s.output, nil
	case found == nil:
		return noRole, nil
	case found.Replica:
		return isReplica, nil
	case found.ReadOnly:
		return "transactions are read-only by default on this server or database", nil
	}
	return "", nil
}

// readOnlyProblem is the role of /read-only, which every server has that accepts sessions.
func readOnlyProblem(*server, url.Values) (string, error) { return "", nil }

// serveRole serves /primary and the other role paths. It responds with 200 if a result that is at most max_age old
// shows that the target accepts sessions and has the role, otherwise with 503. Nothing excuses an older one: an old role
// would send writes to a server that is a replica by now. If the path has no name, there must be
// exactly one target. Hysteresis does not apply.
func (h *Health) serveRole(w http.ResponseWriter, r *http.Request, name string, wanted role) {
	settings := h.monitor.Health()
	t := h.monitor.Target(name)
	if targets := h.monitor.Targets(); name == "" && len(targets) == 1 {
		t = targets[0]
	}
	switch {
	case t == nil && name == "":
		h.unknown(w, "add the name of a target to the path: without one, there must be exactly one target")
		return
	case t == nil:
		h.unknown(w, unknownName)
		return
	}
	waiting := subjects{targets: []awaited{h.await(t, settings.MaxAge)}}
	waiting.wait(r.Context())
	s := waiting.targets[0].server(settings)
	fresh := s.age <= settings.MaxAge
	problem, err := wanted(&s, r.URL.Query())
	switch {
	case !s.result.Up():
		problem = s.output
	case !fresh:
		problem = "no result within max_age: the server is slow, or max_age is shorter than a probe takes"
	case s.kind != string(config.KindPostgres) && problem != "":
		problem = "a pooler has no role"
	}
	switch {
	case err != nil:
		h.write(w, http.StatusBadRequest, &body{
			status: statusName(check.Fail, settings.StatusNames), output: "lag must be a duration such as 10s",
		})
	case problem == "" && s.result.Up() && fresh:
		h.write(w, http.StatusOK, &body{status: statusName(check.Pass, settings.StatusNames)})
	default:
		h.write(w, http.StatusServiceUnavailable, &body{
			status: statusName(check.Fail, settings.StatusNames), output: problem,
		})
	}
}
