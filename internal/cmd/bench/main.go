// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Bench compares the cost of a scrape with a baseline: a program that does only what every such exporter has to do (see
// baseline.go). Both run as children of this program and probe a throwaway PostgreSQL server. They are scraped in
// turns, so that other load on the machine affects both in the same way: compare the ratios of one run.
//
//	go run ./internal/cmd/bench        # takes less than two minutes
//	go run ./internal/cmd/bench -long  # also measures memory after 20,000 scrapes
//	go run ./internal/cmd/bench -many  # measures 10, 100 and 1,000 targets in one exporter
//	go run ./internal/cmd/bench -fleet # measures 5,000 targets that the exporter probes by itself
//	go run ./internal/cmd/bench -peers # also measures postgres_exporter: $POSTGRES_EXPORTER, or the one in $PATH
//
// Bench is not a test. It exits with 0 whatever it measures, and with 1 if it could not measure.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"pg_liveness_exporter/internal/testservers"
)

func main() {
	if os.Getenv(roleVariable) != "" {
		os.Exit(runBaseline())
	}
	rounds := flag.Int("n", 400, "measure this many `scrapes` of each kind")
	long := flag.Bool("long", false, fmt.Sprintf("also measure memory after %d scrapes; takes minutes", maxScrapes))
	scale := flag.Bool("many", false, "measure 10, 100 and 1,000 targets instead of one")
	peers := flag.Bool("peers", false, "also measure postgres_exporter: $POSTGRES_EXPORTER, or the one in $PATH")
	fleet := flag.Bool("fleet", false, fmt.Sprintf("measure %d targets that the exporter probes by itself", fleetTargets))
	binary := flag.String("exporter", "", "measure this `binary` instead of a new build")
	flag.Parse()
	signal.Ignore(syscall.SIGPIPE) // if the reader of the output has gone, the server must still be removed
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, &options{*rounds, *long, *scale, *fleet, *peers, *binary})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	rounds                    int
	long, scale, fleet, peers bool
	binary                    string
}

// run measures everything and prints it to out.
func run(ctx context.Context, out io.Writer, o *options) (err error) {
	if o.rounds < 1 {
		return errors.New("-n must be at least 1")
	}
	folder, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	b, err := build(ctx, folder)
	if err != nil {
		return err
	}
	if o.binary != "" {
		b.exporter = o.binary
	}
	if o.peers {
		if b.peer, err = exec.LookPath(cmp.Or(os.Getenv("POSTGRES_EXPORTER"), "postgres_exporter")); err != nil {
			return err
		}
	}
	if o.scale {
		return b.many(ctx, out)
	}
	if o.fleet {
		return b.fleet(ctx, out)
	}
	server, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Remove()) }()
	version, err := server.Query(ctx, "SHOW server_version")
	if err != nil {
		return err
	}
	b.port = server.Port

	t := table{out: out}
	t.printf(`PostgreSQL %s on 127.0.0.1, scram-sha-256, sslmode=disable for the exporter and the baseline; %s, %d CPUs.
The baseline does this for each request: it logs in and runs SELECT 1; at the same time, on an open session, it runs
SELECT 1 and the statistics statement; it shows one gauge.
Measured: %d scrapes of each kind, in turns, after %d. CPU time is user and system time of all threads of the client.

`, version[0], runtime.Version(), runtime.NumCPU(), o.rounds, warmUp)
	if b.counts, err = b.count(ctx); err != nil {
		return fmt.Errorf("count messages: %w", err)
	}
	t.counts(&b.counts)
	times, err := b.measureTimes(ctx, o.rounds)
	if err != nil {
		return fmt.Errorf("measure times: %w", err)
	}
	t.times(times)
	if o.peers {
		t.peer(times)
	}
	memory, err := b.measureMemory(ctx, o.long)
	if err != nil {
		return fmt.Errorf("measure memory: %w", err)
	}
	t.memory(memory)
	return t.err
}

// bench holds what the measurements have in common.
type bench struct {
	self, exporter string // paths of the binaries
	peer           string // path of postgres_exporter, empty if it is not measured
	port           int    // of the server
	counts         counts
}

// build builds the exporter and this program into folder, with the flags of a release.
func build(ctx context.Context, folder string) (*bench, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w",
		"-o", folder, ".", "./internal/cmd/bench")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build in the folder of the repository: %w\n%s", err, out)
	}
	return &bench{self: filepath.Join(folder, "bench"), exporter: filepath.Join(folder, "pg_liveness_exporter")}, nil
}

// The role of the exporter and the baseline.
const (
	role     = "bench"
	password = "bench"
)

// startServer starts a server for one target. The caller removes it.
func startServer(ctx context.Context) (*testservers.Postgres, error) {
	return startServerWith(ctx, testservers.PostgresConfig{}, 10)
}

// startServerWith starts a server with the role, whose CONNECTION LIMIT is limit. The caller removes the server.
func startServerWith(ctx context.Context, c testservers.PostgresConfig, limit int) (*testservers.Postgres, error) {
	bin, err := testservers.FindPostgres()
	if err != nil {
		return nil, err
	}
	c.Bin = bin
	server, err := testservers.NewPostgres(ctx, c)
	if err != nil {
		return nil, err
	}
	err = server.Exec(ctx, fmt.Sprintf(
		"CREATE ROLE %s LOGIN PASSWORD '%s' CONNECTION LIMIT %d; GRANT pg_monitor TO %[1]s", role, password, limit))
	if err != nil {
		return nil, errors.Join(err, server.Remove())
	}
	return server, nil
}

// dataSourceName returns the connection string of the role for the server on port.
func dataSourceName(port int) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=postgres sslmode=disable", port, role, password)
}
