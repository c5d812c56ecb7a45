// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testservers"
)

const (
	// period is how often each of very many targets is asked in real life.
	period = 15 * time.Second
	// atOnce is how many clients ask where as much as possible is asked for.
	atOnce = 64
	// allTimes is how often all targets are asked in one scrape.
	allTimes = 5
	// servers is how many there are.
	servers = 10
)

// many measures one exporter with very many targets, each with sessions of its own. They are spread over some servers:
// a thousand in one would make it slow, since each looks at the sessions of all.
func (b *bench) many(ctx context.Context, out io.Writer) error {
	t := table{out: out}
	for _, encrypted := range []bool{false, true} {
		if err := b.manyOf(ctx, &t, encrypted); err != nil {
			return err
		}
	}
	return t.err
}

func (b *bench) manyOf(ctx context.Context, t *table, encrypted bool) (err error) {
	config := testservers.PostgresConfig{Settings: []string{"max_connections = 400", "shared_buffers = 16MB"}}
	mode, how := "disable", "without TLS"
	memoryAim, cpuAim := 60, 15
	if encrypted {
		mode, how, memoryAim, cpuAim = "require", "with TLS", 75, 20
		if config.Certificate, config.Key, err = certificate(); err != nil {
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
	t.printf("\n%s\n%8s  %22s  %22s  %14s  %16s  %14s  %s\n", how, "targets", "KiB/target by /probe", "after /metrics",
		"CPU per probe", "core, every 15 s", "/metrics wall", "pg_connect by /probe, /metrics")
	for _, n := range []int{10, 100, 1000} {
		m, err := b.measureMany(ctx, ports, n, mode)
		if err != nil {
			return fmt.Errorf("%d targets %s: %w", n, how, err)
		}
		share := 100 * m.cpu.Seconds() * float64(n) / period.Seconds()
		t.printf("%8d  %22s  %22s  %14s  %16s  %14s  %s\n", n,
			aimed(m.asked, memoryAim, n), aimed(m.shown, 130, n), m.cpu.Round(time.Microsecond),
			fmt.Sprintf("%.1f %%%s", share, mark(share > float64(cpuAim))), m.wall.Round(100*time.Microsecond), fmt.Sprint(m.connect[0], ", ", m.connect[1]))
	}
	if encrypted {
		return nil
	}
	return b.throughput(ctx, t, ports[:1])
}

func aimed(kib, aim, n int) string { return fmt.Sprintf("%d%s", kib, mark(n == 1000 && kib > aim)) }

func mark(bad bool) string {
	if bad {
		return missed
	}
	return ""
}

// manyTargets is what was measured of n targets.
type manyTargets struct {
	asked, shown int           // KiB a target, resident, above an exporter that was not asked anything
	cpu          time.Duration // of one probe by /probe
	wall         time.Duration // of /metrics, the median
	// connect is how long a login took by the exporter's own histogram, the mean: targets one after the other, and all at
	// once.
	connect [2]time.Duration
}

func manyFile(n int, ports []int, mode string) string {
	var file strings.Builder
	fmt.Fprintf(&file, "defaults: {user: %s, password: %s, sslmode: %s, timeout: 10s}\ntargets:\n", role, password, mode)
	for i := range n {
		fmt.Fprintf(&file, "  server-%04d: {host: 127.0.0.1, port: %d}\n", i, ports[i%len(ports)])
	}
	return file.String()
}

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
		if err := askEach(ctx, child, n, 4); err != nil {
			return m, err
		}
	}
	spent, err := cpuTime(child.pid())
	if err != nil {
		return m, err
	}
	rounds := max(1, 1000/n)
	for range rounds {
		if err := askEach(ctx, child, n, 1); err != nil {
			return m, err
		}
	}
	time.Sleep(settle)
	now, err := cpuTime(child.pid())
	if err != nil {
		return m, err
	}
	m.cpu = (now - spent) / time.Duration(n*rounds)
	after, err := residentMemory(child.pid())
	if err != nil {
		return m, err
	}
	m.asked = (after.all - before.all) / n >> 10
	client := newClient()
	var (
		walls  []time.Duration
		sums   [allTimes]float64
		counts [allTimes]int
	)
	for i := range allTimes {
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
	last := allTimes - 1
	m.connect[0] = mean(sums[0], counts[0]) // nearly all of it asked through /probe
	m.connect[1] = mean(sums[last]-sums[0], counts[last]-counts[0])
	slices.Sort(walls)
	m.wall = walls[len(walls)/2]
	if after, err = residentMemory(child.pid()); err != nil {
		return m, err
	}
	m.shown = (after.all - before.all) / n >> 10
	return m, nil
}

// connects sums up what the exporter's histograms of all targets say.
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

// throughput compares /probe of as many targets at once with a loop that only connects and runs SELECT 1. Answers are not
// compressed: unpacking them here would take the CPU time from the exporter.
func (b *bench) throughput(ctx context.Context, t *table, ports []int) error {
	const each = 40
	loop := func() error {
		cfg, err := pgconn.ParseConfig(dataSourceName(ports[0]))
		if err != nil {
			return err
		}
		return atTheSameTime(func(int) error {
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
	child, err := b.startWithFile(ctx, "/metrics", manyFile(atOnce, ports, "disable"))
	if err != nil {
		return err
	}
	defer child.stop()
	base := strings.TrimSuffix(child.url, "/metrics")
	probes := func() error {
		return atTheSameTime(func(i int) error {
			client := newClient()
			for range each {
				if _, _, err := client.scrapeURL(ctx, child, fmt.Sprintf("%s/probe?target=server-%04d", base, i), false); err != nil {
					return err
				}
			}
			return nil
		})
	}
	var took [2]time.Duration
	for round := range 4 { // the first one is not measured
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
	rate := func(d time.Duration) float64 { return 3 * each * atOnce / d.Seconds() }
	ratio := rate(took[1]) / rate(took[0])
	t.printf("\n%d clients at once: /probe %.0f/s, connect + SELECT 1 alone %.0f/s, ratio %.2f, aim >= 0.8%s\n",
		atOnce, rate(took[1]), rate(took[0]), ratio, mark(ratio < .8))
	return nil
}

func atTheSameTime(work func(i int) error) error {
	errs := make([]error, atOnce)
	var all sync.WaitGroup
	for i := range atOnce {
		all.Go(func() { errs[i] = work(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// certificate is one for the server, made for the occasion.
func certificate() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}

// askEach asks for each target through /probe once, so many at a time.
func askEach(ctx context.Context, child *child, n, parallel int) error {
	targets := make(chan int)
	go func() {
		defer close(targets)
		for i := range n {
			targets <- i
		}
	}()
	base := strings.TrimSuffix(child.url, "/metrics")
	errs := make([]error, parallel)
	var clients sync.WaitGroup
	for p := range parallel {
		clients.Go(func() {
			client := newClient()
			for i := range targets {
				url := fmt.Sprintf("%s/probe?target=server-%04d", base, i)
				if _, _, err := client.scrapeURL(ctx, child, url, true); err != nil {
					errs[p] = errors.Join(errs[p], err)
				}
			}
		})
	}
	clients.Wait()
	return errors.Join(errs...)
}
