// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"pg_liveness_exporter/health"
	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/status"
)

func TestPromtool(t *testing.T) {
	t.Parallel()
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

// TestOlderPromtools: the older versions of Prometheus that are supported read the rules and its configuration, and the alerts on
// servers that are down fire there as they do in the newest one. The other tests of rules depend on the ends of windows, which
// Prometheus 3 has changed.
func TestOlderPromtools(t *testing.T) {
	t.Parallel()
	tools := filepath.SplitList(os.Getenv("PROMTOOL_OLDER"))
	testenv.Need(t, len(tools) > 0, "promtool 2.42", "make test, as root")
	dir := t.TempDir()
	for _, name := range []string{"alerts.yml", "prometheus.yml"} {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(read(t, "examples/"+name)), 0o600))
	}
	testRules := []string{"test", "rules"}
	for i, test := range ruleTests(t, readRules(t)) {
		if strings.HasPrefix(test.name, "PostgresDown ") || strings.HasPrefix(test.name, "PgBouncerDown ") {
			file := fmt.Sprintf("test%d.yml", i)
			check(t, os.WriteFile(filepath.Join(dir, file), []byte(test.file), 0o600))
			testRules = append(testRules, file)
		}
	}
	for _, tool := range tools {
		t.Run(tool, func(t *testing.T) {
			for _, args := range [][]string{
				{"check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"}, {"check", "config", "prometheus.yml"}, testRules,
			} {
				runIn(t, dir, time.Minute, nil, tool, args...)
			}
		})
	}
}

// TestMixin: the mixin has the rules and the dashboard of the examples.
func TestMixin(t *testing.T) {
	t.Parallel()
	tool := testenv.GoTool(t, "release", "jsonnet")
	out := runIn(t, inRoot(t, "examples"), time.Minute, nil, tool, "--exec",
		"local mixin = import 'mixin.libsonnet'; {rules: mixin.prometheusAlerts, dashboards: mixin.grafanaDashboards}")
	var got, want struct {
		Rules      any            `json:"rules"`
		Dashboards map[string]any `json:"dashboards"`
	}
	check(t, json.Unmarshal([]byte(out), &got))
	check(t, yaml.Unmarshal([]byte(read(t, "examples/alerts.yml")), &want.Rules))
	var dashboard any
	check(t, json.Unmarshal([]byte(read(t, "examples/dashboard.json")), &dashboard))
	want.Dashboards = map[string]any{"pg_liveness.json": dashboard}
	expectEqual(t, "the mixin", want, got)
}

// TestConfig: the reference configuration can be used, and names every key there is.
func TestConfig(t *testing.T) {
	content := read(t, "examples/config.yml")
	f, err := parse(t, "config.yml", content)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Targets) != 6 || f.Modules() != 3 || len(f.Checks) != 11 {
		t.Errorf("%d targets, %d modules, %d checks", len(f.Targets), f.Modules(), len(f.Checks))
	}
	// The error for an unknown key lists the known ones.
	for _, text := range []string{
		"modules: {m: {x: 1}}", "targets: {t: {x: 1}}", "health: {x: 1}",
		"checks: {c: {basic_auth: {x: 1}}}", "checks: {c: {authorization: {x: 1}}}", "checks: {c: {tls_config: {x: 1}}}",
		"checks: {c: {http_headers: {h: {x: 1}}}}",
	} {
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

// TestChecksPage: docs/checks.md has every key of a check.
func TestChecksPage(t *testing.T) {
	page := read(t, "docs/checks.md")
	_, err := parse(t, "x", "checks: {c: {x: 1}}")
	if err == nil {
		t.Fatal("an unknown key is no error")
	}
	_, known, _ := strings.Cut(strings.SplitN(err.Error(), "\n", 2)[0], "known here are ")
	for key := range strings.SplitSeq(known, ", ") {
		if !strings.Contains(page, "`"+key+"`") && !strings.HasSuffix(key, "_env") && !strings.HasSuffix(key, "_file") {
			t.Errorf("docs/checks.md does not have the key %q", key)
		}
	}
}

// TestConfigurationPage: docs/configuration.md has every key of the file, and every flag that it names exists.
func TestConfigurationPage(t *testing.T) {
	page := read(t, "docs/configuration.md")
	for _, text := range []string{
		"x: 1", "defaults: {x: 1}", "modules: {m: {x: 1}}", "targets: {t: {x: 1}}", "health: {x: 1}",
	} {
		_, err := parse(t, "x", text)
		if err == nil {
			t.Fatal("an unknown key is no error")
		}
		_, known, _ := strings.Cut(strings.SplitN(err.Error(), "\n", 2)[0], "known here are ")
		for key := range strings.SplitSeq(known, ", ") {
			if !regexp.MustCompile("`" + key + "[`:]").MatchString(page) {
				t.Errorf("the page does not have the key %s, which %s may have", key, text)
			}
		}
	}
	_, help, _ := runProgram(t, nil, "--help")
	for _, found := range regexp.MustCompile("`--(?:no-)?([a-z.-]+)").FindAllStringSubmatch(page, -1) {
		if !strings.Contains(help, "--"+found[1]) && !strings.Contains(help, "--[no-]"+found[1]) && found[1] != "help" {
			t.Errorf("the page names the flag --%s, which does not exist", found[1])
		}
	}
}

// TestAlertingPage: docs/alerting.md has every alert with its severity and a link to its runbook.
func TestAlertingPage(t *testing.T) {
	page := read(t, "docs/alerting.md")
	alerts := 0
	for _, rule := range readRules(t).all() {
		if rule.Alert == "" {
			continue
		}
		alerts++
		row := fmt.Sprintf("| [%s](../examples/runbooks/%[1]s.md) | %s |", rule.Alert, rule.Labels["severity"])
		if !strings.Contains(page, row) {
			t.Errorf("the page does not have %q", row)
		}
	}
	if rows := strings.Count(page, "| [P"); rows != alerts {
		t.Errorf("%d rows for %d alerts", rows, alerts)
	}
}

// TestCommandLinePage: docs/command-line.md has every flag, with its default.
func TestCommandLinePage(t *testing.T) {
	page := read(t, "docs/command-line.md")
	_, server, _ := runProgram(t, nil, "--help")
	_, once, _ := runProgram(t, nil, "check", "--help")
	flags := regexp.MustCompile(`(?m)^ {2,6}(?:-h, )?--(?:\[no-\])?([a-z.-]+)(?:="?([^\s"]+))?`).FindAllStringSubmatch(server+once, -1)
	for _, flag := range flags {
		row := regexp.MustCompile("(?m)^\\| .*`--" + flag[1] + "`.*$").FindString(page)
		if row == "" {
			t.Errorf("the page does not have the flag --%s", flag[1])
			continue
		}
		// A value in capitals is a placeholder.
		if value := flag[2]; value != "" && value != strings.ToUpper(value) && !strings.Contains(row, value) {
			t.Errorf("the page does not say that --%s is %s unless set: %s", flag[1], value, row)
		}
	}
	if len(flags) < 20 {
		t.Errorf("only %d flags", len(flags))
	}
}

// TestPaths: docs/command-line.md has every path, and each of them is served.
func TestPaths(t *testing.T) {
	t.Parallel()
	_, table, found := strings.Cut(read(t, "docs/command-line.md"), "\n## Paths\n")
	if !found {
		t.Fatal("docs/command-line.md has no section Paths")
	}
	var listed []string
	for row := range strings.Lines(table) {
		cells := strings.Split(row, " | ")
		for _, path := range regexp.MustCompile("`(/[^`?]*)").FindAllStringSubmatch(cells[0], -1) {
			listed = append(listed, path[1])
		}
	}
	served := []string{"metrics", "probe", "sd", "config", "-/reload"}
	for _, path := range slices.Concat(served, health.Paths(), status.Paths()) {
		ofPage := path == "assets" || path == "favicon.ico" // files of the status page
		if !ofPage && !slices.ContainsFunc(listed, func(p string) bool { return strings.HasPrefix(p+"/", "/"+path+"/") || p == "/"+path }) {
			t.Errorf("the page does not have /%s", path)
		}
	}
	e := startExporter(t, environment(1, "postgres"))
	for _, path := range listed {
		path = strings.ReplaceAll(path, "NAME", "postgres")
		if code, _ := e.Health(path); code == http.StatusNotFound {
			t.Errorf("%s is not found", path)
		}
	}
	if len(listed) < 18 {
		t.Errorf("only %q", listed)
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

// documents returns the pages whose blocks and links are tested: READMEs and docs/.
func documents(t *testing.T) []string {
	t.Helper()
	return append([]string{"README.md", "examples/kubernetes/README.md", chart + "/README.md"}, glob(t, "docs/*.md")...)
}

// TestReadme: every YAML block of a README or a page of docs/ says what it is, and can be used as that.
func TestReadme(t *testing.T) {
	for _, page := range documents(t) {
		content := read(t, page)
		blocks := regexp.MustCompile("(?s)```yaml\n# ([a-z.]+)\n(.*?)```").FindAllStringSubmatch(content, -1)
		all := strings.Count(content, "```yaml")
		if len(blocks) != all || all == 0 && strings.HasSuffix(page, "README.md") {
			t.Errorf("%s: %d of %d YAML blocks begin with the name of a file", page, len(blocks), all)
		}
		for i, block := range blocks {
			t.Run(fmt.Sprintf("%s %d %s", page, i, block[1]), func(t *testing.T) { canBeUsed(t, block[1], block[2]) })
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
	case "prometheus.yml", "rules.yml":
		dir := t.TempDir()
		file := filepath.Join(dir, name)
		check(t, os.WriteFile(file, []byte(content), 0o600))
		check(t, os.WriteFile(filepath.Join(dir, "alerts.yml"), []byte(read(t, "examples/alerts.yml")), 0o600))
		args := []string{"check", "config", file}
		if name == "rules.yml" {
			args = []string{"check", "rules", "--lint=all", "--lint-fatal", file}
		}
		tool := testenv.Tool(t, "PROMTOOL", "promtool")
		if out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	case "values.yml":
		render(t, helm(t), "pg", "databases", writeFile(t, content))
	default:
		t.Error("what is this?")
	}
}

// haproxyBlocks returns the HAProxy configurations of a page, with one address in place of the names of servers, which nobody
// resolves.
func haproxyBlocks(t *testing.T, page string) []string {
	t.Helper()
	var blocks []string
	for _, block := range regexp.MustCompile("(?s)```haproxy\n(.*?)```").FindAllStringSubmatch(read(t, page), -1) {
		blocks = append(blocks, regexp.MustCompile(`[a-z0-9-]+\.db\.example\.org`).ReplaceAllString(block[1], "127.0.0.1"))
	}
	return blocks
}

// TestHAProxyBlocks: HAProxy accepts every configuration of a README or a page of docs/, and the servers that the exporter is asked
// about are targets of a configuration of the same page.
func TestHAProxyBlocks(t *testing.T) {
	program := testenv.Tool(t, "HAPROXY", "haproxy")
	const rest = "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30m\n  timeout server 30m\n" +
		"frontend clients\n  bind 127.0.0.1:5000\n  default_backend writes\n"
	found := 0
	for _, page := range documents(t) {
		for _, block := range haproxyBlocks(t, page) {
			found++
			if !strings.Contains(block, "\ndefaults\n") {
				block = rest + block // a part of a configuration
			}
			file := filepath.Join(t.TempDir(), "haproxy.cfg")
			check(t, os.WriteFile(file, []byte(block), 0o600))
			// -dW: a warning is an error.
			if out, err := exec.CommandContext(t.Context(), program, "-c", "-dW", "-f", file).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s\n%s", page, err, out, block)
			}
			for _, server := range regexp.MustCompile(`(?m)^  server (\S+) `).FindAllStringSubmatch(block, -1) {
				if !regexp.MustCompile(`(?m)^  ` + server[1] + `: *\{`).MatchString(read(t, page)) {
					t.Errorf("%s: no configuration on this page has the target %s", page, server[1])
				}
			}
		}
	}
	if found < 2 {
		t.Errorf("only %d configurations", found)
	}
}

// TestShellBlocks: a shell can parse every block of commands of a README or a page of docs/.
func TestShellBlocks(t *testing.T) {
	for _, page := range documents(t) {
		for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(read(t, page), -1) {
			cmd := exec.CommandContext(t.Context(), "sh", "-n")
			cmd.Stdin = strings.NewReader(block[1])
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s\n%s", page, err, out, block[1])
			}
		}
	}
}

// TestLinks: what a README or a page of docs/ links to in the repository is there, a heading too, and README.md links to every page
// of docs/.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]+))?\)`)
	code := regexp.MustCompile("(?s)```.*?```")
	linked := map[string]bool{}
	for _, page := range documents(t) {
		for _, l := range link.FindAllStringSubmatch(code.ReplaceAllString(read(t, page), ""), -1) {
			if strings.Contains(l[1], "://") {
				continue
			}
			file := page
			if l[1] != "" {
				file = filepath.Join(filepath.Dir(page), l[1])
			}
			if page == "README.md" {
				linked[file] = true
			}
			if _, err := os.Stat(inRoot(t, file)); err != nil {
				t.Errorf("%s links to %s: %v", page, l[1], err)
				continue
			}
			if l[2] != "" && !anchors(code.ReplaceAllString(read(t, file), ""))[l[2]] {
				t.Errorf("%s links to %s#%s, and there is no such heading", page, l[1], l[2])
			}
		}
	}
	for _, page := range glob(t, "docs/*.md") {
		if !linked[page] {
			t.Errorf("README.md does not link to %s", page)
		}
	}
}

// anchors returns the names that a forge gives to the headings of a page.
func anchors(page string) map[string]bool {
	names := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^\pL\pN _-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		name = strings.ReplaceAll(name, " ", "-")
		unique := name
		for i := 1; names[unique]; i++ {
			unique = fmt.Sprintf("%s-%d", name, i)
		}
		names[unique] = true
	}
	return names
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
	t.Parallel()
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
