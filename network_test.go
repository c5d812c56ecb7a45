package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"pg_liveness_exporter/internal/pgtest"
)

// inNamespace tells the test that it runs in a network of its own.
const inNamespace = "PG_LIVENESS_EXPORTER_TEST_NAMESPACE"

// TestNetwork meets addresses that swallow packets and names that do not resolve, in a network namespace that it makes
// for itself: nothing leaves this machine.
func TestNetwork(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		runInNamespace(t)
		return
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", "near", "type", "veth", "peer", "name", "far"},
		{"address", "add", "10.99.0.1/24", "dev", "near"},
		{"link", "set", "near", "up"},
		{"link", "set", "far", "up"},
		{"neighbour", "add", "10.99.0.2", "lladdr", "02:00:00:00:00:99", "dev", "near"}, // nobody: it swallows all
		{"route", "add", "unreachable", "10.98.0.0/24"},
	} {
		if out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	bind(t, "/etc/hosts", "10.99.0.2 half\n10.99.0.1 half\n127.0.0.1 localhost\n")
	bind(t, "/etc/resolv.conf", "nameserver 127.0.0.1\n")
	answerNoSuchName(t)
	s := newServer(t, pgtest.Config{
		Settings: []string{"listen_addresses = '*'"}, HBA: "host all all all scram-sha-256",
	})
	to := func(host string) []string {
		env := environment(s.Port, "postgres")
		env[0] = fmt.Sprintf("DATA_SOURCE_URI=%s:%d/postgres?sslmode=disable", host, s.Port)
		return env
	}
	t.Run("a name that does not resolve", func(t *testing.T) {
		e := startExporter(t, to("nowhere.invalid"))
		m := e.expect(verdict{"no_response", "resolve"})
		if _, ok := m[`pg_probe_phase_duration_seconds{phase="dial"}`]; ok {
			t.Error("dialled a name without an address")
		}
	})
	t.Run("an address that swallows packets", func(t *testing.T) {
		e := startExporter(t, to("10.99.0.2"))
		for range 2 {
			m := e.expect(timeout)
			if _, ok := m[`pg_probe_phase_duration_seconds{phase="startup"}`]; ok || m[`pg_probe_phase_duration_seconds{phase="dial"}`] < .5 {
				t.Error("the phases do not show that dialling took the time")
			}
		}
		if n := e.last[`pg_liveness_exporter_sessions{state="in_use"}`]; n != 0 {
			t.Errorf("%v connections", n)
		}
	})
	t.Run("a network without a route", func(t *testing.T) {
		startExporter(t, to("10.98.0.1")).expect(verdict{"no_response", "unreachable"})
	})
	t.Run("two addresses of which the first swallows packets", func(t *testing.T) {
		e := startExporter(t, to("half"))
		m := e.expect(up)
		if m["pg_kept_session_up"] != 1 {
			t.Error("no session is kept")
		}
		e.expect(up)
	})
}

// runInNamespace runs this test again in namespaces of its own.
func runInNamespace(t *testing.T) {
	t.Helper()
	unshare, err := exec.LookPath("unshare")
	pgtest.Need(t, err == nil, "unshare", "apt-get install util-linux")
	_, err = exec.LookPath("ip")
	pgtest.Need(t, err == nil, "ip", "apt-get install iproute2")
	args := []string{"--net", "--mount"}
	if os.Geteuid() != 0 {
		args = append(args, "--user", "--map-current-user", "--keep-caps")
	}
	err = exec.CommandContext(t.Context(), unshare, append(args, "true")...).Run()
	pgtest.Need(t, err == nil, "user namespaces", "sudo sysctl kernel.unprivileged_userns_clone=1")
	cmd := exec.CommandContext(t.Context(), unshare, append(args, os.Args[0], "-test.run=^TestNetwork$", "-test.v")...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
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

// answerNoSuchName is a name server that knows no name (RFC 1035, RCODE 3).
func answerNoSuchName(t *testing.T) {
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
			query[2], query[3] = 0x84, 3 // an authoritative answer: no such name
			query[11] = 0                // and none of the additional records of the question
			_, _ = conn.WriteTo(query[:n], from)
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
	s := newServer(t, pgtest.Config{})
	far := newProxy(t, s.Port, 150*time.Millisecond)
	env := environment(far.port, "postgres")
	env[0] = fmt.Sprintf("DATA_SOURCE_URI=127.0.0.1:%d/postgres", far.port) // sslmode=prefer: one more round trip
	e := startExporter(t, env)
	response, body, err := e.get(t.Context(), "/metrics", 10*time.Second)
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
	s := newServer(t, pgtest.Config{})
	between := newProxy(t, s.Port, 0)
	e := startExporter(t, environment(between.port, "postgres"))
	e.settle()
	between.cut()
	time.Sleep(time.Second)
	m := e.expect(up)
	expectLosses(t, m, map[string]float64{"network": 1})
	e.leavesNothing(s)
	e.expectChanges(s, "up")
}

// TestOddServers: what answers in the server's place is no server. The verdict is right, and right again afterwards.
func TestOddServers(t *testing.T) {
	t.Parallel()
	silent := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	say := func(text string, pause time.Duration) func(net.Conn) {
		return func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1024))
			for i := range len(text) {
				if _, err := conn.Write([]byte{text[i]}); err != nil {
					return
				}
				time.Sleep(pause)
			}
			silent(conn)
		}
	}
	for _, test := range []struct {
		name   string
		answer func(net.Conn)
		want   verdict
	}{
		{"accepts and is silent", silent, timeout},
		{"half a message", say("R\x00\x00", 0), timeout},
		{"garbage", say("nonsense nonsense", 0), verdict{"no_response", "protocol"}},
		{"one byte a second", say("R\x00\x00\x00\x08\x00\x00\x00\x00", time.Second), timeout},
		{"hangs up", func(conn net.Conn) { _ = conn.Close() }, verdict{"no_response", "terminated"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, pgtest.Config{})
			between := newProxy(t, s.Port, 0)
			e := startExporter(t, environment(between.port, "postgres"))
			e.settle()
			between.answer(test.answer)
			for range 2 {
				keptAnswers(t, s, e.expect(test.want))
			}
			between.answer(nil)
			if test.want == timeout {
				between.cut() // the pending login ends; with it the kept session, which is opened anew
				time.Sleep(time.Second)
			}
			e.expect(up)
			e.leavesNothing(s)
			e.expectChanges(s, "up", test.want.reason, "up")
		})
	}
}
