// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"testing"

	"go.yaml.in/yaml/v3"

	"pg_liveness_exporter/internal/testenv"
)

// TestSharded: with the configuration for Kubernetes, Prometheus asks for each server at one of the exporters, by the server's
// name alone; and what the operator is told is the same.
func TestSharded(t *testing.T) {
	t.Parallel()
	promtool := testenv.Tool(t, "PROMTOOL", "promtool")
	readme := regexp.MustCompile("(?s)```yaml\n# prometheus.yml\n(.*?)```").FindStringSubmatch(bytesOf(t, "examples/kubernetes/README.md"))
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
	check(t, yaml.Unmarshal([]byte(bytesOf(t, "examples/kubernetes/sharded/scrapeconfig.yaml")), &operator))
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
		said := runIn(t, ".", 3*hanging, nil, promtool, "check", "service-discovery", "--timeout=3s", file, "postgres")
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
	if second := places(); !reflect.DeepEqual(first, second) {
		t.Errorf("from another exporter: %v, not %v", second, first)
	}
}
