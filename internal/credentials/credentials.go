// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package credentials makes the settings of each login. It reads the files and variables that package config names, runs the
// commands that print passwords, gets the tokens of clouds, and remembers which password a server refused. It reads files and
// variables again for every login, so that a rotated file needs no restart. It uses the output of a command for the command's
// TTL, and a token until shortly before it expires.
//
// No error text holds a secret or a connection string. It holds a path only if that file exists: a secret may stand in the
// place of a path.
package credentials

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/semaphore"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials/cloud"
)

// Store makes the credentials of all targets. It keeps what commands print and clouds give for as long as the program lives, so
// that a reload of the configuration does not fetch it again. Its methods may be called by several goroutines at once.
type Store struct {
	ctx       context.Context //nolint:containedctx // the program's life: its end ends every fetch
	cache     *cache
	commands  *commands
	providers provider
	places    *semaphore.Weighted // for requests to clouds; there are maxFetches
	blank     blankConfig
}

// maxFetches bounds how many identities are asked for at once. /probe may name servers of any AWS region, and each region is an
// identity of its own.
const maxFetches = 16

// provider gives the tokens of identities.
type provider interface {
	// Fetch asks the cloud of an identity. ctx bounds it. The error's text may be shown to anyone.
	Fetch(ctx context.Context, identity *config.CloudAuth) (*cloud.Grant, error)
}

// NewStore returns an empty store. The end of ctx ends every command and every request to a cloud.
func NewStore(ctx context.Context) *Store {
	return &Store{
		ctx: ctx, cache: newCache(), commands: newCommands(ctx), providers: cloud.NewProviders(),
		places: semaphore.NewWeighted(maxFetches),
	}
}

// For returns the source of a target's credentials. Each prober needs its own, which remembers a refused password.
func (s *Store) For(target *config.Target) *Source {
	return &Source{login: &target.Login, store: s}
}

// fetcher returns the way to a password that a command or a cloud gives to a server.
func (s *Store) fetcher(from *config.PasswordSource, of cloud.Endpoint) *fetcher {
	if from.Command != nil {
		return s.commands.fetcher(from.Command)
	}
	identity := cloud.Resolve(*from.Cloud, of.Host)
	return &fetcher{
		key:    fmt.Sprintf("cloud\x00%q", identity),
		notYet: errors.New("the identity service has not answered yet"),
		fetch: func() (*cloud.Grant, error) {
			ctx, cancel := context.WithTimeout(s.ctx, fetchTimeout)
			defer cancel()
			if s.places.Acquire(ctx, 1) != nil {
				return nil, errors.New("too many identities are asked for at once")
			}
			defer s.places.Release(1)
			return s.providers.Fetch(ctx, &identity)
		},
	}
}

// Source makes the settings of each login to one target. Its methods may be called by several goroutines at once.
type Source struct {
	login *config.Login
	store *Store

	mu      sync.Mutex    // protects what follows
	refused config.Sealed // the password that the server refused last, if it has accepted none since
	last    *fetched      // of the last login, nil if its password was not fetched: what files hold may change it
}

// fetched is where the password of a login was fetched, and for which server.
type fetched struct {
	by *fetcher
	of cloud.Endpoint
}

// ConnConfig returns the settings of one login, which the caller owns. ctx bounds how long it waits for a command or a cloud
// that gives the password; it does not bound the reading of files.
//
// The error is a *config.TLSError if a file of TLS material cannot be used. Every other error is about a password or a
// connection string that cannot be read.
func (s *Source) ConnConfig(ctx context.Context) (*pgconn.Config, error) {
	login, err := s.read()
	if err != nil {
		return nil, err
	}
	cfg, err := connConfig(&s.store.blank, login.Connection)
	if err == nil && login.Password.IsSet() {
		var password config.Secret
		password, err = s.password(ctx, &login)
		cfg.Password = string(password)
	}
	if err == nil {
		err = giveToken(cfg, login.Connection)
	}
	switch {
	case err == nil:
		return cfg, nil
	case s.login.Environment != nil:
		err = withSource(s.login.Environment.Source, err)
	}
	return nil, err
}

// read returns the login, with what variables and files hold of its connection string.
func (s *Source) read() (config.Login, error) {
	unread := s.login.Unread
	switch {
	case s.login.Environment != nil:
		return environment{s.login.Environment}.login()
	case unread == nil:
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

// password reads or fetches the password from where it comes.
func (s *Source) password(ctx context.Context, login *config.Login) (config.Secret, error) {
	from, c := &login.Password, login.Connection
	if !from.IsFetched() {
		return readSource("password", from)
	}
	of := cloud.Endpoint{Host: cmp.Or(c.Host, c.Address), Port: c.Port, User: c.User}
	last := &fetched{s.store.fetcher(from, of), of}
	s.mu.Lock()
	s.last = last
	refused := s.refused.Secret()
	s.mu.Unlock()
	password, err := s.store.cache.get(ctx, last.by, of, refused)
	switch {
	case from.Command != nil:
		err = withKey("password_command", err)
	case s.login.Environment != nil && err != nil:
		err = &variableError{withKey(config.CloudAuthVariable, err)}
	default:
		err = withKey("cloud_auth", err)
	}
	return password, err
}

// FetchesPassword reports whether ConnConfig may wait for a command or a cloud that gives the password.
func (s *Source) FetchesPassword() bool {
	switch {
	case s.login.Environment != nil:
		_, ok := s.login.Environment.Variables[config.CloudAuthVariable]
		return ok
	case s.login.Unread != nil:
		return s.login.Unread.FetchesPassword()
	}
	return s.login.Password.IsFetched()
}

// PasswordRefused records that the server refused a password that ConnConfig returned. It reports whether the next
// ConnConfig may return another one: this one was fetched some time ago and will be fetched again, or has been meanwhile.
func (s *Source) PasswordRefused(password config.Secret) (mayChange bool) {
	s.mu.Lock()
	s.refused = config.Seal(password)
	last := s.last
	s.mu.Unlock()
	return last != nil && s.store.cache.mayChange(last.by, last.of, password)
}

// Accepted records that a login succeeded. The target forgets the password that the server refused.
func (s *Source) Accepted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = config.Sealed{}
}
