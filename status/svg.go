// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"html/template"
	"strings"
	"time"
	"unicode/utf8"

	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// The texts of the pictures below come from this package, except for names, which are escaped. Sizes are in units of the
// picture's viewBox.
const (
	stripMarks  = 100 // as many as a timeline holds
	markWidth   = 3   // with the gap to the next one
	stripHeight = 16
	okHeight    = 10 // a mark of a failure has the full height: the colour alone does not tell them apart

	chartMinutes, chartMinuteWidth, chartHeight, chartFailure = 60, 10, 120, 8

	waterfallWidth, waterfallRow = 400, 20
)

// stateClass returns the CSS class of a mark.
func stateClass(s probe.State) string { return "mark-" + strings.ReplaceAll(string(s), "_", "-") }

// strip draws a row of marks, the newest at the right, and describes it in words. If individual is not set, successful
// probes in a row are one element, which keeps a page of many targets small.
func strip(marks []monitor.Mark, individual bool) (picture template.HTML, summary string) {
	summary = stripSummary(marks)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="strip" viewBox="0 0 %d %d" preserveAspectRatio="none" role="img" aria-label="%s">`,
		stripMarks*markWidth, stripHeight, summary)
	left := stripMarks - len(marks)
	if left > 0 {
		fmt.Fprintf(&b, `<rect class="none" y="%d" width="%d" height="1"/>`, stripHeight-1, left*markWidth)
	}
	for i := 0; i < len(marks); i++ {
		end := i + 1
		if !individual && marks[i].Reason == "" {
			for end < len(marks) && marks[end].Reason == "" {
				end++
			}
		}
		height := okHeight
		if marks[i].Reason != "" {
			height = stripHeight
		}
		x, y := (left+i)*markWidth, stripHeight-height
		if end-i == 1 {
			fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%d" width="%d" height="%d"><title>%s</title></rect>`,
				stateClass(marks[i].State), x, y, markWidth-1, height, markWords(&marks[i]))
		} else {
			fmt.Fprintf(&b, `<path class="%s" d="M%d %dH%d" stroke-width="%d" stroke-dasharray="%d 1"><title>%s</title></path>`,
				stateClass(marks[i].State), x, y+height/2, (left+end)*markWidth-1, height, markWidth-1, runWords(marks[i:end]))
		}
		i = end - 1
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()), summary //nolint:gosec // see above
}

// stripSummary describes marks in words.
func stripSummary(marks []monitor.Mark) string {
	failed, last := 0, -1
	for i := range marks {
		if marks[i].Reason != "" {
			failed++
			last = i
		}
	}
	switch {
	case len(marks) == 0:
		return "no probe yet"
	case len(marks) == 1 && failed == 0:
		return "the last probe succeeded"
	case failed == 0:
		return fmt.Sprintf("the last %d probes succeeded", len(marks))
	case len(marks) == 1:
		return "the last probe failed at " + markWords(&marks[0])
	}
	return fmt.Sprintf("%d of the last %d probes failed, most recently at %s", failed, len(marks), markWords(&marks[last]))
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

func markWords(m *monitor.Mark) string {
	return fmt.Sprintf("%s, %s, %s", clock(m.At), latency(m.Took), verdictWords(m.Verdict))
}

// runWords describes successful probes in a row.
func runWords(marks []monitor.Mark) string {
	shortest, longest := marks[0].Took, marks[0].Took
	for i := range marks {
		shortest, longest = min(shortest, marks[i].Took), max(longest, marks[i].Took)
	}
	return fmt.Sprintf("%s to %s, %d probes, %s to %s, accepting",
		clock(marks[0].At), clock(marks[len(marks)-1].At), len(marks), latency(shortest), latency(longest))
}

// chart draws the last hour, the present minute at the right: for each minute the median and the longest duration of the
// successful probes, and at the top a mark if a probe failed. It returns the duration at the top as well.
func chart(minutes []monitor.Minute, now time.Time) (picture template.HTML, top string) {
	longest := time.Millisecond
	for i := range minutes {
		longest = max(longest, minutes[i].Max)
	}
	scale := func(d time.Duration) float64 {
		return float64(d) / float64(longest) * (chartHeight - chartFailure - 2)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="chart" viewBox="0 0 %d %d" preserveAspectRatio="none" role="img" aria-label="%s">`,
		chartMinutes*chartMinuteWidth, chartHeight, chartSummary(minutes))
	for i := range minutes {
		m := &minutes[i]
		x := (chartMinutes - 1 - int(now.Truncate(time.Minute).Sub(m.Start)/time.Minute)) * chartMinuteWidth
		if x < 0 {
			continue
		}
		words := fmt.Sprintf("%s, %s", m.Start.UTC().Format("15:04 UTC"), count(m.Probes, "probe"))
		if m.Failed < m.Probes {
			words += fmt.Sprintf(", median %s, longest %s", latency(m.Median), latency(m.Max))
		}
		if m.Failed > 0 {
			words += fmt.Sprintf(", %d failed, %s", m.Failed, verdictWords(m.Worst))
		}
		fmt.Fprintf(&b, `<g><title>%s</title><rect class="hover" x="%d" y="0" width="%d" height="%d"/>`,
			words, x, chartMinuteWidth, chartHeight)
		for _, bar := range []struct {
			class string
			took  time.Duration
		}{{"longest", m.Max}, {"median", m.Median}} {
			if height := scale(bar.took); height > 0 {
				fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%.1f" width="%d" height="%.1f"/>`,
					bar.class, x, chartHeight-height, chartMinuteWidth-1, height)
			}
		}
		if m.Failed > 0 {
			fmt.Fprintf(&b, `<rect class="%s" x="%d" y="0" width="%d" height="%d"/>`,
				stateClass(m.Worst.State), x, chartMinuteWidth-1, chartFailure)
		}
		b.WriteString("</g>")
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()), latency(longest) //nolint:gosec // see above
}

func chartSummary(minutes []monitor.Minute) string {
	probes, failed := sums(minutes)
	return fmt.Sprintf("the last hour: %s, %d failed, median duration %s",
		count(probes, "probe"), failed, latency(medianOf(minutes)))
}

// sums returns how many probes there were in all minutes, and how many of them failed.
func sums(minutes []monitor.Minute) (probes, failed int) {
	for i := range minutes {
		probes += minutes[i].Probes
		failed += minutes[i].Failed
	}
	return probes, failed
}

// step is a phase of the waterfall.
type step struct {
	Name, Took string
	X, Width   float64
	Failed     bool
}

// waterfall returns the phases of a probe, as they follow each other, in units of waterfallWidth.
func waterfall(r *probe.Result) []step {
	var total, at time.Duration
	phases := append([]probe.Phase{probe.PhaseCredentials}, probe.AllPhases()...)
	for _, p := range phases {
		total += r.Phases[p].Value
	}
	var steps []step
	for _, p := range phases {
		took := r.Phases[p]
		if !took.Known {
			continue
		}
		s := step{Name: p.String(), Took: knownLatency(took), Failed: !r.Up() && r.Failure.Phase == p}
		if total > 0 {
			unit := waterfallWidth / total.Seconds()
			s.X, s.Width = at.Seconds()*unit, max(1, took.Value.Seconds()*unit)
		}
		at += took.Value
		steps = append(steps, s)
	}
	return steps
}

// badge draws a label and a value side by side. colour is the background of the value.
func badge(label, value, colour string) string {
	const height, padding, charWidth = 20, 6, 6.6
	width := func(s string) float64 { return float64(utf8.RuneCountInString(s))*charWidth + 2*padding }
	left, right := width(label), width(value)
	label, value = template.HTMLEscapeString(label), template.HTMLEscapeString(value)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%d" role="img" aria-label="%s: %s">`,
		left+right, height, label, value)
	fmt.Fprintf(&b, `<title>%s: %s</title><rect width="%.0f" height="%d" fill="#444"/>`, label, value, left, height)
	fmt.Fprintf(&b, `<rect x="%.0f" width="%.0f" height="%d" fill="%s"/>`, left, right, height, colour)
	b.WriteString(`<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">`)
	text := func(x, width float64, text string) {
		fmt.Fprintf(&b, `<text x="%.0f" y="14" textLength="%.0f" lengthAdjust="spacingAndGlyphs">%s</text>`, x, width, text)
	}
	text(padding, left-2*padding, label)
	text(left+padding, right-2*padding, value)
	b.WriteString("</g></svg>")
	return b.String()
}
