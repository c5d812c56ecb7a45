// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"pg_liveness_exporter/monitor"
)

// maxBadgeName is how many characters of a name a badge shows.
const maxBadgeName = 40

// The colours of badges have enough contrast with white text.
const (
	colourOK, colourWarn, colourBad, colourUnknown = "#1a7f37", "#8a5a00", "#b3261e", "#5b6470"
)

// serveBadge serves /badge/NAME.svg. The parameter metric selects state, which is the default, uptime or latency.
func (s *Status) serveBadge(w http.ResponseWriter, r *http.Request) {
	name, isSVG := strings.CutSuffix(r.PathValue("file"), ".svg")
	t := s.monitor.Target(name)
	if !isSVG || t == nil {
		http.Error(w, "unknown name", http.StatusNotFound)
		return
	}
	o := observe(r.Context(), t)
	now := time.Now()
	value, colour := "no result yet", colourUnknown
	probes, failed := sums(o.timeline.Minutes)
	switch r.URL.Query().Get("metric") {
	case "", "state":
		line := newRow(&o, now, false)
		value = line.State
		colour = map[level]string{levelOK: colourOK, levelWarn: colourWarn, levelBad: colourBad, levelUnknown: colourUnknown}[line.Level]
	case "uptime":
		if probes > 0 {
			value, colour = share(probes-failed, probes), colourOK
			if failed > 0 {
				colour = colourWarn
			}
		}
	case "latency":
		if probes > failed {
			value, colour = latency(medianOf(o.timeline.Minutes)), colourOK
		}
	default:
		http.Error(w, "metric is none of state, uptime and latency", http.StatusBadRequest)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "image/svg+xml; charset=utf-8")
	h.Set("Cache-Control", "max-age=5")
	h.Set("Content-Security-Policy", "default-src 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	fmt.Fprint(w, badge(badgeName(name), value, colour))
}

// share returns a part of a whole in percent. Only the whole is 100 %.
func share(part, whole int) string {
	percent := float64(part) / float64(whole) * 100
	if part < whole {
		percent = min(percent, 99.99)
	}
	return fmt.Sprintf("%.4g %%", percent)
}

// badgeName returns a name without control characters, shortened to maxBadgeName.
func badgeName(name string) string {
	runes := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, name))
	if len(runes) > maxBadgeName {
		runes = append(runes[:maxBadgeName-1], '…')
	}
	return string(runes)
}

// medianOf returns the median duration of the successful probes of all minutes, each of which counts with its own median.
func medianOf(minutes []monitor.Minute) time.Duration {
	minutes = slices.DeleteFunc(slices.Clone(minutes), func(m monitor.Minute) bool { return m.Failed == m.Probes })
	slices.SortFunc(minutes, func(a, b monitor.Minute) int { return cmp.Compare(a.Median, b.Median) })
	probes, failed := sums(minutes)
	rest := (probes - failed + 1) / 2
	for i := range minutes {
		if rest -= minutes[i].Probes - minutes[i].Failed; rest <= 0 {
			return minutes[i].Median
		}
	}
	return 0
}
