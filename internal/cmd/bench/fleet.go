// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"pg_liveness_exporter/internal/testservers"
)

const (
	// fleetTargets is the number of targets of a fleet. All are one server, which no real one could be.
	fleetTargets = 5000
	// fleetTime is how long the exporter's CPU time is measured.
	fleetTime = 2 * scrapeInterval
	// healthRequests is the number of requests for /health.
	healthRequests = 5
)

// fleet measures one exporter that probes very many targets by itself every 15 s. Their server replays what a real one
// said to the exporter, so that it costs little.
func (b *bench) fleet(ctx context.Context, out io.Writer) (err error) {
	talk, err := b.record(ctx)
	if err != nil {
		return fmt.Errorf("record a server: %w", err)
	}
	server, err := testservers.NewFakeServer(ctx, testservers.Converse(talk.greeting, talk.reply))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	file := fleetFile(server.Port)
	t := table{out: out}
	if err := b.fleetCheck(ctx, &t, file); err != nil {
		return err
	}
	child, err := b.startWithFile(ctx, "/metrics", file)
	if err != nil {
		return err
	}
	defer child.stop()
	before, err := residentMemory(child.pid())
	if err != nil {
		return err
	}
	if err := wait(ctx, 2*scrapeInterval); err != nil { // each target has been probed, and has its kept session
		return err
	}
	var took []time.Duration
	for range healthRequests {
		d, err := b.fleetHealth(ctx, child)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	slices.Sort(took)
	health := took[len(took)/2]
	spent, err := cpuTime(child.pid())
	if err != nil {
		return err
	}
	if err := wait(ctx, fleetTime); err != nil {
		return err
	}
	now, err := cpuTime(child.pid())
	if err != nil {
		return err
	}
	after, err := residentMemory(child.pid())
	if err != nil {
		return err
	}
	kib := (after.all - before.all) / fleetTargets >> 10
	share := 100 * (now - spent).Seconds() / fleetTime.Seconds()
	t.printf("memory of a target                 %10d KiB   aim <= 51 KiB%s\n", kib, mark(kib > 51))
	t.printf("share of one core                  %10.1f %%     aim <= 25 %%%s\n", share, mark(share > 25))
	t.printf("/health, median                    %10s   aim <= 100 ms%s\n", milliseconds(health), mark(health > 100*time.Millisecond))
	return t.err
}

// wait waits for a time, or returns the error of ctx if that ends before.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fleetFile returns a configuration with fleetTargets targets on one port.
func fleetFile(port int) string {
	var file strings.Builder
	fmt.Fprintf(&file, "defaults: {interval: %s, timeout: 10s}\ntargets:\n", scrapeInterval)
	for i := range fleetTargets {
		fmt.Fprintf(&file, "  server-%04d: {dsn: \"postgres://%s@127.0.0.1:%d/postgres?sslmode=disable\"}\n", i, role, port)
	}
	return file.String()
}

// fleetCheck measures how long the exporter takes to check a configuration.
func (b *bench) fleetCheck(ctx context.Context, t *table, content string) error {
	path := b.exporter + ".yml"
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, b.exporter, "--config.check", "--config.file="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("--config.check: %w: %s", err, out)
	}
	took := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	t.printf("%d targets, each probed every %s; the server is a replay, without TLS and password\n", fleetTargets, scrapeInterval)
	t.printf("--config.check, CPU time           %10s   aim <= 500 ms%s\n", milliseconds(took), mark(took > 500*time.Millisecond))
	return nil
}

// fleetHealth returns how long /health takes. All targets must pass.
func (b *bench) fleetHealth(ctx context.Context, child *child) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	url := strings.TrimSuffix(child.url, "/metrics") + "/health"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, fmt.Errorf("%w\n%s", err, child.output())
	}
	_, err = io.Copy(io.Discard, response.Body)
	took := time.Since(start)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return 0, err
	}
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("/health has status %s\n%s", response.Status, child.output())
	}
	return took, nil
}

// recording is what a server said to the exporter.
type recording struct {
	greeting []byte // after the startup message

	mu      sync.Mutex // protects replies
	replies map[string][]byte
}

// record lets the exporter probe a real server a few times, and returns what the server said.
func (b *bench) record(ctx context.Context) (r *recording, err error) {
	server, err := startServerWith(ctx, testservers.PostgresConfig{HBA: "host all all 127.0.0.1/32 trust"}, -1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Remove()) }()
	r = &recording{replies: make(map[string][]byte)}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port))
	between, err := testservers.NewFakeServer(ctx, func(conn net.Conn) { r.listen(ctx, conn, address) })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, between.Close()) }()
	child, err := b.start(ctx, kindTarget, between.Port)
	if err != nil {
		return nil, err
	}
	defer child.stop()
	return r, newClient().repeat(ctx, child, 5)
}

// listen forwards a session to the server and keeps what the server says, until one of them ends it. Errors are the client's
// to report.
func (r *recording) listen(ctx context.Context, client net.Conn, address string) {
	var dialer net.Dialer
	server, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	backend, frontend := pgproto3.NewBackend(client, client), pgproto3.NewFrontend(server, server)
	startup, err := backend.ReceiveStartupMessage()
	if err != nil {
		return
	}
	forward := func(m pgproto3.FrontendMessage) []byte {
		frontend.Send(m)
		if frontend.Flush() != nil {
			return nil
		}
		var said []byte
		for {
			m, err := frontend.Receive()
			if err != nil {
				return nil
			}
			if said, err = m.Encode(said); err != nil {
				return nil
			}
			if _, ready := m.(*pgproto3.ReadyForQuery); ready {
				_, _ = client.Write(said)
				return said
			}
		}
	}
	greeting := forward(startup)
	r.mu.Lock()
	r.greeting = greeting
	r.mu.Unlock()
	for {
		m, err := backend.Receive()
		if err != nil {
			return
		}
		query, ok := m.(*pgproto3.Query)
		if !ok {
			return
		}
		text := query.String
		said := forward(query)
		r.mu.Lock()
		r.replies[text] = said
		r.mu.Unlock()
	}
}

// reply returns what the server said to a query.
func (r *recording) reply(_ net.Conn, m pgproto3.FrontendMessage) []byte {
	query, ok := m.(*pgproto3.Query)
	if !ok {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if said, known := r.replies[query.String]; known {
		return said
	}
	return testservers.Wire(
		&pgproto3.ErrorResponse{Severity: "ERROR", Code: "0A000", Message: "the recording has no such query"},
		&pgproto3.ReadyForQuery{TxStatus: 'I'},
	)
}
