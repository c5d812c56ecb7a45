// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Label is a label that the operator gave to a target.
type Label struct{ Name, Value string }

// labelName matches the names that every version of Prometheus accepts
// (https://prometheus.io/docs/concepts/data_model/).
var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// isReservedLabel reports whether a label of a target cannot have this name. Prometheus sets some itself, and the metrics
// have the others: a test of the collector compares the list with them.
func isReservedLabel(name string) bool {
	return strings.HasPrefix(name, "__") || slices.Contains([]string{
		"job", "instance", "target", "le", "quantile",
		"application_name", "branch", "check", "cipher", "database", "datname", "force_user", "goarch", "goos", "goversion",
		"name", "phase", "pool_mode", "reason", "revision", "short_version", "state", "tags", "user", "version",
		"version_num",
	}, name)
}

// labels reads the labels of one level, by their names.
func (b *builder) labels(n *yaml.Node, where string) map[string]string {
	all := make(map[string]string)
	b.entries(n, where, func(name string, n *yaml.Node, inner string) {
		if !labelName.MatchString(name) { // it may be a value in the wrong place
			b.problem(n, where, "a label's name must consist of letters, digits and underscores, and must not begin with a digit")
			return
		}
		if isReservedLabel(name) {
			b.problem(n, inner, "is reserved: Prometheus or a metric uses this label")
		}
		all[name] = b.text(n, inner)
	})
	return all
}

// mergedLabels returns the labels of two levels. The upper one overrides the lower one name by name.
func mergedLabels(upper, lower map[string]string) map[string]string {
	all := maps.Clone(lower)
	if all == nil {
		return upper
	}
	maps.Copy(all, upper)
	return all
}

// sortedLabels returns labels sorted by name, or nil if there are none.
func sortedLabels(all map[string]string) []Label {
	var sorted []Label
	for _, name := range slices.Sorted(maps.Keys(all)) {
		sorted = append(sorted, Label{name, all[name]})
	}
	return sorted
}
