// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"strings"

	"go.yaml.in/yaml/v3"
)

// location is where the server of a target is.
type location struct {
	dsn                  Sealed
	host, hostaddr, port string
	dsnFile, hostFile    string // files that hold dsn or host
	dsnKey, hostKey      string // the key of the configuration that gives dsn or host, empty if none does
}

// entry is what the login of a target is made of. own has the settings of the target, and merged those of its module and the
// defaults, too.
type entry struct {
	location
	own, merged settings
}

// UnreadLogin is a login of which files hold the connection string, the host or the user.
type UnreadLogin struct{ entry entry }

// Files returns the paths of the files, by their keys in the configuration.
func (u *UnreadLogin) Files() map[string]string { return u.entry.files() }

// newUnreadLogin returns the login of e. It does not have the labels, which change nothing of a login.
func newUnreadLogin(e entry) *UnreadLogin {
	e.own.labels, e.merged.labels = nil, nil
	return &UnreadLogin{e}
}

// FetchesPassword reports whether a command or a cloud may give the password.
func (u *UnreadLogin) FetchesPassword() bool {
	return u.entry.merged.password != nil && u.entry.merged.password.IsFetched()
}

// Login returns the login with the contents of all files, by their keys. The error names the keys that cannot be used, and
// its text holds no part of the contents.
func (u *UnreadLogin) Login(contents map[string]Secret) (Login, error) {
	e := u.entry.withContents(contents)
	return e.login()
}

// Verify returns the login with the contents of some files, and with other texts in place of those of the others. The error
// is that of Login.
func (u *UnreadLogin) Verify(contents map[string]Secret) (Login, error) {
	e := u.entry.withContents(contents)
	complete := e.withPlaceholders()
	return complete.login()
}

// withContents returns e with the contents of files, by their keys.
func (e entry) withContents(contents map[string]Secret) entry {
	for key, content := range contents {
		switch key {
		case "dsn_file":
			e.dsn, e.dsnFile = Seal(content), ""
		case "host_file":
			e.host, e.hostFile = string(content), ""
		case "user_file":
			user := string(content)
			e.merged.user, e.merged.userFile = &user, nil
		}
	}
	return e
}

// files returns the paths of the files that hold a part of e, by their keys in the configuration.
func (e *entry) files() map[string]string {
	files := make(map[string]string)
	if e.dsnFile != "" {
		files["dsn_file"] = e.dsnFile
	}
	if e.hostFile != "" {
		files["host_file"] = e.hostFile
	}
	if e.merged.userFile != nil {
		files["user_file"] = *e.merged.userFile
	}
	return files
}

// withPlaceholders returns e with other texts in place of those that files hold, so that the rest can be looked at. The host is
// one that no setting of TLS is wrong for.
func (e *entry) withPlaceholders() entry {
	complete := *e
	if e.dsnFile != "" {
		dsn := Secret("host=127.0.0.1")
		if !e.merged.hasUser() {
			dsn += " user=u"
		}
		complete.dsn, complete.dsnFile = Seal(dsn), ""
	}
	if e.hostFile != "" {
		complete.host, complete.hostFile = "127.0.0.1", ""
	}
	if e.merged.userFile != nil {
		user := "u"
		complete.merged.user, complete.merged.userFile = &user, nil
	}
	return complete
}

// login returns the login of e, which may be one whose files are not read. The error is that of UnreadLogin.Login.
func (e *entry) login() (Login, error) {
	if len(e.files()) > 0 {
		return Login{Unread: newUnreadLogin(*e)}, nil
	}
	b := builder{decoder: &decoder{}}
	login := b.login(e, &yaml.Node{}, nil, "")
	var texts []string
	for _, p := range b.problems {
		texts = append(texts, p.text)
	}
	if len(texts) > 0 {
		return Login{}, errors.New(strings.Join(texts, "; "))
	}
	return login, nil
}

// login returns the login of a target without files. n is the target's node, and given has the nodes of its keys. If there
// are problems, the login means nothing.
func (b *builder) login(e *entry, n *yaml.Node, given map[string]*yaml.Node, where string) Login {
	if e.dsnKey != "" {
		return b.fromDSN(e, cmp.Or(given[e.dsnKey], n), given, where)
	}
	return b.fromFields(e, n, given, where)
}

// fromFields returns a login that is made of the keys host, hostaddr, port and dbname.
func (b *builder) fromFields(e *entry, n *yaml.Node, given map[string]*yaml.Node, where string) Login {
	at := cmp.Or(given[e.hostKey], n)
	host := b.validSetting(at, join(where, e.hostKey), keyHost, e.host) // which may come from a variable or a file
	if e.hostKey == "" {
		b.problem(n, where, "needs a host or a dsn")
	}
	if !e.merged.hasUser() {
		b.problem(n, where, "has no user, and neither its module nor defaults has one")
	}
	if host == "" || e.merged.user == nil { // it is among the problems
		return Login{}
	}
	return b.try(at, where, &e.merged, ConnSettings{
		keyHost: host, keyHostaddr: e.hostaddr, keyPort: e.port, keyDatabase: e.merged.database(),
	})
}

// fromDSN returns a login that is made of a connection string, which n has. The connection string overrides the merged
// settings, and must not have a key of the target's own ones.
func (b *builder) fromDSN(e *entry, n *yaml.Node, given map[string]*yaml.Node, where string) Login {
	for _, key := range []string{e.hostKey, "hostaddr", "port", "dbname"} {
		if given[key] != nil {
			b.problem(given[key], join(where, key), "cannot be combined with %s: write it into the connection string", e.dsnKey)
		}
	}
	where = join(where, e.dsnKey)
	dsn, merged := e.dsn.Secret(), &e.merged
	if dsn == "" {
		return Login{} // it is among the problems
	}
	conn, err := ParseConnString(dsn)
	b.connProblems(n, where, err)
	if conn == nil {
		return Login{}
	}
	has := func(key string) bool { _, ok := conn[key]; return ok }
	for _, key := range []string{"service", "servicefile", "passfile"} {
		if has(key) {
			b.problem(n, where, "holds %s: libpq's files are not read, use the keys of this file", key)
		}
	}
	for _, key := range e.own.keysSet() {
		if has(key) {
			b.problem(n, where, "holds %s, which the target also sets with a key of its own: keep one of them", key)
		}
	}
	hasUser, hasHost := has(keyUser) || merged.hasUser(), conn[keyHost] != "" || conn[keyHostaddr] != ""
	if !hasUser && !has("service") {
		b.problem(n, where, "has no user, and neither the target, its module nor defaults has one")
	}
	if !hasHost && !has("service") {
		b.problem(n, where, "has no host")
	}
	conn[keyDatabase] = cmp.Or(conn[keyDatabase], merged.database())
	return b.try(n, where, merged, conn)
}

// try makes a login of the settings of a file and of those of a target alone, and adds what is wrong with them to the
// problems.
func (b *builder) try(n *yaml.Node, where string, s *settings, own ConnSettings) Login {
	login, err := s.login(own)
	b.connProblems(n, where, err)
	return login
}

// connProblems adds what is wrong with the settings of a connection to the problems.
func (b *builder) connProblems(n *yaml.Node, where string, err error) {
	var several ConnStringError
	switch {
	case errors.As(err, &several):
		for _, text := range several {
			b.problem(n, where, "%s", text)
		}
	case err != nil:
		b.problem(n, where, "%s", err)
	}
}
