// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testservers"
)

const (
	// scrapeInterval is the assumed time between two probes of a target.
	scrapeInterval = 15 * time.Second
	// clients is the number of concurrent clients that measure throughput.
	clients = 64
	// metricsScrapes is the number of scrapes of /metrics.
	metricsScrapes = 5
	// servers is the number of servers.
	servers = 10
	// maxTargets is the largest number of targets. The aims for memory are for this number.
	maxTargets = 1000
)

// many measures one exporter with many targets, without and with TLS. The targets are spread over several servers,
// because the statistics statement reads all sessions of a server: a thousand targets would make a single server slow.
func (b *bench) many(ctx context.Context, out io.Writer) error {
	t := table{out: out}
	for _, encrypted := range []bool{false, true} {
		if err := b.manyOf(ctx, &t, encrypted); err != nil {
			return err
		}
	}
	return t.err
}

// manyOf measures the same with or without TLS.
func (b *bench) manyOf(ctx context.Context, t *table, encrypted bool) (err error) {
	config := testservers.PostgresConfig{Settings: []string{"max_connections = 400", "shared_buffers = 16MB"}}
	mode, how := "disable", "without TLS"
	memoryAim, cpuAim := 60, 15
	if encrypted {
		mode, how, memoryAim, cpuAim = "require", "with TLS", 75, 20
		if config.Certificate, config.Key, err = testservers.NewCertificate(); err != nil {
			return err
		}
	}
	var ports []int
	for range servers {
		server, err := startServerWith(ctx, config, -1)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.Remove()) }()
		ports = append(ports, server.Port)
	}
	t.printf("\n%s\n%8s  %22s  %22s  %14s  %16s  %14s  %s\n", how, "targets", "KiB/target, /probe", "after /metrics",
		"CPU per probe", "core, every 15 s", "/metrics wall", "login by /probe, /metrics")
	for _, n := range []int{10, 100, maxTargets} {
		m, err := b.measureMany(ctx, ports, n, mode)
		if err != nil {
			return fmt.Errorf("%d targets %s: %w", n, how, err)
		}
		share := 100 * m.cpu.Seconds() * float64(n) / scrapeInterval.Seconds()
		t.printf("%8d  %22s  %22s  %14s  %16s  %14s  %s\n", n,
			withAim(m.probed, memoryAim, n), withAim(m.scraped, 130, n), m.cpu.Round(time.Microsecond),
			fmt.Sprintf("%.1f %%%s", share, mark(share > float64(cpuAim))), m.wall.Round(100*time.Microsecond),
			fmt.Sprint(m.connect[0], ", ", m.connect[1]))
	}
	if encrypted {
		return nil
	}
	return b.throughput(ctx, t, ports[:1])
}

// withAim formats the memory of one of n targets and marks it if it is above aim.
func withAim(kib, aim, n int) string {
	return fmt.Sprintf("%d%s", kib, mark(n == maxTargets && kib > aim))
}

// mark returns a mark for a bad measurement, else nothing.
func mark(bad bool) string {
	if bad {
		return missed
	}
	return ""
}

// manyTargets is what was measured with n targets.
type manyTargets struct {
	// probed and scraped are KiB of resident memory for each target, above that of an exporter before its first request:
	// after requests for /probe, and after those for /metrics.
	probed, scraped int
	cpu             time.Duration // of one /probe
	wall            time.Duration // of /metrics, median
	// connect is the mean time of a login by the exporter's histogram: by /probe, which probes one target after another,
	// and by /metrics, which probes all at once.
	connect [2]time.Duration
}

// manyFile returns a configuration with n targets on the servers on ports.
func manyFile(n int, ports []int, mode string) string {
	var file strings.Builder
	fmt.Fprintf(&file, "defaults: {user: %s, password: %s, sslmode: %s, timeout: 10s}\ntargets:\n", role, password, mode)
	for i := range n {
		fmt.Fprintf(&file, "  server-%04d: {host: 127.0.0.1, port: %d}\n", i, ports[i%len(ports)])
	}
	return file.String()
}

// measureMany starts an exporter with n targets and measures it.
func (b *bench) measureMany(ctx context.Context, ports []int, n int, mode string) (m manyTargets, err error) {
	child, err := b.startWithFile(ctx, "/metrics", manyFile(n, ports, mode))
	if err != nil {
		return m, err
	}
	defer child.stop()
	before, err := residentMemory(child.pid())
	if err != nil {
		return m, err
	}
	for range 2 { // the first round opens the kept sessions
		if err := probeEach(ctx, child, n, 4); err != nil {
			return m, err
		}
	}
	spent, err := cpuTime(child.pid())
	if err != nil {
		return m, err
	}
	rounds := max(1, 1000/n)
	for range rounds {
		if err := probeEach(ctx, child, n, 1); err != nil {
			return m, err
		}
	}
	time.Sleep(settleTime)
	now, err := cpuTime(child.pid())
	if err != nil {
		return m, err
	}
	m.cpu = (now - spent) / time.Duration(n*rounds)
	after, err := residentMemory(child.pid())
	if err != nil {
		return m, err
	}
	m.probed = (after.all - before.all) / n >> 10
	client := newClient()
	var (
		walls  []time.Duration
		sums   [metricsScrapes]float64
		counts [metricsScrapes]int
	)
	for i := range metricsScrapes {
		took, _, err := client.scrape(ctx, child, true)
		if err != nil {
			return m, err
		}
		walls = append(walls, took)
		if sums[i], counts[i], err = connects(client.text); err != nil {
			return m, err
		}
	}
	mean := func(sum float64, count int) time.Duration {
		return time.Duration(sum / float64(count) * float64(time.Second)).Round(10 * time.Microsecond)
	}
	last := metricsScrapes - 1
	m.connect[0] = mean(sums[0], counts[0]) // nearly all by /probe
	m.connect[1] = mean(sums[last]-sums[0], counts[last]-counts[0])
	slices.Sort(walls)
	m.wall = walls[len(walls)/2]
	if after, err = residentMemory(child.pid()); err != nil {
		return m, err
	}
	m.scraped = (after.all - before.all) / n >> 10
	return m, nil
}

// connects returns the sum, in seconds, and the count of logins in the histograms of all targets.
func connects(text []byte) (sum float64, count int, err error) {
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		v, parseErr := strconv.ParseFloat(value, 64)
		switch {
		case strings.HasPrefix(name, "pg_connect_duration_seconds_sum"):
			sum += v
		case strings.HasPrefix(name, "pg_connect_duration_seconds_count"):
			count += int(v)
		case strings.HasPrefix(name, "pg_up{") && v != 1:
			return 0, 0, errors.New("a target is down")
		default:
			continue
		}
		err = errors.Join(err, parseErr)
	}
	return sum, count, err
}

// throughput compares concurrent requests for /probe with loops that only log in and run SELECT 1. Responses are not
// compressed, because decompression here would take CPU time from the exporter.
func (b *bench) throughput(ctx context.Context, t *table, ports []int) error {
	const each = 40
	loop := func() error {
		cfg, err := pgconn.ParseConfig(dataSourceName(ports[0]))
		if err != nil {
			return err
		}
		return concurrently(func(int) error {
			for range each {
				conn, err := pgconn.ConnectConfig(ctx, cfg)
				if err != nil {
					return err
				}
				_, err = conn.Exec(ctx, "SELECT 1").ReadAll()
				if err := errors.Join(err, conn.Close(ctx)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	child, err := b.startWithFile(ctx, "/metrics", manyFile(clients, ports, "disable"))
	if err != nil {
		return err
	}
	defer child.stop()
	base := strings.TrimSuffix(child.url, "/metrics")
	probes := func() error {
		return concurrently(func(i int) error {
			client := newClient()
			for range each {
				url := fmt.Sprintf("%s/probe?target=server-%04d", base, i)
				if _, _, err := client.scrapeURL(ctx, child, url, false); err != nil {
					return err
				}
			}
			return nil
		})
	}
	var took [2]time.Duration
	for round := range 4 { // the first round is not measured
		for i, work := range []func() error{loop, probes} {
			start := time.Now()
			if err := work(); err != nil {
				return err
			}
			if round > 0 {
				took[i] += time.Since(start)
			}
		}
	}
	rate := func(d time.Duration) float64 { return 3 * each * clients / d.Seconds() }
	ratio := rate(took[1]) / rate(took[0])
	t.printf("\n%d clients: /probe %.0f/s, login and SELECT 1 only %.0f/s, ratio %.2f, aim >= 0.8%s\n",
		clients, rate(took[1]), rate(took[0]), ratio, mark(ratio < .8))
	return nil
}

// concurrently calls work in as many goroutines as there are clients, and returns all errors.
func concurrently(work func(i int) error) error {
	errs := make([]error, clients)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() { errs[i] = work(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// probeEach requests /probe once for each of n targets, with parallel requests at a time.
func probeEach(ctx context.Context, child *child, n, parallel int) error {
	targets := make(chan int)
	go func() {
		defer close(targets)
		for i := range n {
			targets <- i
		}
	}()
	base := strings.TrimSuffix(child.url, "/metrics")
	errs := make([]error, parallel)
	var running sync.WaitGroup
	for p := range parallel {
		running.Go(func() {
			client := newClient()
			for i := range targets {
				url := fmt.Sprintf("%s/probe?target=server-%04d", base, i)
				if _, _, err := client.scrapeURL(ctx, child, url, true); err != nil {
					errs[p] = errors.Join(errs[p], err)
				}
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}
