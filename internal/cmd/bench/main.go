// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Bench measures what a scrape of the exporter costs, against a baseline: a program that does nothing but what no such
// exporter can leave out (see baseline.go). Both run as children of this one, against a throwaway PostgreSQL server, and
// are scraped in turns, so that whatever else the machine does meets both alike: look at the ratios of one run.
//
//	go run ./internal/cmd/bench        # less than two minutes
//	go run ./internal/cmd/bench -long  # also memory after 20,000 scrapes
//	go run ./internal/cmd/bench -many  # 10, 100 and 1,000 targets in one exporter
//
// It is a measurement and no test: it ends with 0 whatever it finds, and with 1 only when it could not measure.
package main

import (
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
	rounds := flag.Int("n", 400, "scrapes of each kind to measure")
	long := flag.Bool("long", false, fmt.Sprintf("also read memory after %d scrapes, which takes minutes", maxScrapes))
	scale := flag.Bool("many", false, "measure 10, 100 and 1,000 targets instead of one")
	binary := flag.String("exporter", "", "measure this `binary` and not a build of the folder")
	flag.Parse()
	signal.Ignore(syscall.SIGPIPE) // whoever reads us may go, the server must still be removed
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, *rounds, *long, *scale, *binary)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures everything and prints it to out.
func run(ctx context.Context, out io.Writer, rounds int, long, scale bool, binary string) (err error) {
	if rounds < 1 {
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
	if binary != "" {
		b.exporter = binary
	}
	if scale {
		return b.many(ctx, out)
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
The baseline, in one request: login and SELECT 1; beside it SELECT 1 and the figures on an open session; shows one gauge.
%d scrapes of each kind, in turns, after %d; CPU time is user and system of all threads, on the client's side alone.

`, version[0], runtime.Version(), runtime.NumCPU(), rounds, warmUp)
	if b.counts, err = b.count(ctx); err != nil {
		return fmt.Errorf("count messages: %w", err)
	}
	t.counts(&b.counts)
	times, err := b.times(ctx, rounds)
	if err != nil {
		return fmt.Errorf("measure times: %w", err)
	}
	t.times(times)
	memory, err := b.memory(ctx, long)
	if err != nil {
		return fmt.Errorf("measure memory: %w", err)
	}
	t.memory(memory)
	return t.err
}

// bench is what the measurements need to know.
type bench struct {
	self, exporter string // binaries
	port           int    // the server's
	counts         counts
}

// build builds the exporter the way it is released, and this program in the same way, so that the children compare.
func build(ctx context.Context, folder string) (*bench, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w",
		"-o", folder, ".", "./internal/cmd/bench")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build in the repository's folder: %w\n%s", err, out)
	}
	return &bench{self: filepath.Join(folder, "bench"), exporter: filepath.Join(folder, "pg_liveness_exporter")}, nil
}

// The role that is asked as; README.md says how to create one.
const (
	role     = "bench"
	password = "bench"
)

func startServer(ctx context.Context) (*testservers.Postgres, error) {
	return startServerWith(ctx, testservers.PostgresConfig{}, 10)
}

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

func dataSourceName(port int) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=postgres sslmode=disable", port, role, password)
}
