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
	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

var update = flag.Bool("update", false, "record testdata/sessions again from real servers")

// recording is what a real server sent in a session: its reply to the login, and then to each chunk from the client.
type recording [][]message

// message is one message of a server: its type and its body.
type message struct {
	Type byte
	Body []byte
}

// split splits a reply into messages. It drops incomplete ones.
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

// TestRecordings checks that probes of the recorded sessions succeed, so that the fuzzer starts from what real servers
// send.
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
				t.Errorf("%s: got %+v, statistics %+v", kind, r.Failure, r.StatsFailure)
			}
		}
		stop()
	}
}

// record writes to testdata what a real server sends in the first session of two probes.
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
		server, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)) //nolint:noctx // ends when the test's servers are removed
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
		buffer := make([]byte, 256<<10) // larger than any reply, so that none is split
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
	p := newTestProberOf(t, kind, superuserDSN(kind, proxy.Port), nil)
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

// superuserDSN names a local server, for PostgreSQL's superuser.
func superuserDSN(kind config.Kind, port int) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable", port, testservers.Superuser, kind)
}

// play starts a server that sends r in every session, and returns a prober of it. stop ends all sessions.
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
	p = newTestProberOf(t, kind, superuserDSN(kind, s.Port), nil)
	p.target.Timeout = time.Second
	return p, end
}

// hangUp is the type of a message at which the server closes the connection instead.
const hangUp = 0

// mutate returns a changed copy of r. Each change takes four bytes: the reply, the message, the operation and its
// argument. There are at most 16 changes: some of them double a reply.
func (r recording) mutate(changes []byte) recording {
	changes = changes[:min(len(changes), 4*16)]
	changed := make(recording, len(r))
	for i, reply := range r {
		changed[i] = slices.Clone(reply)
	}
	kinds := "RKSZTDCENAIGHWVnst123cdv"
	for ; len(changes) >= 4 && len(changed) > 0; changes = changes[4:] {
		reply := &changed[int(changes[0])%len(changed)]
		if len(*reply) > 1<<14 {
			continue
		}
		at, how := 0, int(changes[3])
		if len(*reply) > 0 {
			at = int(changes[1]) % len(*reply)
		}
		operation := changes[2] % 10
		if len(*reply) == 0 && operation > 1 {
			continue
		}
		switch operation {
		case 0: // insert a message, with the body of an existing one or none
			m := message{kinds[how%len(kinds)], nil}
			if how >= 128 && len(*reply) > 0 {
				m.Body = (*reply)[at].Body
			}
			*reply = slices.Insert(*reply, at, m)
		case 1:
			*reply = slices.Insert(*reply, at, message{Type: hangUp})
		case 2:
			*reply = slices.Delete(*reply, at, at+1)
		case 3: // repeat a message
			*reply = slices.Insert(*reply, at, slices.Repeat((*reply)[at:at+1], 1<<(how%12))...)
		case 4: // swap two messages
			other := how % len(*reply)
			(*reply)[at], (*reply)[other] = (*reply)[other], (*reply)[at]
		case 5: // shorten a body
			m := &(*reply)[at]
			m.Body = slices.Clone(m.Body[:min(len(m.Body), how)])
		case 6: // lengthen a body
			m := &(*reply)[at]
			m.Body = append(slices.Clone(m.Body), make([]byte, how)...)
		case 7: // change a byte, which is often a count or a code
			m := &(*reply)[at]
			if len(m.Body) > 0 {
				m.Body = slices.Clone(m.Body)
				m.Body[int(changes[1])%len(m.Body)] = changes[3]
			}
		case 8: // change a message's type
			(*reply)[at].Type = kinds[how%len(kinds)]
		case 9: // append another reply
			*reply = append(*reply, changed[how%len(changed)]...)
		}
	}
	return changed
}

// FuzzServerBytes checks that a probe ends in time, does not crash, and leaves nothing behind, whatever the server
// sends.
func FuzzServerBytes(f *testing.F) {
	f.Add(false, []byte{})
	// The reply that makes pgconn panic is RowDescription, ReadyForQuery, ReadyForQuery. It is sent to SELECT 1 and
	// later statements.
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
			if d := time.Since(start); d > hanging {
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
