// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

const (
	// commandTimeout is how long a command that prints a password may take.
	commandTimeout = 10 * time.Second
	// A file may name the same command for a thousand targets, each with its own arguments. So many run at a time of one
	// command, so that one that hangs keeps none of another from running, and so many of all.
	alikeAtOnce = 8
	allAtOnce   = 64
	// renewEvery is how often a command is run because a server goes on refusing what it printed.
	renewEvery = time.Minute
	// commandTTL is how long an output is used unless the file says otherwise: a cloud's token lives 15 minutes or longer.
	commandTTL = 10 * time.Minute
)

// command prints a password.
type command struct {
	argv []string
	like string        // what it shares its places with: the command as it stands in the file
	ttl  time.Duration // how long its output is used
}

func (c *command) key() string { return strings.Join(c.argv, "\x00") }

// Commands runs the commands that print passwords and keeps what they print, for all targets that run the same one.
type Commands struct {
	ctx context.Context //nolint:containedctx // the program's life: its end ends the commands
	all chan struct{}

	mu      sync.Mutex // protects what follows
	outputs map[string]*output
	alike   map[string]chan struct{}
}

// output is what one command printed.
type output struct {
	running chan struct{} // closed when the command ends; nil while it does not run
	value   Secret
	err     error // of the last run
	fetched time.Time
	ttl     time.Duration
	renewed time.Time // when it was last run because a server refused value
}

// NewCommands returns an empty store. The end of ctx ends every command.
func NewCommands(ctx context.Context) *Commands {
	return &Commands{
		ctx: ctx, all: make(chan struct{}, allAtOnce), outputs: make(map[string]*output), alike: make(map[string]chan struct{}),
	}
}

// get returns what the command prints: from before, if that is younger than its ttl. Else it runs the command, once for
// all who wait, and waits for it until ctx ends; the command itself may go on until its own time-out. An output that has
// just become too old is still good while the command runs, so that its time is not the probe's; but not for a target
// whose server has refused it.
func (c *Commands) get(ctx context.Context, cmd *command, refused Secret) (Secret, error) {
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
	if o.value == "" || o.value == refused && o.err != nil && running != nil {
		return "", o.err
	}
	return o.value, nil
}

// begin returns the command's output, and what to wait for where there is none yet.
func (c *Commands) begin(cmd *command, refused Secret) (*output, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.outputs[cmd.key()]
	if o == nil {
		c.forget()
		o = &output{}
		c.outputs[cmd.key()] = o
	}
	o.ttl = cmd.ttl
	renews := refused != "" && o.value == refused && o.renewable()
	if o.running == nil && (renews || !o.younger(o.ttl)) {
		if renews {
			o.renewed = time.Now()
		}
		o.running = make(chan struct{})
		go c.run(o, cmd)
	}
	if o.younger(o.ttl+o.ttl/2) && o.value != refused {
		return o, nil
	}
	return o, o.running
}

// younger says whether there is a value of less than this age.
func (o *output) younger(age time.Duration) bool { return o.value != "" && time.Since(o.fetched) < age }

// renewable says whether another value is to be had from the command for one that was refused: not if it was printed
// just now, nor all the time.
func (o *output) renewable() bool {
	return time.Since(o.fetched) > commandTimeout && time.Since(o.renewed) > renewEvery
}

// renews says whether to try once more after the server refused a value: there is another one, or there will be.
func (c *Commands) renews(cmd *command, refused Secret) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.outputs[cmd.key()]
	return o != nil && (o.value != refused && o.value != "" || o.running != nil || o.renewable())
}

// forget drops what nobody has asked for since it expired. The caller holds c.mu.
func (c *Commands) forget() {
	for key, o := range c.outputs {
		if o.running == nil && !o.younger(2*o.ttl) {
			delete(c.outputs, key)
		}
	}
}

// run gives the output a new value. A value from before stays for a while when the command fails: whoever prints
// passwords may be away for a moment.
func (c *Commands) run(o *output, cmd *command) {
	value, err := c.execute(cmd)
	c.mu.Lock()
	defer c.mu.Unlock()
	o.err = err
	if err == nil || !o.younger(o.ttl+o.ttl/2) {
		o.value, o.fetched = value, time.Now()
	}
	close(o.running)
	o.running = nil
}

// execute runs a command and returns the line that it prints. What it writes to its standard error is not kept: it may
// be anything.
func (c *Commands) execute(cmd *command) (Secret, error) {
	alike := c.places(cmd)
	for _, places := range []chan struct{}{alike, c.all} {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		case <-c.ctx.Done():
			return "", c.ctx.Err()
		}
	}
	ctx, cancel := context.WithTimeout(c.ctx, commandTimeout)
	defer cancel()
	out := &limitedBuffer{most: longestSecret, full: cancel}
	process := exec.CommandContext(ctx, cmd.argv[0], cmd.argv[1:]...)
	process.Stdout = out
	process.WaitDelay = time.Second // for whoever inherited its output
	defer killWithChildren(process)()
	err := process.Run()
	var execErr *exec.Error
	switch {
	case out.over:
		return "", fmt.Errorf("printed more than %d KiB", longestSecret>>10)
	case ctx.Err() != nil:
		return "", fmt.Errorf("did not end within %s", commandTimeout)
	case errors.As(err, &execErr):
		return "", execErr.Err // without the name
	case err != nil && !errors.Is(err, exec.ErrWaitDelay): // with which it has ended well, and a child of it has not
		return "", pathless(err)
	}
	value, err := onlyLine(out.content)
	switch {
	case err != nil:
		return "", fmt.Errorf("its output %w", err)
	case strings.Contains(string(value), "\n"):
		return "", errors.New("its output has several lines")
	}
	return value, nil
}

// places are those of the commands that are alike.
func (c *Commands) places(cmd *command) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	places := c.alike[cmd.like]
	if places == nil {
		places = make(chan struct{}, alikeAtOnce)
		c.alike[cmd.like] = places
	}
	return places
}

// limitedBuffer keeps at most so many bytes. At the first one beyond, it calls full and takes no more. It does not
// embed a bytes.Buffer, whose ReadFrom io.Copy would prefer to Write.
type limitedBuffer struct {
	most    int
	full    func()
	content []byte
	over    bool
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if len(p) > b.most-len(b.content) {
		b.over = true
		b.full()
		return 0, io.ErrShortBuffer
	}
	b.content = append(b.content, p...)
	return len(p), nil
}
