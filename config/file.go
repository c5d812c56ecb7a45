// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

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

	modules map[string]*module

	// What Effective shows besides: the settings of targets without a module, and what each target was made of, by name.
	// Both are empty without a file.
	defaults settings
	entries  map[string]entry
}

// Modules returns the number of modules.
func (f *File) Modules() int { return len(f.modules) }

// module is a module, for its ad-hoc targets.
type module struct {
	settings settings   // with the defaults
	allow    *AllowList // nil if the module has none: it then has no ad-hoc targets
}

// Verifier looks at what a configuration only names. A function that is nil looks at nothing. The functions may read files,
// and their errors hold no value.
type Verifier struct {
	// Environment returns why the variables of a target from the environment make no login.
	Environment func(*Environment) error
	// Login returns what is wrong with the files of a login, and Check with those of a check. An error begins with a key.
	Login func(*Login) []error
	Check func(*Check) []error
}

// Load reads a configuration file. base has the values that the file does not set. If base.Keep is false, it overrides
// the file: no target keeps a session.
//
// The error holds every problem found, each with the file's name, a line and a key. It holds no value.
func Load(path string, base Probing, verify *Verifier) (*File, error) {
	content, err := ReadFile(path, maxFileSize)
	if err != nil {
		return nil, err
	}
	return Parse(strings.NewReader(string(content)), path, base, verify)
}

// Fingerprint returns a text that depends on the content of a configuration file, or on the reason why it cannot be read.
func Fingerprint(path string) string {
	content, err := ReadFile(path, maxFileSize)
	if err != nil {
		return err.Error()
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// Parse does what Load does, from a reader. Relative paths in the file begin at the folder of path. If verify is nil,
// nothing is verified that the file only names.
//
// libpq's environment does not change what a file describes.
func Parse(r io.Reader, path string, base Probing, verify *Verifier) (*File, error) {
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
		decoder: d, folder: folder, mayKeep: base.Keep,
		file: &File{Health: DefaultHealth(), modules: make(map[string]*module), entries: make(map[string]entry)},
	}
	if verify != nil {
		b.verify = *verify
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
	e := entry{location: location{host: host, hostKey: "host", port: port}, merged: m.settings}
	login, err := e.login()
	if err != nil {
		return nil, err
	}
	return &Target{
		Module: moduleName, Kind: m.settings.serverKind(), Probing: m.settings.probing(), Allow: m.allow, Login: login,
	}, nil
}

// builder makes a File of a YAML document and collects the problems with it.
type builder struct {
	*decoder
	folder  string // where relative paths begin
	verify  Verifier
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
		b.problem(root, "", "needs at least one of targets, modules and checks")
	}
	if defaults != nil {
		s := &settings{}
		b.mapping(defaults, "defaults", b.settingsFields(s))
		b.checkSettings(defaults, "defaults", s, s.serverKind())
		lowest = s.overlay(lowest)
	}
	b.file.defaults = lowest
	merged := map[string]settings{"": lowest} // by module
	if modules != nil {
		b.entries(modules, "modules", func(name string, n *yaml.Node, where string) {
			merged[name] = b.module(name, n, where, lowest)
		})
	}
	all := make(map[string]targetEntry)
	if targets != nil {
		b.entries(targets, "targets", func(name string, n *yaml.Node, where string) {
			t := b.target(name, n, where, merged)
			all[name] = targetEntry{n, t.Kind}
			b.file.Targets = append(b.file.Targets, t)
		})
	}
	slices.SortFunc(b.file.Targets, func(x, y *Target) int { return strings.Compare(x.Name, y.Name) })
	if checks != nil {
		var entries []checkEntry
		b.entries(checks, "checks", func(name string, n *yaml.Node, where string) {
			entries = append(entries, b.check(name, n, where))
		})
		b.checkTargets(entries, all)
	}
}

// targetEntry is what checks need of a target, which may have problems.
type targetEntry struct {
	node *yaml.Node
	kind Kind
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
	merged := s.overlay(lowest)
	b.checkSettings(n, where, s, merged.serverKind())
	if allowed != nil && !merged.hasUser() {
		b.problem(n, where, "has allow but no user, and defaults has none either")
	} else if allowed != nil {
		adHoc := entry{location: location{host: "h", hostKey: "host"}, merged: merged}
		b.verifyLogin(b.unreadLogin(&adHoc, n, nil, where), n, where) // for problems that every ad-hoc target has
	}
	b.file.modules[name] = &module{merged, allowed}
	return merged
}

// target reads one target. If there is a problem with it, its login means nothing. modules has the settings of each module,
// and those of the targets without a module under the empty name.
func (b *builder) target(name string, n *yaml.Node, where string, modules map[string]settings) *Target {
	var e entry
	var module string
	var environment bool
	known := b.settingsFields(&e.own)
	b.oneWay(known.add, b.textOrFile("dsn", func(dsn string) { e.dsn = Seal(Secret(dsn)) }, func(path string) { e.dsnFile = path }))
	b.oneWay(known.add, b.textOrFile(keyHost, func(host string) { e.host = host }, func(path string) { e.hostFile = path }))
	known["hostaddr"] = func(n *yaml.Node, where string) { e.hostaddr = b.setting(n, where, keyHostaddr) }
	known["module"] = func(n *yaml.Node, where string) { module = b.text(n, where) }
	known["port"] = func(n *yaml.Node, where string) { e.port = b.setting(n, where, keyPort) }
	known["cloud_auth_insecure"] = func(n *yaml.Node, where string) {
		if v := b.boolean(n, where); v != nil {
			e.own.cloudInsecure = *v
		}
	}
	known["environment"] = func(n *yaml.Node, where string) {
		if v := b.boolean(n, where); v != nil {
			environment = *v
		}
	}
	given := make(map[string]*yaml.Node)
	for key, read := range known {
		known[key] = func(n *yaml.Node, where string) {
			given[key] = n
			read(n, where)
		}
	}
	b.mapping(n, where, known)
	e.dsnKey, e.hostKey = firstKey(given, "dsn"), firstKey(given, "host")
	base, ok := modules[module]
	if !ok && module != "" {
		b.problem(given["module"], where+".module", "there is no module with this name")
		base = modules[""]
	}
	e.merged = e.own.overlay(base)
	b.checkSettings(n, where, &e.own, e.merged.serverKind())
	e.merged = e.own.overlay(base) // again, without the settings that contradict each other
	t := &Target{
		Name: name, Module: module, Kind: e.merged.serverKind(), Labels: sortedLabels(e.merged.labels), Probing: e.merged.probing(),
	}
	if at := given["cloud_auth_insecure"]; at != nil && !environment && (e.merged.password == nil || e.merged.password.Cloud == nil) {
		b.problem(at, join(where, "cloud_auth_insecure"), "has no effect without cloud_auth")
	}
	switch {
	case environment:
		b.fromEnvironment(t, n, given, where, &e)
	default:
		t.Login = b.unreadLogin(&e, n, given, where)
		b.verifyLogin(t.Login, n, where)
	}
	b.file.entries[name] = e
	return t
}

// unreadLogin does what login does. If files hold a part of the login, it looks for problems with the rest.
func (b *builder) unreadLogin(e *entry, n *yaml.Node, given map[string]*yaml.Node, where string) Login {
	if len(e.files()) == 0 {
		return b.login(e, n, given, where)
	}
	complete := e.withPlaceholders()
	b.login(&complete, n, given, where)
	return Login{Unread: newUnreadLogin(*e)}
}

// verifyLogin adds what is wrong with the files of a login to the problems.
func (b *builder) verifyLogin(login Login, n *yaml.Node, where string) {
	if b.verify.Login == nil {
		return
	}
	for _, err := range b.verify.Login(&login) {
		b.problem(n, "", "%s.%s", where, err)
	}
}

// firstKey returns which of the keys that textOrFile reads for a text is given, or an empty one if none is.
func firstKey(given map[string]*yaml.Node, key string) string {
	for _, suffix := range []string{"", "_env", "_file"} {
		if given[key+suffix] != nil {
			return key + suffix
		}
	}
	return ""
}

// fromEnvironment gives a target the login of the target that needs no file.
func (b *builder) fromEnvironment(t *Target, n *yaml.Node, given map[string]*yaml.Node, where string, e *entry) {
	at := given["environment"]
	for _, key := range []string{e.dsnKey, e.hostKey, "hostaddr", "port", "dbname", "module", "cloud_auth_insecure"} {
		if given[key] != nil {
			b.problem(given[key], join(where, key), "cannot be combined with environment: the variables name the server")
		}
	}
	inherited := e.merged.keysSet()
	if e.merged.dbname != nil && e.own.dbname == nil {
		inherited = append(inherited, "dbname")
	}
	for _, key := range inherited {
		switch {
		case slices.Contains(e.own.keysSet(), key):
			b.problem(at, where, "has %s, which cannot be combined with environment: the variables set it", key)
		case key != "user" && key != "password":
			b.problem(at, where, "is from the environment, so %s of defaults has no effect on it: "+
				"set it in the variables, and move it from defaults into modules", key)
		}
	}
	if t.Kind != KindPostgres {
		b.problem(cmp.Or(given["kind"], n), join(where, "kind"), "cannot be combined with environment")
	}
	from, err := FromEnvironment(os.Getenv, t.Probing)
	if err == nil && b.verify.Environment != nil {
		err = b.verify.Environment(from.Login.Environment)
	}
	switch {
	case err != nil:
		b.problem(at, join(where, "environment"), "%s", err)
	case from.Login.Environment.Form == FormLibpq && os.Getenv("PGHOST") == "":
		b.problem(at, join(where, "environment"), "no variable names a server: set one of "+
			"DATA_SOURCE_NAME, DATA_SOURCE_URI, DATABASE_URL, POSTGRES_HOST or PGHOST")
	default:
		t.Login = from.Login
	}
}
