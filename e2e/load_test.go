// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"pg_liveness_exporter/internal/testservers"
)

// manyTargets returns a file with 200 targets on one port.
func manyTargets(port int, more string) string {
	var file strings.Builder
	fmt.Fprintf(&file, "defaults: {%s}\ntargets:\n", login())
	for i := range 200 {
		fmt.Fprintf(&file, "  t%03d: {host: 127.0.0.1, port: %d%s}\n", i, port, more)
	}
	return file.String()
}

// together lets many clients make a request each at the same time, and waits for all of them.
func together(many int, request func(i int)) {
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for i := range many {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			request(i)
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
}

// expectMemory requires that the process has never had more memory than most, in KiB.
func (e *Exporter) expectMemory(most int) {
	e.t.Helper()
	if had := e.Memory("VmHWM"); had > most {
		e.t.Errorf("the process had %d KiB, want %d at most", had, most)
	} else {
		e.t.Logf("the process had %d KiB of %d", had, most)
	}
}

// TestHealthCrowd: 1,000 requests for /health at once, with 200 targets that hang, take about 64 MiB, half as much
// again on a busy machine, and all are answered. Meanwhile the listener of the health paths answers.
func TestHealthCrowd(t *testing.T) {
	plain := "127.0.0.1:" + freePort(t)
	e := startProgram(t, []string{plainProgram(t)}, nil, "--config.file="+writeFile(t, manyTargets(silentServer(t), ", timeout: 5s")),
		"--health.listen-address="+plain)
	e.ExpectListening(plain)
	e.Health("/health")
	rest := e.Memory("VmRSS")
	for _, path := range []string{"/health", "/health-check", "/health?verbose"} {
		var failed atomic.Int64
		together(1000, func(i int) {
			if i%100 == 0 {
				e.ExpectLive(plain)
				return
			}
			if code, _ := e.Health(path); code != http.StatusServiceUnavailable && code != http.StatusInternalServerError {
				failed.Add(1)
			}
		})
		if n := failed.Load(); n > 0 {
			t.Errorf("%s: %d of 1,000 requests have another status than that of a failure", path, n)
		}
	}
	e.expectMemory(rest + 96<<10)
}

// TestScrapeCrowd: 200 scrapes of 200 targets at once, while 300 clients ask for the same and never read, take about 120
// MiB, a third more on a busy machine. All scrapes are answered, whether their clients take gzip or not, and whether the targets answer or hang.
func TestScrapeCrowd(t *testing.T) {
	const limit = 160 << 10 // KiB
	for name, start := range map[string]func(t *testing.T) (port int, up string){
		"servers that answer": func(t *testing.T) (int, string) {
			t.Helper()
			s := newServer(t, testservers.PostgresConfig{HBA: trusting, Settings: []string{"max_connections = 700"}})
			execute(t, s, "ALTER ROLE "+role+" CONNECTION LIMIT -1")
			return s.Port, "1"
		},
		"servers that hang": func(t *testing.T) (int, string) {
			t.Helper()
			return silentServer(t), "0"
		},
	} {
		t.Run(name, func(t *testing.T) {
			port, up := start(t)
			plain := "127.0.0.1:" + freePort(t)
			e := startProgram(t, []string{plainProgram(t)}, nil,
				"--config.file="+writeFile(t, manyTargets(port, ", timeout: 10s")), "--health.listen-address="+plain)
			e.ExpectListening(plain)
			leave := crowd(t, 300, func(ctx context.Context, i int) {
				conn := dial(ctx, e.address)
				if conn == nil {
					return
				}
				defer func() { _ = conn.Close() }()
				_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
				accepted := []string{"gzip", "identity"}[i%2]
				_, _ = fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: %s\r\n\r\n", accepted)
				<-ctx.Done()
			})
			var wrong atomic.Int64
			together(200, func(i int) {
				if i%50 == 0 {
					e.ExpectLive(plain)
					return
				}
				request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+e.address+"/metrics", nil)
				if err != nil {
					wrong.Add(1)
					return
				}
				request.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", strconv.Itoa(2+i%10))
				transport := &http.Transport{DisableKeepAlives: true, DisableCompression: i%2 == 0}
				response, err := (&http.Client{Transport: transport, Timeout: 3 * hanging}).Do(request)
				if err != nil {
					t.Log(err)
					wrong.Add(1)
					return
				}
				body, err := io.ReadAll(response.Body)
				_ = response.Body.Close()
				if n := strings.Count(string(body), "\npg_up{"); err != nil || response.StatusCode != http.StatusOK || n != 200 {
					t.Logf("status %d, %d targets, %v", response.StatusCode, n, err)
					wrong.Add(1)
				}
			})
			if n := wrong.Load(); n > 0 {
				t.Errorf("%d of 200 scrapes have no answer with all targets", n)
			}
			e.expectMemory(limit)
			leave()
			e.ExpectLive(plain)
			_, body, err := e.Get(t.Context(), "/metrics", 12*time.Second)
			check(t, err)
			if n := strings.Count(body, "} "+up+"\n"); !strings.Contains(body, `pg_up{target="t199"} `+up+"\n") || n < 200 {
				t.Errorf("after the crowd has left: %.200s", body)
			}
			e.expectMemory(limit)
		})
	}
}

// TestRapidReset: two clients that send requests with HTTP/2, as large as they may be, and take each of them back at once cost
// at most 128 MiB, and keep neither a scrape nor, on its own listener, a kubelet from its answer.
func TestRapidReset(t *testing.T) {
	certificate, key := newCertificate(t)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "server.crt"), certificate, 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "server.key"), key, 0o600))
	web := filepath.Join(dir, "web.yml")
	check(t, os.WriteFile(web, []byte("tls_server_config: {cert_file: server.crt, key_file: server.key}\n"), 0o600))
	plain := "127.0.0.1:" + freePort(t)
	e := startProgram(t, []string{plainProgram(t)}, nil, "--config.file="+writeFile(t, manyTargets(silentServer(t), ", timeout: 5s")),
		"--web.config.file="+web, "--health.listen-address="+plain)
	e.ExpectListening(plain)
	var resets, connections atomic.Int64
	leave := crowd(t, 2, func(ctx context.Context, i int) {
		connections.Add(1)
		resets.Add(rapidReset(ctx, e.address, []string{"/metrics", "/health"}[i]))
	})
	for range 20 {
		e.ExpectLive(plain)
		time.Sleep(200 * time.Millisecond)
	}
	client := &http.Client{Timeout: 3 * hanging, Transport: &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+e.address+"/metrics", nil)
	check(t, err)
	response, err := client.Do(request)
	check(t, err)
	body, err := io.ReadAll(response.Body)
	check(t, err)
	check(t, response.Body.Close())
	if n := bytes.Count(body, []byte("\npg_up{")); response.ProtoMajor != 2 || n != 200 {
		t.Errorf("%s, %d targets", response.Proto, n)
	}
	leave()
	if resets.Load() < 1000 {
		t.Errorf("only %d requests were taken back", resets.Load())
	}
	t.Logf("%d requests on %d connections were taken back", resets.Load(), connections.Load())
	e.expectMemory(128 << 10)
}

// rapidReset sends requests for a path on one connection with HTTP/2 and takes each of them back, until the server or ctx ends
// the connection. It returns how many.
func rapidReset(ctx context.Context, address, path string) (resets int64) {
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return 0
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	go func() { _, _ = io.Copy(io.Discard, conn) }() // until it is closed
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return 0
	}
	framer := http2.NewFramer(conn, nil)
	if framer.WriteSettings() != nil {
		return 0
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for stream := uint32(1); ; stream += 2 {
		block.Reset()
		for _, field := range [][2]string{
			{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", path}, {"x-large", strings.Repeat("x", 15_000)},
		} {
			_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}) // the buffer takes all
		}
		err := framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
		})
		if err == nil {
			err = framer.WriteRSTStream(stream, http2.ErrCodeCancel)
		}
		if err != nil {
			return resets
		}
		resets++
	}
}

// TestShards: a real Prometheus shares 200 targets between two exporters with the same file, by the relabelling of
// examples/kubernetes/sharded. While one exporter is away, the targets of the other one miss no scrape. No target is ever probed by
// both.
func TestShards(t *testing.T) {
	t.Parallel()
	const interval = 10 * time.Second
	s := newServer(t, testservers.PostgresConfig{HBA: trusting, Settings: []string{"max_connections = 700"}})
	execute(t, s, "ALTER ROLE "+role+" CONNECTION LIMIT -1")
	file, port := writeFile(t, manyTargets(s.Port, "")), freePort(t)
	start := func(shard int) *Exporter {
		t.Helper()
		address := fmt.Sprintf("127.0.1.%d:%s", shard, port)
		e := startProgram(t, []string{plainProgram(t)}, nil, "--config.file="+file, "--no-metrics.targets", "--web.listen-address="+address)
		e.ExpectListening(address)
		return e
	}
	discovering := start(0)
	away := start(1)

	query := startPrometheus(t, fmt.Sprintf(`
global: {scrape_interval: %s, scrape_timeout: 9s}
scrape_configs:
  - job_name: postgres
    http_sd_configs: [{url: "http://%s/sd"}]
    relabel_configs:
      - {source_labels: [target], action: hashmod, modulus: 2, target_label: __tmp_shard}
      - {source_labels: [__tmp_shard], target_label: shard}
      - {source_labels: [__tmp_shard], target_label: __address__, replacement: "127.0.1.$1:%s"}
`, interval, discovering.address, port))
	expect := func(expression, want string) {
		t.Helper()
		deadline := time.Now().Add(3*interval + 10*hanging)
		for query(expression) != want {
			if time.Now().After(deadline) {
				t.Fatalf("%s is %q, want %q", expression, query(expression), want)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	expect(`count(pg_up == 1)`, "200")
	expect(`count(count by (shard) (pg_up))`, "2")
	expect(`max(count by (target) (pg_up))`, "1")
	of := query(`count(pg_up{shard="1"})`)

	check(t, away.cmd.Process.Signal(syscall.SIGTERM))
	<-away.exited
	expect(`count(up{shard="1"} == 0)`, of)
	start(1)
	expect(`count(pg_up == 1)`, "200")
	expect(`min(min_over_time(up{shard="0"}[5m]))`, "1")
	expect(`max(count by (target) (count by (target, shard) (count_over_time(pg_probes_total[5m]))))`, "1")
}
