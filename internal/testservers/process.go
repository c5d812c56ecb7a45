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
	"time"
)

// process is a server's process, with a folder of its own that also holds its log.
type process struct {
	// Dir is the folder.
	Dir string

	cmd    *exec.Cmd
	exited chan struct{}
	port   *Port // nil where somebody else chose it
}

// reserve finds a port for as long as the process is not removed.
func (p *process) reserve() (int, error) {
	var err error
	if p.port, err = ReservePort(); err != nil {
		return 0, err
	}
	return p.port.Number, nil
}

// launch starts cmd, whose output goes to the log. No context ends it.
func (p *process) launch(cmd *exec.Cmd) error {
	log, err := os.OpenFile(p.logFile(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own copy
	cmd.Cancel = nil
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ends is in its log
		close(exited)
	}()
	p.cmd, p.exited = cmd, exited
	return nil
}

// awaits waits until a process that was started can be used.
func (p *process) awaits(ctx context.Context, name string, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for !ready() {
		select {
		case <-p.exited:
			return fmt.Errorf("the %s did not start:\n%s", name, p.Log())
		case <-ctx.Done():
			return fmt.Errorf("the %s did not start in %s\n%s", name, startTimeout, p.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// Signal sends a signal to the process, of a server the postmaster.
func (p *process) Signal(signal syscall.Signal) error { return p.cmd.Process.Signal(signal) }

// Wait waits until the process has ended.
func (p *process) Wait(limit time.Duration) error {
	select {
	case <-p.exited:
		return nil
	case <-time.After(limit):
		return errors.New("the process did not stop")
	}
}

// Exited is closed once the process has ended.
func (p *process) Exited() <-chan struct{} { return p.exited }

// PID is the process's, of a server the postmaster's.
func (p *process) PID() int { return p.cmd.Process.Pid }

// remove ends the process by a signal, whatever state it is in, and removes the folder.
func (p *process) remove(signal syscall.Signal) error {
	var err error
	if p.cmd != nil {
		_ = p.Signal(syscall.SIGCONT) // it may be gone, here and below
		_ = p.Signal(signal)
		if err = p.Wait(stopTimeout); err != nil {
			_ = p.Signal(syscall.SIGKILL)
		}
	}
	if p.port != nil {
		err = errors.Join(err, p.port.Release())
		p.port = nil
	}
	if p.Dir == "" {
		return err
	}
	return errors.Join(err, os.RemoveAll(p.Dir))
}

// Log returns what the process wrote.
func (p *process) Log() string {
	content, err := os.ReadFile(p.logFile())
	if err != nil {
		return err.Error()
	}
	return string(content)
}

func (p *process) logFile() string { return filepath.Join(p.Dir, "log") }
