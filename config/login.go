// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"go.yaml.in/yaml/v3"
)

// location is where the server of a target is.
type location struct {
	dsn               Sealed
	host, port        string
	dsnFile, hostFile string // files that hold dsn or host
	dsnKey, hostKey   string // the key of the configuration that gives dsn or host, empty if none does
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

// HasPasswordCommand reports whether a command may print the password.
func (u *UnreadLogin) HasPasswordCommand() bool {
	return u.entry.merged.password != nil && u.entry.merged.password.Command != nil
}

// Login returns the login with the contents of all files, by their keys. The error names the keys that cannot be used, and
// its text holds no part of the contents.
func (u *UnreadLogin) Login(contents map[string]Secret) (Login, error) {
	e := u.entry
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
	return e.login()
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

// withPlaceholders returns e with other texts in place of those that files hold, so that the rest can be looked at.
func (e *entry) withPlaceholders() entry {
	complete := *e
	if e.dsnFile != "" {
		dsn := Secret("host=h")
		if !e.merged.hasUser() {
			dsn += " user=u"
		}
		complete.dsn = Seal(dsn)
	}
	if e.hostFile != "" {
		complete.host = "h"
	}
	if e.merged.userFile != nil {
		user := "u"
		complete.merged.user = &user
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

// fromFields returns a login that is made of the keys host, port and dbname.
func (b *builder) fromFields(e *entry, n *yaml.Node, given map[string]*yaml.Node, where string) Login {
	at, host := cmp.Or(given[e.hostKey], n), e.host
	switch {
	case e.hostKey == "":
		b.problem(n, where, "needs a host or a dsn")
	case host == "": // it is among the problems
	case strings.Contains(host, ","):
		b.problem(at, join(where, e.hostKey), "names several hosts: make each of them a target of its own")
		host = ""
	case !isHost(host):
		b.problem(at, join(where, e.hostKey), "must be a name, an address or the folder of a unix socket, without a port")
		host = ""
	}
	if !e.merged.hasUser() {
		b.problem(n, where, "has no user, nor have its module and the defaults")
	}
	if host == "" || e.merged.user == nil {
		return Login{}
	}
	database := e.merged.database()
	conn := e.merged.connSettings()
	conn["host"], conn["port"], conn["database"] = host, e.port, database
	dsn := AddSettings("", conn)
	b.try(at, where, dsn, e.merged.systemRoots() && e.merged.sslmode != nil)
	return Login{ConnString: dsn, Password: e.merged.passwordFor(host, e.port, *e.merged.user, database)}
}

// isHost reports whether host is a name, an address or the folder of a unix socket.
func isHost(host string) bool {
	if filepath.IsAbs(host) {
		return true
	}
	return isName(strings.TrimSuffix(host, ".")) || isAddress(host)
}

// fromDSN returns a login that is made of a connection string, which n has. The connection string overrides the merged
// settings, and must not have a key of the target's own ones.
func (b *builder) fromDSN(e *entry, n *yaml.Node, given map[string]*yaml.Node, where string) Login {
	for _, key := range []string{e.hostKey, "port", "dbname"} {
		if given[key] != nil {
			b.problem(given[key], join(where, key), "is given beside dsn: write it into one of them")
		}
	}
	where = join(where, e.dsnKey)
	dsn, merged := e.dsn.Secret(), &e.merged
	if dsn == "" {
		return Login{} // it is among the problems
	}
	keys, err := dsnKeys(dsn)
	if err != nil {
		b.problem(n, where, "%s", err)
		return Login{}
	}
	has := func(key string) bool { return slices.Contains(keys, key) }
	for _, key := range []string{"service", "servicefile", "passfile"} {
		if has(key) {
			b.problem(n, where, "holds %s: libpq's files are not read, use the keys of this file", key)
			return Login{} // the parser would read them
		}
	}
	for _, key := range keys {
		switch {
		case isKnownKey(key):
		case isKey(key):
			b.problem(n, where, "holds %s, which is not known here", key)
		default: // it may be a part of a value
			b.problem(n, where, "holds a key that is not known here")
		}
	}
	for _, key := range e.own.keysSet() {
		if has(key) || key == "sslmode" && has("ssl") {
			b.problem(n, where, "holds %s, which is also a key beside it", key)
		}
	}
	if !has("user") && !merged.hasUser() {
		b.problem(n, where, "has no user, nor have the target, its module and the defaults")
	}
	conn := merged.connSettings()
	conn["database"] = merged.database()
	maps.DeleteFunc(conn, func(key, _ string) bool { return has(key) || key == "sslmode" && has("ssl") })
	login := Login{ConnString: AddSettings(dsn, conn), Keys: keys}
	hasMode := merged.sslmode != nil || has("sslmode") || has("ssl")
	cfg := b.try(n, where, login.ConnString, merged.systemRoots() && !has("sslrootcert") && hasMode)
	if cfg == nil {
		return Login{}
	}
	if !has("host") {
		b.problem(n, where, "has no host")
	}
	if !has("password") {
		database := cmp.Or(cfg.Database, KindPostgres.DefaultDatabase())
		login.Password = merged.passwordFor(cfg.Host, strconv.Itoa(int(cfg.Port)), cfg.User, database)
	}
	return login
}

// try parses a target's connection string and adds what is wrong with it to the problems. It returns nil if it cannot
// be parsed. verified says that the system's certificates are to be used, which pgconn makes verify-full whatever the
// mode is.
func (b *builder) try(n *yaml.Node, where string, dsn Secret, verified bool) *pgconn.Config {
	cfg, err := parseWithoutFiles(dsn)
	if err != nil {
		b.problem(n, where, "%s", err)
		return nil
	}
	if verified && (cfg.TLSConfig == nil || cfg.TLSConfig.InsecureSkipVerify) {
		b.problem(n, where, "sslrootcert system needs sslmode verify-full")
	}
	return cfg
}
