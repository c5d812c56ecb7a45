// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// pod is a pod as an operator makes it.
type pod struct {
	namespace, name, ip, phase string
	labels                     map[string]string
	ports                      []int
}

// operatorPods are pods with the labels and ports that the operators give them: cnpg.io/podRole is in pkg/utils/labels_annotations.go
// of cloudnative-pg, and the others are defaults of postgres-operator (docs/reference/operator_parameters.md and
// pkg/cluster/connection_pooler.go there).
func operatorPods() []pod {
	instance := func(role string) map[string]string {
		return map[string]string{
			"cnpg.io/cluster": "orders", "cnpg.io/podRole": "instance", "cnpg.io/instanceRole": role, "cnpg.io/instanceName": "orders-1",
		}
	}
	member := func(role string) map[string]string {
		return map[string]string{"application": "spilo", "cluster-name": "acid-billing", "spilo-role": role, "team": "acid"}
	}
	return []pod{
		{"shop", "orders-1", "10.244.1.11", "Running", instance("primary"), []int{5432, 9187, 8000}},
		{"shop", "orders-2", "fd00::2", "Running", instance("replica"), []int{5432, 9187, 8000}},
		{"shop", "orders-3", "10.244.1.13", "Failed", instance("replica"), []int{5432, 9187, 8000}},
		{"shop", "orders-4", "", "Pending", instance("replica"), []int{5432, 9187, 8000}},
		{"shop", "orders-1-initdb", "10.244.1.14", "Succeeded", map[string]string{"cnpg.io/cluster": "orders", "cnpg.io/jobRole": "initdb"}, nil},
		{"shop", "orders-pooler-5c", "10.244.1.15", "Running", map[string]string{"cnpg.io/poolerName": "orders-pooler", "cnpg.io/podRole": "pooler"}, []int{5432}},
		{"bills", "acid-billing-0", "10.244.2.11", "Running", member("master"), []int{8008, 5432, 8080}},
		{"bills", "acid-billing-1", "10.244.2.12", "Running", member("replica"), []int{8008, 5432, 8080}},
		{"bills", "acid-billing-pooler-7d", "10.244.2.13", "Running", map[string]string{"application": "db-connection-pooler", "cluster-name": "acid-billing"}, []int{5432}},
		{"shop", "web-6f", "10.244.3.11", "Running", map[string]string{"app": "web"}, []int{8080}},
	}
}

// TestKubernetesDiscovery: of the pods that an API server lists, Prometheus has the exporter probe the servers of the two operators,
// each once, and the exporter's configuration allows the addresses.
func TestKubernetesDiscovery(t *testing.T) {
	t.Parallel()
	promtool := testenv.Tool(t, "PROMTOOL", "promtool")
	api := httptest.NewServer(http.HandlerFunc(servePods))
	t.Cleanup(api.CloseClientConnections)
	configuration := read(t, "examples/kubernetes/discovery/config.yml")
	file, err := parse(t, "config.yml", strings.ReplaceAll(configuration, "10.0.0.0/8", `10.0.0.0/8", "fd00::/8`))
	check(t, err)
	type place struct{ Job, Address, Path, Module, Target, Instance, Cluster string }
	const exporter = "pg-liveness-exporter.pg-liveness.svc:10432"
	for name, want := range map[string][]place{
		"cloudnativepg": {
			{"postgres-cloudnativepg", exporter, "/probe", "cloudnativepg", "10.244.1.11:5432", "shop/orders-1", "shop/orders"},
			{"postgres-cloudnativepg", exporter, "/probe", "cloudnativepg", "[fd00::2]:5432", "shop/orders-2", "shop/orders"},
		},
		"zalando": {
			{"postgres-zalando", exporter, "/probe", "zalando", "10.244.2.11:5432", "bills/acid-billing-0", "bills/acid-billing"},
			{"postgres-zalando", exporter, "/probe", "zalando", "10.244.2.12:5432", "bills/acid-billing-1", "bills/acid-billing"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeFile(t, prometheusConfig(t, read(t, "examples/kubernetes/discovery/"+name+".yaml"), api.URL))
			said := runIn(t, "", 3*hanging, nil, promtool, "check", "service-discovery", "--timeout=10s", path, "postgres-"+name)
			var discovered []struct{ Labels map[string]string }
			check(t, json.Unmarshal([]byte(said), &discovered))
			var got []place
			for _, d := range discovered {
				l := d.Labels
				if len(l) == 0 {
					continue // dropped
				}
				got = append(got, place{
					l["job"], l["__address__"], l["__metrics_path__"], l["__param_module"], l["__param_target"], l["instance"], l["cluster"],
				})
				if _, err := file.AdHoc(l["__param_target"], l["__param_module"]); err != nil {
					t.Errorf("the exporter does not take %s: %v", l["__param_target"], err)
				}
				for label := range l {
					if !strings.HasPrefix(label, "__") && label != "job" && label != "instance" && label != "cluster" {
						t.Errorf("the series have the label %s", label)
					}
				}
			}
			slices.SortFunc(got, func(a, b place) int { return strings.Compare(a.Instance, b.Instance) })
			expectEqual(t, "what Prometheus scrapes", want, got)
		})
	}
}

// prometheusConfig returns the configuration that the Prometheus operator makes of a ScrapeConfig, for an API server at a URL.
func prometheusConfig(t *testing.T, scrapeConfig, api string) string {
	t.Helper()
	var object struct{ Spec map[string]any }
	check(t, yaml.Unmarshal([]byte(scrapeConfig), &object))
	for _, discovery := range object.Spec["kubernetesSDConfigs"].([]any) {
		d := discovery.(map[string]any)
		d["role"], d["api_server"] = strings.ToLower(d["role"].(string)), api
		for _, selector := range d["selectors"].([]any) {
			s := selector.(map[string]any)
			s["role"] = strings.ToLower(s["role"].(string))
		}
	}
	delete(object.Spec, "scrapeClassicHistograms") // its name differs between versions of Prometheus
	scrape, err := yaml.Marshal(map[string]any{"scrape_configs": []any{inSnakeCase(object.Spec)}})
	check(t, err)
	return string(scrape)
}

// inSnakeCase returns a value whose keys are Prometheus's, of one whose keys are the operator's.
func inSnakeCase(value any) any {
	upper := regexp.MustCompile("[A-Z]+")
	switch v := value.(type) {
	case map[string]any:
		renamed := make(map[string]any)
		for key, inner := range v {
			if key == "relabelings" {
				key = "relabelConfigs"
			}
			key = strings.ToLower(upper.ReplaceAllString(strings.ReplaceAll(key, "SDConfigs", "SdConfigs"), "_$0"))
			renamed[key] = inSnakeCase(inner)
		}
		return renamed
	case []any:
		for i := range v {
			v[i] = inSnakeCase(v[i])
		}
	}
	return value
}

// servePods is the part of an API server that lists pods, and then watches them without any change.
func servePods(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	switch {
	case r.URL.Path != "/api/v1/pods" || query.Has("sendInitialEvents"): // clients that want a list in a watch can do without
		http.Error(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422}`, http.StatusUnprocessableEntity)
		return
	case query.Has("watch"):
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return
	}
	items := []any{}
	for _, p := range operatorPods() {
		if !selects(query.Get("labelSelector"), p.labels) {
			continue
		}
		var ports []any
		for _, port := range p.ports {
			ports = append(ports, map[string]any{"containerPort": port, "protocol": "TCP"})
		}
		items = append(items, map[string]any{
			"metadata": map[string]any{"name": p.name, "namespace": p.namespace, "labels": p.labels, "uid": p.name},
			"spec":     map[string]any{"containers": []any{map[string]any{"name": "postgres", "ports": ports}}},
			"status":   map[string]any{"phase": p.phase, "podIP": p.ip},
		})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"kind": "PodList", "apiVersion": "v1", "metadata": map[string]any{"resourceVersion": "1"}, "items": items,
	})
}

// selects reports whether a selector of the forms label and label=value, separated by commas, selects an object with these labels.
func selects(selector string, labels map[string]string) bool {
	for part := range strings.SplitSeq(selector, ",") {
		label, value, hasValue := strings.Cut(part, "=")
		if got, found := labels[label]; part != "" && (!found || hasValue && got != value) {
			return false
		}
	}
	return true
}

// TestKubernetesSidecar: with the role and the environment of the example, the readiness probe passes while PostgreSQL lets the
// exporter log in.
func TestKubernetesSidecar(t *testing.T) {
	t.Parallel()
	psql := testenv.Tool(t, "PSQL", "psql")
	kustomize := testenv.GoTool(t, "release", "kustomize")
	built, err := run(t, "", kustomize, "build", inRoot(t, "examples/kubernetes/sidecar"))
	check(t, err)
	var exporter *container
	roles := ""
	eachResource(t, built, func(r resource) {
		roles += r.Data["roles.sql"]
		for _, c := range r.Spec.Template.Spec.Containers {
			if c.Name == "exporter" {
				exporter = &c
			}
		}
	})
	if exporter == nil || roles == "" {
		t.Fatal(built)
	}

	s := newServer(t, testservers.PostgresConfig{})
	const secret = "/run/secrets/liveness/password"
	mounted := writeFile(t, password+"\n")
	execute(t, s, "DROP ROLE "+role)
	script := writeFile(t, strings.ReplaceAll(roles, secret, mounted))
	out, err := exec.CommandContext(t.Context(), psql, "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-h", s.Dir, "-p", fmt.Sprint(s.Port),
		"-U", testservers.Superuser, "-d", "postgres", "-f", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	var env []string
	for _, variable := range exporter.Env {
		value := strings.NewReplacer(secret, mounted, ":5432/", fmt.Sprintf(":%d/", s.Port)).Replace(variable.Value)
		env = append(env, variable.Name+"="+value)
	}
	e := startExporter(t, env)
	ready := func(want int) {
		t.Helper()
		eventually(t, fmt.Sprintf("the readiness probe is %d", want), func() bool {
			code, _ := e.Health(exporter.ReadinessProbe.HTTPGet.Path)
			return code == want
		})
	}
	ready(http.StatusOK)
	check(t, s.Stop(testservers.Fast))
	ready(http.StatusServiceUnavailable)
	check(t, s.Start(t.Context()))
	ready(http.StatusOK)
}

// TestKubernetesSidecarData: the volume is mounted where the image of this major version declares it. Otherwise the image refuses to
// start, or the data is in a volume that goes with the container.
func TestKubernetesSidecarData(t *testing.T) {
	t.Parallel()
	mounted, dataFolder, major := "", "", 0
	eachResource(t, read(t, "examples/kubernetes/sidecar/statefulset.yaml"), func(r resource) {
		for _, c := range r.Spec.Template.Spec.Containers {
			if c.Name != "postgres" {
				continue
			}
			if _, err := fmt.Sscanf(c.Image, "postgres:%d.", &major); err != nil {
				t.Fatalf("%s: %v", c.Image, err)
			}
			for _, mount := range c.VolumeMounts {
				if mount.Name == "data" {
					mounted = mount.MountPath
				}
			}
			for _, variable := range c.Env {
				if variable.Name == "PGDATA" {
					dataFolder = variable.Value
				}
			}
		}
	})
	// The README of the image, section PGDATA.
	want := "/var/lib/postgresql"
	if major < 18 {
		want += "/data"
	}
	if mounted != want || dataFolder != "" && !strings.HasPrefix(dataFolder, want+"/") {
		t.Errorf("PostgreSQL %d has its data mounted at %q, not %q, and PGDATA is %q", major, mounted, want, dataFolder)
	}
}

// TestKubernetesCommands: what the README has kubectl run in a container is a program and arguments that it takes.
func TestKubernetesCommands(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	page := strings.ReplaceAll(read(t, "examples/kubernetes/README.md"), "\\\n", "")
	commands := regexp.MustCompile(`(?m)^kubectl .*exec .* -- +/bin/pg_liveness_exporter (.*)$`).FindAllStringSubmatch(page, -1)
	if len(commands) != 2 {
		t.Fatalf("%q", commands)
	}
	file := writeFile(t, fmt.Sprintf("targets: {orders: {host: 127.0.0.1, port: %d, %s}}", s.Port, login()))
	for _, command := range commands {
		t.Run(command[1], func(t *testing.T) {
			args := strings.ReplaceAll(command[1], "/etc/pg_liveness_exporter/config.yml", file)
			code, out, errs := runProgram(t, environment(s.Port, "postgres"), strings.Fields(args)...)
			if code != 0 || !strings.HasPrefix(out, "accepting (") {
				t.Errorf("exit code %d: %s%s", code, out, errs)
			}
		})
	}
}
