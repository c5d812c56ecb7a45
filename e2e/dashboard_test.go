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

// dashboard is what is looked at of Grafana's model.
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
	ID                               int
	Type, Title, Description, Repeat string
	GridPos                          struct{ X, Y, W, H int }
	Targets                          []struct {
		Expr    string
		Instant bool
	}
	FieldConfig struct {
		Defaults struct{ Unit, NoValue string }
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

func TestDashboard(t *testing.T) {
	d := parseDashboard(t)
	if d.UID != "pg-liveness" || d.Editable {
		t.Errorf("uid %q, editable %t: want the uid that make demo prints, and false", d.UID, d.Editable)
	}
	if got, want := len(d.Panels), 40; got < want {
		t.Errorf("%d panels, want %d or more", got, want)
	}
	all := map[string]string{}
	for _, v := range d.Templating.List {
		all[v.Name] = v.AllValue
	}
	// A target from the environment has no label target, and .+ would not find it.
	if all["job"] != ".+" || all["instance"] != ".+" || all["target"] != ".*" {
		t.Errorf("all is %q", all)
	}
	seen, taken := map[int]string{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if other, ok := seen[p.ID]; ok || p.ID == 0 {
			t.Errorf("panel %q has the id %d of %q", p.Title, p.ID, other)
		}
		seen[p.ID] = p.Title
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok || x >= 24 {
					t.Fatalf("panel %q lies on %q or beyond the edge", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || p.FieldConfig.Defaults.NoValue == "" {
			t.Errorf("panel %d %q lacks a title, a description, a unit or a text for when there is nothing to show", p.ID, p.Title)
		}
		if len(p.Targets) == 0 {
			t.Errorf("panel %q asks nothing", p.Title)
		}
	}
}

// empty says which panels, annotations and variables have nothing to show in the stack, and why.
var empty = map[string]string{
	"Role changes": "no server changes its role",
}

// TestDashboardQueries asks a real Prometheus, which scrapes the exporter in the stack of `make demo`, every query of the
// dashboard. Each must have an answer, with both kinds of histograms and with each alone.
func TestDashboardQueries(t *testing.T) {
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
				if job != "postgres" && !strings.Contains(expression, "histogram_quantile") {
					continue
				}
				asked := strings.NewReplacer(
					"$job", job, "$instance", ".+", "$target", ".*", "$database", "orders",
					"$__rate_interval", (4 * interval).String(), "$__interval", interval.String(), "$__range", "1m",
				).Replace(expression)
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

// queries are all that the dashboard asks, by the title of the panel or the name of the annotation or variable.
func (d dashboard) queries() map[string][]string {
	queries := map[string][]string{}
	for _, p := range d.Panels {
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

// newStack starts the stack, with Prometheus scraping at interval, and twice more: with native histograms alone, and
// with classic ones.
func newStack(t *testing.T, interval time.Duration) *testservers.Stack {
	t.Helper()
	s, err := testservers.NewStack(t.Context(), testservers.StackConfig{
		Postgres: testenv.Bin(t), PgBouncer: testenv.Tool(t, "PGBOUNCER", "pgbouncer"), Exporter: plainProgram(t),
		Prometheus: testenv.Tool(t, "PROMETHEUS", "prometheus"), Examples: inRoot(t, "examples"),
		Change: func(configuration string) string {
			configuration = strings.ReplaceAll(configuration, ": 15s", ": "+interval.String())
			configuration = strings.ReplaceAll(configuration, "scrape_timeout: 10s", "scrape_timeout: "+interval.String())
			return configuration + `
  - {job_name: native, scrape_protocols: [PrometheusProto], static_configs: [{targets: ["localhost:10432"]}]}
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
		// Once is not enough: on a busy machine the samples of both sides may lie too far from each other for a rate.
		rate := fmt.Sprintf(`rate(pg_sessions_%s_total{job="postgres", datname="postgres"}[%s]) > 0`, end, 4*interval)
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
