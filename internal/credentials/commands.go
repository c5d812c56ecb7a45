// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"strings"
	"sync"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials/cloud"
)

const (
	// maxSameTemplate bounds how many commands with the same template run at once, maxCommands how many of all. A file
	// may have one template for a thousand targets, and one that hangs must not keep those of another template from
	// running.
	maxSameTemplate = 8
	maxCommands     = 64
)

// commands runs the commands that print passwords. Its methods may be called by several goroutines at once.
type commands struct {
	ctx   context.Context //nolint:containedctx // the program's life: its end ends the commands
	slots chan struct{}   // one for each command that may run

	mu            sync.Mutex // protects what follows
	templateSlots map[string]chan struct{}
}

// newCommands returns a value that runs none yet. The end of ctx ends every command.
func newCommands(ctx context.Context) *commands {
	return &commands{ctx: ctx, slots: make(chan struct{}, maxCommands), templateSlots: make(map[string]chan struct{})}
}

// fetcher returns the way to the password that a command prints.
func (c *commands) fetcher(cmd *config.Command) *fetcher {
	return &fetcher{
		key: "command\x00" + key(cmd.Argv), ttl: cmd.TTL, notYet: errors.New("has not ended yet"),
		fetch: func() (*cloud.Grant, error) {
			password, err := c.execute(cmd)
			if err != nil {
				return nil, err
			}
			return cloud.Fixed(password, time.Time{}), nil
		},
	}
}

// key identifies commands that have the same output, or the same template.
func key(argv []string) string { return strings.Join(argv, "\x00") }

// execute runs a command and returns the line that it prints. It first waits for a slot, for as long as the program
// lives; fetchTimeout bounds the rest. It does not keep what the command writes to its standard error, which may be
// anything.
func (c *commands) execute(cmd *config.Command) (config.Secret, error) {
	for _, slots := range []chan struct{}{c.slotsOf(cmd), c.slots} {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-c.ctx.Done():
			return "", c.ctx.Err()
		}
	}
	ctx, cancel := context.WithTimeout(c.ctx, fetchTimeout)
	defer cancel()
	out := &limitedBuffer{maxSize: maxSecretSize, full: cancel}
	process := exec.CommandContext(ctx, cmd.Argv[0], cmd.Argv[1:]...)
	process.Stdout = out
	process.WaitDelay = time.Second // for a child that inherited its output
	defer killWithChildren(process)()
	err := process.Run()
	var (
		execErr *exec.Error
		pathErr *fs.PathError
	)
	switch {
	case out.exceeded:
		return "", fmt.Errorf("printed more than %d KiB", maxSecretSize>>10)
	case ctx.Err() != nil:
		return "", fmt.Errorf("did not end within %s", fetchTimeout)
	case errors.As(err, &execErr):
		return "", execErr.Err // without the name
	case errors.As(err, &pathErr):
		return "", pathErr.Err // likewise
	case err != nil && !errors.Is(err, exec.ErrWaitDelay): // it ended well, and a child of it has not ended
		return "", err
	}
	value, err := trimSecret(out.content)
	switch {
	case err != nil:
		return "", fmt.Errorf("its output %w", err)
	case strings.Contains(string(value), "\n"):
		return "", errors.New("its output has several lines")
	}
	return value, nil
}

// slotsOf returns the slots that the commands with the same template share.
func (c *commands) slotsOf(cmd *config.Command) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	template := key(cmd.Template)
	slots := c.templateSlots[template]
	if slots == nil {
		slots = make(chan struct{}, maxSameTemplate)
		c.templateSlots[template] = slots
	}
	return slots
}

// limitedBuffer keeps at most maxSize bytes. At the first byte beyond them it calls full, and it fails from then on. It
// does not embed a bytes.Buffer: io.Copy would call its ReadFrom instead of Write.
type limitedBuffer struct {
	maxSize  int
	full     func()
	content  []byte
	exceeded bool
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if len(p) > b.maxSize-len(b.content) {
		b.exceeded = true
		b.full()
		return 0, io.ErrShortBuffer
	}
	b.content = append(b.content, p...)
	return len(p), nil
}
