// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// TestLabels tests that labels of the levels are merged name by name, and that an ad-hoc target has none.
func TestLabels(t *testing.T) {
	t.Parallel()
	f := mustParse(t, `
defaults: {user: u, labels: {env: prod, cluster: none, standby_cluster: true}}
modules:
  m: {labels: {cluster: orders, _tier1: 1}, allow: [h]}
  plain: {}
targets:
  all: {host: h, module: m, labels: {cluster: "own ü\n", Team: db}}
  module: {host: h, module: m}
  defaults: {host: h, module: plain}
checks: {c: {tcp: "h:1"}}
`)
	got := map[string]string{}
	for _, target := range f.Targets {
		got[target.Name] = fmt.Sprintf("%q", target.Labels)
	}
	want := map[string]string{
		"all":      `[{"Team" "db"} {"_tier1" "1"} {"cluster" "own ü\n"} {"env" "prod"} {"standby_cluster" "true"}]`,
		"module":   `[{"_tier1" "1"} {"cluster" "orders"} {"env" "prod"} {"standby_cluster" "true"}]`,
		"defaults": `[{"cluster" "none"} {"env" "prod"} {"standby_cluster" "true"}]`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if adHoc, err := f.AdHoc("h:1", "m"); err != nil || adHoc.Labels != nil {
		t.Errorf("an ad-hoc target: %q, %v", adHoc.Labels, err)
	}
	before, after := f.Targets[0], *f.Targets[0]
	after.Labels = nil
	if before.Equal(&after) || !before.SameProbes(&after) {
		t.Error("other labels make the same target, or one of which nothing was counted")
	}
	after.Commit = !after.Commit
	if before.SameProbes(&after) {
		t.Error("other probes are the same")
	}
}

// TestLabelsOfUnread tests that labels make no other login of a target whose host is in a file, and that a password does.
func TestLabelsOfUnread(t *testing.T) {
	t.Parallel()
	const text = "targets: {t: {host_file: f, user: u, password: p, labels: {a: %s}}}"
	before := mustParse(t, fmt.Sprintf(text, "x")).Targets[0]
	after := mustParse(t, fmt.Sprintf(text, "y")).Targets[0]
	if before.Equal(after) || !before.SameProbes(after) {
		t.Error("other labels make the same target, or another login")
	}
	other := mustParse(t, strings.Replace(fmt.Sprintf(text, "x"), "password: p", "password: q", 1)).Targets[0]
	if before.SameProbes(other) {
		t.Error("another password makes the same login")
	}
}

// TestLabelProblems tests that names which Prometheus or a metric has, and invalid names and values, are problems at every
// level.
func TestLabelProblems(t *testing.T) {
	t.Parallel()
	const (
		taken   = ": is reserved: Prometheus or a metric uses this label"
		invalid = ": a label's name must consist of letters, digits and underscores, and must not begin with a digit"
	)
	for label, want := range map[string]string{
		"job: x": ".job" + taken, "instance: x": ".instance" + taken, "target: x": ".target" + taken, "le: x": ".le" + taken,
		"quantile: x": ".quantile" + taken, "__name__: x": ".__name__" + taken, "__x: x": ".__x" + taken,
		"datname: x": ".datname" + taken, "state: x": ".state" + taken, "check: x": ".check" + taken,
		"1a: x": invalid, "a-b: x": invalid, "a.b: x": invalid, "'a b': x": invalid, "ä: x": invalid, "hunter2=: x": invalid,
		"a: ''": ".a: is empty", "a: ": ".a: is empty", "a: [x]": ".a: must be a text", "a: {b: c}": ".a: must be a text",
		"'': x": ": a name must have 1 to 200 bytes and no control character",
	} {
		for where, text := range map[string]string{
			"defaults": "defaults: {labels: {%s}}\ntargets: {t: {host: h, user: u}}", "modules.m": "modules: {m: {labels: {%s}}}",
			"targets.t": "targets: {t: {host: h, user: u, labels: {%s}}}",
		} {
			_, err := parseText(t, fmt.Sprintf(text, label))
			if want := "dir/x.yml:1: " + where + ".labels" + want; err == nil || err.Error() != want {
				t.Errorf("%s: %s:\ngot  %v\nwant %s", where, label, err, want)
			}
		}
	}
	_, err := parseText(t, "targets: {t: {host: h, user: u, labels: [a]}}")
	if err == nil || !strings.Contains(err.Error(), "targets.t.labels: must be a mapping") {
		t.Errorf("a list: %v", err)
	}
}
