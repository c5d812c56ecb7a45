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
	"strings"
	"syscall"
)

// Celery is a throwaway Celery worker. It runs until Remove is called.
type Celery struct{ process }

// NewCelery starts a worker and waits until it is ready. python is an interpreter that has Celery, name is the part of
// the worker's host name before the @, broker is the broker's URL, and settings are keyword arguments of Celery's
// configuration such as "task_serializer='pickle'". ctx bounds the start only. If NewCelery fails, it leaves no process
// and no file.
func NewCelery(ctx context.Context, python, name, broker string, settings ...string) (*Celery, error) {
	c := &Celery{}
	var err error
	if c.Dir, err = os.MkdirTemp("", "testservers-"); err != nil {
		return nil, err
	}
	app := fmt.Sprintf("from celery import Celery\napp = Celery('app', broker=%q)\napp.conf.update(%s)\n",
		broker, strings.Join(settings, ", "))
	if err := os.WriteFile(filepath.Join(c.Dir, "app.py"), []byte(app), 0o600); err != nil {
		return nil, errors.Join(err, c.Remove())
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), python, "-m", "celery", "-A", "app", "worker",
		"--pool=solo", "--loglevel=INFO", "--hostname="+name+"@%h")
	cmd.Dir, cmd.SysProcAttr = c.Dir, childAttributes(nil)
	cmd.Env = append(os.Environ(), "C_FORCE_ROOT=1", "PYTHONDONTWRITEBYTECODE=1")
	if err := c.launch(cmd); err != nil {
		return nil, errors.Join(err, c.Remove())
	}
	if err := c.waitUntil(ctx, "Celery worker", func() bool { return strings.Contains(c.Log(), " ready.") }); err != nil {
		return nil, errors.Join(err, c.Remove())
	}
	return c, nil
}

// Remove kills the process, even a stopped one, and removes its folder.
func (c *Celery) Remove() error { return c.remove(syscall.SIGKILL) }
