// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// PgBouncer is a throwaway PgBouncer. It runs until Remove is called.
type PgBouncer struct {
	// Port is the port on 127.0.0.1 where it listens.
	Port    int
	process // its folder also holds the configuration

	bin string
}

// PgBouncerConfig describes a new PgBouncer.
type PgBouncerConfig struct {
	// Bin is the path of the program.
	Bin string
	// Databases are lines of the section [databases].
	Databases []string
	// Settings are lines of the section [pgbouncer]. They override the defaults.
	Settings []string
	// Users maps the names of users to their passwords. Superuser is always the administrator, with its name as password.
	Users map[string]string
}

// NewPgBouncer starts a PgBouncer and waits until it answers. ctx bounds the start only. If NewPgBouncer fails, it
// leaves no process and no file.
func NewPgBouncer(ctx context.Context, c PgBouncerConfig) (*PgBouncer, error) {
	b := &PgBouncer{bin: c.Bin}
	if err := b.create(c); err != nil {
		return nil, errors.Join(err, b.Remove())
	}
	if err := b.Start(ctx); err != nil {
		return nil, errors.Join(err, b.Remove())
	}
	return b, nil
}

func (b *PgBouncer) create(c PgBouncerConfig) error {
	var err error
	if b.Port, err = b.reserve(); err != nil {
		return err
	}
	if b.Dir, err = os.MkdirTemp("", "testservers-"); err != nil {
		return err
	}
	settings := append([]string{
		"listen_addr = 127.0.0.1", "listen_port = " + strconv.Itoa(b.Port), "unix_socket_dir =",
		"auth_type = scram-sha-256", "auth_file = " + filepath.Join(b.Dir, "users"), "admin_users = " + Superuser,
	}, c.Settings...)
	if os.Geteuid() == 0 { // PgBouncer refuses to run as root
		settings = append(settings, "user = "+unprivileged)
	}
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	var users strings.Builder
	fmt.Fprintf(&users, "%s %s\n", quote(Superuser), quote(Superuser))
	for name, password := range c.Users {
		fmt.Fprintf(&users, "%s %s\n", quote(name), quote(password))
	}
	ini := "[databases]\n" + strings.Join(c.Databases, "\n") + "\n[pgbouncer]\n" + strings.Join(settings, "\n") + "\n"
	const readable = 0o644 // for the unprivileged user
	return errors.Join(
		os.Chmod(b.Dir, 0o711), //nolint:gosec // the unprivileged user must reach the files
		os.WriteFile(b.ini(), []byte(ini), readable),
		os.WriteFile(filepath.Join(b.Dir, "users"), []byte(users.String()), readable),
	)
}

func (b *PgBouncer) ini() string { return filepath.Join(b.Dir, "pgbouncer.ini") }

// Start starts PgBouncer after it has stopped, and waits until it answers. ctx bounds the wait only.
func (b *PgBouncer) Start(ctx context.Context) error {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), b.bin, b.ini())
	cmd.Dir, cmd.SysProcAttr = b.Dir, childAttributes(nil)
	if err := b.launch(cmd); err != nil {
		return err
	}
	return b.waitUntil(ctx, "PgBouncer", func() bool {
		conn, err := b.Console(ctx)
		return err == nil && conn.Close(ctx) == nil
	})
}

// Console opens a session on the administration console. The caller closes it.
func (b *PgBouncer) Console(ctx context.Context) (*pgconn.PgConn, error) {
	return pgconn.Connect(ctx, fmt.Sprintf(
		"host=127.0.0.1 port=%d user=%[2]s password=%[2]s dbname=pgbouncer sslmode=disable", b.Port, Superuser))
}

// Remove kills the process, even a stopped one, and removes its folder.
func (b *PgBouncer) Remove() error { return b.remove(syscall.SIGKILL) }
