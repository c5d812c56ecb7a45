// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

const (
	// maxIndividual is for how many targets each probe has a mark of its own in the table.
	maxIndividual = 50
	// minSearchable is from how many rows on the page has a search.
	minSearchable = 10
	// maxRecent is how many of the last changes the page shows.
	maxRecent = 10
)

// process is what the pages show about the exporter itself.
type process struct {
	Version, Uptime, ConfigFile, LoadedAgo string
	LoadedAt                               time.Time
	ReloadFailed                           bool
	Now                                    time.Time
}

func (s *Status) process(now time.Time) process {
	ok, at := s.monitor.LastReload()
	return process{
		Version: s.options.Version, Uptime: duration(now.Sub(s.started)), ConfigFile: s.options.ConfigFile,
		LoadedAgo: duration(now.Sub(at)), LoadedAt: at, ReloadFailed: !ok, Now: now,
	}
}

// overview is the content of the page with all targets.
type overview struct {
	Base     string // leads to the root
	Title    string
	Headline string
	Level    level
	More     string // what the headline leaves out
	Process  process
	Rows     []*row
	Checks   []checkRow // those without a target
	Total    int        // how many targets there are, with those that are filtered out
	Filter   filter
	Recent   []change
	Links    []link
}

type link struct{ Address, Text string }

// change is a change of state in words.
type change struct {
	At                   time.Time
	Name, Link, From, To string
	After                string
	Level                level
}

// filter is what the parameters q and state select.
type filter struct {
	Shown         bool
	Query, State  string
	States        []stateOption
	EverythingHid bool
}

type stateOption struct {
	Value, Text string
	Count       int
}

// The values of the parameter state.
const (
	stateAny, stateProblem, stateOK = "", "problem", "ok"
)

func (f *filter) selects(r *row) bool {
	query := strings.ToLower(f.Query)
	if query != "" && !strings.Contains(strings.ToLower(r.searchable()), query) {
		return false
	}
	switch f.State {
	case stateProblem:
		return r.worst() > levelOK
	case stateOK:
		return r.worst() == levelOK
	}
	return true
}

// searchable returns the texts of a row that the search looks at.
func (r *row) searchable() string {
	texts := []string{r.Name, r.State, r.Reason, r.Role}
	for _, c := range r.Checks {
		texts = append(texts, c.Name)
	}
	for _, l := range r.Labels {
		texts = append(texts, l.Name+"="+l.Value)
	}
	return strings.Join(texts, "\n")
}

// serveAll serves the page with all targets.
func (s *Status) serveAll(w http.ResponseWriter, r *http.Request) {
	all := s.observeAll(r.Context())
	now := time.Now()
	rows := make([]row, len(all))
	for i := range all {
		rows[i] = newRow(&all[i], now, len(all) <= maxIndividual)
	}
	o := overview{
		Base: "./", Process: s.process(now), Total: len(rows), Checks: s.addChecks(rows, now),
		Recent: s.recent(), Links: []link{
			{strings.TrimPrefix(s.options.TelemetryPath, "/"), "Metrics"},
			{"health", "Health"},
			{"sd", "Service discovery"},
			{"config", "Configuration"},
			{"events", "Events"},
		},
	}
	slices.SortStableFunc(rows, compareRows)
	slices.SortStableFunc(o.Checks, func(a, b checkRow) int { return int(b.Level - a.Level) })
	o.Headline, o.More, o.Level = headline(rows, o.Checks)
	o.Title = o.Headline
	o.Filter = newFilter(r.URL.Query(), rows)
	for i := range rows {
		if o.Filter.selects(&rows[i]) {
			o.Rows = append(o.Rows, &rows[i])
		}
	}
	o.Filter.EverythingHid = len(o.Rows) == 0 && o.Total > 0
	s.writePage(w, http.StatusOK, "overview.html", o)
}

func newFilter(query url.Values, rows []row) filter {
	problems := 0
	for i := range rows {
		if rows[i].worst() > levelOK {
			problems++
		}
	}
	f := filter{Query: query.Get("q"), State: query.Get("state"), States: []stateOption{
		{stateAny, "all", len(rows)}, {stateProblem, "with a problem", problems}, {stateOK, "without a problem", len(rows) - problems},
	}}
	f.Shown = len(rows) >= minSearchable || f.Query != "" || f.State != ""
	return f
}

// addChecks adds the checks to the rows of their targets, and returns those without a target.
func (s *Status) addChecks(rows []row, now time.Time) []checkRow {
	index := make(map[string]*row, len(rows))
	for i := range rows {
		index[rows[i].Name] = &rows[i]
	}
	var others []checkRow
	for _, c := range s.monitor.Checks() {
		result, known := c.Latest()
		line := newCheckRow(c, result, known, now)
		if r := index[c.Target()]; r != nil {
			r.Checks = append(r.Checks, line)
		} else {
			others = append(others, line)
		}
	}
	return others
}

// tally counts the levels of rows or checks, and has the first of each level.
type tally struct {
	count [levelBad + 1]int
	first [levelBad + 1]string
}

func (t *tally) add(l level, text string) {
	if t.count[l]++; t.count[l] == 1 {
		t.first[l] = text
	}
}

// headline says in words what is wrong, or that nothing is. rows and checks are sorted, the worst first. more is what else is
// wrong.
func headline(rows []row, checks []checkRow) (text, more string, worst level) {
	var servers, others tally
	for i := range rows {
		servers.add(rows[i].Level, rows[i].headline())
		checks = append(slices.Clip(checks), rows[i].Checks...)
	}
	for i := range checks {
		others.add(checks[i].Level, checks[i].headline())
	}
	// In this order: what the headline is about comes first.
	var parts []string
	for _, part := range []struct {
		tally *tally
		level level
		all   int
		noun  string // of several
	}{
		{&servers, levelBad, len(rows), "servers fail"},
		{&others, levelBad, len(checks), "checks fail"},
		{&servers, levelWarn, len(rows), "servers have a warning"},
		{&others, levelWarn, len(checks), "checks have a warning"},
		{&servers, levelUnknown, len(rows), "servers have no recent result"},
		{&others, levelUnknown, len(checks), "checks have no result yet"},
	} {
		n := part.tally.count[part.level]
		if n == 0 {
			continue
		}
		if text == "" {
			text, worst = part.tally.first[part.level], part.level
			if n == 1 {
				continue
			}
		}
		parts = append(parts, fmt.Sprintf("%d of %d %s", n, part.all, part.noun))
	}
	switch {
	case text != "":
		return text, strings.Join(parts, ", "), worst
	case len(rows) == 0 && len(checks) == 0:
		return "No servers are configured", "", levelUnknown
	case len(rows) == 0:
		return "All checks pass", "", levelOK
	case len(rows) == 1:
		return "The server answers", "", levelOK
	case len(rows) == 2:
		return "Both servers answer", "", levelOK
	}
	return fmt.Sprintf("All %d servers answer", len(rows)), "", levelOK
}

// headline describes a target that is not well.
func (r *row) headline() string {
	text := r.Name + ": " + r.State
	switch {
	case r.Level == levelWarn:
		return r.Name + ": " + r.Reason
	case r.Level == levelUnknown && r.Age != "":
		return text + ", probed " + r.Age + " ago"
	case r.Level == levelBad:
		text += " for " + r.Duration + ": " + r.Reason
		if r.Phase != "" {
			text += " (" + r.Phase + ")"
		}
		if r.Age != "" {
			text += ", probed " + r.Age + " ago"
		}
	}
	return text
}

// headline describes a check that does not pass.
func (c *checkRow) headline() string {
	if c.Output == "" {
		return c.Name + ": " + c.State
	}
	return c.Name + " (" + c.State + "): " + c.Output
}

// recent returns the last changes of all targets, the newest first.
func (s *Status) recent() []change {
	events := s.events(time.Time{})
	slices.Reverse(events)
	var recent []change
	for _, e := range events[:min(maxRecent, len(events))] {
		c := change{
			At: e.Time, Name: e.Target, Link: "targets/" + url.PathEscape(e.Target),
			To: verdictWords(monitor.Verdict{State: e.To, Reason: e.Reason}), Level: levelOfState(e.To),
		}
		if e.From != "" {
			c.From, c.After = stateWords(e.From), duration(time.Duration(e.Duration*float64(time.Second)))
		}
		recent = append(recent, c)
	}
	return recent
}

func levelOfState(s probe.State) level {
	if s == probe.StateAccepting {
		return levelOK
	}
	return levelBad
}

// detail is the content of the page of one target.
type detail struct {
	Base                 string
	Title                string
	Process              process
	Row                  row
	Detail               string // of the failure
	SQLState             string
	Steps                []step
	Took                 string
	ProbedAt             time.Time
	Chart                template.HTML
	ChartTop             string
	Uptime, Median       string
	Connections          []connectionRow
	ConnectionsUnknown   bool
	Settings             []setting
	Changes              []change
	Version, TLS         string
	ProbeLink, DebugLink string
	HealthLink           string
}

type setting struct{ Key, Value string }

type connectionRow struct {
	Database, State string
	Count           int
}

// serveTarget serves the page of one target.
func (s *Status) serveTarget(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	t := s.monitor.Target(r.PathValue("name"))
	if t == nil {
		s.writePage(w, http.StatusNotFound, "unknown.html", struct {
			Base, Title string
			Process     process
		}{"../", "Unknown target", s.process(now)})
		return
	}
	o := observe(r.Context(), t)
	now = time.Now()
	rows := []row{newRow(&o, now, true)}
	s.addChecks(rows, now)
	d := detail{
		Base: "../", Title: t.Name(), Process: s.process(now), Row: rows[0], Settings: settingsOf(t), Changes: changesOf(o.timeline),
		ProbeLink: "probe?target=" + url.QueryEscape(t.Name()), HealthLink: "health/" + url.PathEscape(t.Name()),
	}
	d.DebugLink = d.ProbeLink + "&debug=true"
	d.Chart, d.ChartTop = chart(o.timeline.Minutes, now)
	if probes, failed := sums(o.timeline.Minutes); probes > 0 {
		d.Uptime = fmt.Sprintf("%s of %s", share(probes-failed, probes), count(probes, "probe"))
		if probes > failed {
			d.Median = latency(medianOf(o.timeline.Minutes))
		}
	}
	if o.known {
		d.setResult(o.snapshot.Result)
	}
	s.writePage(w, http.StatusOK, "target.html", d)
}

func (d *detail) setResult(r *probe.Result) {
	d.Steps, d.Took, d.ProbedAt = waterfall(r), latency(r.Duration), r.Start
	if r.Failure != nil {
		d.Detail, d.SQLState = r.Failure.Detail, r.Failure.SQLState
	}
	if r.TLS != nil && r.TLS.Version != "" {
		d.TLS = r.TLS.Version + ", " + r.TLS.Cipher
	}
	switch {
	case r.ServerStats != nil:
		d.Version = r.ServerStats.Version
		d.ConnectionsUnknown = !r.ServerStats.Used.Known
		for _, c := range r.ServerStats.Connections {
			if c.Count > 0 {
				d.Connections = append(d.Connections, connectionRow{c.Database, c.State, c.Count})
			}
		}
		slices.SortStableFunc(d.Connections, func(a, b connectionRow) int { return b.Count - a.Count })
	case r.PoolerStats != nil:
		d.Version = r.PoolerStats.Version
	}
}

// settingsOf returns the settings of a target that hold no address and no user.
func settingsOf(t *monitor.Target) []setting {
	p := t.Probing()
	onOff := map[bool]string{true: "yes", false: "no"}
	settings := []setting{{"kind", string(t.Kind())}}
	if t.Module() != "" {
		settings = append(settings, setting{"module", t.Module()})
	}
	interval := "only when asked"
	if p.Interval > 0 {
		interval = p.Interval.String()
	}
	settings = append(settings, setting{"timeout", p.Timeout.String()}, setting{"interval", interval}, setting{"keep", onOff[p.Keep]})
	if t.Kind() == config.KindPostgres {
		settings = append(settings, setting{"commit", onOff[p.Commit]}, setting{"applications", onOff[p.Applications]})
	}
	return settings
}

// changesOf returns the changes of a target in words, the newest first.
func changesOf(t monitor.Timeline) []change {
	var changes []change
	for _, c := range slices.Backward(t.Changes) {
		line := change{At: c.At, To: verdictWords(c.To), Level: levelOfState(c.To.State)}
		if c.From.State != "" {
			line.From, line.After = verdictWords(c.From), duration(c.After)
		}
		changes = append(changes, line)
	}
	return changes
}
