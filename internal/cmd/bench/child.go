// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// kind is what a child serves.
type kind string

const (
	kindBaseline kind = "baseline"
	kindTarget   kind = "target"   // the real binary's /probe: the target's own series
	kindExporter kind = "exporter" // its /metrics: with the exporter's own series, Go's and the process's
)

// What children that are this program again find in their environment. The server is in DATA_SOURCE_NAME, as it is for
// the exporter.
const (
	roleVariable    = "BENCH_CHILD"
	listenVariable  = "BENCH_LISTEN"
	figuresVariable = "BENCH_FIGURES"
)

const (
	startLimit = 10 * time.Second
	stopLimit  = 5 * time.Second
	// linesKept are shown when a child fails.
	linesKept = 10
)

// child is a program that is scraped.
type child struct {
	url    string
	cmd    *exec.Cmd
	end    context.CancelFunc
	exited chan struct{}

	mu    sync.Mutex // protects what follows: what the child wrote
	lines int
	last  []string
}

// start starts a child that asks the server on port, and waits until it listens. Its environment holds nothing else, so
// that no variable of libpq's or Go's changes what is measured.
func (b *bench) start(ctx context.Context, k kind, port int) (*child, error) {
	env := []string{"DATA_SOURCE_NAME=" + dataSourceName(port)}
	switch k {
	case kindBaseline:
		return launch(ctx, "/metrics", func(address string) (string, []string, []string) {
			return b.self, nil, append(env, roleVariable+"=1", listenVariable+"="+address, figuresVariable+"="+b.counts.figuresSQL)
		})
	case kindTarget:
		return b.startWithFile(ctx, "/probe?target=bench", fmt.Sprintf("targets: {bench: {dsn: %q}}", dataSourceName(port)))
	default:
		return launch(ctx, "/metrics", func(address string) (string, []string, []string) {
			return b.exporter, []string{"--web.listen-address=" + address}, env
		})
	}
}

// startWithFile starts the real binary with a configuration file.
func (b *bench) startWithFile(ctx context.Context, path, content string) (*child, error) {
	file := b.exporter + ".yml"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		return nil, err
	}
	return launch(ctx, path, func(address string) (string, []string, []string) {
		return b.exporter, []string{"--web.listen-address=" + address, "--config.file=" + file}, nil
	})
}

// launch starts a program that listens on an address, with nothing but these in its environment.
func launch(ctx context.Context, path string, program func(address string) (name string, args, env []string)) (*child, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(ctx)
	c := &child{url: "http://" + address + path, end: end, exited: make(chan struct{})}
	name, args, env := program(address)
	c.cmd = exec.CommandContext(life, name, args...)
	c.cmd.Env = append([]string{}, env...) // nil would be ours
	c.cmd.SysProcAttr = childAttributes()
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }
	c.cmd.WaitDelay = stopLimit
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		end()
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		end()
		return nil, err
	}
	go func() {
		for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
			c.wrote(scanner.Text())
		}
		_ = c.cmd.Wait() // whoever waits for an answer misses it
		close(c.exited)
	}()
	if err := c.listens(ctx, address); err != nil {
		c.stop()
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(name), err, c.output())
	}
	return c, nil
}

// listens waits until the child does.
func (c *child) listens(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-c.exited:
			return errors.New("ended before it listened")
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop ends the child, by force where it does not end by itself.
func (c *child) stop() {
	c.end()
	<-c.exited
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) wrote(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines++
	c.last = append(c.last, line)
	if len(c.last) > linesKept {
		c.last = c.last[1:]
	}
}

// written is the number of lines that the child wrote up to now.
func (c *child) written() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines
}

// output is the last that the child wrote.
func (c *child) output() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.last, "\n")
}

func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// runBaseline is this program as the baseline. It returns the exit code.
func runBaseline() int {
	fmt.Fprintln(os.Stderr, serveBaseline(os.Getenv(listenVariable), os.Getenv("DATA_SOURCE_NAME"), os.Getenv(figuresVariable)))
	return 1
}
