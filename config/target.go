// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"time"
)

// Target has the settings of one server to probe. It is a plain value that does not change.
type Target struct {
	// Name is the target's key in the configuration file, and "postgres" for the target from the environment. It is empty
	// for ad-hoc targets.
	Name string
	// Implied reports whether the target comes from the environment. Its series have no label target, since there is
	// only one.
	Implied bool
	// Module is the module whose settings the target has. It is empty if the target names none.
	Module string
	// Kind is the kind of the server.
	Kind Kind
	// Labels are those of the target's series on /metrics, of the target on /sd and of its entries on /health, sorted by
	// name. An ad-hoc target has none: its labels are Prometheus's.
	Labels []Label
	Probing
	// Login is what a login to the server needs.
	Login Login
	// Allow bounds where the server of an ad-hoc target may be. It is nil for every other target: nothing bounds it.
	Allow *AllowList
}

// Kind is a kind of server.
type Kind string

// The kinds of servers. A PgBouncer is probed through its console.
const (
	KindPostgres  Kind = "postgres"
	KindPgBouncer Kind = "pgbouncer"
)

// DefaultDatabase returns the database of a login that names none. Every PostgreSQL server has the database postgres
// (initdb makes it), while libpq's default, the user's name, often does not exist. PgBouncer's is its console.
func (k Kind) DefaultDatabase() string { return string(k) }

// Probing is how a target is probed.
type Probing struct {
	// Timeout bounds one probe. It is from MinTimeout to MaxTimeout.
	Timeout time.Duration
	// Interval is the time between two probes that no scrape asks for. If it is 0 there are none; otherwise it is at
	// least MinTimeout.
	Interval time.Duration
	// Applications also counts connections by application name.
	Applications bool
	// Commit also commits a transaction in each probe.
	Commit bool
	// Keep keeps a session open between probes.
	Keep bool
}

// Login has what a login needs. It has only the names of files, variables and commands: internal/credentials reads or runs
// them at each login.
type Login struct {
	// Environment is set if environment variables name the server. All other fields are empty then.
	Environment *Environment
	// Unread is set if files hold the connection string, the host or the user. All other fields are empty then.
	Unread *UnreadLogin
	// Connection has the settings of the login. Its password counts only if Password has no source.
	Connection *Connection
	// Password is where the password comes from.
	Password PasswordSource
}

// PasswordSource is where a password comes from. At most one field is set. If none is, the password is in the
// connection string, or there is none. The password of a key has no command and no cloud.
type PasswordSource struct {
	// Text is the password itself.
	Text Secret
	// File is the path of a file that holds the password.
	File string
	// Variable is the name of an environment variable that holds the password.
	Variable string
	// Command prints the password.
	Command *Command
	// Cloud is the identity whose token is the password.
	Cloud *CloudAuth
}

// IsFetched reports whether a command or a cloud gives the password, which takes time.
func (s *PasswordSource) IsFetched() bool { return s.Command != nil || s.Cloud != nil }

// IsSet reports whether the password has a source of its own.
func (s *PasswordSource) IsSet() bool {
	return s.Text != "" || s.File != "" || s.Variable != "" || s.IsFetched()
}

// Command is a program that prints a password.
type Command struct {
	// Argv is the program and its arguments.
	Argv []string
	// Template is Argv as it stands in the file, with placeholders such as {host}. Commands with the same template
	// share a limit of how many of them run at once.
	Template []string
	// TTL is how long an output is used.
	TTL time.Duration
}

// Equal reports whether two targets have the same settings.
func (t *Target) Equal(other *Target) bool { return reflect.DeepEqual(t, other) }

// SameProbes reports whether two targets have the same settings except labels. What was counted for one then belongs to the
// other.
func (t *Target) SameProbes(other *Target) bool {
	changed := *other
	changed.Labels = t.Labels
	return t.Equal(&changed)
}
