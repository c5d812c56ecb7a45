// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
)

// TestAutoReload tests that a change is loaded once, that one which cannot be loaded is logged once and changes nothing, and that
// a signal does not make the next look reload again.
func TestAutoReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		m := monitor.New(monitor.Options{MaxInFlight: 1, Logger: logger})
		defer func() { _ = m.Close(context.Background()) }()
		var content atomic.Value
		content.Store("first")
		var loads atomic.Int64
		hangup := make(chan os.Signal)
		r := NewReloader(ReloaderOptions{
			Load: func() (*config.File, error) {
				loads.Add(1)
				if text := content.Load().(string); strings.HasPrefix(text, "bad") {
					return nil, errors.New(text)
				}
				return &config.File{Health: config.DefaultHealth()}, nil
			},
			Monitor: m, Hangup: hangup, Interval: 30 * time.Second, Fingerprint: func() string { return content.Load().(string) }, Loaded: "first",
			Logger: logger,
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r.Run(ctx)
		}()
		expect := func(what string, wait time.Duration, want int64, ok bool) {
			t.Helper()
			time.Sleep(wait)
			synctest.Wait()
			if loaded, _ := m.LastReload(); loads.Load() != want || want > 0 && loaded != ok {
				t.Errorf("%s: %d loads, the last one succeeded: %v; want %d, %v", what, loads.Load(), loaded, want, ok)
			}
		}
		expect("unchanged", time.Hour, 0, false)
		content.Store("second")
		expect("changed, before the next look", 29*time.Second, 0, false)
		expect("changed", time.Second, 1, true)
		expect("then unchanged", time.Hour, 1, true)
		content.Store("bad 1")
		expect("bad", time.Hour, 2, false)
		content.Store("bad 2")
		expect("bad in another way", time.Hour, 3, false)
		content.Store("second")
		expect("back", time.Hour, 4, true)
		content.Store("third")
		hangup <- os.Interrupt
		expect("changed and signalled", time.Hour, 5, true)
		if n := strings.Count(log.String(), "Keeping the previous configuration"); n != 2 {
			t.Errorf("%d failures are logged:\n%s", n, &log)
		}
		stop()
		<-ended
	})
}
