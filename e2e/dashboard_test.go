// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// dashboard is the part of Grafana's model that the tests look at.
type dashboard struct {
	UID        string
	Editable   bool
	Panels     []panel
	Templating struct {
		List []struct {
			Name, Type, AllValue, Definition string
			Query                            any
		}
	}
	Annotations struct {
		List []struct{ Name, Expr string }
	}
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Collapsed                bool
	Panels                   []panel // those of a collapsed row
	GridPos                  struct{ X, Y, W, H int }
	Targets                  []struct {
		RefID, Expr string
		Instant     bool
	}
	FieldConfig struct {
		Defaults  struct{ Unit, NoValue string }
		Overrides []struct {
			Matcher    struct{ Options string }
			Properties []struct {
				ID    string
				Value any
			}
		}
	}
	Transformations []struct {
		Options struct{ RenameByName map[string]string }
	}
}

func parseDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal([]byte(read(t, "examples/dashboard.json")), &d); err != nil {
		t.Fatalf("dashboard.json: %v", err)
	}
	return d
}

// all returns the panels that are no rows, also those of collapsed rows.
func (d dashboard) all() (panels []panel) {
	for _, p := range d.Panels {
		if p.Type != "row" {
			panels = append(panels, p)
		}
		panels = append(panels, p.Panels...)
	}
	return panels
}

// panel returns the panel that has a title. Rows have none.
func (d dashboard) panel(t *testing.T, title string) panel {
	t.Helper()
	panels := d.all()
	i := slices.IndexFunc(panels, func(p panel) bool { return p.Title == title })
	if i < 0 {
		t.Fatalf("there is no panel %q", title)
	}
	return panels[i]
}

func TestDashboard(t *testing.T) {
	d := parseDashboard(t)
	if d.UID != "pg-liveness" || d.Editable {
		t.Errorf("uid %q, editable %t: want the uid that make demo prints, and false", d.UID, d.Editable)
	}
	all := map[string]string{}
	for _, v := range d.Templating.List {
		all[v.Name] = v.AllValue
	}
	// A series may lack the labels target and cluster, and .+ would not find it.
	if all["job"] != ".+" || all["instance"] != ".+" || all["target"] != ".*" || all["cluster"] != ".*" {
		t.Errorf("all is %q", all)
	}
	if y := d.panel(t, "Firing alerts").GridPos.Y; y != 0 {
		t.Errorf("the firing alerts are at %d, want them at the top", y)
	}
	seen, queries := map[int]string{}, map[string]string{}
	for _, p := range d.all() {
		if other, ok := seen[p.ID]; ok || p.ID == 0 {
			t.Errorf("panel %q has the id %d of %q", p.Title, p.ID, other)
		}
		seen[p.ID] = p.Title
		if p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || p.FieldConfig.Defaults.NoValue == "" {
			t.Errorf("panel %d %q lacks a title, a description, a unit or a text for when there is nothing to show", p.ID, p.Title)
		}
		if len(p.Targets) == 0 {
			t.Errorf("panel %q asks nothing", p.Title)
		}
		for _, target := range p.Targets {
			if other, ok := queries[target.Expr]; ok {
				t.Errorf("panels %q and %q ask the same: %s", other, p.Title, target.Expr)
			}
			queries[target.Expr] = p.Title
		}
	}
	collapsed := map[string]bool{}
	checkGrid(t, d.Panels)
	for _, p := range d.Panels {
		checkGrid(t, p.Panels)
		collapsed[p.Title] = p.Collapsed
	}
	for _, title := range []string{"PgBouncer", "Checks", "The exporter"} {
		if !collapsed[title] {
			t.Errorf("the row %q is not there, or is not collapsed", title)
		}
	}
}

// checkGrid fails if two of the panels overlap, or if one is wider than the page.
func checkGrid(t *testing.T, panels []panel) {
	t.Helper()
	taken := map[[2]int]string{}
	for _, p := range panels {
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok || x >= 24 {
					t.Fatalf("panel %q lies on %q or beyond the edge", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

// TestDashboardColours: all colours are from the palette of Okabe and Ito, whose colours people with each kind of colour
// blindness can tell apart, and the two most frequent reasons of failures differ.
func TestDashboardColours(t *testing.T) {
	palette := []string{
		"#009E73", "#0072B2", "#56B4E9", "#CC79A7", "#D55E00", "#E69F00", "#F0E442", // Okabe and Ito, without black
		"#8E8E8E", "text", "transparent", // no colours
		"rgba(0, 211, 255, 1)", "rgba(255,0,255,0.7)", // Grafana's own annotations, and exemplars
	}
	for _, found := range regexp.MustCompile(`"(?:c|fixedC|iconC)olor": "(.*?)"`).FindAllStringSubmatch(read(t, "examples/dashboard.json"), -1) {
		if !slices.Contains(palette, found[1]) {
			t.Errorf("%s is not in the palette", found[1])
		}
	}
	colours := map[string]any{}
	for _, o := range parseDashboard(t).panel(t, "Failed probes by reason").FieldConfig.Overrides {
		for _, reason := range []string{"refused", "timeout"} {
			if strings.Contains(o.Matcher.Options, reason) {
				colours[reason] = o.Properties[0].Value
			}
		}
	}
	if len(colours) != 2 || fmt.Sprint(colours["refused"]) == fmt.Sprint(colours["timeout"]) {
		t.Errorf("colours of reasons: %v", colours)
	}
}

// TestDashboardRunbooks: an alert in the table links to its runbook, which is where the rules say it is.
func TestDashboardRunbooks(t *testing.T) {
	d := parseDashboard(t)
	var base any
	for _, v := range d.Templating.List {
		if v.Name == "runbooks" && v.Type == "textbox" {
			base = v.Query
		}
	}
	const name = "PostgresDown"
	want := fmt.Sprintf("runbook_url: %v/%s\n", base, name)
	if !strings.Contains(read(t, "examples/alerts.yml"), want) {
		t.Errorf("no rule has %s", want)
	}
	for _, o := range d.panel(t, "Firing alerts").FieldConfig.Overrides {
		for _, property := range o.Properties {
			if o.Matcher.Options == "Alert" && property.ID == "links" &&
				strings.Contains(fmt.Sprint(property.Value), "url:${runbooks}/${__data.fields.Alert}") {
				return
			}
		}
	}
	t.Error("the name of an alert is no link to its runbook")
}

// empty says which panels, annotations and variables have nothing to show in the stack, and why.
var empty = map[string]string{
	"Role changes": "no server changes its role",
}

// TestDashboardQueries asks a real Prometheus, which scrapes the exporter in the stack of `make demo`, every query of the
// dashboard. Each must have an answer, with both kinds of histograms and with each alone, and with a label cluster and
// without one.
func TestDashboardQueries(t *testing.T) {
	t.Parallel()
	const interval = 2 * time.Second
	s := newStack(t, interval)
	misbehave(t, s, interval)

	queries := parseDashboard(t).queries()
	for name := range empty {
		if queries[name] == nil {
			t.Errorf("there is no %q", name)
		}
	}
	for _, job := range []string{"postgres", "native", "classic"} {
		for title, expressions := range queries {
			for _, expression := range expressions {
				if job == "classic" && !strings.Contains(expression, "histogram_quantile") || // the rest is like in postgres
					job == "native" && strings.Contains(expression, "by (le)") {
					continue
				}
				asked := choose(expression, job, interval)
				switch reason := empty[title]; {
				case reason == "":
					until(t, s, asked)
				case hasAnswer(t, s, asked):
					t.Errorf("%s has an answer, though %s: %s", title, reason, asked)
				}
			}
		}
	}
}

// choose returns an expression as Grafana sends it if a job is chosen, of the last minute. The servers of the job native
// have a label cluster, and theirs is chosen.
func choose(expression, job string, interval time.Duration) string {
	cluster := ".*"
	if job == "native" {
		cluster = "orders"
	}
	return strings.NewReplacer(
		"$job", job, "$cluster", cluster, "$instance", ".+", "$target", ".*",
		"$__rate_interval", (4 * interval).String(), "$__interval", interval.String(), "$__range", "1m",
	).Replace(expression)
}

// TestDashboardFaults breaks the stack of `make demo` in several ways. The table of servers says what is wrong with which
// server, that server is the first one, no time of a probe is shown of one that is down, and the alert is in the table of
// alerts.
func TestDashboardFaults(t *testing.T) {
	t.Parallel()
	const interval = 2 * time.Second
	s := newStack(t, interval)
	d := parseDashboard(t)
	faults := map[string]testservers.Fault{}
	for _, f := range s.Faults() {
		faults[f.Key] = f
	}
	becomes := func(t *testing.T, what string, happened func(servers map[string]map[string]string) bool) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(interval / 2) {
			servers := serverCells(t, s, d.panel(t, "Servers"), interval)
			if happened(servers) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %v", what, servers)
			}
		}
	}
	const accepting = "0"
	for _, tt := range []struct {
		key, target, alert string
		want               map[string]string
	}{
		{"s", "primary", "PostgresDown", map[string]string{"Reason": "refused", "Probe": "", "Slots": ""}},
		{"h", "primary", "", map[string]string{"Reason": "timeout", "Probe": ""}},
		{"c", "primary", "PostgresConnectionSlotsExhausted", map[string]string{"Reason": "reserved_slots", "Probe": "", "Slots": "1"}},
		{"w", "primary", "PostgresCommitsHang", map[string]string{"Reason": "", "Works": "1"}},
		{"p", "pool", "", map[string]string{"Reason": "", "Works": "3"}},
		{"l", "standby", "", map[string]string{"Reason": "", "Works": "0", "State": "1"}},
	} {
		f := faults[tt.key]
		t.Run(f.Name, func(t *testing.T) {
			becomes(t, "all is well", func(servers map[string]map[string]string) bool {
				for _, cells := range servers {
					if cells["State"] != accepting || cells["Probe"] == "" || cells["Reason"] != "" || cells["Failing for"] != "" {
						return false
					}
				}
				return len(servers) == 3
			})
			check(t, f.Break(t.Context()))
			defer func() { check(t, f.Mend(t.Context())) }()
			becomes(t, f.Name, func(servers map[string]map[string]string) bool {
				for column, want := range tt.want {
					if servers[tt.target][column] != want {
						return false
					}
				}
				for target, cells := range servers { // States are single digits.
					if target != tt.target && cells["State"] >= servers[tt.target]["State"] {
						return false
					}
				}
				return true
			})
			if tt.alert != "" {
				firing := fmt.Sprintf(`(%s) and on (alertname, server, severity) label_replace(label_replace(label_replace(vector(1), `+
					`"alertname", %q, "", ""), "server", %q, "", ""), "severity", "0", "", "")`,
					choose(d.panel(t, "Firing alerts").Targets[0].Expr, "postgres", interval), tt.alert, tt.target)
				for end := time.Now().Add(2 * time.Minute); len(instant(t, s, firing)) == 0; time.Sleep(interval) {
					if time.Now().After(end) {
						t.Fatalf("%s is not among the firing alerts", tt.alert)
					}
				}
				counted := instant(t, s, choose(d.panel(t, "Critical").Targets[0].Expr, "postgres", interval))
				if len(counted) != 1 || counted[0] < 1 {
					t.Errorf("counted %v critical alerts", counted)
				}
			}
		})
	}
}

// serverCells returns what the table of servers shows of the job postgres, by target and title of the column. The text of a
// value is as in Prometheus. A cell without a value is missing.
func serverCells(t *testing.T, s *testservers.Stack, table panel, interval time.Duration) map[string]map[string]string {
	t.Helper()
	titles := table.Transformations[len(table.Transformations)-1].Options.RenameByName
	servers := map[string]map[string]string{}
	for _, query := range table.Targets {
		for _, series := range instantSeries(t, s, choose(query.Expr, "postgres", interval)) {
			target := series.Metric["target"]
			if servers[target] == nil {
				servers[target] = map[string]string{}
			}
			servers[target][titles["Value #"+query.RefID]] = fmt.Sprint(series.Value[1])
			if reason := series.Metric["reason"]; reason != "" {
				servers[target][titles["reason"]] = reason
			}
		}
	}
	return servers
}

// queries are all that the dashboard asks, by the title of the panel or the name of the annotation or variable.
func (d dashboard) queries() map[string][]string {
	queries := map[string][]string{}
	for _, p := range d.all() {
		for _, target := range p.Targets {
			// What stands in where there is nothing to show is no answer.
			expression, _, _ := strings.Cut(target.Expr, "\nor on () label_replace(-absent_over_time(")
			queries[p.Title] = append(queries[p.Title], expression)
		}
	}
	for _, a := range d.Annotations.List {
		if a.Expr != "" {
			queries[a.Name] = append(queries[a.Name], a.Expr)
		}
	}
	labelValues := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
	for _, v := range d.Templating.List {
		if found := labelValues.FindStringSubmatch(v.Definition); found != nil {
			queries["variable "+v.Name] = append(queries["variable "+v.Name], fmt.Sprintf("group by (%s) (%s)", found[2], found[1]))
		}
	}
	return queries
}

// newStack starts the stack, with Prometheus scraping at interval, and twice more: with native histograms alone and a label
// cluster, and with classic ones.
func newStack(t *testing.T, interval time.Duration) *testservers.Stack {
	t.Helper()
	s, err := testservers.NewStack(t.Context(), testservers.StackConfig{
		Postgres: testenv.Bin(t), Template: dataTemplate(t), PgBouncer: testenv.Tool(t, "PGBOUNCER", "pgbouncer"),
		Exporter:   plainProgram(t),
		Prometheus: testenv.Tool(t, "PROMETHEUS", "prometheus"), Examples: inRoot(t, "examples"),
		Change: func(configuration string) string {
			configuration = strings.ReplaceAll(configuration, ": 15s", ": "+interval.String())
			configuration = strings.ReplaceAll(configuration, "scrape_timeout: 10s", "scrape_timeout: "+interval.String())
			return configuration + `
  - {job_name: native, scrape_protocols: [PrometheusProto], static_configs: [{targets: ["localhost:10432"], labels: {cluster: orders}}]}
  - {job_name: classic, scrape_protocols: [PrometheusText0.0.4], static_configs: [{targets: ["localhost:10432"]}]}
`
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// misbehave makes servers and clients do what some panels show nothing else of.
func misbehave(t *testing.T, s *testservers.Stack, interval time.Duration) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	wait := func(scrapes time.Duration) { time.Sleep(scrapes * interval) }
	connect := func() *pgconn.PgConn {
		session, err := s.Primary.Connect(t.Context())
		check(err)
		return session
	}
	for end, session := range map[string]func(){
		"abandoned": func() { check(connect().Conn().Close()) },
		"fatal": func() {
			_, err := connect().Exec(t.Context(), "SET idle_in_transaction_session_timeout = 100; BEGIN").ReadAll()
			check(err)
		},
		"killed": func() {
			check(s.Primary.Exec(t.Context(), fmt.Sprintf("SELECT pg_terminate_backend(%d)", connect().PID())))
		},
	} {
		// Once is not enough: a job may have scraped nothing before, and on a busy machine the samples of both sides may lie
		// too far from each other for a rate.
		rate := fmt.Sprintf(`count(rate(pg_sessions_%s_total{job=~"postgres|native|classic", datname="postgres"}[%s]) > 0) == 3`,
			end, 4*interval)
		for attempts := 10; attempts > 0 && !hasAnswer(t, s, rate); attempts-- {
			session()
			wait(3)
		}
	}
	check(s.Primary.Stop(testservers.Fast))
	wait(2)
	check(s.Primary.Start(t.Context()))
	wait(4) // so that it is no crash that belongs to the start
	check(syscall.Kill(int(connect().PID()), syscall.SIGKILL))
	execute(t, s.Standby, "ALTER SYSTEM SET recovery_min_apply_delay = '1s'", "SELECT pg_reload_conf()")
}

// until waits until an expression has an answer.
func until(t *testing.T, s *testservers.Stack, expression string) {
	t.Helper()
	const patience = 30 * time.Second
	for end := time.Now().Add(patience); !hasAnswer(t, s, expression); time.Sleep(patience / 100) {
		if time.Now().After(end) {
			t.Errorf("no answer: %s", expression)
			return
		}
	}
}

// hasAnswer says whether an expression had a value that is a number in the last minutes.
func hasAnswer(t *testing.T, s *testservers.Stack, expression string) bool {
	t.Helper()
	now := time.Now()
	values := url.Values{
		"query": {expression}, "step": {"1"},
		"start": {strconv.FormatInt(now.Add(-3*time.Minute).Unix(), 10)}, "end": {strconv.FormatInt(now.Unix(), 10)},
	}
	var body struct {
		Error string
		Data  struct {
			Result []struct{ Values [][2]any }
		}
	}
	getJSON(t, "http://"+s.Prometheus+"/api/v1/query_range?"+values.Encode(), &body)
	if body.Error != "" {
		t.Fatalf("%s: %s", expression, body.Error)
	}
	for _, series := range body.Data.Result {
		if slices.ContainsFunc(series.Values, func(v [2]any) bool { return v[1] != "NaN" }) {
			return true
		}
	}
	return false
}
