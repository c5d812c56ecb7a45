// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testservers"

	"github.com/jackc/pgx/v5/pgproto3"
)

var (
	ready     = testservers.Ready()
	oneColumn = testservers.OneColumn()
	selectOne = testservers.One()
	loginOK   = testservers.LetIn()
	// panicExchange makes pgconn unlock a connection that is not locked (jackc/pgx#1833).
	panicExchange = testservers.Wire(oneColumn, ready, ready)
)

// log collects what a prober logs.
type log struct {
	mu   sync.Mutex // protects text
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newObservedProber returns a prober, its log and the number of its session losses.
func newObservedProber(t *testing.T, dsn string) (*Prober, *log, *atomic.Int64) {
	t.Helper()
	var (
		l      log
		losses atomic.Int64
	)
	p := newTestProberFor(t, dsn, func(o *Options) {
		o.Logger = slog.New(slog.NewTextHandler(&l, &slog.HandlerOptions{Level: slog.LevelDebug}))
		o.OnSessionLost = func(Loss) { losses.Add(1) }
	})
	return p, &l, &losses
}

func isQuery(m pgproto3.FrontendMessage, sql string) bool {
	q, ok := m.(*pgproto3.Query)
	return ok && strings.Contains(q.String, sql)
}

// TestPanics checks that a reply that makes pgconn panic ends the session, but not the process, the login queue or the
// next probe.
func TestPanics(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t, testservers.Converse(loginOK, func(net.Conn, pgproto3.FrontendMessage) []byte { return panicExchange }))
	p, l, losses := newObservedProber(t, dsnOf(s))
	for range 8 {
		r := runProbe(t, p, hanging)
		want := Failure{Reason: ReasonProtocol, State: StateNoResponse, Phase: PhaseQuery}
		if r.Up() || *r.Failure != want {
			t.Fatalf("got %+v, want %+v", r.Failure, want)
		}
		if r.Duration > hanging/2 {
			t.Fatalf("took %s", r.Duration)
		}
	}
	if n := strings.Count(l.String(), "\n"); n != 8 || !strings.Contains(l.String(), "pgconn") {
		t.Errorf("%d log lines, want one with a stack for each probe:\n%s", n, l)
	}
	if n := losses.Load(); n != 0 {
		t.Errorf("%d losses", n)
	}
}

func dsnOf(s *testservers.FakeServer) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=u password=p sslmode=disable", s.Port)
}

// TestPanicOnKeptSession checks that a panic on the kept session costs one probe its statistics. It is not counted as a
// loss, and the session is not reopened.
func TestPanicOnKeptSession(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t, testservers.Converse(loginOK, func(_ net.Conn, m pgproto3.FrontendMessage) []byte {
		if isQuery(m, "SELECT 1") && !isQuery(m, "pg_stat_get_activity") {
			return selectOne
		}
		return panicExchange
	}))
	p, l, losses := newObservedProber(t, dsnOf(s))
	for i := range 4 {
		r := runProbe(t, p, hanging)
		if !r.Up() || r.StatsFailure == nil || r.StatsFailure.Reason != ReasonProtocol {
			t.Fatalf("got %+v, statistics %+v", r.Failure, r.StatsFailure)
		}
		// Each probe reads statistics on one session, and opens one or two.
		eventually(t, func() bool { return p.keptNow() == nil })
		if n := s.Accepted(); n > 2*(i+1) {
			t.Errorf("%d sessions after %d probes", n, i+1)
		}
	}
	if n := losses.Load(); n != 0 {
		t.Errorf("%d losses", n)
	}
	if !strings.Contains(l.String(), "pgconn") {
		t.Errorf("no stack in the log: %s", l)
	}
}

// keptNow returns the kept session, nil if there is none.
func (p *Prober) keptNow() *kept {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kept
}

// eventually waits until ok returns true, and fails the test if that takes too long.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(hanging); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the condition did not become true in time")
		}
	}
}

// TestPanicInCheckAndCommit checks that panics on the replies to checks and commits are contained as well.
func TestPanicInCheckAndCommit(t *testing.T) {
	t.Parallel()
	all := newFakeServer(t, testservers.Converse(loginOK, func(_ net.Conn, m pgproto3.FrontendMessage) []byte {
		switch {
		case isQuery(m, "pg_logical_emit_message"):
			return panicExchange
		case isQuery(m, "pg_catalog."), isQuery(m, "SELECT 'total'"):
			return testservers.Wire(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42501"}, ready)
		case isQuery(m, "SELECT 1"):
			return selectOne
		}
		return panicExchange
	}))
	t.Run("check", func(t *testing.T) {
		t.Parallel()
		p, _, _ := newObservedProber(t, dsnOf(all))
		p.target.Timeout = hanging
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), hanging)
			_, f := p.Query(ctx, "SELECT 2", hanging)
			cancel()
			if f == nil || f.Reason != ReasonProtocol {
				t.Fatalf("got %+v", f)
			}
		}
	})
	t.Run("commit", func(t *testing.T) {
		t.Parallel()
		results := make(chan *CommitResult, 8)
		p := newTestProberFor(t, dsnOf(all), func(o *Options) {
			o.OnCommit = func(o *CommitResult) { results <- o }
		})
		p.SetKeep(false)
		p.target.Commit, p.target.Timeout = true, hanging
		for range 5 {
			r := runProbe(t, p, hanging)
			if r.Commit == nil {
				t.Fatalf("no commit: %+v", r.Failure)
			}
			select {
			case o := <-results:
				if o.Failure == nil || o.Failure.Reason != ReasonProtocol {
					t.Fatalf("got %+v", o.Failure)
				}
			case <-time.After(hanging):
				t.Fatal("the commit did not end")
			}
			<-r.Commit.Done()
			eventually(t, func() bool { return p.commits.current.Load() == nil })
		}
	})
}

// TestBudgets checks that a server that sends endless messages of any type is not read any further.
func TestBudgets(t *testing.T) {
	t.Parallel()
	flood := func(conn net.Conn, begin []byte, message []byte) {
		if _, err := conn.Write(begin); err != nil {
			return
		}
		for many := bytes.Repeat(message, max(1, (64<<10)/len(message))); ; {
			if _, err := conn.Write(many); err != nil {
				return
			}
		}
	}
	var columns [][]byte
	for range 5000 {
		columns = append(columns, nil)
	}
	for name, test := range map[string]struct{ begin, message []byte }{
		"rows":             {testservers.Wire(oneColumn), testservers.Wire(&pgproto3.DataRow{Values: [][]byte{[]byte("value")}})},
		"large rows":       {testservers.Wire(oneColumn), testservers.Wire(&pgproto3.DataRow{Values: [][]byte{bytes.Repeat([]byte("x"), 1<<19)}})},
		"empty rows":       {testservers.Wire(&pgproto3.RowDescription{}), testservers.Wire(&pgproto3.DataRow{})},
		"rows of nulls":    {testservers.Wire(oneColumn), testservers.Wire(&pgproto3.DataRow{Values: columns})},
		"command complete": {nil, testservers.Wire(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})},
		"parameter status": {nil, testservers.Wire(&pgproto3.ParameterStatus{Name: "application_name", Value: "x"})},
		"notices":          {nil, testservers.Wire(&pgproto3.NoticeResponse{Severity: "NOTICE", Code: "00000", Message: "m"})},
		"errors":           {nil, testservers.Wire(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "XX000", Message: "m"})},
	} {
		limit := 2 * hanging
		expect := func(t *testing.T, f *Failure) {
			t.Helper()
			if f == nil || f.Reason != ReasonProtocol || f.State != StateNoResponse || f.Detail != errBudget.Error() {
				t.Errorf("got %+v", f)
			}
		}
		t.Run(name+" in a reply", func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t, testservers.Converse(loginOK, func(conn net.Conn, _ pgproto3.FrontendMessage) []byte {
				flood(conn, test.begin, test.message)
				return nil
			}))
			p, _, losses := newObservedProber(t, dsnOf(s))
			r := runProbe(t, p, limit)
			expect(t, r.Failure)
			if n := losses.Load(); n != 0 {
				t.Errorf("%d losses", n)
			}
		})
		t.Run(name+" in the statistics", func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t, testservers.Converse(loginOK, func(conn net.Conn, m pgproto3.FrontendMessage) []byte {
				if isQuery(m, "SELECT 1") && !isQuery(m, "pg_stat_get_activity") {
					return selectOne
				}
				flood(conn, test.begin, test.message)
				return nil
			}))
			p, _, losses := newObservedProber(t, dsnOf(s))
			r := runProbe(t, p, limit)
			expect(t, r.StatsFailure)
			if n := losses.Load(); n != 0 || !r.Up() {
				t.Errorf("%d losses, %+v", n, r.Failure)
			}
		})
		if strings.Contains(name, "row") || name == "command complete" || name == "errors" {
			continue // these end a login, and an idle session ignores them
		}
		t.Run(name+" at login", func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t, func(conn net.Conn) {
				_, _ = conn.Read(make([]byte, 1024))
				flood(conn, nil, test.message)
			})
			p, _, _ := newObservedProber(t, dsnOf(s))
			expect(t, runProbe(t, p, limit).Failure)
		})
		t.Run(name+" while idle", func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t, testservers.Converse(loginOK, func(conn net.Conn, m pgproto3.FrontendMessage) []byte {
				if isQuery(m, "SELECT 1") && !isQuery(m, "pg_stat_get_activity") {
					return selectOne
				}
				flood(conn, testservers.Wire(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42501"}, ready), test.message)
				return nil
			}))
			p, _, losses := newObservedProber(t, dsnOf(s))
			if r := runProbe(t, p, limit); !r.Up() {
				t.Errorf("got %+v", r.Failure)
			}
			eventually(t, func() bool { return p.keptNow() == nil && p.options.Sessions.Idle() == 0 })
			if n := losses.Load(); n != 0 {
				t.Errorf("%d losses", n)
			}
			// One connection may carry a cancel request, if the flood begins before the last statement ends.
			if n := s.Accepted(); n > 2 {
				t.Errorf("%d connections, want no second session", n)
			}
		})
	}
}

// TestParameterBudgetOfKeptSession checks that a session that has received very many parameters is replaced by the next
// probe, and that no probe fails or counts a loss.
func TestParameterBudgetOfKeptSession(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	s := newFakeServer(t, testservers.Converse(loginOK, func(_ net.Conn, m pgproto3.FrontendMessage) []byte {
		changes := bytes.Repeat(testservers.Wire(&pgproto3.ParameterStatus{Name: "TimeZone", Value: "UTC"}), 200) // some 55 KB by the meter
		sent.Add(200)
		if isQuery(m, "SELECT 1") && !isQuery(m, "pg_stat_get_activity") {
			return append(selectOne[:len(selectOne):len(selectOne)], changes...)
		}
		return append(testservers.Wire(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42501"}, ready), changes...)
	}))
	p, _, losses := newObservedProber(t, dsnOf(s))
	kept := make(map[*kept]bool)
	for range 60 {
		if r := runProbe(t, p, hanging); !r.Up() {
			t.Fatalf("got %+v", r.Failure)
		}
		kept[p.keptNow()] = true
	}
	if n := losses.Load(); n != 0 {
		t.Errorf("%d losses", n)
	}
	if len(kept) < 3 {
		t.Errorf("%d kept sessions in 60 probes, want it to be exchanged", len(kept))
	}
}

// TestConnectionEndsInReply checks that a connection that ends within a reply is reported as terminated, after a second
// attempt.
func TestConnectionEndsInReply(t *testing.T) {
	t.Parallel()
	for _, sent := range [][]byte{nil, testservers.Wire(oneColumn), selectOne[:len(selectOne)-3]} {
		s := newFakeServer(t, testservers.Converse(loginOK, func(conn net.Conn, _ pgproto3.FrontendMessage) []byte {
			_, _ = conn.Write(sent)
			_ = conn.Close()
			return nil
		}))
		r := runProbe(t, newTestProberFor(t, dsnOf(s), nil), hanging)
		want := Failure{Reason: ReasonTerminated, State: StateNoResponse, Phase: PhaseQuery}
		if r.Up() || *r.Failure != want {
			t.Errorf("after %d bytes: got %+v, want %+v", len(sent), r.Failure, want)
		}
		if n := s.Accepted(); n < 2 {
			t.Errorf("%d connections, want a second try", n)
		}
	}
}

// TestReadyWithoutCommandComplete checks that a probe ends in time if ReadyForQuery arrives without CommandComplete.
// pgconn then reads without a deadline.
func TestReadyWithoutCommandComplete(t *testing.T) {
	t.Parallel()
	early := testservers.Wire(oneColumn, &pgproto3.DataRow{Values: [][]byte{[]byte("1")}}, ready)
	for name, reply := range map[string]func(pgproto3.FrontendMessage) []byte{
		"on the new session": func(pgproto3.FrontendMessage) []byte { return early },
		"on the kept session": func(m pgproto3.FrontendMessage) []byte {
			if isQuery(m, "SELECT 1") && !isQuery(m, "pg_stat_get_activity") {
				return selectOne
			}
			return early
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t, testservers.Converse(loginOK, func(_ net.Conn, m pgproto3.FrontendMessage) []byte { return reply(m) }))
			p := newTestProberFor(t, dsnOf(s), nil)
			for range 3 {
				r := runProbe(t, p, 200*time.Millisecond)
				if f := r.Failure; f != nil && f.Reason != ReasonTimeout {
					t.Errorf("got %+v", f)
				}
				if r.ServerStats != nil {
					t.Error("got statistics from an incomplete reply")
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if _, f := p.Query(ctx, "SELECT 2", 200*time.Millisecond); f == nil {
				t.Error("a check succeeded")
			}
		})
	}
}

// TestFloodDuringWrite checks that a server cannot fill the memory while it does not read a large statement. pgconn then reads all
// that the server sends, until the statement is written.
func TestFloodDuringWrite(t *testing.T) {
	t.Parallel()
	listen := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1448) // as on Ethernet
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
		})
	}}
	l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var sent atomic.Int64
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		if _, err := pgproto3.NewBackend(conn, conn).ReceiveStartupMessage(); err != nil {
			return
		}
		_, _ = conn.Write(loginOK)
		notice := testservers.Wire(&pgproto3.NoticeResponse{Message: strings.Repeat("x", 60000)})
		for {
			n, err := conn.Write(notice)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	p, _, _ := newObservedProber(t, fmt.Sprintf("host=127.0.0.1 port=%d user=u password=p sslmode=disable", port))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	s, err := p.logins.open(ctx, &trace{}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close(t.Context())
	if _, err := s.query(ctx, "SELECT '"+strings.Repeat("x", 8<<20)+"'", smallBudget); err == nil {
		t.Error("the statement succeeded")
	}
	if n := sent.Load(); n > 16<<20 {
		t.Errorf("%d MiB were read during the write", n>>20)
	}
	if !s.abortedByUs() {
		t.Error("the end of the session would count as a loss")
	}
}

// withoutStatistics answers for a server that refuses the statistics.
func withoutStatistics(_ net.Conn, m pgproto3.FrontendMessage) []byte {
	if isQuery(m, "current_database()") {
		return testservers.Wire(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42501"}, ready)
	}
	return selectOne
}

// TestReopenedSessionHangs checks that a lost session is counted once, if the server hangs while it is reopened.
func TestReopenedSessionHangs(t *testing.T) {
	t.Parallel()
	var (
		hang  atomic.Bool
		conns = make(chan net.Conn, 100)
	)
	s := newFakeServer(t, func(conn net.Conn) {
		conns <- conn
		testservers.Converse(loginOK, func(conn net.Conn, m pgproto3.FrontendMessage) []byte {
			if hang.Load() && isQuery(m, "current_database()") {
				testservers.Silent(conn)
			}
			return withoutStatistics(conn, m)
		})(conn)
	})
	p, _, losses := newObservedProber(t, dsnOf(s))
	if r := runProbe(t, p, hanging); !r.Up() || p.keptNow() == nil {
		t.Fatalf("got %+v", r.Failure)
	}
	hang.Store(true)
	for len(conns) > 0 {
		_ = (<-conns).Close()
	}
	eventually(t, func() bool { return losses.Load() == 1 })
	before := s.Accepted()
	time.Sleep(2 * maxReopen)
	// One more connection may carry the cancel request of the session that hung.
	if n := losses.Load(); n != 1 || s.Accepted() > before+1 || p.keptNow() != nil {
		t.Errorf("%d losses, %d more connections, kept %v", n, s.Accepted()-before, p.keptNow() != nil)
	}
}

// TestReopenedSessionEndsToo checks that a crash counts as one loss, if the server accepts a login before it notices the crash
// and then ends the new session without a word, too.
func TestReopenedSessionEndsToo(t *testing.T) {
	t.Parallel()
	var (
		crashes atomic.Bool
		conns   = make(chan net.Conn, 100)
	)
	s := newFakeServer(t, func(conn net.Conn) {
		conns <- conn
		if crashes.CompareAndSwap(true, false) {
			time.AfterFunc(crashGrace/3, func() { _ = conn.Close() })
		}
		testservers.Converse(loginOK, withoutStatistics)(conn)
	})
	p, _, losses := newObservedProber(t, dsnOf(s))
	if r := runProbe(t, p, hanging); !r.Up() || p.keptNow() == nil {
		t.Fatalf("got %+v", r.Failure)
	}
	before := s.Accepted()
	crashes.Store(true)
	_ = (<-conns).Close()
	eventually(t, func() bool { return s.Accepted() > before })
	time.Sleep(2 * crashGrace)
	if r := runProbe(t, p, hanging); !r.Up() {
		t.Fatalf("got %+v", r.Failure)
	}
	eventually(t, func() bool { return losses.Load() > 0 })
	time.Sleep(crashGrace)
	if n := losses.Load(); n != 1 {
		t.Errorf("%d losses", n)
	}
}

// TestReplyAtDeadline checks that a session whose reply arrives at the deadline stays open, however late the goroutine
// that watches the deadline runs.
func TestReplyAtDeadline(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t, testservers.Converse(loginOK, func(net.Conn, pgproto3.FrontendMessage) []byte { return selectOne }))
	p := newTestProber(t, s.Port, "sslmode=disable")
	session, err := p.logins.open(t.Context(), &trace{}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer session.close(t.Context())
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		if err := session.run(ctx, smallBudget, func() error {
			cancel()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * replyGrace)
	if _, err := session.query(t.Context(), pingSQL, smallBudget); err != nil {
		t.Errorf("the session was closed: %v", err)
	}
}
