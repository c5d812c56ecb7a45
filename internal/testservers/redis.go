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
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Redis is a throwaway Redis or Valkey, or a sentinel of one. It runs until Remove is called.
type Redis struct {
	// Port is the port on 127.0.0.1 where it listens.
	Port int
	process

	bin  string
	args []string
}

// NewRedis starts a Redis and waits until it listens. bin is the path of redis-server or valkey-server, and args are further arguments
// such as "--requirepass". ctx bounds the start only. If NewRedis fails, it leaves no process and no file.
func NewRedis(ctx context.Context, bin string, args ...string) (*Redis, error) {
	return newRedis(ctx, bin, func(r *Redis) ([]string, error) {
		return append([]string{
			"--port", strconv.Itoa(r.Port), "--bind", "127.0.0.1", "--save", "", "--dir", r.Dir,
		}, args...), nil
	})
}

// NewSentinel is NewRedis for a sentinel, which knows the master by a name.
func NewSentinel(ctx context.Context, bin, name string, master *Redis, args ...string) (*Redis, error) {
	return newRedis(ctx, bin, func(r *Redis) ([]string, error) {
		settings := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir %s\nsentinel monitor %s 127.0.0.1 %d 1\n", r.Port, r.Dir, name, master.Port)
		file := filepath.Join(r.Dir, "sentinel.conf") // which a sentinel writes to
		return append([]string{file, "--sentinel"}, args...), os.WriteFile(file, []byte(settings), 0o600)
	})
}

// newRedis starts a server with the arguments that arguments returns, which is called once.
func newRedis(ctx context.Context, bin string, arguments func(*Redis) ([]string, error)) (*Redis, error) {
	r := &Redis{bin: bin}
	var err error
	if r.Port, err = r.reserve(); err != nil {
		return nil, err
	}
	if r.Dir, err = os.MkdirTemp("", "testservers-"); err != nil {
		return nil, errors.Join(err, r.Remove())
	}
	if r.args, err = arguments(r); err != nil {
		return nil, errors.Join(err, r.Remove())
	}
	if err := r.Start(ctx); err != nil {
		return nil, errors.Join(err, r.Remove())
	}
	return r, nil
}

// Start starts Redis after it has stopped, with no data, and waits until it listens. ctx bounds the wait only.
func (r *Redis) Start(ctx context.Context) error {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), r.bin, r.args...)
	cmd.SysProcAttr = childAttributes(nil)
	if err := r.launch(cmd); err != nil {
		return err
	}
	return r.waitUntil(ctx, "Redis", func() bool {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", r.Port))
		return err == nil && conn.Close() == nil
	})
}

// Do runs redis-cli with args, such as "LPUSH", "queue", "x", and returns what it prints.
func (r *Redis) Do(ctx context.Context, args ...string) (string, error) {
	args = append([]string{"-p", strconv.Itoa(r.Port)}, args...)
	out, err := exec.CommandContext(ctx, "redis-cli", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Remove kills the process, even a stopped one, and removes its folder.
func (r *Redis) Remove() error { return r.remove(syscall.SIGKILL) }
