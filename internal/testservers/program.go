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

// Program is any other program, in a folder of its own. It runs until Remove is called.
type Program struct{ process }

// NewProgram makes a temporary folder with the given files, keyed by name. Start then starts the program. If NewProgram
// fails, it leaves no file.
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

// Start starts the program in its folder and does not wait. Its environment is PATH, HOME and env: no variable of this
// process can name a server or a proxy.
func (p *Program) Start(bin string, env []string, args ...string) error {
	cmd := exec.Command(bin, args...) //nolint:noctx // it runs until Remove is called
	cmd.Dir, cmd.SysProcAttr = p.Dir, childAttributes(nil)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.Dir}, env...)
	return p.launch(cmd)
}

// Await waits until ready returns true. It fails if the program ends first or ctx ends. name is for the error.
func (p *Program) Await(ctx context.Context, name string, ready func() bool) error {
	return p.waitUntil(ctx, name, ready)
}

// LogTail returns the last lines of the log, for an error.
func (p *Program) LogTail() string {
	const maxLines = 5
	lines := strings.Split(strings.TrimSpace(p.Log()), "\n")
	return strings.Join(lines[max(0, len(lines)-maxLines):], "\n")
}

// Remove terminates the program and removes its folder.
func (p *Program) Remove() error { return p.remove(syscall.SIGTERM) }
