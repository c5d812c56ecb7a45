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

// process is the process of a server, with a folder that also holds its log.
type process struct {
	// Dir is the path of the folder. Remove removes it.
	Dir string

	cmd    *exec.Cmd
	exited chan struct{}
	port   *Port // nil if the caller chose the port
}

// reserve reserves a port until the process is removed, and returns its number.
func (p *process) reserve() (int, error) {
	var err error
	if p.port, err = ReservePort(); err != nil {
		return 0, err
	}
	return p.port.Number, nil
}

// launch starts cmd and appends its output to the log. The context of cmd does not end it.
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
		_ = cmd.Wait() // the log has the cause
		close(exited)
	}()
	p.cmd, p.exited = cmd, exited
	return nil
}

// waitUntil waits until ready returns true. It fails if the process ends first, if ctx ends, or after startTimeout.
// name is for the error.
func (p *process) waitUntil(ctx context.Context, name string, ready func() bool) error {
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

// Signal sends a signal to the process. The process of a PostgreSQL server is the postmaster.
func (p *process) Signal(signal syscall.Signal) error { return p.cmd.Process.Signal(signal) }

// Wait waits until the process has ended. It fails after limit.
func (p *process) Wait(limit time.Duration) error {
	select {
	case <-p.exited:
		return nil
	case <-time.After(limit):
		return errors.New("the process did not stop")
	}
}

// Exited returns a channel that is closed when the process has ended.
func (p *process) Exited() <-chan struct{} { return p.exited }

// PID returns the ID of the process.
func (p *process) PID() int { return p.cmd.Process.Pid }

// remove ends the process with a signal, even if it is stopped, removes its folder and releases its port. It kills a
// process that has not ended after stopTimeout.
func (p *process) remove(signal syscall.Signal) error {
	var err error
	if p.cmd != nil {
		_ = p.Signal(syscall.SIGCONT) // these fail if the process has ended
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

// Log returns what the process has written to its standard output and error, or the error of reading that.
func (p *process) Log() string {
	content, err := os.ReadFile(p.logFile())
	if err != nil {
		return err.Error()
	}
	return string(content)
}

func (p *process) logFile() string { return filepath.Join(p.Dir, "log") }
