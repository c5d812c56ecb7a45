// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.yaml.in/yaml/v3"
)

// maxFileSize bounds a configuration file, in bytes. A thousand targets take about 100 KiB.
const maxFileSize = 4 << 20

// MinTimeout and MaxTimeout bound the timeout of a probe. The interval between two probes of a target is at least
// MinTimeout, too.
const (
	MinTimeout = 100 * time.Millisecond
	MaxTimeout = time.Minute
)

// File is a valid configuration. It does not change.
type File struct {
	// Targets and Checks are sorted by name. A name belongs to one target or check.
	Targets []*Target
	Checks  []*Check
	// Health has the settings of the health endpoints.
	Health Health

	// TakenFrom names the variables of the target from the environment, as Environment.Source does. It is empty if
	// there is no such target.
	TakenFrom string

	modules map[string]*module
}

// Modules returns the number of modules.
func (f *File) Modules() int { return len(f.modules) }

// module is a module, for its ad-hoc targets.
type module struct {
	settings settings   // with the defaults
	allow    *AllowList // nil if the module has none: it then has no ad-hoc targets
}

// Load reads a configuration file. base has the values that the file does not set. If base.Keep is false, it overrides
// the file: no target keeps a session. verify reports why the variables of
// a target from the environment make no login; it may read the files that they name.
//
// The error holds every problem found, each with the file's name, a line and a key. It holds no value.
func Load(path string, base Probing, verify func(*Environment) error) (*File, error) {
	content, err := ReadFile(path, maxFileSize)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return Parse(strings.NewReader(string(content)), path, base, verify)
}

// Parse does what Load does, from a reader. Relative paths in the file begin at the folder of path. If verify is nil,
// the variables of a target from the environment are not verified.
//
// libpq's environment does not change what a file describes, except for PGSERVICE, which pgconn always follows. The
// program removes that variable before it loads a file.
func Parse(r io.Reader, path string, base Probing, verify func(*Environment) error) (*File, error) {
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	d := &decoder{path: path}
	root, err := d.document(r)
	if err != nil {
		return nil, err
	}
	b := builder{
		decoder: d, folder: folder, verify: verify, mayKeep: base.Keep, file: &File{Health: DefaultHealth(), modules: make(map[string]*module)},
	}
	b.build(root, base)
	if len(d.problems) > 0 {
		return nil, d.error()
	}
	return b.file, nil
}

// AdHoc returns the target at address, host:port, with the settings and the login of a module whose list allows the
// host. The error is a plain sentence that does not repeat the address.
func (f *File) AdHoc(address, moduleName string) (*Target, error) {
	m := f.modules[moduleName]
	if m == nil {
		return nil, errors.New("there is no such module")
	}
	host, port, err := splitAddress(address)
	if err != nil {
		return nil, err
	}
	if m.allow == nil {
		return nil, errors.New("the module has no list of allowed hosts")
	}
	if !m.allow.permitsHost(host) {
		return nil, errors.New("the module does not allow this host")
	}
	s := m.settings
	conn := s.connSettings()
	conn["host"], conn["port"] = host, port
	return &Target{
		Module: moduleName, Kind: KindPostgres, Probing: s.probing(), Allow: m.allow,
		Login: Login{
			ConnString: AddSettings("", conn), Password: s.passwordFor(host, port, *s.user, KindPostgres.DefaultDatabase()),
		},
	}, nil
}

// builder makes a File of a YAML document and collects the problems with it.
type builder struct {
	*decoder
	folder  string // where relative paths begin
	verify  func(*Environment) error
	mayKeep bool // false if no target keeps a session, whatever the file sets
	file    *File
}

// build reads a document whose root is a mapping. base has the values that the file does not set.
func (b *builder) build(root *yaml.Node, base Probing) {
	lowest := settings{
		timeout: &base.Timeout, interval: &base.Interval, applications: &base.Applications, commit: &base.Commit,
		keep: &base.Keep,
	}
	var defaults, modules, targets, checks *yaml.Node
	b.mapping(root, "", fields{
		"defaults": func(n *yaml.Node, _ string) { defaults = n },
		"modules":  func(n *yaml.Node, _ string) { modules = n },
		"targets":  func(n *yaml.Node, _ string) { targets = n },
		"health":   b.health,
		"checks":   func(n *yaml.Node, _ string) { checks = n },
	})
	if modules == nil && targets == nil && checks == nil && len(b.problems) == 0 {
		b.problem(root, "", "has neither targets nor modules nor checks")
	}
	if defaults != nil {
		s := &settings{}
		b.mapping(defaults, "defaults", b.settingsFields(s))
		b.checkSettings(defaults, "defaults", s)
		lowest = s.overlay(lowest)
	}
	merged := map[string]settings{"": lowest} // by module
	if modules != nil {
		b.entries(modules, "modules", func(name string, n *yaml.Node, where string) {
			merged[name] = b.module(name, n, where, lowest)
		})
	}
	names := make(map[string]*yaml.Node)
	if targets != nil {
		b.entries(targets, "targets", func(name string, n *yaml.Node, where string) {
			names[name] = n
			if t := b.target(name, n, where, merged); t != nil {
				b.file.Targets = append(b.file.Targets, t)
			}
		})
	}
	slices.SortFunc(b.file.Targets, func(x, y *Target) int { return strings.Compare(x.Name, y.Name) })
	if checks != nil {
		given := make(map[string]map[string]*yaml.Node)
		b.entries(checks, "checks", func(name string, n *yaml.Node, where string) { given[name] = b.check(name, n, where) })
		b.checkTargets(given, names)
	}
}

// module reads one module. It returns the settings of its targets: its own, and those of lowest that it does not have.
func (b *builder) module(name string, n *yaml.Node, where string, lowest settings) settings {
	s := &settings{}
	var allowed *AllowList
	known := b.settingsFields(s)
	known["allow"] = func(n *yaml.Node, where string) {
		allowed = &AllowList{}
		for i, entry := range b.list(n, where) {
			if err := allowed.add(entry); err != nil {
				b.problem(n, fmt.Sprintf("%s[%d]", where, i), "%s", err)
			}
		}
	}
	b.mapping(n, where, known)
	b.checkSettings(n, where, s)
	merged := s.overlay(lowest)
	if allowed != nil && merged.user == nil {
		b.problem(n, where, "has a list of allowed hosts but no user")
	}
	b.file.modules[name] = &module{merged, allowed}
	return merged
}

// location has the keys that only a target has: where its server is.
type location struct {
	kind              Kind
	dsn, host, dbname string
	port              uint16
	module            string
	environment       bool
}

// target reads one target. It returns nil if there is a problem with it. modules has the settings of each module, and
// those of the targets without a module under the empty name.
func (b *builder) target(name string, n *yaml.Node, where string, modules map[string]settings) *Target {
	before := len(b.problems)
	s := &settings{}
	at := location{kind: KindPostgres, port: 5432}
	known := b.settingsFields(s)
	given := make(map[string]*yaml.Node)
	text := func(key string, to *string) {
		known[key] = func(n *yaml.Node, where string) {
			given[key] = n
			*to = b.text(n, where)
		}
	}
	text("module", &at.module)
	known["kind"] = func(n *yaml.Node, where string) {
		given["kind"] = n
		if kind := b.oneOf(n, where, string(KindPostgres), string(KindPgBouncer)); kind != "" {
			at.kind = Kind(kind)
		}
	}
	text("dsn", &at.dsn)
	text("host", &at.host)
	text("dbname", &at.dbname)
	known["port"] = func(n *yaml.Node, where string) {
		given["port"] = n
		if port, err := strconv.ParseUint(b.text(n, where), 10, 16); err == nil && port > 0 {
			at.port = uint16(port)
		} else {
			b.problem(n, where, "must be a number from 1 to 65535")
		}
	}
	known["environment"] = func(n *yaml.Node, where string) {
		given["environment"] = n
		if environment := b.boolean(n, where); environment != nil {
			at.environment = *environment
		}
	}
	b.mapping(n, where, known)
	b.checkSettings(n, where, s)
	base, ok := modules[at.module]
	if !ok && at.module != "" {
		b.problem(given["module"], where+".module", "there is no module with this name")
		base = modules[""]
	}
	merged := s.overlay(base)
	t := &Target{Name: name, Module: at.module, Kind: at.kind, Labels: sortedLabels(merged.labels), Probing: merged.probing()}
	if at.kind == KindPgBouncer {
		if s.applications != nil && *s.applications {
			b.problem(given["kind"], where+".applications", "is not known of a PgBouncer")
		}
		if s.commit != nil && *s.commit {
			b.problem(given["kind"], where+".commit", "is not known of a PgBouncer")
		}
		t.Applications, t.Commit = false, false
	}
	switch {
	case at.environment:
		b.fromEnvironment(t, given, where, s, merged)
	case given["dsn"] != nil:
		b.fromDSN(t, given, where, &at, s, merged)
	default:
		b.fromFields(t, n, given, where, &at, merged)
	}
	if len(b.problems) > before {
		return nil
	}
	return t
}

// fromEnvironment gives a target the login of the target that needs no file. own are the target's settings, merged
// those of its module and the defaults, too.
func (b *builder) fromEnvironment(
	t *Target, given map[string]*yaml.Node, where string, own *settings, merged settings,
) {
	n := given["environment"]
	for _, key := range []string{"dsn", "host", "port", "dbname", "module"} {
		if given[key] != nil {
			b.problem(given[key], join(where, key), "is given beside environment, which says it")
		}
	}
	for _, key := range merged.keysSet() {
		switch {
		case slices.Contains(own.keysSet(), key):
			b.problem(n, where, "has %s beside environment, which says it", key)
		case key != "user" && key != "password":
			b.problem(n, where, "is from the environment, on which %s of the defaults has no effect: "+
				"say it in the variables, and here in modules", key)
		}
	}
	if t.Kind != KindPostgres {
		b.problem(given["kind"], join(where, "kind"), "does not go with environment")
	}
	from, err := FromEnvironment(os.Getenv, t.Probing)
	if err == nil && b.verify != nil {
		err = b.verify(from.Login.Environment)
	}
	switch {
	case err != nil:
		b.problem(n, join(where, "environment"), "%s", err)
	case from.Login.Environment.Form == FormLibpq && os.Getenv("PGHOST") == "":
		b.problem(n, join(where, "environment"), "no variable names a server: "+
			"DATA_SOURCE_NAME, DATA_SOURCE_URI, DATABASE_URL, POSTGRES_HOST or PGHOST")
	default:
		t.Login, b.file.TakenFrom = from.Login, from.Login.Environment.Source
	}
}

// fromFields gives a target a login that is made of the keys host, port and dbname.
func (b *builder) fromFields(
	t *Target, n *yaml.Node, given map[string]*yaml.Node, where string, at *location, merged settings,
) {
	switch {
	case given["host"] == nil:
		b.problem(n, where, "needs a host or a dsn")
		return
	case at.host == "":
		return
	case strings.Contains(at.host, ","):
		b.problem(given["host"], where+".host", "names several hosts: make each of them a target of its own")
		return
	case !isHost(at.host):
		b.problem(given["host"], where+".host", "must be a name, an address or the folder of a unix socket, without a port")
		return
	case merged.user == nil:
		b.problem(n, where, "has no user, nor have its module and the defaults")
		return
	}
	if at.dbname == "" {
		at.dbname = at.kind.DefaultDatabase()
	}
	port := strconv.Itoa(int(at.port))
	conn := merged.connSettings()
	conn["host"], conn["port"], conn["database"] = at.host, port, at.dbname
	t.Login = Login{
		ConnString: AddSettings("", conn), Password: merged.passwordFor(at.host, port, *merged.user, at.dbname),
	}
	b.try(given["host"], where, t.Login.ConnString, merged.systemRoots() && merged.sslmode != nil)
}

// isHost reports whether host is a name, an address or the folder of a unix socket.
func isHost(host string) bool {
	if filepath.IsAbs(host) {
		return true
	}
	return isName(strings.TrimSuffix(host, ".")) || isAddress(host)
}

// fromDSN gives a target a login that is made of a connection string. The connection string overrides merged, and must
// not have a key of own.
func (b *builder) fromDSN(
	t *Target, given map[string]*yaml.Node, where string, at *location, own *settings, merged settings,
) {
	n := given["dsn"]
	where += ".dsn"
	if at.dsn == "" {
		return
	}
	for _, key := range []string{"host", "port", "dbname"} {
		if given[key] != nil {
			b.problem(given[key], strings.TrimSuffix(where, "dsn")+key, "is given beside dsn: write it into one of them")
		}
	}
	keys, err := dsnKeys(Secret(at.dsn))
	if err != nil {
		b.problem(n, where, "%s", err)
		return
	}
	has := func(key string) bool { return slices.Contains(keys, key) }
	for _, key := range []string{"service", "servicefile", "passfile"} {
		if has(key) {
			b.problem(n, where, "holds %s: libpq's files are not read, use the keys of this file", key)
			return
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
	for _, key := range own.keysSet() {
		if has(key) || key == "sslmode" && has("ssl") {
			b.problem(n, where, "holds %s, which is also a key beside it", key)
		}
	}
	if !has("user") && merged.user == nil {
		b.problem(n, where, "has no user, nor have the target, its module and the defaults")
		return
	}
	conn := merged.connSettings()
	conn["database"] = at.kind.DefaultDatabase()
	maps.DeleteFunc(conn, func(key, _ string) bool { return has(key) || key == "sslmode" && has("ssl") })
	t.Login = Login{ConnString: AddSettings(Secret(at.dsn), conn), Keys: keys}
	hasMode := merged.sslmode != nil || has("sslmode") || has("ssl")
	cfg := b.try(n, where, t.Login.ConnString, merged.systemRoots() && !has("sslrootcert") && hasMode)
	if cfg == nil {
		return
	}
	if !has("host") {
		b.problem(n, where, "has no host")
	}
	if !has("password") {
		database := cmp.Or(cfg.Database, KindPostgres.DefaultDatabase())
		t.Login.Password = merged.passwordFor(cfg.Host, strconv.Itoa(int(cfg.Port)), cfg.User, database)
	}
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
