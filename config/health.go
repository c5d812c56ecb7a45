// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Health has the settings of the health endpoints.
type Health struct {
	// MaxAge is the age up to which a result is shown without a new probe. It is from MinTimeout to an hour.
	MaxAge time.Duration
	// A target or a check fails after FailAfter failed results in a row, and passes again after PassAfter successful
	// ones. Both are from 1 to 1000.
	FailAfter, PassAfter uint64
	// FailureStatus is the HTTP status of /health-check if something fails, from 200 to 599.
	FailureStatus int
	// StatusNames are the names of the statuses in responses.
	StatusNames StatusNames
	// Extra has additional fields of the body of /health: each is a string, an int64 or a bool.
	Extra map[string]any
}

// StatusNames are the names of the statuses. That of Fail differs from the other two.
type StatusNames struct{ Pass, Warn, Fail string }

// DefaultHealth returns the settings of a file without the section health.
func DefaultHealth() Health {
	return Health{
		MaxAge: 5 * time.Second, FailAfter: 1, PassAfter: 1, FailureStatus: 500,
		StatusNames: StatusNames{Pass: "pass", Warn: "warn", Fail: "fail"},
	}
}

// health reads the section health.
func (b *builder) health(n *yaml.Node, where string) {
	h := &b.file.Health
	set := func(to *string) func(*yaml.Node, string) {
		return func(n *yaml.Node, where string) { *to = b.text(n, where) }
	}
	count := func(to *uint64) func(*yaml.Node, string) {
		return func(n *yaml.Node, where string) { *to = b.integer(n, where, 1, 1000) }
	}
	b.mapping(n, where, fields{
		"max_age": func(n *yaml.Node, where string) {
			if age := b.duration(n, where, MinTimeout, time.Hour); age != nil {
				h.MaxAge = *age
			}
		},
		"fail_after": count(&h.FailAfter),
		"pass_after": count(&h.PassAfter),
		"failure_status": func(n *yaml.Node, where string) {
			h.FailureStatus = int(b.integer(n, where, 200, 599)) //nolint:gosec // it is in these bounds
		},
		"words": func(n *yaml.Node, where string) {
			names := &h.StatusNames
			b.mapping(n, where, fields{"pass": set(&names.Pass), "warn": set(&names.Warn), "fail": set(&names.Fail)})
			if names.Pass == names.Fail || names.Warn == names.Fail {
				b.problem(n, where, "has the same word for fail as for pass or warn")
			}
		},
		"extra": func(n *yaml.Node, where string) {
			h.Extra = make(map[string]any)
			b.entries(n, where, func(name string, n *yaml.Node, where string) {
				if name == "status" || name == "checks" || name == "output" {
					b.problem(n, where, "is already a field of the body: choose another name")
				}
				h.Extra[name] = b.scalar(n, where)
			})
		},
	})
}

// scalar reads a text, a whole number or a boolean, and returns a string, an int64 or a bool.
func (d *decoder) scalar(n *yaml.Node, where string) any {
	switch n = resolve(n); n.Tag {
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int":
		if v, err := strconv.ParseInt(n.Value, 10, 64); err == nil {
			return v
		}
	}
	return d.text(n, where)
}

// integer reads a whole number from minValue to maxValue. It returns minValue if there is a problem.
func (d *decoder) integer(n *yaml.Node, where string, minValue, maxValue uint64) uint64 {
	text := d.text(n, where)
	if text == "" {
		return minValue
	}
	v, err := strconv.ParseUint(text, 10, 32)
	if err != nil || v < minValue || v > maxValue {
		d.problem(n, where, "must be a number from %d to %d", minValue, maxValue)
		return minValue
	}
	return v
}
