// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"sync"
)

// maxLogLines is how many log lines are kept for each target.
const maxLogLines = 16

// logBuffer is a slog.Handler that keeps the last records as lines of text and passes all records on.
type logBuffer struct {
	next slog.Handler
	// text formats a record, with the attributes and groups of this handler, and writes it to lines.buffer.
	text  slog.Handler
	lines *logLines
}

// logLines has the lines of a handler and of all handlers derived from it.
type logLines struct {
	mu     sync.Mutex // protects what follows
	buffer bytes.Buffer
	last   []string
}

func newLogBuffer(next slog.Handler) *logBuffer {
	lines := &logLines{}
	text := slog.NewTextHandler(&lines.buffer, &slog.HandlerOptions{Level: slog.LevelDebug})
	return &logBuffer{next: next, lines: lines, text: text}
}

// Enabled reports true: the buffer also keeps records below the level of the next handler.
func (*logBuffer) Enabled(context.Context, slog.Level) bool { return true }

// Handle keeps the record, and passes it on if the next handler is enabled for its level.
func (b *logBuffer) Handle(ctx context.Context, r slog.Record) error {
	if err := b.keep(ctx, r); err != nil {
		return err
	}
	if !b.next.Enabled(ctx, r.Level) {
		return nil
	}
	return b.next.Handle(ctx, r)
}

func (b *logBuffer) keep(ctx context.Context, r slog.Record) error {
	l := b.lines
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buffer.Reset()
	if err := b.text.Handle(ctx, r); err != nil {
		return err
	}
	if len(l.last) == maxLogLines {
		l.last = slices.Delete(l.last, 0, 1)
	}
	l.last = append(l.last, l.buffer.String())
	return nil
}

// WithAttrs returns a handler with more attributes. It shares the lines of b.
func (b *logBuffer) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logBuffer{b.next.WithAttrs(attrs), b.text.WithAttrs(attrs), b.lines}
}

// WithGroup returns a handler with a group. It shares the lines of b.
func (b *logBuffer) WithGroup(name string) slog.Handler {
	return &logBuffer{b.next.WithGroup(name), b.text.WithGroup(name), b.lines}
}

// read returns the kept lines, oldest first.
func (b *logBuffer) read() []string {
	b.lines.mu.Lock()
	defer b.lines.mu.Unlock()
	return slices.Clone(b.lines.last)
}
