// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.yaml.in/yaml/v3"
)

// defaultCommandTTL is how long the output of a command is used if the file does not set it: a cloud's token lives for
// 15 minutes or longer.
const defaultCommandTTL = 10 * time.Minute

// level is what defaults, a module or a target can say; nil is unsaid.
type level struct {
	user, sslmode, sslrootcert, sslcert, sslkey, requireAuth *string
	password                                                 *PasswordSource
	ttl                                                      *time.Duration
	timeout, interval                                        *time.Duration
	applications, commit                                     *bool
}

// over lays a level over another one. Of the ways to give a password, the upper level's replaces the lower one's.
func (l *level) over(base level) level {
	return level{
		user: either(l.user, base.user), sslmode: either(l.sslmode, base.sslmode),
		sslrootcert: either(l.sslrootcert, base.sslrootcert), sslcert: either(l.sslcert, base.sslcert),
		sslkey: either(l.sslkey, base.sslkey), requireAuth: either(l.requireAuth, base.requireAuth),
		password: either(l.password, base.password), ttl: either(l.ttl, base.ttl),
		timeout: either(l.timeout, base.timeout), interval: either(l.interval, base.interval),
		applications: either(l.applications, base.applications), commit: either(l.commit, base.commit),
	}
}

func either[T any](upper, lower *T) *T {
	if upper != nil {
		return upper
	}
	return lower
}

func (l *level) systemRoots() bool { return l.sslrootcert != nil && *l.sslrootcert == "system" }

func (l *level) probing() Probing {
	return Probing{Timeout: *l.timeout, Interval: *l.interval, Applications: *l.applications, Commit: *l.commit}
}

// values are the level's settings by their names in a connection string; nil is unsaid.
func (l *level) values() map[string]*string {
	return map[string]*string{
		"user": l.user, "sslmode": l.sslmode, "sslrootcert": l.sslrootcert, "sslcert": l.sslcert, "sslkey": l.sslkey,
		"require_auth": l.requireAuth,
	}
}

// said are the names of what the level sets of a connection string.
func (l *level) said() []string {
	var names []string
	for name, value := range l.values() {
		if value != nil {
			names = append(names, name)
		}
	}
	if l.password != nil {
		names = append(names, "password")
	}
	slices.Sort(names)
	return names
}

// settings returns all that a connection string needs: what the level says, and for the rest what keeps libpq's
// environment out.
func (l *level) settings() map[string]string {
	all := neutralSettings()
	for key, value := range l.values() {
		if value != nil {
			all[key] = *value
		}
	}
	return all
}

// passwordFor returns the source of a target's password. It replaces the placeholders in the arguments of a command.
func (l *level) passwordFor(host, port, user, dbname string) PasswordSource {
	if l.password == nil {
		return PasswordSource{}
	}
	p := *l.password
	if p.Command == nil {
		return p
	}
	placeholders := strings.NewReplacer("{host}", host, "{port}", port, "{user}", user, "{dbname}", dbname)
	filled := &Command{Template: p.Command.Template, TTL: defaultCommandTTL}
	for _, argument := range p.Command.Template {
		filled.Argv = append(filled.Argv, placeholders.Replace(argument))
	}
	if l.ttl != nil {
		filled.TTL = *l.ttl
	}
	p.Command = filled
	return p
}

// levelFields are the keys of all three levels.
func (b *builder) levelFields(l *level) fields {
	say := func(to **string, s string) {
		if s != "" { // else there is a problem
			*to = &s
		}
	}
	way := func(set func(p *PasswordSource, n *yaml.Node, where string)) func(*yaml.Node, string) {
		return func(n *yaml.Node, where string) {
			if l.password != nil {
				b.problem(n, where, "the password is given in several ways: keep one of password, password_file, password_env and password_command")
			}
			l.password = &PasswordSource{}
			set(l.password, n, where)
		}
	}
	return fields{
		"user":     func(n *yaml.Node, where string) { say(&l.user, b.text(n, where)) },
		"password": way(func(p *PasswordSource, n *yaml.Node, where string) { p.Text = Secret(b.text(n, where)) }),
		"password_file": way(func(p *PasswordSource, n *yaml.Node, where string) {
			p.File = b.fromFolder(b.text(n, where))
		}),
		"password_env":     way(func(p *PasswordSource, n *yaml.Node, where string) { p.Variable = b.text(n, where) }),
		"password_command": way(func(p *PasswordSource, n *yaml.Node, where string) { p.Command = b.command(n, where) }),
		"password_command_ttl": func(n *yaml.Node, where string) {
			l.ttl = b.duration(n, where, time.Second, 24*time.Hour)
		},
		"sslmode": func(n *yaml.Node, where string) {
			say(&l.sslmode, b.oneOf(n, where, "disable", "allow", "prefer", "require", "verify-ca", "verify-full"))
		},
		"sslrootcert": func(n *yaml.Node, where string) {
			s := b.text(n, where)
			if s != "system" {
				s = b.fromFolder(s)
			}
			say(&l.sslrootcert, s)
		},
		"sslcert":      func(n *yaml.Node, where string) { say(&l.sslcert, b.fromFolder(b.text(n, where))) },
		"sslkey":       func(n *yaml.Node, where string) { say(&l.sslkey, b.fromFolder(b.text(n, where))) },
		"require_auth": func(n *yaml.Node, where string) { say(&l.requireAuth, b.requireAuth(n, where)) },
		"timeout":      func(n *yaml.Node, where string) { l.timeout = b.duration(n, where, Shortest, Longest) },
		"interval": func(n *yaml.Node, where string) {
			l.interval = b.duration(n, where, 0, time.Hour)
			if l.interval != nil && *l.interval != 0 && *l.interval < Shortest {
				b.problem(n, where, "must be 0s or at least %s", Shortest)
			}
		},
		"applications": func(n *yaml.Node, where string) { l.applications = b.boolean(n, where) },
		"commit":       func(n *yaml.Node, where string) { l.commit = b.boolean(n, where) },
	}
}

func (b *builder) requireAuth(n *yaml.Node, where string) string {
	s := b.text(n, where)
	if _, err := pgconn.ParseConfig(string(AddSettings("", map[string]string{"require_auth": s}))); err != nil && strings.Contains(err.Error(), "invalid require_auth") {
		b.problem(n, where, "must be a list of password, md5, scram-sha-256, gss, sspi and none, or of these with a ! before each")
		return ""
	}
	return s
}

// checkLevel finds settings of one level that contradict each other.
func (b *builder) checkLevel(n *yaml.Node, where string, l *level) {
	if (l.sslcert == nil) != (l.sslkey == nil) {
		b.problem(n, where, "has only one of sslcert and sslkey")
	}
}

// command reads a command that has placeholders. Its program is one in PATH, or a path that begins at the file's folder.
func (b *builder) command(n *yaml.Node, where string) *Command {
	argv := b.list(n, where)
	if len(argv) > 0 && strings.ContainsRune(argv[0], filepath.Separator) {
		argv[0] = b.fromFolder(argv[0])
	}
	return &Command{Template: argv}
}

// fromFolder takes a path from the file's folder.
func (b *builder) fromFolder(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(b.folder, path)
}
