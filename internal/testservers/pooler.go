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

// pooler is the process of a pooler that cannot drop the privileges of root by itself, as PgBouncer can. Its folder belongs to
// the user that it runs as.
type pooler struct {
	// Port is the port on 127.0.0.1 where it listens.
	Port int
	process

	bin  string
	user *syscall.Credential // that the pooler runs as; nil if this process is not root
}

// create makes the folder and reserves a port.
func (p *pooler) create(bin string) error {
	var err error
	if p.bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	if p.Port, err = p.reserve(); err != nil {
		return err
	}
	if p.Dir, err = os.MkdirTemp("", "testservers-"); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	if p.user, err = unprivilegedCredential(); err != nil {
		return err
	}
	return os.Chown(p.Dir, int(p.user.Uid), int(p.user.Gid))
}

// write writes a file of the folder, which only the pooler's user can read.
func (p *pooler) write(name, content string) error {
	if err := os.WriteFile(p.path(name), []byte(content), 0o600); err != nil || p.user == nil {
		return err
	}
	return os.Chown(p.path(name), int(p.user.Uid), int(p.user.Gid))
}

func (p *pooler) path(name string) string { return filepath.Join(p.Dir, name) }

// command returns a command that runs a program as the pooler's user. Its home is the pooler's folder. The user need not reach
// the program's folder, such as one in root's home: a shell enters it as root, and a relative path needs no folder above.
func (p *pooler) command(ctx context.Context, bin string, args ...string) *exec.Cmd {
	if p.user != nil {
		// The kernel forgets the signal that childAttributes requests when the user changes.
		script := fmt.Sprintf(`cd "${0%%/*}" && exec setpriv --reuid=%d --regid=%d --clear-groups --pdeathsig=INT "./${0##*/}" "$@"`,
			p.user.Uid, p.user.Gid)
		bin, args = "sh", append([]string{"-c", script, bin}, args...)
	}
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.Dir, "LC_ALL=C"}
	cmd.SysProcAttr = childAttributes(nil)
	return cmd
}

// start starts the pooler with args and waits until it listens. ctx bounds the waits only. name is for the error.
func (p *pooler) start(ctx context.Context, name string, args ...string) error {
	if err := p.killRest(); err != nil {
		return err
	}
	for listens(ctx, p.Port) { // the port is free when the processes have ended
		if err := ctx.Err(); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := p.launch(p.command(context.WithoutCancel(ctx), p.bin, args...)); err != nil {
		return err
	}
	return p.waitUntil(ctx, name, func() bool { return listens(ctx, p.Port) })
}

// remove ends the pooler with a signal, as process.remove does, and kills the processes that it has left behind.
func (p *pooler) remove(signal syscall.Signal) error {
	return errors.Join(p.process.remove(signal), p.killRest())
}

// killRest kills the processes that a pooler that has ended has left behind. They may still listen.
func (p *pooler) killRest() error {
	if p.cmd == nil {
		return nil
	}
	if err := syscall.Kill(-p.PID(), syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}
