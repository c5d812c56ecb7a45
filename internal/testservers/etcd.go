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
	"syscall"
)

// Etcd is a throwaway etcd of one member. It runs until Remove is called.
type Etcd struct {
	// Port is the port on 127.0.0.1 where it listens for clients.
	Port    int
	process // its folder also holds the data

	peers *Port
}

// NewEtcd starts an etcd and waits until it listens. bin is the path of the program. ctx bounds the start only. If
// NewEtcd fails, it leaves no process and no file.
func NewEtcd(ctx context.Context, bin string) (*Etcd, error) {
	e := &Etcd{}
	if err := e.start(ctx, bin); err != nil {
		return nil, errors.Join(err, e.Remove())
	}
	return e, nil
}

func (e *Etcd) start(ctx context.Context, bin string) error {
	var err error
	if e.Port, err = e.reserve(); err != nil {
		return err
	}
	if e.peers, err = ReservePort(); err != nil {
		return err
	}
	if e.Dir, err = os.MkdirTemp("", "testservers-"); err != nil {
		return err
	}
	clients := fmt.Sprintf("http://127.0.0.1:%d", e.Port)
	peers := fmt.Sprintf("http://127.0.0.1:%d", e.peers.Number)
	cmd := exec.CommandContext(context.WithoutCancel(ctx), bin, "--data-dir="+filepath.Join(e.Dir, "data"),
		"--listen-client-urls="+clients, "--advertise-client-urls="+clients,
		"--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers, "--initial-cluster=default="+peers,
		"--unsafe-no-fsync", "--log-level=warn")
	cmd.Dir, cmd.SysProcAttr = e.Dir, childAttributes(nil)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + e.Dir} // it also reads its settings from variables
	if err := e.launch(cmd); err != nil {
		return err
	}
	return e.waitUntil(ctx, "etcd", func() bool { return listens(ctx, e.Port) })
}

// Remove kills the process, even a stopped one, and removes its folder.
func (e *Etcd) Remove() error {
	err := e.remove(syscall.SIGKILL)
	if e.peers != nil {
		err = errors.Join(err, e.peers.Release())
	}
	return err
}
