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

// PgBouncer is a throwaway PgBouncer. It runs until Remove.
type PgBouncer struct {
	// Port is where it listens, on 127.0.0.1. Dir also holds its settings.
	Port int
	process

	bin string
}

// PgBouncerConfig says what a new PgBouncer is like.
type PgBouncerConfig struct {
	// Bin is the program.
	Bin string
	// Databases are the lines of that section, Settings those of [pgbouncer].
	Databases, Settings []string
	// Users are names with their passwords. Superuser may do everything, and needs none.
	Users map[string]string
}

// NewPgBouncer starts a PgBouncer. On an error nothing is left.
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
	if os.Geteuid() == 0 { // which it refuses to stay
		settings = append(settings, "user = "+unprivileged)
	}
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	var users strings.Builder
	fmt.Fprintf(&users, "%s %s\n", quote(Superuser), quote(Superuser))
	for name, password := range c.Users {
		fmt.Fprintf(&users, "%s %s\n", quote(name), quote(password))
	}
	ini := "[databases]\n" + strings.Join(c.Databases, "\n") + "\n[pgbouncer]\n" + strings.Join(settings, "\n") + "\n"
	const readable = 0o644 // the unprivileged user reads both
	return errors.Join(
		os.Chmod(b.Dir, 0o711), //nolint:gosec // it has to get at them
		os.WriteFile(b.ini(), []byte(ini), readable),
		os.WriteFile(filepath.Join(b.Dir, "users"), []byte(users.String()), readable),
	)
}

func (b *PgBouncer) ini() string { return filepath.Join(b.Dir, "pgbouncer.ini") }

// Start starts a stopped PgBouncer and waits until it answers.
func (b *PgBouncer) Start(ctx context.Context) error {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), b.bin, b.ini())
	cmd.Dir, cmd.SysProcAttr = b.Dir, childAttributes(nil)
	if err := b.launch(cmd); err != nil {
		return err
	}
	return b.awaits(ctx, "PgBouncer", func() bool {
		conn, err := b.Console(ctx)
		return err == nil && conn.Close(ctx) == nil
	})
}

// Console opens a session of the administrator's. The caller closes it.
func (b *PgBouncer) Console(ctx context.Context) (*pgconn.PgConn, error) {
	return pgconn.Connect(ctx, fmt.Sprintf("host=127.0.0.1 port=%d user=%[2]s password=%[2]s dbname=pgbouncer sslmode=disable", b.Port, Superuser))
}

// Remove ends the process, whatever state it is in, and removes its folder.
func (b *PgBouncer) Remove() error { return b.remove(syscall.SIGKILL) }
