// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package examples_test holds the files beside it to what they claim: Prometheus' own tool accepts them, and every
// metric they name is one that the exporter shows.
package examples_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials"
	"pg_liveness_exporter/internal/testenv"
)

func TestPromtool(t *testing.T) {
	tool := testenv.Tool(t, "PROMTOOL", "promtool")
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"},
		append([]string{"test", "rules"}, glob(t, "alerts*_test.yml")...),
		{"check", "config", "prometheus.yml"},
	} {
		t.Run(strings.Join(args[:2], " "), func(t *testing.T) {
			if out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
				t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		})
	}
}

// TestConfig: the reference configuration can be used, and names every key there is.
func TestConfig(t *testing.T) {
	content := read(t, "config.yml")
	f, err := parse(t, "config.yml", string(content))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Targets) != 5 || f.Modules() != 2 || len(f.Checks) != 8 {
		t.Errorf("%d targets, %d modules, %d checks", len(f.Targets), f.Modules(), len(f.Checks))
	}
	// The error for an unknown key lists the known ones.
	for _, text := range []string{"modules: {m: {x: 1}}", "targets: {t: {x: 1}}", "health: {x: 1}", "checks: {c: {x: 1}}"} {
		_, err := parse(t, "x", text)
		if err == nil {
			t.Fatal("an unknown key is no error")
		}
		_, known, _ := strings.Cut(strings.SplitN(err.Error(), "\n", 2)[0], "known here are ")
		for key := range strings.SplitSeq(known, ", ") {
			if !regexp.MustCompile(`[ #{]`+key+`:`).Match(content) && !strings.HasSuffix(key, "_env") && !strings.HasSuffix(key, "_file") {
				t.Errorf("config.yml does not show the key %q", key)
			}
		}
	}
}

// TestHealthConfigs: the configurations of services that the health endpoints replace can be used, with the variables that they
// are for. Tests of the program run them.
func TestHealthConfigs(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgresql://u:p@db/app")
	t.Setenv("REDIS_URL", "redis://redis")
	t.Setenv("PAYMENTS_URL", "https://payments.example.org/ready")
	files, err := filepath.Glob("health/*.yml")
	if err != nil || len(files) != 3 {
		t.Fatalf("%q %v", files, err)
	}
	for _, file := range files {
		if f, err := parse(t, file, string(read(t, file))); err != nil || len(f.Checks) == 0 {
			t.Error(err)
		}
	}
}

func parse(t *testing.T, name, content string) (*config.File, error) {
	t.Helper()
	return config.Parse(strings.NewReader(content), name, config.Probing{Timeout: time.Second}, credentials.VerifyEnvironment)
}

// TestReadme: every YAML block of a README says what it is, and can be used as that.
func TestReadme(t *testing.T) {
	for _, readme := range []string{"../README.md", "kubernetes/README.md"} {
		content := string(read(t, readme))
		blocks := regexp.MustCompile("(?s)```yaml\n# ([a-z.]+)\n(.*?)```").FindAllStringSubmatch(content, -1)
		if all := strings.Count(content, "```yaml"); len(blocks) != all || all == 0 {
			t.Errorf("%d of %d YAML blocks begin with the name of a file", len(blocks), all)
		}
		for i, block := range blocks {
			t.Run(fmt.Sprintf("%s %d %s", readme, i, block[1]), func(t *testing.T) { canBeUsed(t, block[1], block[2]) })
		}
	}
}

func canBeUsed(t *testing.T, name, content string) {
	t.Helper()
	switch name {
	case "config.yml":
		if _, err := parse(t, name, content); err != nil {
			t.Error(err)
		}
	case "prometheus.yml":
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		tool := testenv.Tool(t, "PROMTOOL", "promtool")
		if out, err := exec.CommandContext(t.Context(), tool, "check", "config", file).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	default:
		t.Error("what is this?")
	}
}

// metricName matches what looks like the name of one of our metrics.
var metricName = regexp.MustCompile(`\bpg(bouncer)?_[a-z0-9_]+`)

// TestMetricsExist looks at comments and texts as well as at expressions: a name must be right there too.
func TestMetricsExist(t *testing.T) {
	known := map[string]bool{
		// No metrics: the rules' group, the program, a role of PostgreSQL.
		"pg_liveness": true, "pg_liveness_exporter": true, "pg_monitor": true,
	}
	// The golden files hold what is said of a server; the exporter's own are listed with all others.
	for _, file := range append(glob(t, "../collector/testdata/*.prom"), "../docs/metrics.md") {
		for _, name := range metricName.FindAllString(string(read(t, file)), -1) {
			known[name] = true
		}
	}
	for _, file := range append(glob(t, "alerts*.yml"), "dashboard.json") {
		names := metricName.FindAllString(string(read(t, file)), -1)
		if len(names) == 0 {
			t.Errorf("%s names no metric", file)
		}
		for _, name := range names {
			if !known[name] {
				t.Errorf("%s names %s, which is in no golden file and not in docs/metrics.md", file, name)
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

// glob returns the files that match, of which there must be some.
func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	return files
}
