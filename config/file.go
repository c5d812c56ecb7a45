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

// largestFile bounds a configuration file; a thousand targets take about 100 KiB.
const largestFile = 4 << 20

// Bounds of the time that a probe may be given. No two probes of a target are closer than Shortest, either.
const (
	Shortest = 100 * time.Millisecond
	Longest  = time.Minute
)

// File is a configuration file, read and found valid.
type File struct {
	// Targets and Checks are sorted by name; no two have the same one.
	Targets []*Target
	Checks  []*Check
	// Health is how the health endpoints answer.
	Health Health

	// TakenFrom is what the target from the environment was made of, empty where there is none.
	TakenFrom string

	modules map[string]*module
}

// Modules is the number of modules.
func (f *File) Modules() int { return len(f.modules) }

// module is what ad-hoc targets need of a module.
type module struct {
	level level
	allow *AllowList
}

// Load reads a configuration file. base has the values that the file does not set. verify reports why the variables of a
// target from the environment make no login; it may read the files that they name.
//
// The error holds every problem found, each with the file's name, a line and a key. It holds no value.
func Load(path string, base Probing, verify func(*Environment) error) (*File, error) {
	content, err := ReadFile(path, largestFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return Parse(strings.NewReader(string(content)), path, base, verify)
}

// Parse does what Load does, from a reader. Relative paths in the file begin at the folder of path. If verify is nil, the
// variables of a target from the environment are not verified.
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
	b := builder{decoder: d, folder: folder, verify: verify, file: &File{Health: DefaultHealth(), modules: make(map[string]*module)}}
	b.build(root, base)
	if len(d.problems) > 0 {
		return nil, d.error()
	}
	return b.file, nil
}

// AdHoc returns the target at address, host:port, with the credentials and settings of a module whose list allows it.
// The error is a plain sentence that holds nothing of the address.
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
	l := m.level
	settings := l.settings()
	settings["host"], settings["port"] = host, port
	return &Target{
		Module: moduleName, Kind: KindPostgres, Probing: l.probing(), Allow: m.allow,
		Login: Login{
			ConnString: AddSettings("", settings), Password: l.passwordFor(host, port, *l.user, KindPostgres.DefaultDatabase()),
		},
	}, nil
}

// builder makes a File of a document.
type builder struct {
	*decoder
	folder string // where relative paths begin
	verify func(*Environment) error
	file   *File
}

func (b *builder) build(root *yaml.Node, base Probing) {
	bottom := level{timeout: &base.Timeout, interval: &base.Interval, applications: &base.Applications, commit: &base.Commit}
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
		l := &level{}
		b.mapping(defaults, "defaults", b.levelFields(l))
		b.checkLevel(defaults, "defaults", l)
		bottom = l.over(bottom)
	}
	levels := map[string]level{"": bottom}
	if modules != nil {
		b.entries(modules, "modules", func(name string, n *yaml.Node, place string) {
			levels[name] = b.module(name, n, place, bottom)
		})
	}
	names := make(map[string]*yaml.Node)
	if targets != nil {
		b.entries(targets, "targets", func(name string, n *yaml.Node, place string) {
			names[name] = n
			if t := b.target(name, n, place, levels); t != nil {
				b.file.Targets = append(b.file.Targets, t)
			}
		})
	}
	slices.SortFunc(b.file.Targets, func(x, y *Target) int { return strings.Compare(x.Name, y.Name) })
	if checks != nil {
		given := make(map[string]map[string]*yaml.Node)
		b.entries(checks, "checks", func(name string, n *yaml.Node, place string) { given[name] = b.check(name, n, place) })
		b.checkTargets(given, names)
	}
}

func (b *builder) module(name string, n *yaml.Node, place string, bottom level) level {
	l := &level{}
	var allowed *AllowList
	known := b.levelFields(l)
	known["allow"] = func(n *yaml.Node, place string) {
		allowed = &AllowList{}
		for i, entry := range b.list(n, place) {
			if err := allowed.add(entry); err != nil {
				b.problem(n, fmt.Sprintf("%s[%d]", place, i), "%s", err)
			}
		}
	}
	b.mapping(n, place, known)
	b.checkLevel(n, place, l)
	merged := l.over(bottom)
	if allowed != nil && merged.user == nil {
		b.problem(n, place, "has a list of allowed hosts but no user")
	}
	b.file.modules[name] = &module{merged, allowed}
	return merged
}

// place is what a target alone can say.
type place struct {
	kind              Kind
	dsn, host, dbname string
	port              uint16
	module            string
	environment       bool
}

func (b *builder) target(name string, n *yaml.Node, where string, levels map[string]level) *Target {
	before := len(b.problems)
	l := &level{}
	p := place{kind: KindPostgres, port: 5432}
	known := b.levelFields(l)
	given := make(map[string]*yaml.Node)
	text := func(key string, to *string) {
		known[key] = func(n *yaml.Node, where string) {
			given[key] = n
			*to = b.text(n, where)
		}
	}
	text("module", &p.module)
	known["kind"] = func(n *yaml.Node, where string) {
		given["kind"] = n
		if said := b.oneOf(n, where, string(KindPostgres), string(KindPgBouncer)); said != "" {
			p.kind = Kind(said)
		}
	}
	text("dsn", &p.dsn)
	text("host", &p.host)
	text("dbname", &p.dbname)
	known["port"] = func(n *yaml.Node, where string) {
		given["port"] = n
		if port, err := strconv.ParseUint(b.text(n, where), 10, 16); err == nil && port > 0 {
			p.port = uint16(port)
		} else {
			b.problem(n, where, "must be a number from 1 to 65535")
		}
	}
	known["environment"] = func(n *yaml.Node, where string) {
		given["environment"] = n
		if said := b.boolean(n, where); said != nil {
			p.environment = *said
		}
	}
	b.mapping(n, where, known)
	b.checkLevel(n, where, l)
	base, ok := levels[p.module]
	if !ok && p.module != "" {
		b.problem(given["module"], where+".module", "there is no module of this name")
		base = levels[""]
	}
	own := *l
	merged := own.over(base)
	t := &Target{Name: name, Module: p.module, Kind: p.kind, Probing: merged.probing()}
	if p.kind == KindPgBouncer {
		if l.applications != nil && *l.applications {
			b.problem(given["kind"], where+".applications", "is not known of a PgBouncer")
		}
		if l.commit != nil && *l.commit {
			b.problem(given["kind"], where+".commit", "is not known of a PgBouncer")
		}
		t.Applications, t.Commit = false, false
	}
	switch {
	case p.environment:
		b.fromEnvironment(t, given, where, l, merged)
	case given["dsn"] != nil:
		b.fromDSN(t, given, where, &p, &own, merged)
	default:
		b.fromFields(t, n, given, where, &p, merged)
	}
	if len(b.problems) > before {
		return nil
	}
	return t
}

// fromEnvironment takes where a target is, and who asks, from the variables that name the one target where there is no file.
func (b *builder) fromEnvironment(t *Target, given map[string]*yaml.Node, where string, own *level, merged level) {
	n := given["environment"]
	for _, key := range []string{"dsn", "host", "port", "dbname", "module"} {
		if given[key] != nil {
			b.problem(given[key], join(where, key), "is given beside environment, which says it")
		}
	}
	for _, key := range merged.said() {
		switch {
		case slices.Contains(own.said(), key):
			b.problem(n, where, "has %s beside environment, which says it", key)
		case key != "user" && key != "password":
			b.problem(n, where, "is from the environment, on which %s of the defaults has no effect: say it in the variables, and here in modules", key)
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
		b.problem(n, join(where, "environment"), "no variable names a server: DATA_SOURCE_NAME, DATA_SOURCE_URI, DATABASE_URL, POSTGRES_HOST or PGHOST")
	default:
		t.Login, b.file.TakenFrom = from.Login, from.Login.Environment.Source
	}
}

func (b *builder) fromFields(t *Target, n *yaml.Node, given map[string]*yaml.Node, where string, p *place, merged level) {
	switch {
	case given["host"] == nil:
		b.problem(n, where, "needs a host or a dsn")
		return
	case p.host == "":
		return
	case strings.Contains(p.host, ","):
		b.problem(given["host"], where+".host", "names several hosts: make each of them a target of its own")
		return
	case !isHost(p.host):
		b.problem(given["host"], where+".host", "must be a name, an address or the folder of a unix socket, without a port")
		return
	case merged.user == nil:
		b.problem(n, where, "has no user, nor have its module and the defaults")
		return
	}
	if p.dbname == "" {
		p.dbname = p.kind.DefaultDatabase()
	}
	port := strconv.Itoa(int(p.port))
	settings := merged.settings()
	settings["host"], settings["port"], settings["database"] = p.host, port, p.dbname
	t.Login = Login{ConnString: AddSettings("", settings), Password: merged.passwordFor(p.host, port, *merged.user, p.dbname)}
	b.try(given["host"], where, t.Login.ConnString, merged.systemRoots() && merged.sslmode != nil)
}

func isHost(host string) bool {
	if filepath.IsAbs(host) {
		return true
	}
	return isName(strings.TrimSuffix(host, ".")) || isAddress(host)
}

// fromDSN lays a connection string over the settings of the levels.
func (b *builder) fromDSN(t *Target, given map[string]*yaml.Node, where string, p *place, own *level, merged level) {
	n := given["dsn"]
	where += ".dsn"
	if p.dsn == "" {
		return
	}
	for _, key := range []string{"host", "port", "dbname"} {
		if given[key] != nil {
			b.problem(given[key], strings.TrimSuffix(where, "dsn")+key, "is given beside dsn: write it into one of them")
		}
	}
	keys, err := dsnKeys(Secret(p.dsn))
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
		default: // maybe a part of a value
			b.problem(n, where, "holds a key that is not known here")
		}
	}
	for _, key := range own.said() {
		if has(key) || key == "sslmode" && has("ssl") {
			b.problem(n, where, "holds %s, which is also a key beside it", key)
		}
	}
	if !has("user") && merged.user == nil {
		b.problem(n, where, "has no user, nor have the target, its module and the defaults")
		return
	}
	settings := merged.settings()
	settings["database"] = p.kind.DefaultDatabase()
	maps.DeleteFunc(settings, func(key, _ string) bool { return has(key) || key == "sslmode" && has("ssl") })
	t.Login = Login{ConnString: AddSettings(Secret(p.dsn), settings), Keys: keys}
	cfg := b.try(n, where, t.Login.ConnString, merged.systemRoots() && !has("sslrootcert") && (merged.sslmode != nil || has("sslmode") || has("ssl")))
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

// try parses a target's connection string and adds what is wrong with it to the problems. It returns nil if it cannot be
// parsed. verified says that the system's certificates are to be used, which pgconn makes verify-full whatever the mode is.
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
