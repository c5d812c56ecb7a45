// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// defaultCommandTTL is how long the output of a command is used if the file does not set it: a cloud's token lives for
// 15 minutes or longer.
const defaultCommandTTL = 10 * time.Minute

// settings are those that the defaults, a module or a target can have. A setting that is not in the file is nil.
type settings struct {
	user, sslmode, sslrootcert, sslcert, sslkey, sslcrl *string
	serverName, requireAuth                             *string
	userFile                                            *string // the file that holds the user, instead of user
	dbname                                              *string
	kind                                                *Kind
	password, sslpassword                               *PasswordSource
	ttl                                                 *time.Duration
	timeout, interval                                   *time.Duration
	applications, commit, keep                          *bool
	labels                                              map[string]string
	// cloudInsecure reports whether the token of a cloud may be sent to whoever answers. Only a target can have it.
	cloudInsecure bool
}

// overlay returns s, with the settings of base for those that s does not have. A password of s replaces the one of
// base, whatever the sources of the two are, and so does a user. Labels are merged name by name. A database belongs to the
// kind of its level: a PgBouncer does not get the one of the servers.
func (s *settings) overlay(base settings) settings {
	if s.user != nil || s.userFile != nil {
		base.user, base.userFile = nil, nil
	}
	if s.kind != nil && *s.kind != base.serverKind() {
		base.dbname = nil
	}
	return settings{
		userFile: either(s.userFile, base.userFile), dbname: either(s.dbname, base.dbname), kind: either(s.kind, base.kind),
		user: either(s.user, base.user), sslmode: either(s.sslmode, base.sslmode),
		sslrootcert: either(s.sslrootcert, base.sslrootcert), sslcert: either(s.sslcert, base.sslcert),
		sslkey: either(s.sslkey, base.sslkey), sslcrl: either(s.sslcrl, base.sslcrl),
		serverName: either(s.serverName, base.serverName), requireAuth: either(s.requireAuth, base.requireAuth),
		password: either(s.password, base.password), sslpassword: either(s.sslpassword, base.sslpassword), ttl: either(s.ttl, base.ttl),
		timeout: either(s.timeout, base.timeout), interval: either(s.interval, base.interval),
		applications: either(s.applications, base.applications), commit: either(s.commit, base.commit),
		keep: either(s.keep, base.keep), labels: mergedLabels(s.labels, base.labels), cloudInsecure: s.cloudInsecure,
	}
}

// either returns upper, or lower if upper is nil.
func either[T any](upper, lower *T) *T {
	if upper != nil {
		return upper
	}
	return lower
}

// serverKind returns the kind of server. It is KindPostgres unless it is set.
func (s *settings) serverKind() Kind {
	if s.kind == nil {
		return KindPostgres
	}
	return *s.kind
}

// database returns the database of a login, for a connection string that names none.
func (s *settings) database() string {
	if s.dbname == nil {
		return s.serverKind().DefaultDatabase()
	}
	return *s.dbname
}

// hasUser reports whether there is a user, or a file that holds it.
func (s *settings) hasUser() bool { return s.user != nil || s.userFile != nil }

// probing returns the settings of a probe, which must all be set. Applications and commits are not known of a PgBouncer.
func (s *settings) probing() Probing {
	isPostgres := s.serverKind() == KindPostgres
	return Probing{
		Timeout: *s.timeout, Interval: *s.interval, Keep: *s.keep,
		Applications: isPostgres && *s.applications, Commit: isPostgres && *s.commit,
	}
}

// values returns the settings by their keys in a connection string. A setting that is not in the file is nil.
func (s *settings) values() map[string]*string {
	return map[string]*string{
		"user": s.user, "sslmode": s.sslmode, "sslrootcert": s.sslrootcert, "sslcert": s.sslcert, "sslkey": s.sslkey,
		"sslcrl": s.sslcrl, keyServerName: s.serverName, keyRequireAuth: s.requireAuth,
	}
}

// keysSet returns the keys of a connection string that have a setting, sorted.
func (s *settings) keysSet() []string {
	var keys []string
	for key, value := range s.values() {
		if value != nil {
			keys = append(keys, key)
		}
	}
	if s.userFile != nil {
		keys = append(keys, "user")
	}
	if s.password != nil {
		keys = append(keys, keyPassword)
	}
	if s.sslpassword != nil {
		keys = append(keys, keySSLPassword)
	}
	slices.Sort(keys)
	return keys
}

// connSettings returns the settings for a connection. They lack the two passwords.
func (s *settings) connSettings() ConnSettings {
	all := make(ConnSettings)
	for key, value := range s.values() {
		if value != nil {
			all[key] = *value
		}
	}
	return all
}

// login returns the login that a target has with these settings and with its own, which win. An error is one of
// NewConnection, or is about a token that anybody could read.
func (s *settings) login(own ConnSettings) (Login, error) {
	all := s.connSettings()
	maps.Copy(all, own)
	c, err := NewConnection(all)
	if err != nil {
		return Login{}, err
	}
	l := Login{Connection: c}
	if _, has := own[keySSLPassword]; !has && s.sslpassword != nil {
		c.TLS.KeyPassword = *s.sslpassword
	}
	if _, has := own[keyPassword]; !has {
		l.Password = s.passwordFor(cmp.Or(c.Host, c.Address), strconv.Itoa(int(c.Port)), c.User, c.Database)
	}
	if l.Password.Cloud != nil && !s.cloudInsecure {
		if err := c.ProtectsToken(); err != nil {
			return Login{}, fmt.Errorf("%s %w", keyCloudAuth, err)
		}
	}
	return l, nil
}

// passwordFor returns the source of a target's password. It replaces the placeholders in the arguments of a command.
func (s *settings) passwordFor(host, port, user, dbname string) PasswordSource {
	if s.password == nil {
		return PasswordSource{}
	}
	p := *s.password
	if p.Command == nil {
		return p
	}
	placeholders := strings.NewReplacer("{host}", host, "{port}", port, "{user}", user, "{dbname}", dbname)
	filled := &Command{Template: p.Command.Template, TTL: defaultCommandTTL}
	for _, argument := range p.Command.Template {
		filled.Argv = append(filled.Argv, placeholders.Replace(argument))
	}
	if s.ttl != nil {
		filled.TTL = *s.ttl
	}
	p.Command = filled
	return p
}

// settingsFields returns the keys of s, which defaults, modules and targets have.
func (b *builder) settingsFields(s *settings) fields {
	assign := func(to **string, text string) {
		if text != "" { // an empty one is among the problems
			*to = &text
		}
	}
	// The source of a password is what its key says. A variable is read by each login.
	password := func(key string, set func(PasswordSource)) map[string]func(*yaml.Node, string) {
		return map[string]func(*yaml.Node, string){
			key:           func(n *yaml.Node, where string) { set(PasswordSource{Text: Secret(b.text(n, where))}) },
			key + "_env":  func(n *yaml.Node, where string) { set(PasswordSource{Variable: b.variableName(n, where)}) },
			key + "_file": func(n *yaml.Node, where string) { set(PasswordSource{File: b.fromFolder(b.text(n, where))}) },
		}
	}
	known := fields{
		"dbname": func(n *yaml.Node, where string) { assign(&s.dbname, b.text(n, where)) },
		"kind": func(n *yaml.Node, where string) {
			if text := b.oneOf(n, where, string(KindPostgres), string(KindPgBouncer)); text != "" {
				kind := Kind(text)
				s.kind = &kind
			}
		},
		"password_command_ttl": func(n *yaml.Node, where string) {
			s.ttl = b.duration(n, where, time.Second, 24*time.Hour)
		},
		"sslmode": func(n *yaml.Node, where string) { assign(&s.sslmode, b.setting(n, where, keySSLMode)) },
		"sslrootcert": func(n *yaml.Node, where string) {
			path := b.text(n, where)
			if path != "system" {
				path = b.fromFolder(path)
			}
			assign(&s.sslrootcert, path)
		},
		"sslcert":      func(n *yaml.Node, where string) { assign(&s.sslcert, b.fromFolder(b.text(n, where))) },
		"sslkey":       func(n *yaml.Node, where string) { assign(&s.sslkey, b.fromFolder(b.text(n, where))) },
		"sslcrl":       func(n *yaml.Node, where string) { assign(&s.sslcrl, b.fromFolder(b.text(n, where))) },
		"server_name":  func(n *yaml.Node, where string) { assign(&s.serverName, b.setting(n, where, keyServerName)) },
		"require_auth": func(n *yaml.Node, where string) { assign(&s.requireAuth, b.setting(n, where, keyRequireAuth)) },
		"timeout":      func(n *yaml.Node, where string) { s.timeout = b.duration(n, where, MinTimeout, MaxTimeout) },
		"interval": func(n *yaml.Node, where string) {
			s.interval = b.duration(n, where, 0, time.Hour)
			if s.interval != nil && *s.interval != 0 && *s.interval < MinTimeout {
				b.problem(n, where, "must be 0s or at least %s", MinTimeout)
			}
		},
		"applications": func(n *yaml.Node, where string) { s.applications = b.boolean(n, where) },
		"commit":       func(n *yaml.Node, where string) { s.commit = b.boolean(n, where) },
		"keep": func(n *yaml.Node, where string) {
			if keep := b.boolean(n, where); b.mayKeep {
				s.keep = keep
			}
		},
		"labels": func(n *yaml.Node, where string) { s.labels = b.labels(n, where) },
	}
	// An empty one is among the problems, and is there all the same.
	b.oneWay(known.add, b.textOrFile("user", func(user string) { s.user = &user }, func(path string) { s.userFile = &path }))
	passwords := password(keyPassword, func(p PasswordSource) { s.password = &p })
	passwords["password_command"] = func(n *yaml.Node, where string) { s.password = &PasswordSource{Command: b.command(n, where)} }
	passwords[keyCloudAuth] = func(n *yaml.Node, where string) { s.password = &PasswordSource{Cloud: b.cloudAuth(n, where)} }
	b.oneWay(known.add, passwords)
	b.oneWay(known.add, password(keySSLPassword, func(p PasswordSource) { s.sslpassword = &p }))
	return known
}

// setting reads the value of a setting of a connection.
func (b *builder) setting(n *yaml.Node, where, key string) string {
	return b.validSetting(n, where, key, b.text(n, where))
}

// validSetting returns the value of a setting of a connection, or an empty one if something is wrong with it.
func (b *builder) validSetting(n *yaml.Node, where, key, value string) string {
	if text := valueProblem(key, value); text != "" {
		b.problem(n, where, "%s", text)
		return ""
	}
	return value
}

// checkSettings finds settings of a level that contradict each other or kind, which is the kind of the level or of one below.
// It forgets those that contradict each other.
func (b *builder) checkSettings(n *yaml.Node, where string, s *settings, kind Kind) {
	if (s.sslcert == nil) != (s.sslkey == nil) {
		b.problem(n, where, "has only one of sslcert and sslkey")
		s.sslcert, s.sslkey = nil, nil
	}
	if kind != KindPgBouncer {
		return
	}
	if s.applications != nil && *s.applications {
		b.problem(n, where+".applications", "does not apply to a PgBouncer")
	}
	if s.commit != nil && *s.commit {
		b.problem(n, where+".commit", "does not apply to a PgBouncer")
	}
}

// command reads a command that has placeholders. Its program is one in PATH, or a path that begins at the file's
// folder.
func (b *builder) command(n *yaml.Node, where string) *Command {
	argv := b.list(n, where)
	if len(argv) > 0 && strings.ContainsRune(argv[0], filepath.Separator) {
		argv[0] = b.fromFolder(argv[0])
	}
	return &Command{Template: argv}
}

// fromFolder returns a path that begins at the file's folder unless it is absolute or empty.
func (b *builder) fromFolder(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(b.folder, path)
}
