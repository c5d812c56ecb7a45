// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Health is how the health endpoints answer.
type Health struct {
	// MaxAge is how old a result may be to be shown without asking again.
	MaxAge time.Duration
	// FailAfter results in a row that fail make a target or a check fail, PassAfter that succeed make it pass again.
	FailAfter, PassAfter uint64
	// FailureStatus is the HTTP status of /health-check when something fails.
	FailureStatus int
	// Words are what stands for pass, warn and fail.
	Words Words
	// Extra are fixed fields of the body of /health: texts, whole numbers and booleans.
	Extra map[string]any
}

// Words are what a status is called.
type Words struct{ Pass, Warn, Fail string }

// DefaultHealth is what holds when nothing is said.
func DefaultHealth() Health {
	return Health{
		MaxAge: 5 * time.Second, FailAfter: 1, PassAfter: 1, FailureStatus: 500,
		Words: Words{Pass: "pass", Warn: "warn", Fail: "fail"},
	}
}

// health reads the section of this name.
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
			if age := b.duration(n, where, Shortest, time.Hour); age != nil {
				h.MaxAge = *age
			}
		},
		"fail_after": count(&h.FailAfter),
		"pass_after": count(&h.PassAfter),
		"failure_status": func(n *yaml.Node, where string) {
			h.FailureStatus = int(b.integer(n, where, 200, 599)) //nolint:gosec // it is in these bounds
		},
		"words": func(n *yaml.Node, where string) {
			b.mapping(n, where, fields{"pass": set(&h.Words.Pass), "warn": set(&h.Words.Warn), "fail": set(&h.Words.Fail)})
			if w := h.Words; w.Pass == w.Fail || w.Warn == w.Fail {
				b.problem(n, where, "has the same word for fail and for something better")
			}
		},
		"extra": func(n *yaml.Node, where string) {
			h.Extra = make(map[string]any)
			b.entries(n, where, func(name string, n *yaml.Node, where string) {
				if name == "status" || name == "checks" || name == "output" {
					b.problem(n, where, "is a field of the body already")
				}
				h.Extra[name] = b.scalar(n, where)
			})
		},
	})
}

// scalar reads a text, a whole number or a boolean as what it is.
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

func (d *decoder) integer(n *yaml.Node, where string, least, most uint64) uint64 {
	text := d.text(n, where)
	if text == "" {
		return least
	}
	v, err := strconv.ParseUint(text, 10, 32)
	if err != nil || v < least || v > most {
		d.problem(n, where, "must be a number from %d to %d", least, most)
		return least
	}
	return v
}
