// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// Redis is a throwaway Redis. It runs until Remove.
type Redis struct {
	// Port is where it listens, on 127.0.0.1.
	Port int
	process

	bin  string
	args []string
}

// NewRedis starts a Redis with arguments such as "--requirepass". On an error nothing is left.
func NewRedis(ctx context.Context, bin string, args ...string) (*Redis, error) {
	r := &Redis{bin: bin, args: args}
	var err error
	if r.Port, err = r.reserve(); err != nil {
		return nil, err
	}
	if r.Dir, err = os.MkdirTemp("", "testservers-"); err != nil {
		return nil, errors.Join(err, r.Remove())
	}
	if err := r.Start(ctx); err != nil {
		return nil, errors.Join(err, r.Remove())
	}
	return r, nil
}

// Start starts a stopped Redis and waits until it listens. What it held is gone.
func (r *Redis) Start(ctx context.Context) error {
	args := append([]string{"--port", strconv.Itoa(r.Port), "--bind", "127.0.0.1", "--save", "", "--dir", r.Dir}, r.args...)
	cmd := exec.CommandContext(context.WithoutCancel(ctx), r.bin, args...)
	cmd.SysProcAttr = childAttributes(nil)
	if err := r.launch(cmd); err != nil {
		return err
	}
	return r.awaits(ctx, "Redis", func() bool {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", r.Port))
		return err == nil && conn.Close() == nil
	})
}

// Do runs a command with redis-cli's own words and returns what it prints.
func (r *Redis) Do(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "redis-cli", append([]string{"-p", strconv.Itoa(r.Port)}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Remove ends the process, whatever state it is in, and removes its folder.
func (r *Redis) Remove() error { return r.remove(syscall.SIGKILL) }
