// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"pg_liveness_exporter/internal/testenv"
)

// ruleFile is a file of rules as Prometheus reads it.
type ruleFile struct {
	Groups []ruleGroup `yaml:"groups"`
}

type ruleGroup struct {
	Name     string `yaml:"name"`
	Interval string `yaml:"interval"`
	Rules    []rule `yaml:"rules"`
}

type rule struct {
	Record        string            `yaml:"record,omitempty"`
	Alert         string            `yaml:"alert,omitempty"`
	Expr          string            `yaml:"expr"`
	For           string            `yaml:"for,omitempty"`
	KeepFiringFor string            `yaml:"keep_firing_for,omitempty"`
	Labels        map[string]string `yaml:"labels,omitempty"`
	Annotations   map[string]string `yaml:"annotations,omitempty"`
}

func (r rule) name() string { return r.Record + r.Alert }

func readRules(t *testing.T) ruleFile {
	t.Helper()
	var f ruleFile
	if err := yaml.Unmarshal([]byte(read(t, "examples/alerts.yml")), &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// all returns the rules of all groups.
func (f ruleFile) all() []rule {
	var rules []rule
	for _, g := range f.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules
}

// ruleTest is one test of the rules, by itself: a file for promtool, and the rules that it needs.
type ruleTest struct {
	name  string
	file  string
	rules ruleFile
}

// ruleTests returns the tests of the rules in examples/.
func ruleTests(t *testing.T, rules ruleFile) []*ruleTest {
	t.Helper()
	const start = "\n  - name: "
	anchor := regexp.MustCompile(`&firing ('[^']*')`)
	var tests []*ruleTest
	for _, file := range glob(t, "examples/alerts*_test.yml") {
		content := read(t, file)
		if firing := anchor.FindStringSubmatch(content); firing != nil { // the anchor may be in another test
			content = strings.NewReplacer("&firing ", "", "*firing", firing[1]).Replace(content)
		}
		parts := strings.Split(content, start)
		for _, test := range parts[1:] {
			name, _, _ := strings.Cut(test, "\n")
			tests = append(tests, &ruleTest{name, parts[0] + start + test, rules.neededBy(test)})
		}
	}
	return tests
}

// neededBy returns the rules that a test names, and those that these lean on. Alerts whose ALERTS series the test gives itself
// are left out, and so are annotations that it does not look at.
func (f ruleFile) neededBy(test string) ruleFile {
	alert, _, _ := strings.Cut(test, " ")
	text := test
	var needed ruleFile
	for before := -1; before != len(text); {
		before = len(text)
		needed.Groups = nil
		for _, g := range f.Groups {
			kept := g
			kept.Rules = nil
			for _, r := range g.Rules {
				given := r.name() != alert && strings.Contains(test, `'ALERTS{alertname="`+r.name()+`"`)
				if given || !strings.Contains(text, r.name()) {
					continue
				}
				if !strings.Contains(text, r.Expr) {
					text += r.Expr
				}
				if !strings.Contains(test, "alert_rule_test:") {
					r.Annotations = nil
				}
				kept.Rules = append(kept.Rules, r)
			}
			needed.Groups = append(needed.Groups, kept)
		}
	}
	return needed
}

// testsOf returns the tests of the rule with this name: those of its alert, or of all alerts that lean on it, also by way of
// other rules.
func testsOf(t *testing.T, name string, rules ruleFile, tests []*ruleTest) []*ruleTest {
	t.Helper()
	leaning := []string{name}
	var alerts []string
	for i := 0; i < len(leaning); i++ {
		if !strings.Contains(leaning[i], ":") {
			alerts = append(alerts, leaning[i])
			continue
		}
		for _, r := range rules.all() {
			if strings.Contains(r.Expr, leaning[i]) && !slices.Contains(leaning, r.name()) {
				leaning = append(leaning, r.name())
			}
		}
	}
	var mine []*ruleTest
	for _, test := range tests {
		if alert, _, _ := strings.Cut(test.name, " "); slices.Contains(alerts, alert) {
			mine = append(mine, test)
		}
	}
	if len(mine) == 0 {
		t.Errorf("no test's name begins with one of %v", alerts)
	}
	return mine
}

// passes reports whether the test passes with these rules, and what promtool says.
func (test *ruleTest) passes(t *testing.T, tool string, rules ruleFile) (passed bool, output string, err error) {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		return false, "", err
	}
	content, err := yaml.Marshal(rules)
	if err != nil {
		return false, "", err
	}
	file := filepath.Join(dir, "test.yml")
	if err := errors.Join(os.WriteFile(file, []byte(test.file), 0o600), os.WriteFile(filepath.Join(dir, "alerts.yml"), content, 0o600)); err != nil {
		return false, "", err
	}
	// Hundreds of these are not to take the processor from tests that have deadlines.
	cmd := exec.CommandContext(t.Context(), "nice", "-n", "10", tool, "test", "rules", file)
	cmd.Env = append(os.Environ(), "GOGC=400") // it lives too short for much garbage
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		return false, "", err
	}
	return err == nil, string(out), nil
}

// with returns the rules with a change to the one with this name.
func (f ruleFile) with(name string, change func(*rule)) ruleFile {
	groups := slices.Clone(f.Groups)
	for i := range groups {
		groups[i].Rules = slices.Clone(groups[i].Rules)
		for j := range groups[i].Rules {
			if groups[i].Rules[j].name() == name {
				change(&groups[i].Rules[j])
			}
		}
	}
	return ruleFile{groups}
}

// mutant is a change of a rule: one small mistake.
type mutant struct {
	what   string
	change func(*rule)
}

// mutants returns what TestMutations does to a rule.
func mutants(t *testing.T, r rule) []mutant {
	t.Helper()
	var all []mutant
	add := func(what string, change func(*rule)) {
		what = r.name() + ": " + what
		if !slices.ContainsFunc(unseen, func(u string) bool { return strings.HasPrefix(what, u+" at ") }) {
			all = append(all, mutant{what, change})
		}
	}
	for _, m := range mutateExpr(r.Expr) {
		add(m.what, func(r *rule) { r.Expr = m.expr })
	}
	for _, d := range neighbours(t, r.For, scrapeInterval) {
		add("for "+d, func(r *rule) { r.For = d })
	}
	for _, d := range neighbours(t, r.KeepFiringFor, scrapeInterval) {
		add("keep_firing_for "+d, func(r *rule) { r.KeepFiringFor = d })
	}
	return all
}

// everyMutant is for .ci/nightly and for whoever changes a rule: it triples the time of TestMutations.
var everyMutant = flag.Bool("every-mutant", false, "make TestMutations try each mutant, and not every third one")

// TestMutations tests the tests: each small change of a rule (a number, a duration, an operator, a matcher, a label that
// series are matched on) must make one of that rule's tests fail. Unchanged rules must pass each test.
func TestMutations(t *testing.T) {
	t.Parallel()
	tool := testenv.Tool(t, "PROMTOOL", "promtool")
	rules := readRules(t)
	tests := ruleTests(t, rules)
	atOnce(tests, func(test *ruleTest) {
		if passed, output, err := test.passes(t, tool, test.rules); err != nil || !passed {
			t.Errorf("%s, by itself: %v\n%s", test.name, err, output)
		}
	})
	if t.Failed() {
		return // a test that always fails finds every mutant
	}
	var found atomic.Int64
	atOnce(rules.all(), func(r rule) {
		mine := testsOf(t, r.name(), rules, tests)
		for n, m := range mutants(t, r) {
			if n%3 > 0 && !*everyMutant {
				continue
			}
			i := slices.IndexFunc(mine, func(test *ruleTest) bool {
				passed, _, err := test.passes(t, tool, test.rules.with(r.name(), m.change))
				if err != nil {
					t.Error(err)
				}
				return err == nil && !passed
			})
			if i < 0 {
				t.Errorf("no test finds %s", m.what)
				continue
			}
			// The next mutant is mostly found by the same test: it comes first.
			mine = slices.Concat(mine[i:i+1], mine[:i], mine[i+1:])
			found.Add(1)
		}
	})
	t.Logf("%d mutants", found.Load())
}

// withoutTarget are the alerts about a cluster, an exporter or everything. They have no label of a target.
var withoutTarget = []string{
	"PgLivenessAbsent", "PgLivenessExporterCutOff", "PostgresNoPrimary", "PostgresTwoPrimaries",
}

// TestLabels repeats the tests of the rules with a label of the user on each series. Each alert about a target has it, from its
// first evaluation to its last.
func TestLabels(t *testing.T) {
	t.Parallel()
	tool := testenv.Tool(t, "PROMTOOL", "promtool")
	const label, value = "team", "storage"
	lost := fmt.Sprintf(`count_over_time(ALERTS{alertname!~"%s", %s!="%s"}[24h])`, strings.Join(withoutTarget, "|"), label, value)
	rules := readRules(t)
	fired := map[string]bool{}
	for _, test := range ruleTests(t, rules) {
		var file struct {
			Files    []string `yaml:"rule_files"`
			Interval string   `yaml:"evaluation_interval"`
			Tests    []struct {
				Interval string              `yaml:"interval"`
				Series   []map[string]string `yaml:"input_series"`
				Exprs    []map[string]any    `yaml:"promql_expr_test"`
				Alerts   []struct {
					Name     string `yaml:"alertname"`
					At       string `yaml:"eval_time"`
					Expected []struct {
						Labels      map[string]string `yaml:"exp_labels"`
						Annotations map[string]string `yaml:"exp_annotations"`
					} `yaml:"exp_alerts"`
				} `yaml:"alert_rule_test"`
			} `yaml:"tests"`
		}
		check(t, yaml.Unmarshal([]byte(test.file), &file))
		for i := range file.Tests {
			for _, series := range file.Tests[i].Series {
				series["series"] = strings.TrimSuffix(series["series"], "}") + fmt.Sprintf(", %s=%q}", label, value)
			}
			for j, expr := range file.Tests[i].Exprs {
				file.Tests[i].Exprs[j] = map[string]any{"expr": lost, "eval_time": expr["eval_time"]}
			}
			for _, alert := range file.Tests[i].Alerts {
				for _, expected := range alert.Expected {
					if !slices.Contains(withoutTarget, alert.Name) {
						expected.Labels[label] = value
					}
					fired[alert.Name] = true
				}
			}
		}
		content, err := yaml.Marshal(file)
		check(t, err)
		labelled := &ruleTest{test.name, string(content), test.rules}
		if passed, output, err := labelled.passes(t, tool, labelled.rules); err != nil || !passed {
			t.Errorf("%s: %v\n%s", test.name, err, output)
		}
	}
	for _, r := range rules.all() {
		if r.Alert != "" && !fired[r.Alert] {
			t.Errorf("no test expects the labels of %s", r.Alert)
		}
	}
}

// atOnce calls do with each item, two at a time, and returns when all calls have returned.
func atOnce[T any](items []T, do func(T)) {
	queue := make(chan T)
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for item := range queue {
				do(item)
			}
		})
	}
	for _, item := range items {
		queue <- item
	}
	close(queue)
	workers.Wait()
}

// scrapeInterval is that of most tests of the rules.
const scrapeInterval = 15 * time.Second

// unseen are the changes that no test can find, since no series makes the two sides exactly equal, or since increase
// makes a little more of one.
var unseen = []string{
	// An alert of a job has no instance that could be equal to a target's.
	`PostgresDown: {alertname="PgLivenessExporterCutOff", alertstate="firing"} instead of {alertname="PgLivenessExporterCutOff", alertstate="firing", instance!=""}`,
	`PgBouncerDown: {alertname="PgLivenessExporterCutOff", alertstate="firing"} instead of {alertname="PgLivenessExporterCutOff", alertstate="firing", instance!=""}`,
	// An alert without a time (for) is never pending.
	`PostgresDown: {alertname="PostgresDown"} instead of {alertname="PostgresDown", alertstate="firing"}`,
	`PgBouncerDown: {alertname="PgBouncerDown"} instead of {alertname="PgBouncerDown", alertstate="firing"}`,
	`PgBouncerBackEndUnreachable: {alertname="PostgresDown", cluster!=""} instead of {alertname="PostgresDown", alertstate="firing", cluster!=""}`,
	// Both windows would have to be longer, and both matchers missing.
	`job_instance_target:pg_probe_state:full_min3: {} instead of {state="connection_limit"}`,
	"PostgresDown: [5m30s] instead of [5m]",
	"PgBouncerDown: [5m30s] instead of [5m]",
	"PostgresFlapping: > instead of >=",
	"PostgresConnectsSlow: >= instead of >",
	"PostgresConnectionsFillingUp: >= instead of >",
	"PostgresCrashRestarted: 1 instead of 0",
	"PostgresErrorBudgetBurnFast: >= instead of >",
	"PostgresErrorBudgetBurnFast: > instead of >=",
	"PostgresErrorBudgetBurnSlow: >= instead of >",
	"PostgresErrorBudgetBurnSlow: > instead of >=",
}

// neighbours returns the durations a step below and above one, none of "".
func neighbours(t *testing.T, duration string, step time.Duration) []string {
	t.Helper()
	if duration == "" {
		return nil
	}
	d, err := time.ParseDuration(duration)
	if err != nil {
		t.Fatal(err)
	}
	return []string{(d - step).String(), (d + step).String()}
}

type mutation struct{ what, expr string }

// part matches what mutateExpr changes in an expression: a selector's matchers, a text, the labels of `on`, a range, a
// number, an operator. The labels of `by` need none: the tests compare an alert's labels.
var part = regexp.MustCompile(`\{[^}]*\}|"[^"]*"|on \([a-z, ]*\)|\[\w+\]|\b\d+(?:\.\d+)?\b|[=<>]=?|\b(?:and|or|unless)\b`)

// mutateExpr returns an expression's mutations, each with one change.
func mutateExpr(expr string) []mutation {
	var all []mutation
	for _, at := range part.FindAllStringIndex(expr, -1) {
		old := expr[at[0]:at[1]]
		for _, changed := range mutatePart(old) {
			// The position, since the same part may stand in several places.
			what := fmt.Sprintf("%s instead of %s at %d", changed, old, at[0])
			all = append(all, mutation{what, expr[:at[0]] + changed + expr[at[1]:]})
		}
	}
	return all
}

func mutatePart(old string) []string {
	swapped := map[string]string{
		"==": "!=", ">": ">=", ">=": ">", "<": "<=", "and": "unless", "unless": "and", "or": "and",
	}
	switch {
	case swapped[old] != "":
		return []string{swapped[old]}
	case old[0] == '"':
		return nil
	case old[0] == '{':
		return mutateMatchers(old[1 : len(old)-1])
	case old[0] == '[':
		return mutateRange(old[1 : len(old)-1])
	case strings.HasPrefix(old, "on ("):
		return mutateLabels(old)
	}
	const small, share = 20, 0.05
	number, err := strconv.ParseFloat(old, 64)
	if err != nil {
		panic(err)
	}
	step := number * share
	if number <= small && number == float64(int(number)) {
		step = 1
	}
	format := func(f float64) string { return strconv.FormatFloat(f, 'g', 8, 64) }
	return []string{format(number - step), format(number + step)}
}

// mutateMatchers leaves out each matcher, and each alternative of a pattern.
func mutateMatchers(matchers string) []string {
	var all []string
	list := regexp.MustCompile(`,\s+`).Split(strings.TrimSpace(matchers), -1)
	for i, m := range list {
		others := slices.Delete(slices.Clone(list), i, i+1)
		all = append(all, "{"+strings.Join(others, ", ")+"}")
		label, pattern, found := strings.Cut(m, `~"`)
		if !found {
			continue
		}
		alternatives := strings.Split(strings.TrimSuffix(pattern, `"`), "|")
		for j := range alternatives {
			fewer := strings.Join(slices.Delete(slices.Clone(alternatives), j, j+1), "|")
			all = append(all, "{"+strings.Join(append(slices.Clone(others), label+`~"`+fewer+`"`), ", ")+"}")
		}
	}
	return all
}

// mutateRange makes a range an interval, or a tenth, shorter and longer.
func mutateRange(old string) []string {
	d, err := time.ParseDuration(old)
	if err != nil {
		panic(err)
	}
	const share = 10
	step := max(scrapeInterval, (d / share).Round(scrapeInterval))
	return []string{"[" + (d - step).String() + "]", "[" + (d + step).String() + "]"}
}

// mutateLabels leaves out each label.
func mutateLabels(old string) []string {
	word, labels, _ := strings.Cut(strings.TrimSuffix(old, ")"), " (")
	list := strings.Split(labels, ", ")
	var all []string
	for i := range list {
		all = append(all, word+" ("+strings.Join(slices.Delete(slices.Clone(list), i, i+1), ", ")+")")
	}
	return all
}
