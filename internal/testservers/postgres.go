// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package testservers launches throwaway servers on this machine, for the tests and for `make run`, `make demo` and
// `make bench`: PostgreSQL, PgBouncer, Redis and Celery workers. A Stack is all of them with the exporter and Prometheus.
// No package of the exporter is linked in: a Stack starts its binary.
package testservers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 20 * time.Second
	// unprivileged runs the server when we are root, which PostgreSQL refuses to be.
	unprivileged = "nobody"
)

// Superuser is a new server's first role. It logs in without a password through the unix socket.
const Superuser = "postgres"

// PostgresConfig says what a new server is like.
type PostgresConfig struct {
	// Bin is the folder with initdb and postgres; FindPostgres finds it.
	Bin string
	// Port 0 means a free one.
	Port int
	// HBA replaces the lines of pg_hba.conf for TCP; the default asks everyone for a password (scram-sha-256).
	HBA string
	// Settings are appended to postgresql.conf, as name = value.
	Settings []string
	// Certificate and Key, in PEM, switch TLS on.
	Certificate, Key []byte
}

// Postgres is a throwaway PostgreSQL server in a folder of its own.
type Postgres struct {
	// Port is where it listens, on 127.0.0.1. Dir also holds its data and its socket.
	Port int
	process

	bin string
	own *syscall.Credential // nil when we are not root
}

// NewPostgres makes a data directory in a new temporary folder and starts a server in it. When ctx ends, this stops; the server
// runs until Remove. On an error nothing is left.
func NewPostgres(ctx context.Context, c PostgresConfig) (*Postgres, error) {
	s := &Postgres{Port: c.Port, bin: c.Bin}
	if err := s.create(ctx, c); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	return s, nil
}

// Standby makes a streaming replica of a server, which is stopped for a moment, and starts it. When it is not needed any
// more, Remove removes it.
func (s *Postgres) Standby(ctx context.Context) (*Postgres, error) {
	standby := &Postgres{bin: s.bin, own: s.own}
	if err := standby.createStandby(ctx, s); err != nil {
		return nil, errors.Join(err, standby.Remove())
	}
	return standby, nil
}

func (s *Postgres) createStandby(ctx context.Context, primary *Postgres) error {
	var err error
	if s.Port, err = s.reserve(); err != nil {
		return err
	}
	if err := primary.Stop(Fast); err != nil {
		return err
	}
	if s.Dir, err = os.MkdirTemp(filepath.Dir(primary.Dir), "testservers-"); err != nil {
		return err
	}
	err = errors.Join(
		os.Mkdir(s.data(), 0o700), // the server refuses one that others can read
		os.CopyFS(s.data(), os.DirFS(primary.data())),
		s.hideKey(),
		s.ownAll(),
		s.write("standby.signal", nil),
		s.Append("postgresql.conf", fmt.Sprintf("port = %d\nunix_socket_directories = '%s'\nprimary_conninfo = 'host=%s port=%d user=%s'\nwal_retrieve_retry_interval = 100ms",
			s.Port, s.Dir, primary.Dir, primary.Port, Superuser)),
		primary.Start(ctx),
	)
	if err != nil {
		return err
	}
	return s.Start(ctx)
}

// hideKey takes from the others the right to read the key, if there is one, which a copy gives them.
func (s *Postgres) hideKey() error {
	err := os.Chmod(filepath.Join(s.data(), "server.key"), 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ownAll gives the server's folder to the user that it runs as.
func (s *Postgres) ownAll() error {
	if s.own == nil {
		return nil
	}
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return root.Lchown(path, int(s.own.Uid), int(s.own.Gid))
	})
}

func (s *Postgres) create(ctx context.Context, c PostgresConfig) error {
	var err error
	parent := os.TempDir()
	if os.Geteuid() == 0 && !reachable(parent) {
		parent = "/tmp"
	}
	if s.Dir, err = os.MkdirTemp(parent, "testservers-"); err != nil {
		return err
	}
	if s.Port == 0 {
		if s.Port, err = s.reserve(); err != nil {
			return err
		}
	}
	if os.Geteuid() == 0 {
		if err := s.becomeUnprivileged(); err != nil {
			return err
		}
	}
	out, err := s.command(ctx, "initdb", "-D", s.data(), "-U", Superuser, "--no-sync", "--locale=C", "-E", "UTF8",
		"--auth-local=trust", "--auth-host=scram-sha-256").CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	settings := append([]string{
		"listen_addresses = '127.0.0.1'", "port = " + strconv.Itoa(s.Port), "unix_socket_directories = '" + s.Dir + "'",
		"fsync = off", "shared_buffers = 16MB", "log_destination = stderr", "logging_collector = off",
	}, c.Settings...)
	if c.Key != nil {
		settings = append(settings, "ssl = on")
		if err := errors.Join(s.write("server.crt", c.Certificate), s.write("server.key", c.Key)); err != nil {
			return err
		}
	}
	if err := s.Append("postgresql.conf", strings.Join(settings, "\n")); err != nil {
		return err
	}
	if c.HBA == "" {
		return nil
	}
	return s.write("pg_hba.conf", []byte("local all all trust\nlocal replication all trust\n"+c.HBA+"\n"))
}

// becomeUnprivileged gives the folder to a user who may run a server, and copies the binaries into it where that user
// could not reach them (a clone below root's home).
func (s *Postgres) becomeUnprivileged() error {
	nobody, err := user.Lookup(unprivileged)
	if err != nil {
		return err
	}
	uid, err := strconv.ParseUint(nobody.Uid, 10, 32)
	if err != nil {
		return err
	}
	gid, err := strconv.ParseUint(nobody.Gid, 10, 32)
	if err != nil {
		return err
	}
	s.own = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if err := os.Chown(s.Dir, int(uid), int(gid)); err != nil {
		return err
	}
	if reachable(s.bin) {
		return nil
	}
	copied := filepath.Join(s.Dir, "server")
	if err := os.CopyFS(copied, os.DirFS(filepath.Dir(s.bin))); err != nil {
		return fmt.Errorf("copy the binaries: %w", err)
	}
	s.bin = filepath.Join(copied, filepath.Base(s.bin))
	return s.ownAll() // under root's own umask the copies may be root's alone
}

// reachable says whether everybody may traverse the folder and those above it.
func reachable(dir string) bool {
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if parent := filepath.Dir(dir); parent != dir {
			dir = parent
			continue
		}
		return true
	}
}

func (s *Postgres) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir = s.Dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = childAttributes(s.own)
	return cmd
}

func (s *Postgres) data() string { return filepath.Join(s.Dir, "data") }

func (s *Postgres) write(name string, content []byte) error {
	path := filepath.Join(s.data(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	if s.own == nil {
		return nil
	}
	return os.Chown(path, int(s.own.Uid), int(s.own.Gid))
}

// Append adds lines to a file of the data directory.
func (s *Postgres) Append(name, lines string) error {
	f, err := os.OpenFile(filepath.Join(s.data(), name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, "\n"+lines+"\n")
	return errors.Join(err, f.Close())
}

// Start starts a stopped server and waits until it accepts connections.
func (s *Postgres) Start(ctx context.Context) error {
	if err := s.Launch(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := s.Exec(ctx, "SELECT 1")
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("the server did not start:\n%s", s.Log())
		case <-ctx.Done():
			return fmt.Errorf("the server did not start in %s: %w\n%s", startTimeout, err, s.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Launch starts a stopped server and does not wait.
func (s *Postgres) Launch() error {
	return s.launch(s.command(context.Background(), "postgres", "-D", s.data()))
}

// The ways to stop a server.
const (
	Smart     = syscall.SIGTERM // waits for its clients
	Fast      = syscall.SIGINT
	Immediate = syscall.SIGQUIT // no shutdown checkpoint: recovery at the next start
)

// Stop asks a running server to stop and waits until it did.
func (s *Postgres) Stop(mode syscall.Signal) error {
	if err := s.Signal(mode); err != nil {
		return err
	}
	return s.Wait(stopTimeout)
}

// Remove ends the server, whatever state it is in, and removes its folder.
func (s *Postgres) Remove() error { return s.remove(Immediate) }

// Connect opens a session of the superuser's through the unix socket. The caller closes it.
func (s *Postgres) Connect(ctx context.Context) (*pgconn.PgConn, error) {
	return pgconn.Connect(ctx, fmt.Sprintf("host='%s' port=%d user=%s dbname=postgres sslmode=disable application_name=testservers",
		s.Dir, s.Port, Superuser))
}

// Exec runs SQL as the superuser.
func (s *Postgres) Exec(ctx context.Context, sql string) error {
	_, err := s.Query(ctx, sql)
	return err
}

// Query runs SQL as the superuser and returns the last result's rows as text, columns joined by "|".
func (s *Postgres) Query(ctx context.Context, sql string) ([]string, error) {
	conn, err := s.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 {
		return nil, err
	}
	var rows []string
	for _, row := range results[len(results)-1].Rows {
		columns := make([]string, len(row))
		for i, column := range row {
			columns[i] = string(column)
		}
		rows = append(rows, strings.Join(columns, "|"))
	}
	return rows, nil
}
