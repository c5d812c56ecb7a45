// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// TestBatches tests which scrapes share a rendering: those that wait for their turn at the same time, with the same key and
// the same targets, of which the same were counted. Each gets results that are at least as new as its own.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			key   = batchKey{accept: "text/plain"}
			other = batchKey{accept: "application/openmetrics-text"}
		)
		snapshot := newSnapshots(t, "a", "b")
		bs := newBatches()
		rendered := make(map[string]int) // how often; one goroutine at a time renders
		// scrape is a scrape whose probes of a and b began at these seconds. 0 is one that was not counted.
		scrape := func(key batchKey, a, b int) <-chan string {
			shown := make(chan string, 1)
			snapshots := []monitor.Snapshot{snapshot("a", a), snapshot("b", b)}
			go func() {
				response, err := bs.share(t.Context(), key, snapshots,
					func(snapshots []monitor.Snapshot) *response {
						time.Sleep(time.Second)
						var text strings.Builder
						for i := range snapshots {
							fmt.Fprintf(&text, "%s%d ", snapshots[i].Target, snapshots[i].Result.Start.Unix())
						}
						rendered[text.String()]++
						r := &response{}
						r.body.WriteString(text.String())
						return r
					})
				if err != nil {
					shown <- err.Error()
					return
				}
				shown <- response.body.String()
			}()
			synctest.Wait()
			return shown
		}
		busy := scrape(other, 1, 1) // renders for a second
		waiting := []<-chan string{
			scrape(key, 2, 2), scrape(key, 3, 2), scrape(key, 2, 4), // share
			scrape(other, 1, 1),
			scrape(key, 5, 0), scrape(key, 5, 0), // share: b was not counted
		}
		left, leave := context.WithCancel(t.Context())
		leave()
		if _, err := bs.share(left, key, []monitor.Snapshot{snapshot("a", 6), snapshot("b", 0)}, nil); err == nil {
			t.Error("a scrape whose client has left got a response")
		}
		want := []string{"a3 b4 ", "a3 b4 ", "a3 b4 ", "a1 b1 ", "a6 b0 ", "a6 b0 "}
		for i, shown := range waiting {
			if got := <-shown; got != want[i] {
				t.Errorf("scrape %d: got %q, want %q", i, got, want[i])
			}
		}
		if got := <-busy; got != "a1 b1 " {
			t.Errorf("the first scrape: %q", got)
		}
		if rendered["a3 b4 "] != 1 || rendered["a1 b1 "] != 2 || rendered["a6 b0 "] != 1 || len(bs.waiting) > 0 {
			t.Errorf("rendered %v, and %d batches are left", rendered, len(bs.waiting))
		}
	})
}

// TestTurnThatDoesNotCome tests that a scrape does not wait for its turn to render for ever.
func TestTurnThatDoesNotCome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bs := newBatches()
		if !bs.turn.TryAcquire(1) {
			t.Fatal("the turn is taken")
		}
		start := time.Now()
		if _, err := bs.share(t.Context(), batchKey{}, nil, nil); !errors.Is(err, errNotRendered) || time.Since(start) != maxTurnWait {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		if len(bs.waiting) > 0 {
			t.Errorf("%d batches are left", len(bs.waiting))
		}
	})
}

// startingProber is a fake prober whose probes succeed and began at start.
type startingProber struct {
	fixedProber
	start *time.Time
}

func (p startingProber) Probe(context.Context) *probe.Result { return &probe.Result{Start: *p.start} }

// newSnapshots returns a function that returns the snapshot of a target whose probe began at a second since the epoch. At 0 it
// is one that was not counted.
func newSnapshots(t *testing.T, names ...string) func(name string, second int) monitor.Snapshot {
	t.Helper()
	var start time.Time
	m := newTestMonitor(t, func(*config.Target, monitor.Events) monitor.Prober { return startingProber{start: &start} })
	file := &config.File{}
	for _, name := range names {
		file.Targets = append(file.Targets, &config.Target{Name: name, Probing: config.Probing{Timeout: 5 * time.Second}})
	}
	m.ApplyConfig(file)
	return func(name string, second int) monitor.Snapshot {
		start = time.Unix(int64(second), 0)
		s, err := m.Target(name).Probe(t.Context(), time.Now().Add(time.Minute))
		if err != nil {
			t.Error(err)
		}
		if second == 0 {
			s.Result = probe.Unanswered(start, 0, true)
		}
		return s
	}
}

// TestCompression tests that /metrics and /probe are compressed or plain as the client asks, that the
// compression is the fastest, and that its writer can be used again.
func TestCompression(t *testing.T) {
	t.Parallel()
	e := newTestExporter(t, healthy())
	e.monitor.ApplyConfig(&config.File{Targets: []*config.Target{{Name: "a", Probing: config.Probing{Timeout: 5 * time.Second}}}})
	for path, handler := range map[string]http.HandlerFunc{"/metrics": e.ServeHTTP, "/probe?target=a": e.ServeProbe} {
		for range 2 {
			for _, coding := range []string{"", "gzip"} {
				request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
				request.Header.Set("Accept-Encoding", coding)
				w := httptest.NewRecorder()
				handler(w, request)
				if got := w.Header().Get("Content-Encoding"); got != coding {
					t.Errorf("%s: coding %q, want %q", path, got, coding)
				}
				if vary := w.Header().Values("Vary"); !slices.Equal(vary, []string{"Accept", "Accept-Encoding"}) {
					t.Errorf("%s: it varies by %q", path, vary)
				}
				body := w.Body.Bytes()
				if coding == "gzip" {
					if level := body[8]; level != 4 { // XFL of RFC 1952
						t.Errorf("%s: the level is %d, want the fastest one", path, level)
					}
					plain, err := gzip.NewReader(w.Body)
					if err != nil {
						t.Fatal(err)
					}
					if body, err = io.ReadAll(plain); err != nil {
						t.Fatal(err)
					}
				}
				if !bytes.Contains(body, []byte("\npg_probes_total")) {
					t.Errorf("%s: %s", path, body)
				}
			}
		}
	}
}

// TestEncodings tests that a client gets the metrics compressed only if it takes gzip.
func TestEncodings(t *testing.T) {
	t.Parallel()
	for header, compressed := range map[string]bool{
		"": false, "gzip": true, "GZIP": true, "identity": false, "deflate, gzip;q=0.5": true, "gzip;q=0": false, "gzip; q=0.000": false,
		"br, zstd": false, "gzip, deflate, br, zstd": true, "x-gzip": false, "gzip;q=x": false, "*": false,
	} {
		rendered := &response{header: http.Header{"Content-Encoding": {"gzip"}, "Content-Type": {"text/plain"}}, status: 200}
		zipped := gzip.NewWriter(&rendered.body)
		_, _ = zipped.Write([]byte("pg_up 1\n"))
		_ = zipped.Close()
		for range 2 { // it can be sent several times
			w := httptest.NewRecorder()
			if err := rendered.writeTo(w, acceptsGzip(header)); err != nil {
				t.Fatal(err)
			}
			if got := w.Header().Get("Content-Encoding") == "gzip"; got != compressed {
				t.Errorf("%q: compressed is %v", header, got)
			}
			body := w.Body.Bytes()
			if compressed {
				plain, err := gzip.NewReader(bytes.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				if body, err = io.ReadAll(plain); err != nil {
					t.Fatal(err)
				}
			}
			if string(body) != "pg_up 1\n" || w.Header().Get("Content-Type") != "text/plain" {
				t.Errorf("%q: %q with %v", header, body, w.Header())
			}
		}
	}
}
