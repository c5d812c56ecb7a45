// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Pgagroal is a throwaway pgagroal. It runs until Remove is called.
type Pgagroal struct{ pooler }

// PgagroalConfig describes a new pgagroal.
type PgagroalConfig struct {
	// Bin is the path of the program. pgagroal-admin must be in the same folder.
	Bin string
	// Server is the port on 127.0.0.1 of the server behind it. It must have four digits (see ReserveShortPort).
	Server int
	// MaxConnections is how many sessions with the server it opens. 0 means 100.
	MaxConnections int
	// BlockingTimeout is how long a client waits for one of them, in whole seconds. 0 means 30 s.
	BlockingTimeout time.Duration
	// Settings are lines of the section [pgagroal], such as "pipeline = session".
	Settings []string
	// Users maps the names of users to their passwords, which are the same at the server. Others are unknown.
	Users map[string]string
}

// NewPgagroal starts a pgagroal and waits until it listens. ctx bounds the start only. If NewPgagroal fails, it leaves
// no process and no file.
func NewPgagroal(ctx context.Context, c PgagroalConfig) (*Pgagroal, error) {
	a := &Pgagroal{}
	if err := a.create(ctx, c); err != nil {
		return nil, errors.Join(err, a.Remove())
	}
	if err := a.Start(ctx); err != nil {
		return nil, errors.Join(err, a.Remove())
	}
	return a, nil
}

func (a *Pgagroal) create(ctx context.Context, c PgagroalConfig) error {
	if err := a.pooler.create(c.Bin); err != nil {
		return err
	}
	// With io_uring, which it prefers, pgagroal 2.1 loses a query now and then.
	conf := fmt.Sprintf(`[pgagroal]
host = 127.0.0.1
port = %d
unix_socket_dir = %s
log_type = console
ev_backend = epoll
max_connections = %d
blocking_timeout = %d
allow_unknown_users = false
%s
[server]
host = 127.0.0.1
port = %d
`, a.Port, a.Dir, cmp.Or(c.MaxConnections, 100), int(cmp.Or(c.BlockingTimeout, 30*time.Second).Seconds()),
		strings.Join(c.Settings, "\n"), c.Server)
	err := errors.Join(
		a.write("pgagroal.conf", conf),
		a.write("hba", "host all all 127.0.0.1/32 scram-sha-256\n"),
		a.admin(ctx, "master-key", "-P", "testservers"),
	)
	for name, password := range c.Users {
		err = errors.Join(err, a.admin(ctx, "-f", a.path("users"), "-U", name, "-P", password, "user", "add"))
	}
	return err
}

// admin runs pgagroal-admin, which encrypts passwords with a key in the home folder.
func (a *Pgagroal) admin(ctx context.Context, args ...string) error {
	out, err := a.command(ctx, filepath.Join(filepath.Dir(a.bin), "pgagroal-admin"), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pgagroal-admin: %w: %s", err, out)
	}
	return nil
}

// Start starts pgagroal after it has stopped, and waits until it listens. ctx bounds the wait only.
func (a *Pgagroal) Start(ctx context.Context) error {
	return a.start(ctx, "pgagroal", "-c", a.path("pgagroal.conf"), "-a", a.path("hba"), "-u", a.path("users"))
}

// Remove terminates pgagroal, even if it is stopped, and removes its folder.
func (a *Pgagroal) Remove() error { return a.remove(syscall.SIGTERM) }
