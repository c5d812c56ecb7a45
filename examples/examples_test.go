// Package examples_test holds the files beside it to what they claim: Prometheus' own tool accepts them, and every
// metric they name is one that the exporter shows.
package examples_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pg_liveness_exporter/internal/pgtest"
)

func TestPromtool(t *testing.T) {
	tool := pgtest.Tool(t, "PROMTOOL", "promtool")
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"},
		{"test", "rules", "alerts_test.yml"},
		{"check", "config", "prometheus.yml"},
	} {
		t.Run(strings.Join(args[:2], " "), func(t *testing.T) {
			if out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
				t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		})
	}
}

// dashboard is what is looked at of Grafana's model.
type dashboard struct {
	UID      string
	Editable bool
	Panels   []struct {
		ID                       int
		Type, Title, Description string
		Targets                  []struct{ Expr string }
		FieldConfig              struct {
			Defaults struct{ Unit, NoValue string }
		}
	}
}

func TestDashboard(t *testing.T) {
	var d dashboard
	if err := json.Unmarshal(read(t, "dashboard.json"), &d); err != nil {
		t.Fatalf("dashboard.json: %v", err)
	}
	if d.UID == "" || d.Editable {
		t.Errorf("uid %q, editable %t: want a fixed uid and false", d.UID, d.Editable)
	}
	if got, want := len(d.Panels), 10; got < want {
		t.Errorf("%d panels, want %d or more", got, want)
	}
	seen := map[int]string{}
	for _, p := range d.Panels {
		if other, ok := seen[p.ID]; ok || p.ID == 0 {
			t.Errorf("panel %q has the id %d of %q", p.Title, p.ID, other)
		}
		seen[p.ID] = p.Title
		if p.Type == "row" || p.Type == "text" {
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

// metricName matches what looks like the name of one of our metrics.
var metricName = regexp.MustCompile(`\bpg_[a-z0-9_]+`)

// TestMetricsExist looks at comments and texts as well as at expressions: a name must be right there too.
func TestMetricsExist(t *testing.T) {
	golden, err := filepath.Glob("../collector/testdata/*.prom")
	if err != nil || len(golden) == 0 {
		t.Fatalf("no golden file in ../collector/testdata: %v", err)
	}
	known := map[string]bool{
		// The golden files hold what is said of a server; this one is said of the exporter.
		"pg_liveness_exporter_build_info": true,
		// No metrics: the rules' group, the program, a role of PostgreSQL.
		"pg_liveness": true, "pg_liveness_exporter": true, "pg_monitor": true,
	}
	for _, file := range golden {
		for _, name := range metricName.FindAllString(string(read(t, file)), -1) {
			known[name] = true
		}
	}
	for _, file := range []string{"alerts.yml", "alerts_test.yml", "dashboard.json"} {
		names := metricName.FindAllString(string(read(t, file)), -1)
		if len(names) == 0 {
			t.Errorf("%s names no metric", file)
		}
		for _, name := range names {
			if !known[name] {
				t.Errorf("%s names %s, which is in no golden file", file, name)
			}
		}
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
