// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"fmt"
	"html/template"
	"net/url"
	"slices"
	"strings"
	"time"

	"pg_liveness_exporter/check"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// level is how a row stands out. A greater level is worse.
type level int

const (
	levelOK level = iota
	levelUnknown
	levelWarn
	levelBad
)

// Class returns the CSS class.
func (l level) Class() string { return [...]string{"ok", "unknown", "warn", "bad"}[l] }

// minStale is the least age of a result that counts as old. It is more than two scrapes that are a minute apart.
const minStale = 3 * time.Minute

// warnCertificate is how long before the end of its certificate a target is in warning.
const warnCertificate = 14 * 24 * time.Hour

// row is a target in the table. Empty texts are shown as a dash.
type row struct {
	Name, Link string
	Level      level
	State      string // in words
	Reason     string // in words, or what is wrong with a server that accepts sessions
	Phase      string
	Since      time.Time
	Duration   string // how long the state had lasted at the last probe
	Age        string // of the result, if it is old
	Role       string
	Lag        string
	Used       string // "12 of 97"
	Bar        float64
	BarKnown   bool
	Connect    string
	Query      string
	Commit     string
	Cert       string // days until the certificate expires
	Strip      template.HTML
	Summary    string // the strip in words
	Checks     []checkRow
	Labels     []config.Label

	verdict monitor.Verdict
}

// cell is one of the last columns of a row. Number reports whether it is aligned to the right.
type cell struct {
	Label, Value string
	Number       bool
}

// Cells returns the columns after that of the connections.
func (r *row) Cells() []cell {
	return []cell{
		{"Connect", r.Connect, true},
		{"Query", r.Query, true},
		{"Role", r.Role, false},
		{"Lag", r.Lag, true},
		{"Commit", r.Commit, false},
		{"Certificate", r.Cert, true},
	}
}

// checkRow is a check in the table.
type checkRow struct {
	Name, Kind, State, Output, Value, Took, Duration string
	Level                                            level
	At                                               time.Time
}

// newRow describes a target at the moment now. individual reports whether each probe has a mark of its own in the strip.
func newRow(o *observed, now time.Time, individual bool) row {
	r := row{
		Name: o.target.Name(), Link: "targets/" + url.PathEscape(o.target.Name()), Level: levelUnknown, State: stateWords(""),
		Labels: o.target.Labels(),
	}
	r.Strip, r.Summary = strip(o.timeline.Marks, individual)
	if !o.known {
		return r
	}
	result := o.snapshot.Result
	r.verdict = monitor.VerdictOf(result)
	r.State, r.Since = stateWords(r.verdict.State), o.since()
	r.Duration = duration(o.snapshot.At().Sub(r.Since))
	if result.Up() {
		r.Level = levelOK
		r.Connect, r.Query = knownLatency(result.Connect), knownLatency(result.Query)
		r.setWarnings(o, now)
	} else {
		r.Level = levelBad
		r.Reason = reasonWords(result.Failure.Reason)
		switch result.Failure.Phase {
		case probe.PhaseNone:
		case probe.PhaseCredentials:
			r.Reason = "its login cannot be read, so nothing was sent to the server"
		default:
			r.Phase = result.Failure.Phase.String()
		}
	}
	r.setFigures(o, now)
	if age := now.Sub(o.snapshot.At()); age > max(minStale, 2*o.target.Probing().Interval) {
		r.Age, r.State = duration(age), "last known: "+r.State
		if r.Level < levelBad {
			r.Level = levelUnknown
		}
	}
	return r
}

// since returns when the present state began. Changes of the reason do not count.
func (o *observed) since() time.Time {
	since := o.snapshot.Changed()
	state := o.snapshot.Result.State()
	for _, c := range slices.Backward(o.timeline.Changes) {
		if c.To.State != state {
			break
		}
		since = c.At
	}
	return since
}

// setWarnings sets the level and the reason of a target that accepts sessions although something is wrong.
func (r *row) setWarnings(o *observed, now time.Time) {
	var warnings []string
	result := o.snapshot.Result
	used, usable := result.ClientConnections()
	if failure := o.snapshot.CommitFailure(); failure != nil {
		warnings = append(warnings, "commits fail: "+reasonWords(failure.Reason))
	}
	if used.Known && usable.Known && used.Value >= usable.Value {
		warnings = append(warnings, "all usable connections are taken")
	}
	switch left := certificateTime(result, now); {
	case !left.Known:
	case left.Value <= 0:
		warnings = append(warnings, "its certificate has expired")
	case left.Value < warnCertificate.Seconds():
		warnings = append(warnings, "its certificate expires soon")
	}
	if result.StatsFailure != nil {
		warnings = append(warnings, "its figures cannot be read: "+reasonWords(result.StatsFailure.Reason))
	}
	if len(warnings) > 0 {
		r.Level, r.Reason = levelWarn, strings.Join(warnings, "; ")
	}
}

// setFigures sets what is known whether the server is up or not.
func (r *row) setFigures(o *observed, now time.Time) {
	result := o.snapshot.Result
	role := result.Role
	if role == nil && result.ServerStats != nil {
		role = result.ServerStats.Role
	}
	switch {
	case o.target.Kind() == config.KindPgBouncer:
		r.Role = "PgBouncer"
	case role != nil && role.Replica:
		r.Role = "replica"
	case role != nil:
		r.Role = "primary"
	}
	if result.ServerStats != nil {
		r.Lag = seconds(result.ServerStats.ReplicationLag)
	}
	if used, usable := result.ClientConnections(); used.Known && usable.Known && usable.Value > 0 {
		r.Used = fmt.Sprintf("%.0f of %.0f", used.Value, usable.Value)
		r.BarKnown, r.Bar = true, min(100, used.Value/usable.Value*100)
	}
	if o.target.Probing().Commit && result.Up() {
		r.Commit = "ok"
		if failure := o.snapshot.CommitFailure(); failure != nil {
			r.Commit = "fails"
		}
		if role != nil && role.Replica {
			r.Commit = ""
		}
	}
	switch left := certificateTime(result, now); {
	case !left.Known:
	case left.Value <= 0:
		r.Cert = "expired"
	default:
		r.Cert = fmt.Sprintf("%.0f d", left.Value/(24*time.Hour).Seconds())
	}
}

// certificateTime returns in how many seconds the server's certificate expires. It is unknown without TLS.
func certificateTime(r *probe.Result, now time.Time) probe.Number {
	if r.TLS == nil || r.TLS.NotAfter.IsZero() {
		return probe.Number{}
	}
	return probe.Number{Value: r.TLS.NotAfter.Sub(now).Seconds(), Known: true}
}

// compareRows sorts the worst first. Of servers that are down, the one that has been so for the longest time is first.
func compareRows(a, b row) int {
	order := cmp.Or(cmp.Compare(b.worst(), a.worst()), b.verdict.Compare(a.verdict), cmp.Compare(b.Level, a.Level))
	if order == 0 && a.Level == levelBad {
		order = a.Since.Compare(b.Since)
	}
	return cmp.Or(order, cmp.Compare(a.Name, b.Name))
}

// worst returns the worst level of the target and its checks.
func (r *row) worst() level {
	worst := r.Level
	for _, c := range r.Checks {
		worst = max(worst, min(c.Level, levelWarn)) // a check that fails does not sort before a server that is down
	}
	return worst
}

// newCheckRow describes a check at the moment now.
func newCheckRow(c *monitor.Check, result monitor.CheckResult, known bool, now time.Time) checkRow {
	r := checkRow{Name: c.Name(), Kind: string(c.Kind()), State: "no result yet", Level: levelUnknown}
	if !known {
		return r
	}
	r.Level = map[check.Status]level{check.Pass: levelOK, check.Warn: levelWarn, check.Fail: levelBad}[result.Status]
	r.State = map[check.Status]string{check.Pass: "passes", check.Warn: "warning", check.Fail: "fails"}[result.Status]
	r.Output, r.At, r.Took, r.Duration = result.Output, result.At, latency(result.Took), duration(now.Sub(result.Changed))
	if result.HasValue && result.Output == "" {
		r.Value = fmt.Sprintf("%g", result.Value)
	}
	return r
}
