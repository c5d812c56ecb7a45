// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package testservers launches throwaway servers on this machine, for the tests and for `make run`, `make demo` and
// `make bench`: PostgreSQL, four poolers, Patroni with etcd, Redis and Celery workers. A Stack is some of them with the
// exporter and Prometheus. No package of the exporter is linked in: a Stack starts its binary.
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
	// startTimeout is how long a server may take until it can be used.
	startTimeout = 30 * time.Second
	// stopTimeout is how long a server may take to end after a signal.
	stopTimeout = 20 * time.Second
	// unprivileged is the user that runs the servers if this process is root: PostgreSQL refuses to run as root.
	unprivileged = "nobody"
)

// Superuser is the first role of a new server. It needs no password on the unix socket.
const Superuser = "postgres"

// PostgresConfig describes a new server.
type PostgresConfig struct {
	// Bin is the folder with initdb and postgres, such as FindPostgres returns.
	Bin string
	// Template, if not nil, is copied instead of running initdb. It must have been made with the same Bin.
	Template *Template
	// Port is the port on 127.0.0.1 where the server listens. 0 means a free one.
	Port int
	// HBA replaces the lines of pg_hba.conf for TCP. By default, every role needs a password (scram-sha-256).
	HBA string
	// Settings are lines such as "name = value" for postgresql.conf. They override the defaults.
	Settings []string
	// Certificate and Key, in PEM, enable TLS.
	Certificate, Key []byte
}

// Postgres is a throwaway PostgreSQL server. It runs until Remove is called.
type Postgres struct {
	// Port is the port on 127.0.0.1 where it listens.
	Port    int
	process // its folder also holds the data directory and the unix socket

	bin  string
	user *syscall.Credential // that the server runs as; nil if this process is not root
}

// NewPostgres makes a data directory in a temporary folder, starts a server and waits until it accepts connections. ctx
// bounds the start only. If NewPostgres fails, it leaves no process and no file.
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

// Template is the data directory of a new server. Copying it takes less time than initdb. All servers that are made from one
// template have the same system identifier.
type Template struct{ made Postgres }

// NewTemplate runs initdb in a temporary folder. ctx bounds it. If NewTemplate fails, it leaves no file.
func NewTemplate(ctx context.Context, bin string) (*Template, error) {
	t := &Template{Postgres{bin: bin}}
	err := t.made.makeFolder()
	if err == nil {
		err = t.made.initdb(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, t.Remove())
	}
	return t, nil
}

// Remove removes the template. Servers made from it can go on.
func (t *Template) Remove() error { return t.made.Remove() }

// Standby starts a streaming replica of a running server, which it restarts to copy the data directory. The caller
// removes the replica with Remove.
func (s *Postgres) Standby(ctx context.Context) (*Postgres, error) {
	standby := &Postgres{bin: s.bin, user: s.user}
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
		s.copyData(primary),
		s.write("standby.signal", nil),
		s.Append("postgresql.conf", fmt.Sprintf(`port = %d
unix_socket_directories = '%s'
primary_conninfo = 'host=%s port=%d user=%s'
wal_retrieve_retry_interval = 100ms`, s.Port, s.Dir, primary.Dir, primary.Port, Superuser)),
		primary.Start(ctx),
	)
	if err != nil {
		return err
	}
	return s.Start(ctx)
}

// restrictKey makes the key of a copied data directory, if there is one, readable for its owner only.
func (s *Postgres) restrictKey() error {
	err := os.Chmod(filepath.Join(s.data(), "server.key"), 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// chownAll makes the user that runs the server the owner of its folder and all files in it.
func (s *Postgres) chownAll() error {
	if s.user == nil {
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
		return root.Lchown(path, int(s.user.Uid), int(s.user.Gid))
	})
}

func (s *Postgres) create(ctx context.Context, c PostgresConfig) error {
	if err := s.makeFolder(); err != nil {
		return err
	}
	if s.Port == 0 {
		var err error
		if s.Port, err = s.reserve(); err != nil {
			return err
		}
	}
	if err := s.makeData(ctx, c.Template); err != nil {
		return err
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

// makeFolder makes the folder of the server. If this process is root, another user owns the folder and runs the server.
func (s *Postgres) makeFolder() error {
	var err error
	parent := os.TempDir()
	if os.Geteuid() == 0 && !isReachable(parent) {
		parent = "/tmp"
	}
	if s.Dir, err = os.MkdirTemp(parent, "testservers-"); err != nil || os.Geteuid() != 0 {
		return err
	}
	return s.dropPrivileges()
}

// makeData makes the data directory: a copy of the template, if there is one.
func (s *Postgres) makeData(ctx context.Context, template *Template) error {
	if template != nil {
		return s.copyData(&template.made)
	}
	return s.initdb(ctx)
}

// initdb makes the data directory with PostgreSQL's program of that name.
func (s *Postgres) initdb(ctx context.Context) error {
	out, err := s.command(ctx, "initdb", "-D", s.data(), "-U", Superuser, "--no-sync", "--locale=C", "-E", "UTF8",
		"--auth-local=trust", "--auth-host=scram-sha-256").CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

// copyData makes the data directory a copy of another server's, which must not run.
func (s *Postgres) copyData(other *Postgres) error {
	return errors.Join(
		os.Mkdir(s.data(), 0o700), // the server refuses a directory that others can read
		os.CopyFS(s.data(), os.DirFS(other.data())),
		s.restrictKey(),
		s.chownAll(),
	)
}

// dropPrivileges makes an unprivileged user the owner of the server's folder. If that user cannot reach the binaries,
// as in a clone in root's home, it copies them into the folder.
func (s *Postgres) dropPrivileges() error {
	var err error
	if s.user, err = unprivilegedCredential(); err != nil {
		return err
	}
	if err := os.Chown(s.Dir, int(s.user.Uid), int(s.user.Gid)); err != nil {
		return err
	}
	if isReachable(s.bin) {
		return nil
	}
	copied := filepath.Join(s.Dir, "server")
	if err := os.CopyFS(copied, os.DirFS(filepath.Dir(s.bin))); err != nil {
		return fmt.Errorf("copy the binaries: %w", err)
	}
	s.bin = filepath.Join(copied, filepath.Base(s.bin))
	return s.chownAll() // root's umask may have made the copies private to root
}

// unprivilegedCredential returns the IDs of the unprivileged user and its group.
func unprivilegedCredential() (*syscall.Credential, error) {
	nobody, err := user.Lookup(unprivileged)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(nobody.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(nobody.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// isReachable reports whether every user may enter the folder dir and all folders above it.
func isReachable(dir string) bool {
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

// command returns a command that runs a program of the server, as its user and without the environment of this process.
func (s *Postgres) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir = s.Dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = childAttributes(s.user)
	return cmd
}

func (s *Postgres) data() string { return filepath.Join(s.Dir, "data") }

// write writes a file of the data directory that its user owns.
func (s *Postgres) write(name string, content []byte) error {
	path := filepath.Join(s.data(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	if s.user == nil {
		return nil
	}
	return os.Chown(path, int(s.user.Uid), int(s.user.Gid))
}

// Append appends lines to a file of the data directory, such as "postgresql.conf". The server does not reload it.
func (s *Postgres) Append(name, lines string) error {
	f, err := os.OpenFile(filepath.Join(s.data(), name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, "\n"+lines+"\n")
	return errors.Join(err, f.Close())
}

// Start starts a stopped server and waits until it accepts connections. ctx bounds the wait only.
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

// Launch starts a stopped server and does not wait until it accepts connections.
func (s *Postgres) Launch() error {
	return s.launch(s.command(context.Background(), "postgres", "-D", s.data()))
}

// The modes in which a PostgreSQL server can be stopped, as signals to its postmaster.
const (
	Smart     = syscall.SIGTERM // waits until its clients have disconnected
	Fast      = syscall.SIGINT  // disconnects its clients
	Immediate = syscall.SIGQUIT // writes no checkpoint: the next start recovers
)

// Stop stops a running server and waits until its process has ended. It fails after stopTimeout.
func (s *Postgres) Stop(mode syscall.Signal) error {
	if err := s.Signal(mode); err != nil {
		return err
	}
	return s.Wait(stopTimeout)
}

// Remove stops the server immediately, even if its process is stopped, and removes its folder.
func (s *Postgres) Remove() error { return s.remove(Immediate) }

// Connect opens a session as Superuser through the unix socket. The caller closes it.
func (s *Postgres) Connect(ctx context.Context) (*pgconn.PgConn, error) {
	return pgconn.Connect(ctx, fmt.Sprintf(
		"host='%s' port=%d user=%s dbname=postgres sslmode=disable application_name=testservers", s.Dir, s.Port, Superuser))
}

// Exec runs one or more SQL statements in a new session as Superuser.
func (s *Postgres) Exec(ctx context.Context, sql string) error {
	_, err := s.Query(ctx, sql)
	return err
}

// Query runs one or more SQL statements in a new session as Superuser. It returns the rows of the last one as text,
// with their columns joined by "|".
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
