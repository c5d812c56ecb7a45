// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"context"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// countingProber is a fake prober of a healthy server. The statement "one" returns 1, all others hang.
type countingProber struct{ fixedProber }

func (countingProber) Probe(context.Context) *probe.Result { return healthy() }

func (countingProber) Query(ctx context.Context, sql string, maxDuration time.Duration) (probe.Scalar, *probe.Failure) {
	if sql == "one" {
		return probe.Scalar{Columns: 1, Rows: 1, Number: true, Text: "1"}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, maxDuration)
	defer cancel()
	<-ctx.Done()
	return probe.Scalar{}, &probe.Failure{Reason: probe.ReasonTimeout, State: probe.StateRejecting, Phase: probe.PhaseQuery}
}

// backlog returns a check that runs a statement on the target orders and fails above 10.
func backlog(name, sql string) *config.Check {
	failAbove := 10.0
	return &config.Check{
		Name: name, Kind: config.CheckSQL, Target: "orders", SQL: sql,
		Timeout: 5 * time.Second, TTL: 27 * time.Second, TTLFailed: 9 * time.Second,
		Limits: config.Limits{FailAbove: &failAbove},
	}
}

// TestCheckMetrics compares the metrics of checks with a golden file. On /metrics, each has the label target, which may
// be empty. /probe shows the checks of the target. If /metrics has no targets, it shows only the checks without a
// target.
func TestCheckMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// A check without an address fails.
		queue := &config.Check{Name: "queue", Kind: config.CheckRedis, Timeout: time.Second, TTLFailed: time.Second}
		e := &testExporter{Exporter: New(newTestMonitor(t, func(*config.Target, monitor.Events) monitor.Prober {
			return countingProber{}
		}), Options{Sessions: &probe.Sessions{}, Logger: slog.New(slog.DiscardHandler)})}
		configured := &config.File{
			Targets: []*config.Target{{
				Name: "orders", Kind: config.KindPostgres, Probing: config.Probing{Timeout: 5 * time.Second},
				Labels: []config.Label{{Name: "cluster", Value: "eu"}},
			}},
			Checks: []*config.Check{backlog("backlog", "one"), queue}, Health: config.DefaultHealth(),
		}
		e.monitor.ApplyConfig(configured)
		synctest.Wait()
		later := *configured
		later.Checks = []*config.Check{backlog("backlog", "one"), backlog("late", "hangs"), queue}
		e.monitor.ApplyConfig(&later)
		time.Sleep(time.Second)
		get := func(path string) string {
			response := httptest.NewRecorder()
			request := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
			if strings.HasPrefix(path, "/probe") {
				e.ServeProbe(response, request)
			} else {
				e.ServeHTTP(response, request)
			}
			var text bytes.Buffer
			for line := range strings.Lines(response.Body.String()) {
				if strings.Contains(line, "pg_liveness_check") {
					text.WriteString(line)
				}
			}
			return text.String()
		}
		got := get("/metrics")
		file := filepath.Join("testdata", "checks.prom")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || got != string(want) {
			t.Errorf("differs from %s (go test ./collector -update writes it anew): %v\n%s", file, err, got)
		}
		if problems, err := promlint.New(strings.NewReader(got)).Lint(); err != nil || len(problems) > 0 {
			t.Errorf("promlint: %v %v", problems, err)
		}
		single := get("/probe?target=orders")
		if !strings.Contains(single, `pg_liveness_check_up{check="backlog"} 1`) ||
			strings.Contains(single, "queue") || strings.Contains(single, "late") {
			t.Error(single)
		}
		e.options.HideTargets = true
		if alone := get("/metrics"); !strings.Contains(alone, `check="queue",target=""`) || strings.Contains(alone, "backlog") {
			t.Error(alone)
		}
	})
}
