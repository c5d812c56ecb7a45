// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials"
	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

var update = flag.Bool("update", false, "record the sessions of testdata/sessions anew, on real servers")

// recording is what a real server sent in a session: its reply to the login, and then to each thing that the client
// said.
type recording [][]message

// message is one message of a server's: its type and its body.
type message struct {
	Type byte
	Body []byte
}

// split takes a reply apart. What is no whole message is left out.
func split(reply []byte) []message {
	var all []message
	for len(reply) >= 5 {
		length := int(binary.BigEndian.Uint32(reply[1:])) + 1
		if length < 5 || length > len(reply) {
			break
		}
		all = append(all, message{reply[0], slices.Clone(reply[5:length])})
		reply = reply[length:]
	}
	return all
}

func (m message) append(out []byte) []byte {
	out = append(out, m.Type)
	out = binary.BigEndian.AppendUint32(out, uint32(len(m.Body)+4))
	return append(out, m.Body...)
}

func readRecording(t testing.TB, kind config.Kind) recording {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "sessions", string(kind)+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var r recording
	if err := json.Unmarshal(content, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRecordings: what was recorded makes a probe succeed when it is played again, so that what the fuzzer changes is
// near to what servers say.
func TestRecordings(t *testing.T) {
	t.Parallel()
	for _, kind := range []config.Kind{config.KindPostgres, config.KindPgBouncer} {
		if *update {
			record(t, kind)
		}
		p, stop := play(t, kind, readRecording(t, kind))
		for range 2 {
			r := runProbe(t, p, hanging)
			if !r.Up() || !r.KeptUp || r.ServerStats == nil && r.PoolerStats == nil {
				t.Errorf("%s: got %+v, figures %+v", kind, r.Failure, r.StatsFailure)
			}
		}
		stop()
	}
}

// record writes what a real server says in the first session of two probes.
func record(t *testing.T, kind config.Kind) {
	t.Helper()
	var port int
	switch kind {
	case config.KindPgBouncer:
		b, err := testservers.NewPgBouncer(t.Context(), testservers.PgBouncerConfig{
			Bin: testenv.Tool(t, "PGBOUNCER_NEWER", "pgbouncer"), Databases: []string{"app = host=127.0.0.1"}, Settings: []string{"auth_type = trust"},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = b.Remove() }()
		port = b.Port
	default:
		s, err := testservers.NewPostgres(t.Context(), testservers.PostgresConfig{Bin: testenv.Bin(t), HBA: "host all all 127.0.0.1/32 trust"})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Remove() }()
		port = s.Port
	}
	var (
		mu       sync.Mutex // protects recorded
		recorded recording
		once     sync.Once
	)
	proxy := newFakeServer(t, func(client net.Conn) {
		server, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)) //nolint:noctx // ends with the test's servers
		if err != nil {
			return
		}
		defer func() { _ = server.Close() }()
		isFirst := false
		once.Do(func() { isFirst = true })
		go func() {
			buffer := make([]byte, 64<<10)
			for {
				n, err := client.Read(buffer)
				if err != nil {
					_ = server.Close()
					return
				}
				mu.Lock()
				if isFirst {
					recorded = append(recorded, nil)
				}
				mu.Unlock()
				_, _ = server.Write(buffer[:n])
			}
		}()
		buffer := make([]byte, 256<<10) // more than any reply, so that none comes in two parts
		for {
			time.Sleep(20 * time.Millisecond)
			n, err := server.Read(buffer)
			if err != nil {
				return
			}
			mu.Lock()
			if isFirst {
				recorded[len(recorded)-1] = append(recorded[len(recorded)-1], split(buffer[:n])...)
			}
			mu.Unlock()
			_, _ = client.Write(buffer[:n])
		}
	})
	p := newTestProberOf(t, kind, proxy.port, 0)
	for range 2 {
		if r := runProbe(t, p, hanging); !r.Up() {
			t.Fatalf("got %+v", r.Failure)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	content, err := json.Marshal(recorded)
	if err == nil {
		err = os.WriteFile(filepath.Join("testdata", "sessions", string(kind)+".json"), append(content, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// newTestProberOf returns a prober of a kind of server, which stands for PostgreSQL's superuser.
func newTestProberOf(t testing.TB, kind config.Kind, port int, timeout time.Duration) *Prober {
	t.Helper()
	target, err := config.FromEnvironment(func(name string) string {
		if name == "DATA_SOURCE_NAME" {
			return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable", port, testservers.Superuser, kind)
		}
		return ""
	}, config.Probing{Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	target.Kind = kind
	options := Options{Keep: true, Sessions: &Sessions{}, OnSessionLost: func(LossReason, time.Time) {}}
	p := New(target, credentials.NewStore(t.Context()).For(target), options)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), hanging)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		if n := options.Sessions.InUse() + options.Sessions.Idle(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
	return p
}

// play starts a server that says in every session what r holds, and returns a prober of it. stop ends all sessions at
// once.
func play(t testing.TB, kind config.Kind, r recording) (p *Prober, stop func()) {
	t.Helper()
	ended, end := context.WithCancel(context.Background())
	s := newFakeServer(t, func(conn net.Conn) {
		defer context.AfterFunc(ended, func() { _ = conn.Close() })()
		buffer := make([]byte, 64<<10)
		for _, reply := range r {
			if _, err := conn.Read(buffer); err != nil {
				return
			}
			var out []byte
			for _, m := range reply {
				if m.Type == hangUp {
					_, _ = conn.Write(out)
					return
				}
				out = m.append(out)
			}
			if _, err := conn.Write(out); err != nil {
				return
			}
		}
		_, _ = io.Copy(io.Discard, conn)
	})
	return newTestProberOf(t, kind, s.port, time.Second), end
}

// hangUp stands for a message where the server hangs up.
const hangUp = 0

// mutate changes a recording as the bytes say, four for a change: where, what, and how.
func (r recording) mutate(changes []byte) recording {
	changed := make(recording, len(r))
	for i, reply := range r {
		changed[i] = slices.Clone(reply)
	}
	kinds := "RKSZTDCENAIGHWVnst123cdv"
	for ; len(changes) >= 4 && len(changed) > 0; changes = changes[4:] {
		reply := &changed[int(changes[0])%len(changed)]
		at, how := 0, int(changes[3])
		if len(*reply) > 0 {
			at = int(changes[1]) % len(*reply)
		}
		operation := changes[2] % 10
		if len(*reply) == 0 && operation > 1 {
			continue
		}
		switch operation {
		case 0: // another message, with a body as it is or none
			m := message{kinds[how%len(kinds)], nil}
			if how >= 128 && len(*reply) > 0 {
				m.Body = (*reply)[at].Body
			}
			*reply = slices.Insert(*reply, at, m)
		case 1:
			*reply = slices.Insert(*reply, at, message{Type: hangUp})
		case 2:
			*reply = slices.Delete(*reply, at, at+1)
		case 3: // many of the same
			*reply = slices.Insert(*reply, at, slices.Repeat((*reply)[at:at+1], 1<<(how%12))...)
		case 4: // the order
			other := how % len(*reply)
			(*reply)[at], (*reply)[other] = (*reply)[other], (*reply)[at]
		case 5: // a body cut short
			m := &(*reply)[at]
			m.Body = slices.Clone(m.Body[:min(len(m.Body), how)])
		case 6: // a longer one
			m := &(*reply)[at]
			m.Body = append(slices.Clone(m.Body), make([]byte, how)...)
		case 7: // a byte, mostly a count or a code
			m := &(*reply)[at]
			if len(m.Body) > 0 {
				m.Body = slices.Clone(m.Body)
				m.Body[int(changes[1])%len(m.Body)] = changes[3]
			}
		case 8: // another type
			(*reply)[at].Type = kinds[how%len(kinds)]
		case 9: // what belongs to another turn
			*reply = append(*reply, changed[how%len(changed)]...)
		}
	}
	return changed
}

// FuzzServerBytes: whatever a server makes of a session, a probe ends in time, the process goes on, and nothing is
// left.
func FuzzServerBytes(f *testing.F) {
	f.Add(false, []byte{})
	// The exchange that makes pgconn panic: RowDescription, ReadyForQuery, ReadyForQuery, in answer to SELECT 1 and
	// later.
	for turn := range byte(6) {
		f.Add(false, []byte{turn, 1, 8, 3, turn, 2, 8, 3})
		f.Add(true, []byte{turn, 1, 8, 3, turn, 2, 8, 3})
	}
	for operation := range byte(10) {
		f.Add(false, []byte{0, 3, operation, 200, 2, 1, operation, 7})
		f.Add(true, []byte{1, 2, operation, 100, 3, 0, operation, 3})
	}
	recordings := map[bool]recording{
		false: readRecording(f, config.KindPostgres), true: readRecording(f, config.KindPgBouncer),
	}
	kinds := map[bool]config.Kind{false: config.KindPostgres, true: config.KindPgBouncer}
	f.Fuzz(func(t *testing.T, pgbouncer bool, changes []byte) {
		start := time.Now()
		defer func() {
			if d := time.Since(start); d > time.Second {
				t.Errorf("took %s", d)
			}
		}()
		p, stop := play(t, kinds[pgbouncer], recordings[pgbouncer].mutate(changes))
		for range 2 {
			runProbe(t, p, 25*time.Millisecond)
		}
		if !pgbouncer {
			ctx, cancel := context.WithTimeout(t.Context(), 25*time.Millisecond)
			_, _ = p.Query(ctx, "SELECT 2", 25*time.Millisecond)
			cancel()
		}
		stop()
		ctx, cancel := context.WithTimeout(context.Background(), hanging)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}
