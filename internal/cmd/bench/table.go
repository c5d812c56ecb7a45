// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strconv"
	"time"
)

// missed marks a value that misses its aim.
const missed = "  MISSED"

// table prints aligned columns to out. err is the first error of a write.
type table struct {
	out io.Writer
	err error
}

// line prints a row. If bad is true, its aim is marked as missed.
func (t *table) line(name, exporter, baseline, ratio, aim string, bad bool) {
	if bad {
		aim += missed
	}
	t.printf("%-40s  %15s  %15s  %5s  %s\n", name, exporter, baseline, ratio, aim)
}

// head prints a row with the names of the columns.
func (t *table) head(title string) { t.line(title, "exporter", "baseline", "ratio", "aim", false) }

// printf prints to out.
func (t *table) printf(format string, a ...any) {
	if _, err := fmt.Fprintf(t.out, format, a...); t.err == nil {
		t.err = err
	}
}

// compare prints a row with two durations and their ratio, which misses its aim above maxRatio. 0 means no aim.
func (t *table) compare(name string, ours, baseline time.Duration, maxRatio float64) {
	ratio := float64(ours) / float64(baseline)
	aim := ""
	if maxRatio > 0 {
		aim = fmt.Sprintf("<= %.1f", maxRatio)
	}
	t.line(name, milliseconds(ours), milliseconds(baseline), fmt.Sprintf("%.2f", ratio), aim,
		maxRatio > 0 && ratio > maxRatio)
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

// times prints the wall time, CPU time and size of each kind of scrape.
func (t *table) times(measured *times) {
	for _, zip := range []bool{false, true} {
		for _, part := range []struct {
			kind      kind
			title     string
			wall, cpu float64 // aims
		}{
			{kindTarget, "/probe", 1.2, 1.4},
			{kindExporter, "/metrics", 1.4, 2},
		} {
			title := part.title
			if zip {
				title += ", gzip"
			}
			ours, baseline := measured.of(part.kind, zip), measured.of(kindBaseline, zip)
			t.head(title)
			t.compare("  wall time, median", ours.quantile(.5), baseline.quantile(.5), part.wall)
			t.compare("  wall time, 95th percentile", ours.quantile(.95), baseline.quantile(.95), 0)
			t.compare("  CPU time, mean", ours.mean(), baseline.mean(), part.cpu)
			t.line("  size", fmt.Sprintf("%d B", ours.size), fmt.Sprintf("%d B", baseline.size), "", "", false)
		}
	}
}

// peer prints how /metrics compares with that of postgres_exporter.
func (t *table) peer(measured *times) {
	const title, wall, cpu = "/metrics, gzip, beside postgres_exporter", 0.7, 0.85
	ours, theirs := measured.of(kindExporter, true), measured.of(kindPeer, true)
	t.line(title, "exporter", "peer", "ratio", "aim", false)
	for _, row := range []struct {
		name         string
		ours, theirs time.Duration
		aim          float64
	}{
		{"  wall time, median", ours.quantile(.5), theirs.quantile(.5), wall},
		{"  CPU time, mean", ours.mean(), theirs.mean(), cpu},
	} {
		ratio := float64(row.ours) / float64(row.theirs)
		t.line(row.name, milliseconds(row.ours), milliseconds(row.theirs), fmt.Sprintf("%.2f", ratio), fmt.Sprintf("<= %.2f", row.aim),
			ratio > row.aim)
	}
}

// counts prints the messages and log lines of a scrape.
func (t *table) counts(c *counts) {
	const queries, connects = 3, 1 // SELECT 1 on the new and on the kept session, the statistics; the new session
	t.head("per scrape")
	for _, row := range []struct {
		name  string
		count int
		aim   int // per scrape
	}{
		{"  query messages to the server", c.queries, queries},
		{"  logins to the server", c.connects, connects},
		{"  log lines", c.logLines, 0},
	} {
		t.line(row.name, fmt.Sprintf("%.2f", float64(row.count)/float64(c.scrapes)), "", "", strconv.Itoa(row.aim),
			row.count != row.aim*c.scrapes)
	}
}

// memory prints the resident memory after each number of scrapes.
func (t *table) memory(measured []memory) {
	const (
		first, many, anonymous = 17, 23, 9 // MiB
		flat                   = 1.05
	)
	t.head("resident memory (anonymous part)")
	var before resident // after manyScrapes
	for _, m := range measured {
		aim, bad := "", false
		switch m.scrapes {
		case 1:
			aim, bad = fmt.Sprintf("<= %d", first), m.exporter.all > first<<20
		case manyScrapes:
			aim = fmt.Sprintf("<= %d (%d)", many, anonymous)
			bad = m.exporter.all > many<<20 || m.exporter.anonymous > anonymous<<20
			before = m.exporter
		case maxScrapes:
			aim, bad = "flat", float64(m.exporter.all) > flat*float64(before.all)
		}
		t.line(fmt.Sprintf("  after %d scrapes", m.scrapes), m.exporter.String(), m.baseline.String(),
			fmt.Sprintf("%.2f", float64(m.exporter.all)/float64(m.baseline.all)), aim, bad)
	}
}

// String returns the memory as "all (anonymous) MiB".
func (r resident) String() string {
	return fmt.Sprintf("%.1f (%.1f) MiB", float64(r.all)/(1<<20), float64(r.anonymous)/(1<<20))
}
