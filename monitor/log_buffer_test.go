// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/slogtest"
)

// TestLogBuffer tests that the next handler gets the same records as without the buffer, with attributes and groups.
func TestLogBuffer(t *testing.T) {
	var out bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		out.Reset()
		return newLogBuffer(slog.NewJSONHandler(&out, nil))
	}, func(t *testing.T) map[string]any {
		var line map[string]any
		if err := json.Unmarshal(out.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		return line
	})
}

// TestLogBufferLines tests that the last lines are kept, including those of derived loggers and those below the level
// of the next handler.
func TestLogBufferLines(t *testing.T) {
	var out bytes.Buffer
	b := newLogBuffer(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
	logger := slog.New(b)
	for i := range maxLogLines {
		logger.Info("line", "number", i)
	}
	logger.With("check", "backlog").WithGroup("g").Debug("derived", "key", "value")
	lines := b.read()
	if len(lines) != maxLogLines || !strings.Contains(lines[0], `number=1`) {
		t.Errorf("%d lines, the first is %q", len(lines), lines[0])
	}
	if last := lines[len(lines)-1]; !strings.HasSuffix(last, "msg=derived check=backlog g.key=value\n") {
		t.Errorf("the last line is %q", last)
	}
	if slices.Contains(lines, "") || out.Len() > 0 {
		t.Errorf("an empty line, or one was logged: %s", &out)
	}
}
