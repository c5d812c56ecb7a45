// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"pg_liveness_exporter/internal/testenv"
)

var update = flag.Bool("update", false, "write the generated files")

// schemas are the modules that hold the schemas of Kubernetes' own kinds and of the Prometheus operator's.
const (
	kubernetes = "k8s.io/kubernetes@v1.36.3"
	operator   = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
)

// TestKubernetesGenerated: the operator's rules are those of alerts.yml, and Grafana's dashboard is dashboard.json.
// (kustomize reads no file outside of its folder.)
func TestKubernetesGenerated(t *testing.T) {
	const note = "# Written by `go test ./e2e -run Kubernetes -update`, of ../../"
	for file, want := range map[string]string{
		"prometheusrule.yaml": note + `alerts.yml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: pg-liveness-exporter
  labels: {app.kubernetes.io/name: pg-liveness-exporter}
spec:
` + indented("  ", read(t, "examples/alerts.yml")),
		"dashboard.yaml": note + `dashboard.json. Grafana's sidecar looks for the label.
apiVersion: v1
kind: ConfigMap
metadata:
  name: pg-liveness-dashboard
  labels: {grafana_dashboard: "1"}
data:
  pg_liveness.json: |
` + indented("    ", read(t, "examples/dashboard.json")),
	} {
		path := inRoot(t, filepath.Join("examples", "kubernetes", "operator", file))
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		expectEqual(t, file+", which go test ./e2e -run Kubernetes -update writes anew", want, read(t, path))
	}
}

func indented(by, content string) string {
	var b strings.Builder
	for line := range strings.Lines(content) {
		if line != "\n" {
			b.WriteString(by)
		}
		b.WriteString(line)
	}
	return b.String()
}

// TestKubernetesConfigs: the exporter can use the configurations.
func TestKubernetesConfigs(t *testing.T) {
	for file, targets := range map[string]int{"base": 0, "discovery": 0, "secrets": 2} {
		file = "examples/kubernetes/" + file + "/config.yml"
		f, err := parse(t, file, read(t, file))
		check(t, err)
		if len(f.Targets) != targets {
			t.Errorf("%s: %d targets", file, len(f.Targets))
		}
	}
	base := read(t, "examples/kubernetes/base/config.yml")
	f, err := parse(t, "config.yml", regexp.MustCompile("(?m)^# (targets:| )").ReplaceAllString(base, "$1"))
	check(t, err)
	if len(f.Targets) != 2 {
		t.Errorf("%d targets once they are no comments", len(f.Targets))
	}
}

// TestKubernetesInventsNoServer: whoever applies a folder that has alert rules gets no alert on a server that does not exist.
func TestKubernetesInventsNoServer(t *testing.T) {
	kustomize := testenv.GoTool(t, "release", "kustomize")
	withRules := 0
	for _, name := range kubernetesFolders(t) {
		built, err := run(t, "", kustomize, "build", inRoot(t, filepath.Join("examples", "kubernetes", name)))
		check(t, err)
		if !strings.Contains(built, "kind: PrometheusRule") {
			continue
		}
		withRules++
		eachResource(t, built, func(r resource) {
			if configuration := r.Data["config.yml"]; r.Kind == "ConfigMap" && configuration != "" {
				f, err := parse(t, "config.yml", configuration)
				check(t, err)
				if len(f.Targets)+len(f.Checks) > 0 {
					t.Errorf("%s: there are targets or checks:\n%s", name, configuration)
				}
			}
			if r.Kind == "Probe" || len(r.Spec.StaticConfigs) > 0 {
				t.Errorf("%s: a %s may name servers", name, r.Kind)
			}
		})
	}
	if withRules != 3 {
		t.Errorf("%d folders have rules", withRules)
	}
}

// kubernetesFolders returns the names of the folders of examples/kubernetes, of which the README has each in its table.
func kubernetesFolders(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, file := range glob(t, "examples/kubernetes/*/kustomization.yaml") {
		name := filepath.Base(filepath.Dir(file))
		if !strings.Contains(read(t, "examples/kubernetes/README.md"), fmt.Sprintf("| [%s](%[1]s) |", name)) {
			t.Errorf("the README does not have %s", name)
		}
		names = append(names, name)
	}
	return names
}

// resource is what these tests read of a Kubernetes object.
type resource struct {
	Kind     string
	Metadata struct{ Name string }
	Data     map[string]string
	Spec     struct {
		Replicas      int
		ClusterIP     string `yaml:"clusterIP"`
		Relabelings   []struct{ Modulus int }
		StaticConfigs []any `yaml:"staticConfigs"`
		Template      struct {
			Spec struct {
				Containers []container
				Volumes    []struct {
					Secret struct {
						SecretName string `yaml:"secretName"`
					}
					ConfigMap struct{ Name string } `yaml:"configMap"`
					Projected struct {
						Sources []struct{ Secret struct{ Name string } }
					}
				}
			}
		}
	}
}

type container struct {
	Name, Image  string
	Env          []struct{ Name, Value string }
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
	ReadinessProbe struct {
		HTTPGet struct{ Path string } `yaml:"httpGet"`
	} `yaml:"readinessProbe"`
}

// eachResource calls do for each of the objects that kustomize has written.
func eachResource(t *testing.T, built string, do func(resource)) {
	t.Helper()
	for decoder := yaml.NewDecoder(strings.NewReader(built)); ; {
		var r resource
		err := decoder.Decode(&r)
		if errors.Is(err, io.EOF) {
			return
		}
		check(t, err)
		do(r)
	}
}

// TestKubernetes: kustomize builds each of the folders, and what it builds is what Kubernetes and the operator know, without
// one unknown key. The sharded one has as many exporters as Prometheus divides the servers among.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	kustomize, kubeconform := testenv.GoTool(t, "release", "kustomize"), testenv.GoTool(t, "release", "kubeconform")
	location := schemas(t) + "/{{.Group}}_{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"
	if want := strings.Replace(kubernetes, "@", " ", 1); !strings.Contains(read(t, "tools/kubernetes/go.mod"), want) {
		t.Errorf("the API server of the nightly tests is not %s", want)
	}
	for _, name := range kubernetesFolders(t) {
		t.Run(name, func(t *testing.T) {
			built, err := run(t, "", kustomize, "build", inRoot(t, filepath.Join("examples", "kubernetes", name)))
			if err != nil {
				t.Fatal(err)
			}
			said, err := run(t, built, kubeconform, "-strict", "-summary", "-verbose", "-schema-location", location)
			if err != nil || !strings.Contains(said, "Invalid: 0, Errors: 0, Skipped: 0") {
				t.Errorf("%v\n%s", err, said)
			}
			wrong := strings.Replace(built, "\n        image: ", "\n        imagine: ", 1)
			if _, err := run(t, wrong, kubeconform, "-strict", "-schema-location", location); err == nil || wrong == built {
				t.Error("an unknown key is no error")
			}
			if name == "sharded" {
				hasAsManyAsShards(t, built)
			}
		})
	}
}

func hasAsManyAsShards(t *testing.T, built string) {
	t.Helper()
	replicas, modulus := 0, 0
	eachResource(t, built, func(r resource) {
		switch r.Kind {
		case "StatefulSet":
			replicas = r.Spec.Replicas
		case "ScrapeConfig":
			modulus = r.Spec.Relabelings[0].Modulus
		case "Service":
			if r.Spec.ClusterIP != "None" {
				t.Error("the Service balances")
			}
		case "Deployment":
			t.Errorf("there is a %s", r.Kind)
		}
	})
	if replicas < 2 || replicas != modulus {
		t.Errorf("%d exporters, and servers divided among %d", replicas, modulus)
	}
}

// schemas writes the JSON schemas that kubeconform reads, one for each kind, into a folder.
func schemas(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	var api struct{ Definitions map[string]map[string]any }
	if err := json.Unmarshal([]byte(read(t, filepath.Join(module(t, kubernetes), "api", "openapi-spec", "swagger.json"))), &api); err != nil {
		t.Fatal(err)
	}
	for name, definition := range api.Definitions {
		strict(definition)
		kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
		for _, kind := range kinds {
			k := kind.(map[string]any)
			writeSchema(t, folder, k["group"], k["kind"], k["version"], map[string]string{"$ref": "definitions.json#/definitions/" + name})
		}
	}
	// Both are text in what kustomize writes, or numbers.
	api.Definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"]["type"] = []string{"string", "number"}
	api.Definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["type"] = []string{"string", "integer"}
	writeJSON(t, filepath.Join(folder, "definitions.json"), map[string]any{"definitions": api.Definitions})

	files, err := filepath.Glob(filepath.Join(module(t, operator), "example", "prometheus-operator-crd", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no definitions in %s: %v", operator, err)
	}
	for _, file := range files {
		var definition struct {
			Spec struct {
				Group    string
				Names    struct{ Kind string }
				Versions []struct {
					Name   string
					Schema struct {
						OpenAPI map[string]any `yaml:"openAPIV3Schema"`
					}
				}
			}
		}
		if err := yaml.Unmarshal([]byte(read(t, file)), &definition); err != nil {
			t.Fatal(err)
		}
		for _, version := range definition.Spec.Versions {
			strict(version.Schema.OpenAPI)
			writeSchema(t, folder, definition.Spec.Group, definition.Spec.Names.Kind, version.Name, version.Schema.OpenAPI)
		}
	}
	return folder
}

// strict makes a schema refuse the keys that it does not name, wherever it names any.
func strict(schema any) {
	switch s := schema.(type) {
	case map[string]any:
		_, names := s["properties"].(map[string]any)
		if _, says := s["additionalProperties"]; names && !says && s["x-kubernetes-preserve-unknown-fields"] != true {
			s["additionalProperties"] = false
		}
		for _, inner := range s {
			strict(inner)
		}
	case []any:
		for _, inner := range s {
			strict(inner)
		}
	}
}

// writeSchema writes the schema of a kind under the name that kubeconform looks for; the core group's is empty there.
func writeSchema(t *testing.T, folder string, group, kind, version, schema any) {
	t.Helper()
	if group == "" {
		group = version
	}
	writeJSON(t, filepath.Join(folder, fmt.Sprintf("%s_%s_%s.json", group, strings.ToLower(kind.(string)), version)), schema)
}

func writeJSON(t *testing.T, file string, content any) {
	t.Helper()
	encoded, err := json.Marshal(content)
	if err == nil {
		err = os.WriteFile(file, encoded, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// module returns the folder of a Go module that is no dependency of anything here, or skips the test.
func module(t *testing.T, name string) string {
	t.Helper()
	out, err := run(t, "", "go", "mod", "download", "-json", name)
	testenv.Need(t, err == nil, name, "go mod download "+name)
	var downloaded struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &downloaded); err != nil {
		t.Fatal(err)
	}
	return downloaded.Dir
}

// run runs a program and returns what it wrote to its standard output.
func run(t *testing.T, input, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, &errs)
	}
	return string(out), err
}

// TestSharded: with the configuration for Kubernetes, Prometheus asks for each server at one of the exporters, by the server's
// name alone; and what the operator is told is the same.
func TestSharded(t *testing.T) {
	t.Parallel()
	promtool := testenv.Tool(t, "PROMTOOL", "promtool")
	readme := regexp.MustCompile("(?s)```yaml\n# prometheus.yml\n(.*?)```").FindStringSubmatch(read(t, "examples/kubernetes/README.md"))
	var prometheus struct {
		Scrapes []struct {
			Relabelings []struct {
				Sources     []string `yaml:"source_labels"`
				Action      string
				Modulus     int
				Target      string `yaml:"target_label"`
				Replacement string
			} `yaml:"relabel_configs"`
		} `yaml:"scrape_configs"`
	}
	check(t, yaml.Unmarshal([]byte(readme[1]), &prometheus))
	var operator struct {
		Spec struct {
			Relabelings []struct {
				Sources     []string `yaml:"sourceLabels"`
				Action      string
				Modulus     int
				Target      string `yaml:"targetLabel"`
				Replacement string
			}
		}
	}
	check(t, yaml.Unmarshal([]byte(read(t, "examples/kubernetes/sharded/scrapeconfig.yaml")), &operator))
	if ours, theirs := fmt.Sprint(prometheus.Scrapes[0].Relabelings), fmt.Sprint(operator.Spec.Relabelings); ours != theirs {
		t.Errorf("Prometheus is told %s, the operator %s", ours, theirs)
	}

	const servers = 30
	content := "defaults: {user: u}\ntargets:\n"
	for i := range servers {
		content += fmt.Sprintf("  server%d: {host: 127.0.0.1, port: 1}\n", i)
	}
	places := func() map[string]string {
		e, _ := startWithFile(t, content) // each on a port of its own, as any of the exporters may be asked
		file := writeFile(t, regexp.MustCompile(`http://[^/]*/sd`).ReplaceAllString(readme[1], "http://"+e.address+"/sd"))
		var discovered []struct{ Labels map[string]string }
		said := runIn(t, "", 3*hanging, nil, promtool, "check", "service-discovery", "--timeout=3s", file, "postgres")
		check(t, json.Unmarshal([]byte(said), &discovered))
		found := map[string]string{}
		for _, d := range discovered {
			if d.Labels["instance"] != d.Labels["target"] || d.Labels["__metrics_path__"] != "/probe" {
				t.Errorf("labels %v", d.Labels)
			}
			found[d.Labels["__param_target"]] = d.Labels["__address__"]
		}
		return found
	}
	first := places()
	shards := map[string]int{}
	for _, address := range first {
		shards[address]++
	}
	const domain = ".pg-liveness-exporter.pg-liveness.svc:10432"
	for i := range 3 {
		if shards[fmt.Sprintf("pg-liveness-exporter-%d%s", i, domain)] == 0 {
			t.Errorf("the exporter %d has nothing to do: %v", i, shards)
		}
	}
	if len(first) != servers || len(shards) != 3 {
		t.Errorf("%d servers at %v", len(first), shards)
	}
	expectEqual(t, "from another exporter", first, places())
}
