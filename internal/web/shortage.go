// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"log/slog"
	"strings"
	"sync"
	"time"

	"pg_liveness_exporter/internal/neterr"
)

// shortageQuiet is how long no descriptor may be lacking until a shortage counts as over. Prometheus scrapes more often
// than that: its series become stale after five minutes.
const shortageQuiet = 5 * time.Minute

// Shortage logs that the process has run out of file descriptors: once until it is over, however many probes, checks and
// connections of clients lack one. Any goroutine may call its methods.
type Shortage struct {
	logger *slog.Logger

	mu    sync.Mutex // protects what follows
	last  time.Time  // when a descriptor was lacking
	lasts bool
	quiet *time.Timer
}

// NewShortage returns a Shortage that logs to logger.
func NewShortage(logger *slog.Logger) *Shortage {
	s := &Shortage{logger: logger}
	s.quiet = time.AfterFunc(shortageQuiet, s.end)
	return s
}

// Report is called each time that a descriptor was lacking.
func (s *Shortage) Report() {
	s.mu.Lock()
	first := !s.lasts
	s.last, s.lasts = time.Now(), true
	s.quiet.Reset(shortageQuiet)
	s.mu.Unlock()
	if first {
		s.logger.Error("No file descriptors are left, so probes fail and clients wait: raise LimitNOFILE (systemd) or ulimit -n; "+
			"if the whole machine has run out, raise fs.file-max", "descriptors", descriptors())
	}
}

// end ends the shortage, unless a descriptor was lacking in the meantime.
func (s *Shortage) end() {
	s.mu.Lock()
	over := s.lasts && time.Since(s.last) >= shortageQuiet
	s.lasts = s.lasts && !over
	s.mu.Unlock()
	if over {
		s.logger.Info("There are enough file descriptors again")
	}
}

// serverLog is where an http.Server logs. It logs at debug, since clients cause most of the messages, and reports if the
// server could not accept a connection for lack of descriptors.
type serverLog struct {
	logger             *slog.Logger
	onOutOfDescriptors func()
}

func (l serverLog) Write(p []byte) (int, error) {
	text := strings.TrimSpace(string(p))
	// Server.Serve in net/http/server.go
	if strings.HasPrefix(text, "http: Accept error: ") && neterr.MeansOutOfDescriptors(text) {
		l.onOutOfDescriptors()
	}
	l.logger.Debug("Message of the HTTP server", "text", text)
	return len(p), nil
}
