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
)

const (
	// commandTimeout bounds one run of a command.
	commandTimeout = 10 * time.Second
	// maxSameTemplate bounds how many commands with the same template run at once, maxCommands how many of all. A file
	// may have one template for a thousand targets, and one that hangs must not keep those of another template from
	// running.
	maxSameTemplate = 8
	maxCommands     = 64
	// refusedInterval is the time between two runs of a command while a server keeps refusing what it prints.
	refusedInterval = time.Minute
)

// commands runs the commands that print passwords, and keeps what they print for all targets that have the same
// command.
type commands struct {
	ctx   context.Context //nolint:containedctx // the program's life: its end ends the commands
	slots chan struct{}   // one for each command that may run

	mu            sync.Mutex // protects what follows
	outputs       map[string]*output
	templateSlots map[string]chan struct{}
}

// output is what one command printed. commands.mu protects it.
type output struct {
	running chan struct{} // closed when the command ends; nil while it does not run
	value   config.Sealed
	err     error     // of the last run
	fetched time.Time // when value was printed
	ttl     time.Duration
	renewed time.Time // when the command last ran because a server refused value
}

// newCommands returns a value without outputs. The end of ctx ends every command.
func newCommands(ctx context.Context) *commands {
	return &commands{
		ctx: ctx, slots: make(chan struct{}, maxCommands),
		outputs: make(map[string]*output), templateSlots: make(map[string]chan struct{}),
	}
}

// key identifies commands that have the same output, or the same template.
func key(argv []string) string { return strings.Join(argv, "\x00") }

// get returns what a command prints. It returns an output from before that is younger than the command's TTL. Otherwise
// it runs the command, once for all callers, and waits for it until ctx ends; the command itself may go on until
// commandTimeout.
//
// While the command runs, an output of up to one and a half TTL is still used, so that a probe does not wait. It is not
// used for a target whose server has refused it.
func (c *commands) get(ctx context.Context, cmd *config.Command, refused config.Secret) (config.Secret, error) {
	o, running := c.begin(cmd, refused)
	if running != nil {
		select {
		case <-running:
		case <-ctx.Done():
			return "", errors.New("has not ended yet")
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	value := o.value.Secret()
	if value == "" || value == refused && o.err != nil && running != nil {
		return "", o.err
	}
	return value, nil
}

// begin returns a command's output. If it is of no use yet, begin also returns a channel that is closed when the
// command ends.
func (c *commands) begin(cmd *config.Command, refused config.Secret) (*output, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.outputs[key(cmd.Argv)]
	if o == nil {
		c.evictLocked()
		o = &output{}
		c.outputs[key(cmd.Argv)] = o
	}
	o.ttl = cmd.TTL
	renew := refused != "" && o.value.Secret() == refused && o.isRenewable()
	if o.running == nil && (renew || !o.isYounger(o.ttl)) {
		if renew {
			o.renewed = time.Now()
		}
		o.running = make(chan struct{})
		go c.run(o, cmd)
	}
	if o.isYounger(o.ttl+o.ttl/2) && o.value.Secret() != refused {
		return o, nil
	}
	return o, o.running
}

// isYounger reports whether there is a value that is younger than age.
func (o *output) isYounger(age time.Duration) bool {
	return o.value.Secret() != "" && time.Since(o.fetched) < age
}

// isRenewable reports whether the command may run again because a server refused the value. It may not if the value was
// printed just now, or if it ran for that reason less than refusedInterval ago.
func (o *output) isRenewable() bool {
	return time.Since(o.fetched) > commandTimeout && time.Since(o.renewed) > refusedInterval
}

// mayChange reports whether get may return another value than a refused one: there is one, the command is running, or
// it may run again.
func (c *commands) mayChange(cmd *config.Command, refused config.Secret) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.outputs[key(cmd.Argv)]
	return o != nil && (o.value.Secret() != refused && o.value.Secret() != "" || o.running != nil || o.isRenewable())
}

// evictLocked removes the outputs that are twice as old as their TTL.
func (c *commands) evictLocked() {
	for key, o := range c.outputs {
		if o.running == nil && !o.isYounger(2*o.ttl) {
			delete(c.outputs, key)
		}
	}
}

// run runs a command and stores its output. If the command fails, a value from before stays until it is one and a half
// TTL old: the service behind the command may be away for a moment.
func (c *commands) run(o *output, cmd *config.Command) {
	value, err := c.execute(cmd)
	c.mu.Lock()
	defer c.mu.Unlock()
	o.err = err
	if err == nil || !o.isYounger(o.ttl+o.ttl/2) {
		o.value, o.fetched = config.Seal(value), time.Now()
	}
	close(o.running)
	o.running = nil
}

// execute runs a command and returns the line that it prints. It first waits for a slot, for as long as the program
// lives; commandTimeout bounds the rest. It does not keep what the command writes to its standard error, which may be
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
	ctx, cancel := context.WithTimeout(c.ctx, commandTimeout)
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
		return "", fmt.Errorf("did not end within %s", commandTimeout)
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
