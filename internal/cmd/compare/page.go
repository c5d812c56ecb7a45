// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
)

// page returns docs/comparison.md. It returns an error if results lacks a fault of the catalogue or has another one.
func page(r results) (string, error) {
	faults := catalogue()
	for _, f := range faults {
		if _, ok := r.Faults[f.name]; !ok {
			return "", fmt.Errorf("there is no result for the fault %s", f.name)
		}
	}
	if len(r.Faults) != len(faults) {
		return "", fmt.Errorf("there are results for %d faults, and %d faults", len(r.Faults), len(faults))
	}
	p := &writer{results: r, faults: faults}
	p.introduction()
	p.totals()
	p.overview()
	p.misses()
	p.late()
	p.details()
	return p.String(), nil
}

// writer writes the page.
type writer struct {
	strings.Builder
	results results
	faults  []fault
}

func (w *writer) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// row writes a row of a table.
func (w *writer) row(cells ...string) { w.line("| %s |", strings.Join(cells, " | ")) }

// head writes the first two rows of a table.
func (w *writer) head(cells ...string) {
	w.row(cells...)
	w.line("|%s", strings.Repeat("---|", len(cells)))
}

// judgement returns how an observer's last verdict during a fault compares with what the application met.
func (w *writer) judgement(f fault, observer string) string {
	r := w.results.Faults[f.name]
	return judge(r.Observers[observer].last(), r.met(), f.writes)
}

// count returns in how many cases an observer was judged so.
func (w *writer) count(observer, judgement string) int {
	n := 0
	for _, f := range w.faults {
		if w.judgement(f, observer) == judgement {
			n++
		}
	}
	return n
}

func (w *writer) introduction() {
	v := w.results.Versions
	w.line(`# Comparison

What pg_liveness_exporter, postgres_exporter, blackbox_exporter and pg_isready say while something is wrong with a real server,
and what an application meets at the same time. `+"`make compare`"+` makes this page: no result on it is written by hand, and a test
checks that it is what the measured results give.

## How it was measured

Each case has a new PostgreSQL %s on the loopback interface of one machine, and five observers that find it up. Then the fault
begins. At once, and every %v s from then on, all five are asked and an application tries to work, all at the same time.

- **The application** has a role of its own. With pgx, it opens a new session, reads a table and commits a row. It waits at
  most 10 s for the login and for each statement. Only cases about writes ask for the write.
- **pg_liveness_exporter** %s has its defaults, and `+"`--probe.commit`"+`, which is off by default. Without it there is no
  `+"`pg_commit_up`"+`. Its verdict is `+"`pg_up`"+` and `+"`pg_probe_state`"+`.
- **postgres_exporter** %s has its defaults and a role with `+"`pg_monitor`"+`. Its verdict is `+"`pg_up`"+`. A second one has
  `+"`connect_timeout=5`"+` in its connection string, so that its logins wait as long as those of pg_liveness_exporter.
- **blackbox_exporter** %s has the module `+"`tcp_connect`"+` of its example configuration. Its verdict is
  `+"`probe_success`"+`. It only opens a TCP connection.
- **pg_isready** %s runs each time with its own timeout of 3 s. Its verdict is the exit code. It does not log in.

Exporters are scraped as Prometheus does it, with a timeout of %v s. If there is no page in that time, the verdict is "no
answer": Prometheus then has `+"`up 0`"+`, and no metric. Behind PgBouncer %s (transaction pooling), everybody uses PgBouncer.

The last answer during the fault is compared with what the application met at the same time:

| | meaning |
|---|---|
| ✓ | the verdict is that of the application: up if it works, and down or misconfigured if it does not |
| ◐ | the verdict is up, and another metric shows what keeps the application from writing |
| ○ | the application works, only the observer is refused, and it says that ("misconfigured") |
| … | no answer |
| ✗ | the verdict is the opposite of what the application met |
`, v["PostgreSQL"], w.results.Interval, v[oursName], v[theirsName], v[blackboxName], v[isReadyName], scrapeTimeout.Seconds(),
		v["pgbouncer"])
}

// mark returns the sign of a judgement.
func mark(judgement string) string {
	return map[string]string{right: "✓", shown: "◐", itself: "○", silent: "…", wrong: "✗"}[judgement]
}

func (w *writer) totals() {
	w.line("## Result\n")
	w.line("%s\n", w.summary())
	head := []string{""}
	for _, j := range judgements() {
		head = append(head, mark(j))
	}
	w.head(head...)
	for _, o := range observerNames() {
		cells := []string{o}
		for _, j := range judgements() {
			cells = append(cells, fmt.Sprint(w.count(o, j)))
		}
		w.row(cells...)
	}
	w.line("")
}

// summary returns the sentence that the README quotes.
func (w *writer) summary() string {
	var parts []string
	for _, o := range observerNames() {
		parts = append(parts, fmt.Sprintf("%d for %s", w.count(o, right), o))
	}
	last := len(parts) - 1
	return fmt.Sprintf("Of %d cases, the verdict matched what the application met in %s and %s.", len(w.faults),
		strings.Join(parts[:last], ", "), parts[last])
}

func (w *writer) overview() {
	w.line("## All cases\n")
	w.head(slices.Concat([]string{"fault", "the application"}, observerNames())...)
	for _, f := range w.faults {
		r := w.results.Faults[f.name]
		cells := []string{fmt.Sprintf("[%s](#%s)", f.title, anchor(f.title)), outcome(f, r.met())}
		for _, o := range observerNames() {
			cells = append(cells, mark(w.judgement(f, o))+" "+r.Observers[o].last().words())
		}
		w.row(cells...)
	}
	w.line("")
}

// outcome returns what the application met, as far as the case asks for it. Of an error of the server it has only the
// SQLSTATE.
func outcome(f fault, m met) string {
	if m.works(f.writes) {
		return "works"
	}
	if state, _, ok := strings.Cut(m.Error, " "); ok && len(state) == 5 && state[0] >= '0' && state[0] <= '9' {
		m.Error = "SQLSTATE " + state
	}
	return m.String()
}

// misses lists where pg_liveness_exporter has no ✓, with those that have one.
func (w *writer) misses() {
	w.line("## Where pg_liveness_exporter was not right\n")
	for _, f := range w.faults {
		if w.judgement(f, oursName) == right {
			continue
		}
		r := w.results.Faults[f.name]
		var others []string
		for _, o := range observerNames() {
			if w.judgement(f, o) == right {
				others = append(others, o)
			}
		}
		who := "No other was right"
		if len(others) > 0 {
			who = "Right: " + strings.Join(others, ", ")
		}
		found := r.Observers[oursName].last()
		also := ""
		if len(found.Shows) > 0 {
			also = ", with `" + strings.Join(found.Shows, "`, `") + "`"
		}
		w.line("- %s %s. It said %s%s. The application: %s. %s.", mark(w.judgement(f, oursName)), f.title, found.words(), also,
			outcome(f, r.met()), who)
	}
	w.line("")
}

// late lists the observers that did not say what the application met when a fault was over.
func (w *writer) late() {
	w.line("## Wrong verdicts after the fault was over\n")
	w.line(`Everybody was asked once more 3 s after the end of each fault. Those that are not in this list said then what the
application met.
`)
	for _, o := range observerNames() {
		for _, f := range w.faults {
			r := w.results.Faults[f.name]
			if j := judge(r.Observers[o].After, r.After, false); j != right {
				w.line("- %s %s, %s: %s. The application: %s.", mark(j), o, f.title, r.Observers[o].After.words(), r.After)
			}
		}
	}
	w.line("")
}

func (w *writer) details() {
	w.line(`## Each case

For each observer: what it said at each scrape; how long after the beginning of the fault it had first said what it said last;
other metrics that show something; and what it said when the fault was over. Except for blackbox_exporter, also the sessions that the
server had for their role: at most before the fault, at most during it (and how many waited for a lock), and those that were
left when the fault was over and they had been asked once more. A session counts from the moment the server knows its role,
also while it logs in. The processes of the server are counted four times a second, so shorter sessions are not all seen.
`)
	for _, f := range w.faults {
		r := w.results.Faults[f.name]
		w.line("### %s\n", f.title)
		w.line("%s The application: %s. When it was over: %s.\n", sentence(f.detail), joined(r.Met, met.String), r.After)
		w.head("", "said", "after", "shows", "sessions", "when it was over")
		for _, name := range observerNames() {
			o := r.Observers[name]
			w.row(name, joined(o.Said, said.words), fmt.Sprintf("%.1f s", o.settled()), shows(o.last().Shows), sessions(o), o.After.words())
		}
		w.line("")
	}
}

// sentence returns a text that ends with a full stop.
func sentence(s string) string {
	if strings.HasSuffix(s, ".") {
		return s
	}
	return s + "."
}

// joined joins values in words. Equal ones that follow each other are written once.
func joined[T any](values []T, words func(T) string) string {
	var all []string
	for _, v := range values {
		all = append(all, words(v))
	}
	return strings.Join(slices.Compact(all), ", then ")
}

// shows returns the metrics beside a verdict.
func shows(metrics []string) string {
	if len(metrics) == 0 {
		return ""
	}
	return "`" + strings.Join(metrics, "`, `") + "`"
}

// sessions returns what an observer's sessions took of the server.
func sessions(o observed) string {
	if o.Most == nil {
		return ""
	}
	during := fmt.Sprint(o.Most.Sessions)
	if o.Most.Waiting > 0 {
		during += fmt.Sprintf(" (%d waited)", o.Most.Waiting)
	}
	return fmt.Sprintf("%d, %s, %d left", o.Before.Sessions, during, o.Left.Sessions)
}

// anchor returns the anchor that GitHub gives a heading.
func anchor(heading string) string {
	keep := func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return -1
	}
	return strings.Map(keep, strings.ToLower(heading))
}
