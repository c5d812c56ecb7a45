// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"pg_liveness_exporter/internal/testenv"
)

const (
	// chart is the folder of the Helm chart.
	chart = "charts/pg-liveness-exporter"
	// kubeVersion is what a Helm that the go command builds would take for 1.20.
	kubeVersion = "--kube-version=1.36"
)

// helm returns the path of the Helm that the variable HELM names, or of Helm 4.
func helm(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("HELM"); path != "" {
		return path
	}
	return testenv.GoTool(t, "helm", "helm")
}

// object is one of Kubernetes' objects.
type object map[string]any

// at returns what is at the end of a path of keys, or nil.
func (o object) at(path ...string) any {
	var value any = o
	for _, key := range path {
		m, _ := value.(object) // the decoder makes inner mappings of the outer one's type
		value = m[key]
	}
	return value
}

// render renders a release of the chart with a file of values, and returns its text, and its objects by kind.
func render(t *testing.T, helm, release, namespace, values string) (string, map[string]object) {
	t.Helper()
	text, err := run(t, "", helm, "template", release, inRoot(t, chart), kubeVersion, "--namespace", namespace, "--values", values)
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]object{}
	for decoder := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o object
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return text, objects
		}
		check(t, err)
		if o == nil {
			continue
		}
		kind := fmt.Sprint(o["kind"])
		if objects[kind] != nil {
			t.Errorf("there are two of kind %s", kind)
		}
		objects[kind] = o
	}
}

// TestChart: for several sets of values, the chart makes what is in the golden files, and nothing that Kubernetes or the
// Prometheus operator does not know.
func TestChart(t *testing.T) {
	t.Parallel()
	helm, kubeconform := helm(t), testenv.GoTool(t, "release", "kubeconform")
	location := schemas(t) + "/{{.Group}}_{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"
	files := glob(t, chart+"/ci/*-values.yaml")
	if len(files) < 3 {
		t.Errorf("only %d sets of values", len(files))
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), "-values.yaml")
		t.Run(name, func(t *testing.T) {
			if _, err := run(t, "", helm, "lint", "--strict", inRoot(t, chart), kubeVersion, "--values", inRoot(t, file)); err != nil {
				t.Error(err)
			}
			valid := func(release, namespace string) map[string]object {
				text, objects := render(t, helm, release, namespace, inRoot(t, file))
				said, err := run(t, text, kubeconform, "-strict", "-summary", "-verbose", "-schema-location", location)
				if err != nil || !strings.Contains(said, "Invalid: 0, Errors: 0, Skipped: 0") {
					t.Errorf("%v\n%s", err, said)
				}
				for _, o := range objects {
					if got := o.at("metadata", "namespace"); got != namespace {
						t.Errorf("%s is in the namespace %v", o["kind"], got)
					}
				}
				return objects
			}
			valid("12e4567", "1234567") // YAML takes these for numbers, unless they are quoted
			objects := valid("pg", "databases")
			// Other tests look at these two, which are long.
			if rule := objects["PrometheusRule"]; rule != nil {
				rule["spec"] = "…"
			}
			if dashboard := objects["ConfigMap"]; dashboard != nil {
				dashboard["data"] = "…"
			}
			golden := inRoot(t, filepath.Join("e2e", "testdata", "chart", name+".yaml"))
			if *update {
				content, err := yaml.Marshal(objects)
				check(t, err)
				check(t, os.MkdirAll(filepath.Dir(golden), 0o755))
				check(t, os.WriteFile(golden, content, 0o644))
			}
			var want map[string]object
			check(t, yaml.Unmarshal([]byte(read(t, golden)), &want))
			expectEqual(t, "the chart; go test ./e2e -run TestChart -update writes the golden files", want, objects)
		})
	}
}

// TestChartFiles: the rules, the dashboard and the configuration arrive as they are.
func TestChartFiles(t *testing.T) {
	t.Parallel()
	helm := helm(t)
	_, objects := render(t, helm, "pg", "databases", inRoot(t, chart+"/ci/everything-values.yaml"))

	var rules ruleFile
	check(t, yaml.Unmarshal([]byte(read(t, "examples/alerts.yml")), &rules))
	content, err := yaml.Marshal(objects["PrometheusRule"]["spec"])
	check(t, err)
	var got ruleFile
	check(t, yaml.Unmarshal(content, &got))
	for _, group := range rules.Groups {
		for i, rule := range group.Rules {
			if rule.Alert != "" {
				group.Rules[i].Labels["team"] = "databases"
				group.Rules[i].Annotations["runbook_url"] = "https://runbooks.example.org/pg/" + rule.Alert + ".md"
			}
		}
	}
	expectEqual(t, "the rules", rules, got)

	if dashboard := objects["ConfigMap"].at("data", "pg_liveness.json"); dashboard != read(t, "examples/dashboard.json") {
		t.Errorf("another dashboard: %.200v", dashboard)
	}

	file := fmt.Sprint(objects["Secret"].at("stringData", "config.yml"))
	if f, err := parse(t, "config.yml", file); err != nil || len(f.Targets) != 1 || f.Modules() != 1 || len(f.Checks) != 1 {
		t.Errorf("%v\n%s", err, file)
	}
}

// TestChartRefuses: what cannot work is an error that names the key.
func TestChartRefuses(t *testing.T) {
	t.Parallel()
	helm := helm(t)
	const image = "image: {repository: r}\n"
	for _, tt := range []struct{ name, values, want string }{
		{"no image", "{}", "image.repository is required"},
		{"two files", image + "config: {targets: {}}\nexistingConfig: {secret: s}", "not both"},
		{"shards without a file", image + "shards: 2", "shards above 1 need config"},
		{"shards that nobody scrapes", image + "shards: 2\nexistingConfig: {secret: s}", "shards above 1 need serviceMonitor.enabled"},
		{"a Probe of shards", image + "shards: 2\nexistingConfig: {secret: s}\nserviceMonitor: {enabled: true}\n" +
			"probe: {enabled: true, module: m, targets: [a]}", "a Probe has one address"},
		{"a Probe without a module", image + "probe: {enabled: true, targets: [a]}", "probe.module is required"},
		{"a Probe of nothing", image + "probe: {enabled: true, module: m}", "probe.targets is required"},
		{"two listeners on a port", image + "webConfig: {secret: s}\nservice: {port: 10433}", "service.port 10433"},
		{"an unknown key", image + "servicemonitor: {enabled: true}", "servicemonitor"},
		{"an unknown key below", image + "serviceMonitor: {enable: true}", "enable"},
		{"a number as a text", image + "shards: three", "shards"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := run(t, "", helm, "template", "pg", inRoot(t, chart), kubeVersion, "--values", writeFile(t, tt.values))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// TestChartVersion: the chart installs the version of this commit.
func TestChartVersion(t *testing.T) {
	var c struct {
		AppVersion string `yaml:"appVersion"`
	}
	check(t, yaml.Unmarshal([]byte(read(t, chart+"/Chart.yaml")), &c))
	if version := strings.TrimSpace(read(t, "VERSION")); c.AppVersion != version {
		t.Errorf("the chart installs %s, and this is %s", c.AppVersion, version)
	}
}

// TestChartReadme: the table of values has each key of values.yaml, and no other.
func TestChartReadme(t *testing.T) {
	var values map[string]any
	check(t, yaml.Unmarshal([]byte(read(t, chart+"/values.yaml")), &values))
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(read(t, chart+"/README.md"), -1) {
		for _, key := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(row[1], -1) {
			documented[key[1]] = false
		}
	}
	for key, value := range values {
		keys := []string{key}
		if _, ok := documented[key]; !ok { // as a whole
			if inner, _ := value.(map[string]any); inner != nil {
				keys = nil
				for k := range inner {
					keys = append(keys, key+"."+k)
				}
			}
		}
		for _, k := range keys {
			if _, ok := documented[k]; !ok {
				t.Errorf("the README does not have %s", k)
			}
			documented[k] = true
		}
	}
	var unknown []string
	for key, found := range documented {
		if !found {
			unknown = append(unknown, key)
		}
	}
	if slices.Sort(unknown); len(unknown) != 0 {
		t.Errorf("values.yaml does not have %q", unknown)
	}
}
