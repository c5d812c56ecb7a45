// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"sync"
)

// linesKept is how many log lines of a target are shown with its probe's steps.
const linesKept = 16

// lines is a slog.Handler that keeps the last records as lines of text, and passes all of them on.
type lines struct {
	next slog.Handler

	mu   sync.Mutex // protects last
	last []string
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }

func (l *lines) Handle(ctx context.Context, r slog.Record) error {
	var line bytes.Buffer
	if err := slog.NewTextHandler(&line, nil).Handle(ctx, r); err != nil {
		return err
	}
	l.mu.Lock()
	if len(l.last) == linesKept {
		l.last = slices.Delete(l.last, 0, 1)
	}
	l.last = append(l.last, line.String())
	l.mu.Unlock()
	if !l.next.Enabled(ctx, r.Level) {
		return nil
	}
	return l.next.Handle(ctx, r)
}

// WithAttrs and WithGroup are for a logger that is derived from this one, which there is none of.
func (l *lines) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup is like WithAttrs.
func (l *lines) WithGroup(string) slog.Handler { return l }

func (l *lines) read() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.last)
}
