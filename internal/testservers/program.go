// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Program is any other program in a folder of its own. It runs until Remove.
type Program struct{ process }

// NewProgram makes a new temporary folder with these files in it, by name; Start starts the program. On an error nothing
// is left.
func NewProgram(files map[string]string) (*Program, error) {
	dir, err := os.MkdirTemp("", "testservers-")
	if err != nil {
		return nil, err
	}
	for name, content := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	p := &Program{process{Dir: dir}}
	if err != nil {
		return nil, errors.Join(err, p.Remove())
	}
	return p, nil
}

// Start starts the program in its folder, with nothing of our environment that names a server or a proxy.
func (p *Program) Start(bin string, env []string, args ...string) error {
	cmd := exec.Command(bin, args...) //nolint:noctx // it runs until Remove
	cmd.Dir, cmd.SysProcAttr = p.Dir, childAttributes(nil)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.Dir}, env...)
	return p.launch(cmd)
}

// Await waits until the program, whose name is for the error, can be used.
func (p *Program) Await(ctx context.Context, name string, ready func() bool) error {
	return p.awaits(ctx, name, ready)
}

// LastWords is the end of what the program wrote, for an error.
func (p *Program) LastWords() string {
	lines := strings.Split(strings.TrimSpace(p.Log()), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// Remove ends the program and removes its folder.
func (p *Program) Remove() error { return p.remove(syscall.SIGTERM) }
