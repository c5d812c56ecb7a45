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

// kind is a kind of scrape.
type kind string

const (
	kindBaseline kind = "baseline"
	kindTarget   kind = "target"   // /probe of the exporter: the series of the target
	kindExporter kind = "exporter" // /metrics of the exporter: also the series of the exporter, Go and the process
	kindPeer     kind = "peer"     // /metrics of postgres_exporter, with its default metrics alone: pg_stat_activity and others
)

// The environment of a child that runs this program as the baseline. As for the exporter, DATA_SOURCE_NAME names the
// server.
const (
	roleVariable   = "BENCH_CHILD"
	listenVariable = "BENCH_LISTEN"
	statsVariable  = "BENCH_STATS"
)

const (
	startTimeout = 10 * time.Second // until a child listens
	stopTimeout  = 5 * time.Second  // until a child has ended after SIGTERM
	maxLines     = 10               // that are shown of the log of a child that fails
)

// child is a process that is scraped.
type child struct {
	url    string
	cmd    *exec.Cmd
	end    context.CancelFunc
	exited chan struct{}

	mu    sync.Mutex // guards lines and last
	lines int        // that the child has written to its standard error
	last  []string   // at most maxLines of them
}

// start starts a child that probes the server on port, and waits until the child listens. The environment of the child
// has no other variables, so that those of libpq and Go do not affect the measurement. The caller stops the child.
func (b *bench) start(ctx context.Context, k kind, port int) (*child, error) {
	env := []string{"DATA_SOURCE_NAME=" + dataSourceName(port)}
	switch k {
	case kindBaseline:
		return launch(ctx, "/metrics", func(address string) (string, []string, []string) {
			return b.self, nil, append(env,
				roleVariable+"=1", listenVariable+"="+address, statsVariable+"="+b.counts.statsSQL)
		})
	case kindPeer:
		return launch(ctx, "/metrics", func(address string) (string, []string, []string) {
			args := []string{"--web.listen-address=" + address, "--disable-settings-metrics"}
			for _, name := range peerCollectors() {
				args = append(args, "--no-collector."+name)
			}
			return b.peer, args, env
		})
	case kindTarget:
		return b.startWithFile(ctx, "/probe?target=bench", fmt.Sprintf("targets: {bench: {dsn: %q}}", dataSourceName(port)))
	default:
		return launch(ctx, "/metrics", func(address string) (string, []string, []string) {
			return b.exporter, []string{"--web.listen-address=" + address}, env
		})
	}
}

// peerCollectors returns the collectors that postgres_exporter 0.19 has on by default.
func peerCollectors() []string {
	return []string{
		"database", "locks", "replication", "replication_slot", "roles", "stat_bgwriter", "stat_database", "stat_progress_vacuum",
		"stat_user_tables", "statio_user_tables", "wal",
	}
}

// startWithFile starts the exporter with a configuration file of the given content. path is the path of the child's
// URL.
func (b *bench) startWithFile(ctx context.Context, path, content string) (*child, error) {
	file := b.exporter + ".yml"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		return nil, err
	}
	return launch(ctx, path, func(address string) (string, []string, []string) {
		return b.exporter, []string{"--web.listen-address=" + address, "--config.file=" + file}, nil
	})
}

// launch starts a child and waits until it listens. program returns the program, its arguments and its whole
// environment for the address on which it has to listen. path is the path of the child's URL.
func launch(
	ctx context.Context, path string, program func(address string) (name string, args, env []string),
) (*child, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(ctx)
	c := &child{url: "http://" + address + path, end: end, exited: make(chan struct{})}
	name, args, env := program(address)
	c.cmd = exec.CommandContext(life, name, args...)
	c.cmd.Env = append([]string{}, env...) // not nil, which would mean the environment of this process
	c.cmd.SysProcAttr = childAttributes()
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }
	c.cmd.WaitDelay = stopTimeout
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
			c.addLine(scanner.Text())
		}
		_ = c.cmd.Wait() // a request to the child then fails
		close(c.exited)
	}()
	if err := c.waitUntilListening(ctx, address); err != nil {
		c.stop()
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(name), err, c.output())
	}
	return c, nil
}

// waitUntilListening waits until the child listens on address. It fails after startTimeout.
func (c *child) waitUntilListening(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-c.exited:
			return errors.New("it exited before it listened")
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop terminates the child and waits until it has ended. The child is killed after stopTimeout.
func (c *child) stop() {
	c.end()
	<-c.exited
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// addLine counts and keeps a line of the log.
func (c *child) addLine(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines++
	c.last = append(c.last, line)
	if len(c.last) > maxLines {
		c.last = c.last[1:]
	}
}

// lineCount returns the number of lines that the child has written so far.
func (c *child) lineCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines
}

// output returns the last lines that the child has written.
func (c *child) output() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.last, "\n")
}

// freeAddress returns an address on this machine that was free a moment ago.
func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// runBaseline runs this program as the baseline. It returns the exit code.
func runBaseline() int {
	err := serveBaseline(os.Getenv(listenVariable), os.Getenv("DATA_SOURCE_NAME"), os.Getenv(statsVariable))
	fmt.Fprintln(os.Stderr, err)
	return 1
}
