// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"pg_liveness_exporter/probe"
)

// maxEvents is how many lines /events returns at most.
const maxEvents = 1000

// event is one line of /events.
type event struct {
	Time   time.Time    `json:"time"`
	Target string       `json:"target"`
	From   probe.State  `json:"from,omitempty"` // empty for the first result
	To     probe.State  `json:"to"`
	Reason probe.Reason `json:"reason,omitempty"` // of To
	// Duration is how many seconds From lasted.
	Duration float64 `json:"duration"`
}

// events returns the last changes of all targets that are later than since, the newest last.
func (s *Status) events(since time.Time) []event {
	var all []event
	for _, t := range s.monitor.Targets() {
		for _, c := range t.Timeline().Changes {
			if c.At.After(since) {
				all = append(all, event{
					c.At.UTC(), t.Name(), c.From.State, c.To.State, c.To.Reason, math.Round(c.After.Seconds()*1000) / 1000,
				})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b event) int { return a.Time.Compare(b.Time) })
	return all[max(0, len(all)-maxEvents):]
}

// serveEvents serves /events as JSON lines. The parameter since leaves out what is not later: a time as in RFC 3339, or
// seconds since the epoch.
func (s *Status) serveEvents(w http.ResponseWriter, r *http.Request) {
	since, err := parseSince(r.URL.Query().Get("since"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	lines := json.NewEncoder(w)
	for _, e := range s.events(since) {
		if lines.Encode(e) != nil {
			return // the client has gone
		}
	}
}

func parseSince(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	if s, err := strconv.ParseFloat(text, 64); err == nil && math.Abs(s) < 1e12 {
		return time.UnixMilli(int64(s * 1000)), nil
	}
	return time.Time{}, errors.New("since is neither a time such as 2026-11-28T12:00:00Z nor seconds since the epoch")
}
