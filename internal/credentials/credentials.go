// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package credentials does what happens at login time: it reads secret files and variables, runs the commands that
// print passwords, remembers which password a server refused, and makes the settings of each login. Package config says
// where all of that is. Files and variables are read again for every login, so that a rotation needs no restart; what a
// command prints is kept for the command's TTL.
//
// No error text holds a secret or a connection string. It holds a path only if that file exists: a secret may stand in the
// place of a path.
package credentials

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/config"
)

// Store makes the credentials of all targets. It keeps what commands print for as long as the program lives, so that a
// reload of the configuration does not run them again. Its methods may be called by several goroutines at once.
type Store struct{ commands *commands }

// NewStore returns an empty store. The end of ctx ends every command.
func NewStore(ctx context.Context) *Store { return &Store{newCommands(ctx)} }

// For returns the source of a target's credentials. Each prober needs its own, which remembers a refused password.
func (s *Store) For(target *config.Target) *Source {
	return &Source{login: &target.Login, commands: s.commands}
}

// Source makes the settings of each login to one target. Its methods may be called by several goroutines at once.
type Source struct {
	login    *config.Login
	commands *commands

	mu      sync.Mutex      // protects what follows
	refused config.Sealed   // the password that the server refused last, if it has accepted none since
	command *config.Command // the one of the last login, nil if none had one: its arguments depend on what files hold
}

// ConnConfig returns the settings of one login, which the caller owns. ctx bounds how long it waits for a command that
// prints the password; it does not bound the reading of files.
//
// The error is a *config.TLSError if a file of TLS material cannot be used. Every other error is about a password or a
// connection string that cannot be read.
func (s *Source) ConnConfig(ctx context.Context) (*pgconn.Config, error) {
	if s.login.Environment != nil {
		return environment{s.login.Environment}.connConfig()
	}
	login, err := s.read()
	if err != nil {
		return nil, err
	}
	cfg, err := connConfig(login.Connection)
	if err != nil || !login.Password.IsSet() {
		return cfg, err
	}
	password, err := s.password(ctx, &login.Password)
	if err != nil {
		return nil, err
	}
	cfg.Password = string(password)
	return cfg, nil
}

// read returns the login, with what files hold of its connection string.
func (s *Source) read() (config.Login, error) {
	unread := s.login.Unread
	if unread == nil {
		return *s.login, nil
	}
	files, contents := unread.Files(), make(map[string]config.Secret)
	for _, key := range slices.Sorted(maps.Keys(files)) {
		content, err := readSecret(files[key])
		if err != nil {
			return config.Login{}, withKey(key, err)
		}
		contents[key] = content
	}
	return unread.Login(contents)
}

// password reads the password from where it comes.
func (s *Source) password(ctx context.Context, from *config.PasswordSource) (config.Secret, error) {
	if from.Command == nil {
		return readSource("password", from)
	}
	s.mu.Lock()
	s.command = from.Command
	refused := s.refused.Secret()
	s.mu.Unlock()
	password, err := s.commands.get(ctx, from.Command, refused)
	return password, withKey("password_command", err)
}

// HasPasswordCommand reports whether ConnConfig may wait for a command that prints the password.
func (s *Source) HasPasswordCommand() bool {
	if s.login.Unread != nil {
		return s.login.Unread.HasPasswordCommand()
	}
	return s.login.Password.Command != nil
}

// PasswordRefused records that the server refused a password that ConnConfig returned. It reports whether the next
// ConnConfig may return another one: a command printed the password some time ago and will run again, or has run
// meanwhile.
func (s *Source) PasswordRefused(password config.Secret) (mayChange bool) {
	s.mu.Lock()
	s.refused = config.Seal(password)
	command := s.command
	s.mu.Unlock()
	return command != nil && s.commands.mayChange(command, password)
}

// Accepted records that a login succeeded. The target forgets the password that the server refused.
func (s *Source) Accepted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = config.Sealed{}
}
