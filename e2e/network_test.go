// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// inNamespace tells the test that it runs in a network of its own.
const inNamespace = "PG_LIVENESS_EXPORTER_TEST_NAMESPACE"

// TestNetwork meets addresses that swallow packets and names that do not resolve, in a network namespace that it makes
// for itself: nothing leaves this machine.
func TestNetwork(t *testing.T) {
	t.Parallel()
	if os.Getenv(inNamespace) == "" {
		runInNamespace(t)
		return
	}
	ip := func(t *testing.T, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(context.Background(), "ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", "near", "type", "veth", "peer", "name", "far"},
		{"address", "add", "10.99.0.1/24", "dev", "near"},
		{"link", "set", "near", "up"},
		{"link", "set", "far", "up"},
		{"neighbour", "add", "10.99.0.2", "lladdr", "02:00:00:00:00:99", "dev", "near"}, // nobody: it swallows all
		{"neighbour", "add", "10.99.0.3", "lladdr", "02:00:00:00:00:99", "dev", "near"},
		{"route", "add", "unreachable", "10.98.0.0/24"},
	} {
		ip(t, args...)
	}
	bind(t, "/etc/hosts", "10.99.0.2 half\n10.99.0.1 half\n127.0.0.1 localhost\n")
	bind(t, "/etc/resolv.conf", "nameserver 127.0.0.1\n")
	known := &atomic.Bool{}
	nameServer(t, known)
	s := newServer(t, testservers.PostgresConfig{
		Settings: []string{"listen_addresses = '*'"}, HBA: "host all all all scram-sha-256",
	})
	to := func(host string) []string {
		env := environment(s.Port, "postgres")
		env[0] = fmt.Sprintf("DATA_SOURCE_URI=%s:%d/postgres?sslmode=disable", host, s.Port)
		return env
	}
	t.Run("a name that does not resolve", func(t *testing.T) {
		known.Store(true)
		e := startExporter(t, to("somewhere.invalid"))
		e.Settle()
		known.Store(false)
		for range 2 {
			m := e.Expect(verdict{"no_response", "resolve"})
			keptAnswers(t, s, m)
			if _, ok := m[`pg_probe_phase_duration_seconds{phase="dial"}`]; ok {
				t.Error("dialled a name without an address")
			}
		}
		known.Store(true)
		e.Expect(up)
		e.ExpectNothingLeft(s)
		e.ExpectLoggedChanges(s, "up", "resolve", "up")
	})
	t.Run("a check whose name does not resolve", func(t *testing.T) {
		known.Store(false)
		e, _ := startWithFile(t, "checks: {c: {tcp: \"hunter2.invalid:1\"}}")
		status, body := e.Health("/health/c")
		if status != http.StatusServiceUnavailable || !strings.Contains(body, "its name has no address") || strings.Contains(body, "hunter2") {
			t.Errorf("status %d: %s", status, body)
		}
		known.Store(true)
	})
	t.Run("a target of /probe whose name has never resolved", func(t *testing.T) {
		e, _ := startWithFile(t, fmt.Sprintf("modules: {m: {%s, allow: [\"*.invalid\", \"10.99.0.0/24\"]}}", login()))
		target := fmt.Sprintf("somewhere.invalid:%d", s.Port)
		for _, want := range []struct {
			resolves         bool
			probes, failures float64
		}{{false, 1, 1}, {false, 2, 2}, {true, 3, 2}, {true, 4, 2}, {false, 5, 3}, {false, 6, 4}} {
			known.Store(want.resolves)
			m := e.ProbeMetrics(target, "&module=m")
			if n := m[`pg_probe_failures_total{reason="resolve"}`]; m["pg_probes_total"] != want.probes || n != want.failures {
				t.Errorf("%v probes, %v did not resolve; want %+v", m["pg_probes_total"], n, want)
			}
		}
		known.Store(true)
	})
	// The address is this machine's own until it is taken away, and then another one's.
	for _, test := range []struct {
		name, address string
		want          verdict
	}{
		{"an address that begins to swallow packets", "10.99.0.3", timeout},
		{"an address that cannot be reached any more", "10.98.0.1", verdict{"no_response", "unreachable"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ip(t, "address", "add", test.address+"/32", "dev", "lo")
			e := startExporter(t, to(test.address))
			e.Settle()
			ip(t, "address", "del", test.address+"/32", "dev", "lo")
			for range 3 {
				if m := e.Expect(test.want); m["pg_kept_session_up"] != 0 {
					t.Error("the kept session answers through no network")
				}
			}
			eventually(t, "connections are left to an address that cannot be reached", func() bool {
				m := e.Scrape()
				return m[`pg_liveness_exporter_sessions{state="in_use"}`]+m[`pg_liveness_exporter_sessions{state="idle"}`] == 0
			})
			ip(t, "address", "add", test.address+"/32", "dev", "lo")
			e.last = nil // the scrapes just now were counted too
			if m := e.Scrape(); m["pg_up"] != 1 || m["pg_kept_session_up"] != 1 {
				t.Errorf("afterwards: pg_up %v, kept session %v", m["pg_up"], m["pg_kept_session_up"])
			}
			e.ExpectNoMoreUsed()
			e.ExpectLoggedChanges(s, "up", test.want.reason, "up")
		})
	}
	t.Run("an address that swallows packets", func(t *testing.T) {
		e := startExporter(t, to("10.99.0.2"))
		for range 2 {
			m := e.Expect(timeout)
			if _, ok := m[`pg_probe_phase_duration_seconds{phase="startup"}`]; ok || m[`pg_probe_phase_duration_seconds{phase="dial"}`] < .5 {
				t.Error("the phases do not show that dialling took the time")
			}
		}
		if n := e.last[`pg_liveness_exporter_sessions{state="in_use"}`]; n != 0 {
			t.Errorf("%v connections", n)
		}
	})
	t.Run("two addresses of which the first swallows packets", func(t *testing.T) {
		e := startExporter(t, to("half"), "--probe.timeout=2s") // each address gets half of it
		m := e.Expect(up)
		if m["pg_kept_session_up"] != 1 {
			t.Error("no session is kept")
		}
		e.Expect(up)
	})
}

// runInNamespace runs this test again in namespaces of its own.
func runInNamespace(t *testing.T) {
	t.Helper()
	unshare, err := exec.LookPath("unshare")
	testenv.Need(t, err == nil, "unshare", "apt-get install util-linux")
	_, err = exec.LookPath("ip")
	testenv.Need(t, err == nil, "ip", "apt-get install iproute2")
	args := []string{"--net", "--mount"}
	if os.Geteuid() != 0 {
		args = append(args, "--user", "--map-current-user", "--keep-caps")
	}
	err = exec.CommandContext(t.Context(), unshare, append(args, "true")...).Run()
	testenv.Need(t, err == nil, "user namespaces", "sudo sysctl kernel.unprivileged_userns_clone=1")
	cmd := exec.CommandContext(t.Context(), unshare, append(args, os.Args[0], "-test.run=^TestNetwork$", "-test.v")...)
	cmd.Env = append(os.Environ(), inNamespace+"=1", "PROGRAM="+program(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

// bind puts a file with other content in the place of one of the machine's, within this namespace.
func bind(t *testing.T, path, content string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(path))
	check(t, os.WriteFile(file, []byte(content), 0o644))
	check(t, syscall.Mount(file, path, "", syscall.MS_BIND, ""))
}

// nameServer answers every question for a name with 10.99.0.1 while known is set, and knows no name otherwise
// (RFC 1035).
func nameServer(t *testing.T, known *atomic.Bool) {
	t.Helper()
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(t.Context(), "udp", "127.0.0.1:53")
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		query := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(query)
			if err != nil {
				return
			}
			end := 12 + bytes.IndexByte(query[12:n], 0) + 5 // of the name, its type and its class
			answer := append([]byte{}, query[:end]...)
			answer[2], answer[3] = 0x84, 3 // authoritative: no such name
			answer[11] = 0                 // and no additional record
			if known.Load() {
				answer[3] = 0
				if answer[end-3] == 1 { // asks for an IPv4 address
					answer[7] = 1
					answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 10, 99, 0, 1)
				}
			}
			_, _ = conn.WriteTo(answer, from)
		}
	}()
}

// proxy passes bytes on to a server, each way late by delay, until it is cut.
type proxy struct {
	port int

	mu      sync.Mutex // protects what follows
	conns   []net.Conn
	instead func(net.Conn) // answers new connections in the server's place
}

// answer lets a function answer new connections; nil, the server again.
func (p *proxy) answer(instead func(net.Conn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.instead = instead
}

func newProxy(t *testing.T, to int, delay time.Duration) *proxy {
	t.Helper()
	var (
		lc     net.ListenConfig
		dialer net.Dialer
	)
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	p := &proxy{port: l.Addr().(*net.TCPAddr).Port}
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
	})
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			instead := p.instead
			if instead != nil {
				p.conns = append(p.conns, client)
			}
			p.mu.Unlock()
			if instead != nil {
				go instead(client)
				continue
			}
			server, err := dialer.DialContext(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", to))
			if err != nil {
				_ = client.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, server)
			p.mu.Unlock()
			go pass(server, client, delay)
			go pass(client, server, delay)
		}
	}()
	return p
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		_ = conn.Close()
	}
	p.conns = nil
}

// pass copies with a delay, without making one chunk wait for another.
func pass(to, from net.Conn, delay time.Duration) {
	type chunk struct {
		at    time.Time
		bytes []byte
	}
	chunks := make(chan chunk, 1024)
	go func() {
		defer close(chunks)
		for {
			buffer := make([]byte, 4096)
			n, err := from.Read(buffer)
			if n > 0 {
				chunks <- chunk{time.Now().Add(delay), buffer[:n]}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					_ = to.Close()
				}
				return
			}
		}
	}()
	for c := range chunks {
		time.Sleep(time.Until(c.at))
		if _, err := to.Write(c.bytes); err != nil {
			break
		}
	}
	_ = to.Close()
	for range chunks { // until the reader is done
	}
}

// TestRoundTrip: a server 300 ms away is up, and the phases say where the time goes.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	far := newProxy(t, s.Port, 150*time.Millisecond)
	env := environment(far.port, "postgres")
	env[0] = fmt.Sprintf("DATA_SOURCE_URI=127.0.0.1:%d/postgres", far.port) // sslmode=prefer: one more round trip
	e := startExporter(t, env, "--probe.timeout=5s")
	response, body, err := e.Get(t.Context(), "/metrics", 10*time.Second)
	check(t, err)
	m := parseMetrics(t, body)
	if response.StatusCode != 200 || m["pg_up"] != 1 {
		t.Fatalf("status %d, pg_up %v", response.StatusCode, m["pg_up"])
	}
	for phase, least := range map[string]float64{"tls": .3, "startup": .8, "query": .3} {
		if took := m[`pg_probe_phase_duration_seconds{phase="`+phase+`"}`]; took < least || took > least+hanging.Seconds() {
			t.Errorf("%s took %v s, at least %v is the way there and back", phase, took, least)
		}
	}
}

// TestConnectionCut: what lies between cuts the kept session, the server is well.
func TestConnectionCut(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	between := newProxy(t, s.Port, 0)
	e := startExporter(t, environment(between.port, "postgres"))
	e.Settle()
	between.cut()
	time.Sleep(time.Second)
	m := e.Expect(up)
	expectLosses(t, m, map[string]float64{"network": 1})
	e.ExpectNothingLeft(s)
	e.ExpectLoggedChanges(s, "up")
}

// TestOddServers: what answers in the server's place is no server. The verdict is right, and right again afterwards.
func TestOddServers(t *testing.T) {
	t.Parallel()
	say := func(text string, pause time.Duration) func(net.Conn) {
		return func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1024))
			for i := range len(text) {
				if _, err := conn.Write([]byte{text[i]}); err != nil {
					return
				}
				time.Sleep(pause)
			}
			testservers.Silent(conn)
		}
	}
	for _, test := range []struct {
		name   string
		answer func(net.Conn)
		want   verdict
	}{
		{"accepts and is silent", testservers.Silent, timeout},
		{"half a message", say("R\x00\x00", 0), timeout},
		{"garbage", say("nonsense nonsense", 0), verdict{"no_response", "protocol"}},
		{"one byte a second", say("R\x00\x00\x00\x08\x00\x00\x00\x00", time.Second), timeout},
		{"hangs up", func(conn net.Conn) { _ = conn.Close() }, verdict{"no_response", "terminated"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, testservers.PostgresConfig{})
			between := newProxy(t, s.Port, 0)
			e := startExporter(t, environment(between.port, "postgres"))
			e.Settle()
			between.answer(test.answer)
			keptAnswers(t, s, e.Expect(test.want))
			e.Expect(test.want) // the kept session may have given way
			between.answer(nil)
			if test.want == timeout {
				between.cut() // the pending login ends; with it the kept session, which is opened anew
				time.Sleep(time.Second)
			}
			e.Expect(up)
			e.ExpectNothingLeft(s)
			e.ExpectLoggedChanges(s, "up", test.want.reason, "up")
		})
	}
}
