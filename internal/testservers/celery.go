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

// Celery is a throwaway Celery worker. It runs until Remove.
type Celery struct{ process }

// NewCelery starts a worker of this name for a broker, with the Celery of a Python and settings such as
// "task_serializer='pickle'". On an error nothing is left.
func NewCelery(ctx context.Context, python, name, broker string, settings ...string) (*Celery, error) {
	c := &Celery{}
	var err error
	if c.Dir, err = os.MkdirTemp("", "testservers-"); err != nil {
		return nil, err
	}
	app := fmt.Sprintf("from celery import Celery\napp = Celery('app', broker=%q)\napp.conf.update(%s)\n", broker, strings.Join(settings, ", "))
	if err := os.WriteFile(filepath.Join(c.Dir, "app.py"), []byte(app), 0o600); err != nil {
		return nil, errors.Join(err, c.Remove())
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), python, "-m", "celery", "-A", "app", "worker", "--pool=solo", "--loglevel=INFO", "--hostname="+name+"@%h")
	cmd.Dir, cmd.SysProcAttr = c.Dir, childAttributes(nil)
	cmd.Env = append(os.Environ(), "C_FORCE_ROOT=1", "PYTHONDONTWRITEBYTECODE=1")
	if err := c.launch(cmd); err != nil {
		return nil, errors.Join(err, c.Remove())
	}
	if err := c.awaits(ctx, "Celery worker", func() bool { return strings.Contains(c.Log(), " ready.") }); err != nil {
		return nil, errors.Join(err, c.Remove())
	}
	return c, nil
}

// Remove ends the process, whatever state it is in, and removes its folder.
func (c *Celery) Remove() error { return c.remove(syscall.SIGKILL) }
