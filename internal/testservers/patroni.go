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
	"time"
)

// Patroni is one member of a throwaway Patroni cluster: a Patroni with the PostgreSQL server that it runs. Both run until
// Remove is called. The process is that of Patroni. PostgreSQL is not a child of it and survives it.
type Patroni struct {
	// Port is the port on 127.0.0.1 of PostgreSQL. Every role may log in there without a password.
	Port int
	// API is the address of Patroni's REST API.
	API     string
	process // its folder also holds the configuration and the data directory

	api  *Port
	user *syscall.Credential // that both run as; nil if this process is not root
}

// PatroniConfig describes a new member.
type PatroniConfig struct {
	// Bin is the path of the program, which is one file in Python.
	Bin string
	// Name is the name of the member.
	Name string
	// Etcd is the port on 127.0.0.1 of the etcd that all members of the cluster have in common.
	Etcd int
	// PostgresBin is the folder with the programs of PostgreSQL. Patroni also needs pg_basebackup, pg_controldata and
	// pg_rewind.
	PostgresBin string
}

// NewPatroni starts a member and waits until its REST API listens, which is before PostgreSQL does. The first member of a
// cluster becomes its primary. ctx bounds the start only. If NewPatroni fails, it leaves no process and no file.
func NewPatroni(ctx context.Context, c PatroniConfig) (*Patroni, error) {
	p := &Patroni{}
	if err := p.create(c); err != nil {
		return nil, errors.Join(err, p.Remove())
	}
	if err := p.Start(ctx); err != nil {
		return nil, errors.Join(err, p.Remove())
	}
	return p, nil
}

func (p *Patroni) create(c PatroniConfig) error {
	var err error
	if p.Port, err = p.reserve(); err != nil {
		return err
	}
	if p.api, err = ReservePort(); err != nil {
		return err
	}
	p.API = fmt.Sprintf("127.0.0.1:%d", p.api.Number)
	if p.Dir, err = os.MkdirTemp("", "testservers-"); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if p.user, err = unprivilegedCredential(); err != nil {
			return err
		}
		if err := os.Chown(p.Dir, int(p.user.Uid), int(p.user.Gid)); err != nil {
			return err
		}
	}
	// The unprivileged user need not reach the program's own folder.
	program, err := os.ReadFile(c.Bin)
	if err != nil {
		return err
	}
	// These are the shortest times that Patroni accepts.
	configuration := fmt.Sprintf(`
scope: testservers
name: %[1]s
restapi: {listen: '%[2]s', connect_address: '%[2]s'}
etcd3: {host: '127.0.0.1:%[3]d'}
watchdog: {mode: 'off'}
bootstrap:
  dcs: {ttl: 20, loop_wait: 1, retry_timeout: 3, postgresql: {use_pg_rewind: true}}
  initdb: [no-sync, locale: C, encoding: UTF8]
postgresql:
  listen: '127.0.0.1:%[4]d'
  connect_address: '127.0.0.1:%[4]d'
  data_dir: '%[5]s'
  bin_dir: '%[6]s'
  pgpass: '%[7]s/pgpass'
  authentication: {superuser: {username: %[8]s}, replication: {username: replication}}
  pg_hba: [local all all trust, host all all 127.0.0.1/32 trust, host replication all 127.0.0.1/32 trust]
  parameters: {unix_socket_directories: '%[7]s', fsync: 'off', shared_buffers: 16MB}
`, c.Name, p.API, c.Etcd, p.Port, p.data(), c.PostgresBin, p.Dir, Superuser)
	return errors.Join(
		os.WriteFile(p.program(), program, 0o755),                     //nolint:gosec // a program that the unprivileged user starts
		os.WriteFile(p.configuration(), []byte(configuration), 0o644), //nolint:gosec // likewise
	)
}

func (p *Patroni) program() string       { return filepath.Join(p.Dir, "patroni") }
func (p *Patroni) configuration() string { return filepath.Join(p.Dir, "patroni.yml") }
func (p *Patroni) data() string          { return filepath.Join(p.Dir, "data") }

// Start starts Patroni after it has ended, and waits until its REST API listens. PostgreSQL may be running. ctx bounds the
// wait only.
func (p *Patroni) Start(ctx context.Context) error {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), p.program(), p.configuration())
	cmd.Dir, cmd.SysProcAttr = p.Dir, childAttributes(p.user)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.Dir, "LC_ALL=C", "TZ=UTC"}
	if err := p.launch(cmd); err != nil {
		return err
	}
	return p.waitUntil(ctx, "Patroni", func() bool { return listens(ctx, p.api.Number) })
}

// Kill kills Patroni and waits until it has ended. PostgreSQL goes on.
func (p *Patroni) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	return p.Wait(stopTimeout)
}

// KillPostgres kills the postmaster.
func (p *Patroni) KillPostgres() error {
	pid, err := p.postmaster()
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

// postmaster returns the ID of PostgreSQL's first process. It fails if PostgreSQL does not run.
func (p *Patroni) postmaster() (int, error) {
	content, err := os.ReadFile(filepath.Join(p.data(), "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		return 0, err
	}
	// A killed postmaster has left the file behind, and another process may have its ID.
	folder, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return 0, err
	}
	data, err := os.Stat(p.data())
	if err != nil {
		return 0, err
	}
	if !os.SameFile(folder, data) {
		return 0, errors.New("the postmaster has ended")
	}
	return pid, nil
}

// stopPostgres ends PostgreSQL if it runs. Patroni must have ended.
func (p *Patroni) stopPostgres() error {
	pid, err := p.postmaster()
	if err != nil {
		return nil //nolint:nilerr // it does not run
	}
	if err := syscall.Kill(pid, Immediate); err != nil {
		return err
	}
	for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if _, err := p.postmaster(); err != nil {
			return nil //nolint:nilerr // it has ended
		}
	}
	return errors.New("PostgreSQL did not stop")
}

// Remove kills Patroni, even if it is stopped, ends PostgreSQL and removes their folder.
func (p *Patroni) Remove() error {
	var err error
	if p.cmd != nil {
		_ = p.Signal(syscall.SIGKILL) // it fails if the process has ended
		err = errors.Join(p.Wait(stopTimeout), p.stopPostgres())
	}
	if p.api != nil {
		err = errors.Join(err, p.api.Release())
	}
	return errors.Join(err, p.remove(syscall.SIGKILL))
}
