// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"pg_liveness_exporter/internal/testenv"
)

func TestPromtool(t *testing.T) {
	tool := testenv.Tool(t, "PROMTOOL", "promtool")
	var ruleTestFiles []string
	for _, file := range glob(t, "examples/alerts*_test.yml") {
		ruleTestFiles = append(ruleTestFiles, filepath.Base(file))
	}
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"},
		append([]string{"test", "rules"}, ruleTestFiles...),
		{"check", "config", "prometheus.yml"},
	} {
		t.Run(strings.Join(args[:2], " "), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), tool, args...)
			cmd.Dir = inRoot(t, "examples")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		})
	}
}

// TestConfig: the reference configuration can be used, and names every key there is.
func TestConfig(t *testing.T) {
	content := read(t, "examples/config.yml")
	f, err := parse(t, "config.yml", content)
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
			if !regexp.MustCompile(`[ #{]`+key+`:`).MatchString(content) && !strings.HasSuffix(key, "_env") && !strings.HasSuffix(key, "_file") {
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
	files := glob(t, "examples/health/*.yml")
	if len(files) != 3 {
		t.Fatalf("%q", files)
	}
	for _, file := range files {
		if f, err := parse(t, file, read(t, file)); err != nil || len(f.Checks) == 0 {
			t.Error(err)
		}
	}
}

// TestReadme: every YAML block of a README says what it is, and can be used as that.
func TestReadme(t *testing.T) {
	for _, readme := range []string{"README.md", "examples/kubernetes/README.md"} {
		content := read(t, readme)
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
	for _, file := range append(glob(t, "collector/testdata/*.prom"), "docs/metrics.md") {
		for _, name := range metricName.FindAllString(read(t, file), -1) {
			known[name] = true
		}
	}
	for _, file := range append(glob(t, "examples/alerts*.yml"), "examples/dashboard.json") {
		names := metricName.FindAllString(read(t, file), -1)
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

// TestCompose: what compose.yml takes from its folder is there, and fits together. That it keeps to Compose's schema is
// for `make lint` to say.
func TestCompose(t *testing.T) {
	var file struct {
		Services map[string]struct {
			Image   string
			Volumes []string
		}
		Secrets map[string]struct{ File string }
	}
	if err := yaml.Unmarshal([]byte(read(t, "examples/compose.yml")), &file); err != nil {
		t.Fatal(err)
	}
	var sources []string
	for name, service := range file.Services {
		// A tag that says which version: what was tried goes on being what runs.
		if service.Image != "" && !regexp.MustCompile(`^[a-z/]+:v?[0-9]+\.[0-9.]+$`).MatchString(service.Image) {
			t.Errorf("%s: the image %s has no version", name, service.Image)
		}
		for _, volume := range service.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			sources = append(sources, source)
		}
	}
	for _, secret := range file.Secrets {
		sources = append(sources, secret.File)
	}
	if len(sources) < 10 {
		t.Errorf("only %q are mounted", sources)
	}
	for _, source := range sources {
		if _, err := os.Stat(filepath.Join(inRoot(t, "examples"), source)); err != nil || !strings.HasPrefix(source, "./") {
			t.Errorf("%s is mounted: %v", source, err)
		}
	}
	f, err := parse(t, "exporter.yml", read(t, "examples/compose/exporter.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, target := range f.Targets {
		targets = append(targets, target.Name)
	}
	expectEqual(t, "targets, as make demo has them", []string{"pool", "primary", "standby"}, targets)
	password := strings.TrimSpace(read(t, "examples/compose/password"))
	if users := read(t, "examples/compose/userlist.txt"); strings.Count(users, `" "`+password+`"`) != 2 {
		t.Errorf("PgBouncer's users have other passwords than the servers': %s", users)
	}
}
