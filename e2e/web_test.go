// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testservers"
)

// TestManyScrapesAtOnce: scrapes at the same time share one probe, of a healthy server and of one that hangs.
func TestManyScrapesAtOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"))
	e.Settle()
	const many = 50
	all := func(want float64) {
		t.Helper()
		var (
			scrapes sync.WaitGroup
			wrong   atomic.Int64
		)
		for range many {
			scrapes.Go(func() {
				response, body, err := e.Get(context.Background(), "/metrics", scrapeTimeout)
				if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(body, fmt.Sprintf("\npg_up %v\n", want)) {
					wrong.Add(1)
				}
			})
		}
		scrapes.Wait()
		if n := wrong.Load(); n > 0 {
			t.Errorf("%d of %d scrapes do not say pg_up %v", n, many, want)
		}
	}
	all(1)
	thaw := freeze(t, s, append(children(t, s), s.PID())...)
	before := e.Scrape()
	all(0)
	after := e.Scrape()
	if probes := after["pg_probes_total"] - before["pg_probes_total"]; probes > 5 {
		t.Errorf("%v probes for %d scrapes at once of a server that hangs", probes, many)
	}
	if n := after[`pg_liveness_exporter_sessions{state="in_use"}`]; n > 5 {
		t.Errorf("%v connections to a server that hangs", n)
	}
	if after["pg_liveness_exporter_shared_probes_total"] == 0 {
		t.Error("no shared probe was counted")
	}
	thaw()
	e.Expect(up)
	e.ExpectNothingLeft(s)
}

// TestClientHangsUp: a probe goes on when its clients have left. It is counted once, and costs no session.
func TestClientHangsUp(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"), "--probe.timeout=5s")
	e.Settle()
	before := e.last
	hangUp := func() {
		t.Helper()
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			_, _, err := e.Get(ctx, "/metrics", scrapeTimeout)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("a client that hung up got an answer: %v", err)
			}
		}
	}
	expectCounted := func(probes, timeouts float64) {
		t.Helper()
		m := e.Scrape()
		if n := m["pg_probes_total"] - before["pg_probes_total"]; m["pg_up"] != 1 || n != probes {
			t.Errorf("pg_up %v, %v probes were counted, want %v", m["pg_up"], n, probes)
		}
		if n := failures(m)["timeout"] - failures(before)["timeout"]; n != timeouts {
			t.Errorf("%v failures were counted, want %v", n, timeouts)
		}
		if m["pg_kept_session_up"] != 1 {
			t.Error("a client that hangs up costs the kept session")
		}
	}
	t.Run("of a server that answers in the end", func(t *testing.T) {
		thaw := freeze(t, s, s.PID())
		hangUp()
		thaw()
		eventually(t, "the login does not end", func() bool { return len(keptSession(t, s)) == 1 })
		time.Sleep(100 * time.Millisecond) // the exporter has read what the server has written
		expectCounted(2, 0)
	})
	t.Run("of a server that hangs", func(t *testing.T) {
		thaw := freeze(t, s, s.PID())
		hangUp()
		e.ExpectLoggedChanges(s, "up", "timeout") // counted, with no client there
		thaw()
		expectCounted(4, 1)
	})
	e.ExpectNothingLeft(s)
	e.ExpectLoggedChanges(s, "up", "timeout", "up")
}

// TestShortScrapeTimeout: a client that announces a short time gets pg_up 0 and changes nothing for the others.
func TestShortScrapeTimeout(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"), "--probe.timeout=20s")
	e.Settle()
	before := e.last["pg_probes_total"]
	thaw := freeze(t, s, s.PID())
	get := func(path string) string {
		t.Helper()
		_, body, err := e.Get(t.Context(), path, time.Millisecond)
		check(t, err)
		return body
	}
	m := parseMetrics(t, get("/metrics"))
	if m["pg_up"] != 0 || m[`pg_probe_state{state="no_response"}`] != 1 || m["pg_probes_total"] != before || failures(m)["timeout"] != 0 {
		t.Errorf("pg_up %v, %v probes counted, want 0 and none", m["pg_up"], m["pg_probes_total"]-before)
	}
	if body := get("/probe?target=postgres&debug=true"); !strings.Contains(body, "The probe had no result in the 10") {
		t.Errorf("debug does not say that the probe goes on:\n%.500s", body)
	}
	thaw()
	e.ExpectNothingLeft(s)
	if m := e.Scrape(); failures(m)["timeout"] != 0 {
		t.Errorf("failures %v", failures(m))
	}
	for _, path := range []string{"/health", "/primary"} {
		if code, body := e.Health(path); code != http.StatusOK {
			t.Errorf("%s: status %d: %s", path, code, body)
		}
	}
	e.ExpectLoggedChanges(s, "up")
}

// TestSignalInMidScrape: the exporter ends within five seconds, with code 0, and leaves no session on the server.
func TestSignalInMidScrape(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, testservers.PostgresConfig{})
			e := startExporter(t, environment(s.Port, "postgres"), "--probe.timeout=30s")
			e.Settle()
			thaw := freeze(t, s, s.PID())
			scraped := make(chan struct{})
			go func() {
				defer close(scraped)
				response, body, err := e.Get(context.Background(), "/metrics", 0)
				if err == nil && (response.StatusCode != http.StatusOK || !strings.Contains(body, "\npg_up 0\n")) {
					t.Errorf("neither cut off nor an answer: status %d, %d bytes", response.StatusCode, len(body))
				}
			}()
			time.Sleep(300 * time.Millisecond)
			check(t, e.cmd.Process.Signal(signal))
			select {
			case <-e.exited:
			case <-time.After(5 * time.Second):
				t.Fatal("still runs five seconds after the signal")
			}
			if code := e.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			<-scraped
			thaw()
			eventually(t, "a session is left on the server", func() bool {
				rows, err := s.Query(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE usename = '"+role+"'")
				return err == nil && rows[0] == "0"
			})
		})
	}
}

// TestLongProbe: a probe may take longer than any time-out of the HTTP server's.
func TestLongProbe(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"), "--probe.timeout=8s")
	freeze(t, s, s.PID())
	response, body, err := e.Get(t.Context(), "/metrics", 0)
	check(t, err)
	if m := parseMetrics(t, body); response.StatusCode != http.StatusOK || m["pg_probe_deadline_seconds"] < 7.9 || m["pg_probe_last_duration_seconds"] < 7.9 {
		t.Errorf("status %d after %v of %v s", response.StatusCode, m["pg_probe_last_duration_seconds"], m["pg_probe_deadline_seconds"])
	}
}

// TestSlowClients: more clients than there are descriptors, each saying a byte now and then, do not keep a scrape from
// its answer.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startLimited(t, 1024, environment(s.Port, "postgres"))
	e.Settle()
	leave := crowd(t, 1100, func(ctx context.Context, i int) { slowClient(ctx, e.address, i%2 == 0) })
	for range 10 {
		e.Expect(up)
		time.Sleep(100 * time.Millisecond)
	}
	if n := e.last["process_open_fds"]; n > 600 {
		t.Errorf("%v descriptors", n)
	}
	leave()
	e.ExpectNothingLeft(s)
}

// TestOutOfDescriptors: that the exporter has run out of descriptors is one line of its log, which says what to do, however
// many targets, checks and clients lack one.
func TestOutOfDescriptors(t *testing.T) {
	t.Parallel()
	silent := silentServer(t)
	var file strings.Builder
	fmt.Fprintf(&file, "checks: {c: {tcp: \"127.0.0.1:%d\", ttl: 1s, ttl_failed: 1s}}\ntargets:\n", silent)
	for i := range 80 {
		fmt.Fprintf(&file, "  t%d: {host: 127.0.0.1, port: %d, %s}\n", i, silent, login())
	}
	e := startLimited(t, 64, nil, "--config.file="+writeFile(t, file.String()), "--probe.timeout=2s")
	leave := crowd(t, 40, func(ctx context.Context, _ int) {
		if conn := dial(ctx, e.address); conn != nil {
			_, _ = io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
			_ = sleep(ctx, time.Second)
			_ = conn.Close()
		}
	})
	for range 3 {
		response, body, err := e.Get(t.Context(), "/metrics", scrapeTimeout)
		if err != nil {
			t.Fatal(err)
		}
		m := parseMetrics(t, body)
		lacking := 0
		for i := range 80 {
			own := m.of(fmt.Sprintf("t%d", i))
			if n := own[`pg_probe_failures_total{reason="other"}`]; n > 0 {
				lacking++
			}
			if own[`pg_probe_failures_total{reason="resolve"}`] > 0 || own[`pg_probe_failures_total{reason="auth"}`] > 0 {
				t.Errorf("t%d fails for another reason", i)
			}
		}
		if response.StatusCode != http.StatusOK || lacking == 0 {
			t.Errorf("status %d, %d targets had no descriptor", response.StatusCode, lacking)
		}
	}
	leave()
	lines := strings.Count(e.Logged(), "level=ERROR")
	if lines != 1 || strings.Count(e.Logged(), "raise LimitNOFILE (systemd) or ulimit -n") != 1 {
		t.Errorf("%d errors in the log", lines)
	}
}

// crowd lets many clients in, each of them again and again, until somebody makes them leave.
func crowd(t *testing.T, many int, client func(ctx context.Context, i int)) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for i := range many {
		clients.Go(func() {
			for ctx.Err() == nil {
				client(ctx, i)
			}
		})
	}
	leave = func() {
		cancel()
		clients.Wait()
	}
	t.Cleanup(leave)
	return leave
}

// TestBodiesHTTP2: with HTTP/2, too, a request is answered whose body does not come, and so is another one that is
// under way on its connection.
func TestBodiesHTTP2(t *testing.T) {
	t.Parallel()
	certificate, key := newCertificate(t)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "server.crt"), certificate, 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "server.key"), key, 0o600))
	file := filepath.Join(dir, "web.yml")
	check(t, os.WriteFile(file, []byte("tls_server_config: {cert_file: server.crt, key_file: server.key}\n"), 0o600))
	silent := silentServer(t)
	e := startExporter(t, []string{fmt.Sprintf("DATA_SOURCE_NAME=host=127.0.0.1 port=%d password=hidden", silent)},
		"--web.config.file="+file, "--probe.timeout=2s")
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(certificate)
	client := &http.Client{
		Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: trusted}}, Timeout: hanging,
	}
	defer client.CloseIdleConnections()
	get := func(path string, body io.Reader) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+e.address+path, body)
		if err != nil {
			t.Error(err)
			return
		}
		response, err := client.Do(request)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return
		}
		_, err = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if err != nil || response.ProtoMajor != 2 || response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s, status %d: %v", path, response.Proto, response.StatusCode, err)
		}
	}
	get("/livez", nil)
	var scraped sync.WaitGroup
	scraped.Go(func() { get("/metrics", nil) })
	time.Sleep(300 * time.Millisecond)
	body, never := io.Pipe()
	get("/livez", body)
	check(t, never.Close())
	scraped.Wait()
}

// bodiless are the heads of requests whose bodies do not come.
func bodiless() []string {
	var heads []string
	for _, line := range []string{"GET /metrics", "GET /probe?target=postgres", "POST /livez", "GET /nothing"} {
		for _, fields := range []string{
			"Content-Length: 10", "Content-Length: 10000000000", "Transfer-Encoding: chunked",
			"Transfer-Encoding: chunked\r\nTrailer: X", "Content-Length: 10\r\nExpect: 100-continue",
		} {
			heads = append(heads, line+" HTTP/1.1\r\nHost: localhost\r\n"+fields+"\r\n\r\n")
		}
	}
	return heads
}

// TestBodilessCrowd: more requests whose bodies do not come than there may be connections keep neither a scrape from
// its answer nor, on its own listener, a kubelet.
func TestBodilessCrowd(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	plain := "127.0.0.1:" + freePort(t)
	file := writeFile(t, fmt.Sprintf("targets: {a: {host: 127.0.0.1, port: %d, %s}}", s.Port, login()))
	e := startLimited(t, 512, nil, "--config.file="+file, "--health.listen-address="+plain)
	e.ExpectListening(plain)
	paths := []string{"/metrics", "/probe?target=a"}
	bodies := []string{"Content-Length: 10", "Transfer-Encoding: chunked"}
	leave := crowd(t, 300, func(ctx context.Context, i int) {
		conn := dial(ctx, e.address)
		if conn == nil {
			return
		}
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
		_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n", paths[i%2], bodies[i/2%2])
		_, _ = io.Copy(io.Discard, conn) // until it is cut off
		_ = conn.Close()
		_ = sleep(ctx, 2*time.Second)
	})
	time.Sleep(time.Second) // until all are there
	for range 5 {
		_, body, err := e.Get(t.Context(), paths[1], scrapeTimeout)
		check(t, err)
		if !strings.Contains(body, "\npg_up 1\n") {
			t.Errorf("a scrape among others whose bodies do not come: %.200s", body)
		}
		e.ExpectLive(plain)
		time.Sleep(500 * time.Millisecond)
	}
	if n := e.Scrape()["process_open_fds"]; n > 300 {
		t.Errorf("%v descriptors", n)
	}
	leave()
}

// TestOwnBound: scrapes under way, of a server that hangs, may take all connections of their listener, but none of
// those of the listener for health.
func TestOwnBound(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	plain := "127.0.0.1:" + freePort(t)
	e := startLimited(t, 512, environment(s.Port, "postgres"),
		"--health.listen-address="+plain, "--probe.timeout=60s")
	e.ExpectListening(plain)
	freeze(t, s, s.PID())
	leave := crowd(t, 300, func(ctx context.Context, _ int) {
		if conn := dial(ctx, e.address); conn != nil {
			_, _ = io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
			<-ctx.Done()
			_ = conn.Close()
		}
	})
	time.Sleep(time.Second) // until all are there
	for range 5 {
		e.ExpectLive(plain)
		time.Sleep(100 * time.Millisecond)
	}
	leave()
}

// TestBodies: a request whose body does not come, or comes late, is answered, and its connection closed, also where it
// has no business.
func TestBodies(t *testing.T) {
	t.Parallel()
	plain := "127.0.0.1:" + freePort(t)
	e := startExporter(t, []string{"DATA_SOURCE_NAME=host=127.0.0.1 port=1 password=hidden"},
		"--health.listen-address="+plain)
	e.ExpectListening(plain)
	var clients sync.WaitGroup
	for _, address := range []string{e.address, plain} {
		for _, head := range bodiless() {
			for _, late := range []string{"", "0123456789"} {
				clients.Go(func() {
					answer, err := sendLate(t.Context(), address, head, late)
					closes := strings.Contains(answer, "\r\nConnection: close\r\n")
					if err != nil || strings.HasPrefix(answer, "HTTP/1.1 100 ") || !closes {
						t.Errorf("%q and then %q: %v, %.100q", head, late, err, answer)
					}
				})
			}
		}
	}
	clients.Wait()
}

// sendLate sends a request's head and then its body, and returns what is answered until the connection is closed.
func sendLate(ctx context.Context, address, head, body string) (string, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(hanging))
	if _, err := io.WriteString(conn, head); err != nil {
		return "", err
	}
	time.Sleep(100 * time.Millisecond)
	if _, err := io.WriteString(conn, body); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// slowClient connects and says next to nothing until it is cut off.
func slowClient(ctx context.Context, address string, speaks bool) {
	conn := dial(ctx, address)
	if conn == nil {
		return
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	for i := 0; ; i++ {
		if speaks {
			if _, err := fmt.Fprint(conn, "GET /metrics HTTP/1.1\r\n"[i%20:i%20+1]); err != nil {
				return
			}
		}
		_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			var netErr net.Error
			if !errors.As(err, &netErr) || !netErr.Timeout() {
				return
			}
		}
	}
}

// TestLandingPage: a person who opens the address finds the metrics.
func TestLandingPage(t *testing.T) {
	t.Parallel()
	e := startExporter(t, []string{"DATA_SOURCE_NAME=host=127.0.0.1 port=1 password=hidden"}, "--no-web.status")
	response, body, err := e.Get(t.Context(), "/", 0)
	check(t, err)
	if response.StatusCode != http.StatusOK || !strings.Contains(body, `href="metrics"`) && !strings.Contains(body, `href="/metrics"`) {
		t.Errorf("status %d:\n%s", response.StatusCode, body)
	}
	if response, _, err = e.Get(t.Context(), "/nothing", 0); err != nil || response.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown path: %v, %v", response, err)
	}
}

// TestWebConfiguration: exporter-toolkit's own features work: a password, several addresses, a socket from systemd.
func TestWebConfiguration(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	file := filepath.Join(t.TempDir(), "web.yml")
	// bcrypt of "test", at the least cost
	check(t, os.WriteFile(file, []byte("basic_auth_users: {alice: $2a$04$2qvCXm1EJBs9g/IECrSJTuaN.P4WidOdOzLG7fLcZSs3ckJ0xyHIW}\n"), 0o644))
	second := "127.0.0.1:" + freePort(t)
	e := startExporter(t, environment(s.Port, "postgres"), "--web.config.file="+file, "--web.listen-address="+second)
	for _, address := range []string{e.address, second} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
		check(t, err)
		for _, status := range []int{http.StatusUnauthorized, http.StatusOK} {
			response, err := http.DefaultClient.Do(request)
			check(t, err)
			check(t, response.Body.Close())
			if response.StatusCode != status {
				t.Errorf("status %d, want %d", response.StatusCode, status)
			}
			request.SetBasicAuth("alice", "test")
		}
	}

	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	socket, err := l.(*net.TCPListener).File()
	check(t, err)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" --web.systemd-socket`, program(t))
	cmd.Env = append(cleanEnvironment(), environment(s.Port, "postgres")...)
	cmd.ExtraFiles = []*os.File{socket}
	check(t, cmd.Start())
	check(t, socket.Close())
	address := l.Addr().String()
	check(t, l.Close())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	activated := &Exporter{t: t, address: address, log: &testservers.Output{}}
	activated.Expect(up)
}

// TestBehindProxy: behind a proxy that terminates TLS, with a path of its own that it keeps or takes off, what /sd lists can be
// scraped and redirects lead to the proxy, whatever host a request names. The health listener has no prefix.
func TestBehindProxy(t *testing.T) {
	t.Parallel()
	for name, takesOff := range map[string]bool{"a proxy that keeps the path": false, "a proxy that takes the path off": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var e *Exporter
			proxy := httptest.NewUnstartedServer(nil)
			external := "https://" + proxy.Listener.Addr().String() + "/pg"
			proxy.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				reverse := httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
					r.SetURL(&url.URL{Scheme: "http", Host: e.address})
					if takesOff {
						r.Out.URL.Path = strings.TrimPrefix(r.Out.URL.Path, "/pg")
					}
				}}
				reverse.ServeHTTP(w, r)
			})
			args := []string{"--web.external-url=" + external, "--health.listen-address=127.0.0.1:" + freePort(t)}
			if takesOff {
				args = append(args, "--web.route-prefix=/")
			}
			e, _ = startWithFile(t, "targets: {a: {host: 127.0.0.1, port: 1, user: u}}", args...)
			proxy.StartTLS()
			defer proxy.Close()
			client := proxy.Client()
			get := func(address, host string) (int, string, string) {
				t.Helper()
				request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
				check(t, err)
				request.Host = host
				response, err := client.Do(request)
				check(t, err)
				body, err := io.ReadAll(response.Body)
				check(t, errors.Join(err, response.Body.Close()))
				return response.StatusCode, string(body), response.Request.URL.String()
			}
			for _, host := range []string{"", "evil.example:1"} {
				_, listed, _ := get(external+"/sd", host)
				var groups []struct {
					Targets []string
					Labels  map[string]string
				}
				check(t, json.Unmarshal([]byte(listed), &groups))
				l := groups[0].Labels
				scraped := l["__scheme__"] + "://" + groups[0].Targets[0] + l["__metrics_path__"] + "?target=" + l["__param_target"]
				if scraped != external+"/probe?target=a" {
					t.Errorf("with host %q, /sd leads to %s", host, scraped)
				}
				if status, body, _ := get(scraped, ""); status != http.StatusOK || !strings.Contains(body, "pg_up 0") {
					t.Errorf("%s: %d %.100s", scraped, status, body)
				}
			}
			if status, _, at := get(external+"//health", ""); status != http.StatusServiceUnavailable || at != external+"/health" {
				t.Errorf("%d from %s", status, at)
			}
			_, page, _ := get(external+"/", "")
			for _, link := range regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(page, -1) {
				at, err := url.Parse(external + "/")
				check(t, err)
				to, err := at.Parse(link[1])
				check(t, err)
				if status, body, _ := get(to.String(), ""); status == http.StatusNotFound {
					t.Errorf("the page leads to %s: %s", link[1], body)
				}
			}
			plain := strings.TrimPrefix(args[1], "--health.listen-address=")
			if status, body := e.HealthAt(http.MethodGet, plain, "/livez"); status != http.StatusOK {
				t.Errorf("/livez on the health listener: %d %s", status, body)
			}
		})
	}
}
