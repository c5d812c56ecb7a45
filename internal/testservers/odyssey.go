// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// Odyssey is a throwaway Odyssey. It runs until Remove is called.
type Odyssey struct{ pooler }

// OdysseyConfig describes a new Odyssey.
type OdysseyConfig struct {
	// Bin is the path of the program.
	Bin string
	// Server is the port on 127.0.0.1 of the server behind it.
	Server int
	// Pool is the mode: "session", which is the default, or "transaction".
	Pool string
	// ClientMax is how many clients it lets in for each database and user, and PoolSize how many sessions with the server it
	// opens for them. 0 means any number.
	ClientMax, PoolSize int
	// PoolTimeout is how long a client waits for a session with the server, in whole milliseconds. 0 means for ever.
	PoolTimeout time.Duration
	// Settings are lines such as "client_max 2" for all clients together.
	Settings []string
	// Users maps the names of users to their passwords, which are the same at the server and contain no double quote.
	// Others are unknown.
	Users map[string]string
}

// NewOdyssey starts an Odyssey and waits until it listens. ctx bounds the start only. If NewOdyssey fails, it leaves no
// process and no file.
func NewOdyssey(ctx context.Context, c OdysseyConfig) (*Odyssey, error) {
	o := &Odyssey{}
	if err := o.create(c); err != nil {
		return nil, errors.Join(err, o.Remove())
	}
	if err := o.Start(ctx); err != nil {
		return nil, errors.Join(err, o.Remove())
	}
	return o, nil
}

func (o *Odyssey) create(c OdysseyConfig) error {
	if err := o.pooler.create(c.Bin); err != nil {
		return err
	}
	quote := func(s string) string { return `"` + s + `"` }
	var b strings.Builder
	fmt.Fprintf(&b, `daemonize no
log_to_stdout yes
log_format "%%t %%l [%%i %%s] (%%c) %%m\n"
log_session yes
log_stats no
unix_socket_dir %s
unix_socket_mode "0600"
locks_dir %[1]s
%s
listen {
  host "127.0.0.1"
  port %d
}
storage "server" {
  type "remote"
  host "127.0.0.1"
  port %d
}
database default {
`, quote(o.Dir), strings.Join(c.Settings, "\n"), o.Port, c.Server)
	for name, password := range c.Users {
		fmt.Fprintf(&b, `  user %s {
    authentication "scram-sha-256"
    password %s
    storage "server"
    storage_password %[2]s
    pool %s
    client_max %d
    pool_size %d
    pool_timeout %d
  }
`, quote(name), quote(password), quote(cmp.Or(c.Pool, "session")), c.ClientMax, c.PoolSize, c.PoolTimeout.Milliseconds())
	}
	b.WriteString("}\n")
	return o.write("odyssey.conf", b.String())
}

// Start starts Odyssey after it has stopped, and waits until it listens. ctx bounds the wait only.
func (o *Odyssey) Start(ctx context.Context) error {
	return o.start(ctx, "Odyssey", o.path("odyssey.conf"))
}

// Remove kills the process, even a stopped one, and removes its folder.
func (o *Odyssey) Remove() error { return o.remove(syscall.SIGKILL) }
