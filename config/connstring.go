// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"pg_liveness_exporter/internal/dsn"
)

// ErrSeveralServers reports that a connection string names more than one server.
var ErrSeveralServers = errors.New("names several servers: make each of them a separate target")

// ConnSettings are settings of a connection by libpq's keywords, and run-time parameters of the server by their names. An
// empty value is the same as none, but replaces another value.
type ConnSettings map[string]string

// ConnStringError has all problems of a connection string, sorted. It holds no value. It is an ErrSeveralServers if that is
// among it.
type ConnStringError []string

func (e ConnStringError) Error() string { return strings.Join(e, "; ") }

// Is makes errors.Is find ErrSeveralServers.
func (e ConnStringError) Is(target error) bool {
	return target == ErrSeveralServers && slices.Contains(e, ErrSeveralServers.Error())
}

// Err returns the problems as an error, each once, or nil if there are none.
func (e ConnStringError) Err() error {
	if len(e) == 0 {
		return nil
	}
	slices.Sort(e)
	return slices.Compact(e)
}

// ParseConnString returns the settings of a connection string. It translates what other drivers write into libpq's
// keywords, and leaves out what has no meaning here. It does not look at the values of the settings that it returns:
// NewConnection does. An error is ErrSeveralServers or a ConnStringError. If the text has the form of a connection string,
// the settings that can be used come with the error, so that NewConnection finds what else is wrong. Otherwise they are nil.
func ParseConnString(text Secret) (ConnSettings, error) {
	given, jdbc, err := dsn.Parse(string(text))
	switch {
	case errors.Is(err, dsn.ErrSeveral):
		return nil, ErrSeveralServers
	case err != nil:
		return nil, ConnStringError{err.Error()}
	}
	t := newTranslation()
	t.jdbc = jdbc
	for _, setting := range given {
		t.add(setting.Key, setting.Value)
	}
	return t.finish()
}

// LibpqSettings returns the settings that libpq's variables have. An error is a ConnStringError, and comes with the settings
// that can be used.
func LibpqSettings(getenv func(string) string) (ConnSettings, error) {
	t := newTranslation()
	if timezone := getenv("PGTZ"); timezone != "" {
		t.settings["timezone"] = timezone
	}
	for _, k := range t.libpq {
		if value := getenv(k.variable); k.variable != "" && value != "" {
			t.take(&k, k.variable, value)
		}
	}
	return t.finish()
}

// ServiceSettings returns the settings of a section of libpq's service file. An error is a ConnStringError, and comes with the
// settings that can be used.
func ServiceSettings(section map[string]string) (ConnSettings, error) {
	t := newTranslation()
	for key, value := range section {
		t.add(key, value)
	}
	return t.finish()
}

// translation turns what was written into settings by libpq's keywords.
type translation struct {
	settings ConnSettings
	jdbc     bool // the settings are those of JDBC
	problems ConnStringError
	libpq    []keyword // libpq's keywords
	known    bool      // there was a known keyword
	unknown  []string  // the others
	// What other drivers say about sslmode, empty if they do not. sslName is how the operator calls ssl or requiressl.
	ssl, requiressl, sslaccept, sslfactory, sslName string
}

func newTranslation() *translation {
	return &translation{settings: make(ConnSettings), libpq: libpqKeywords()}
}

// problem adds a problem. text holds no value.
func (t *translation) problem(text string) { t.problems = append(t.problems, text) }

// add adds a setting. A later one replaces an earlier one.
func (t *translation) add(key, value string) {
	k := findKeyword(t.libpq, key)
	if k == nil {
		k = findKeyword(otherKeywords(), key)
	}
	switch {
	case k != nil:
		t.take(k, key, value)
	case slices.Contains(runTimeParameters(), key), isCustomParameter(key):
		t.settings[key] = value
	default:
		t.unknown = append(t.unknown, key)
		return
	}
	t.known = true
}

// take adds a setting with a known keyword. name is how the operator calls it.
func (t *translation) take(k *keyword, name, value string) {
	switch {
	case !k.accepts(value) && name == k.variable:
		t.problem(name + " is refused: " + k.note)
	case !k.accepts(value):
		t.problem("holds " + name + ", which is refused: " + k.note)
	case k.use != honoured:
	case name == "ssl", name == "ssl_require":
		t.ssl, t.sslName = cmp.Or(strings.ToLower(value), "true"), name // Python writes True and False
	case name == "requiressl":
		t.requiressl = value
		t.sslName = cmp.Or(t.sslName, name)
	case name == "sslaccept":
		t.sslaccept = value
	case name == "sslfactory":
		t.sslfactory = value
	case k.name == keyUser && value == "": // libpq takes the next source of a user then
	case k.means != "":
		t.settings[k.means] = value
	default:
		t.settings[k.name] = value
	}
}

// finish looks at settings that depend on each other. It returns the settings, and what is wrong with them.
func (t *translation) finish() (ConnSettings, error) {
	s := t.settings
	for _, key := range t.unknown {
		// Without a known keyword, the text may be a secret in the wrong place. With one, the key may be a part of a value.
		// Another spelling of a known keyword is neither.
		switch known := cmp.Or(knownAs(key, keywordNames(t.libpq)), knownAs(key, keywordNames(otherKeywords()))); {
		case known != "":
			t.problem("holds another spelling of " + known + ": write " + known)
		case t.known && isKey(key):
			t.problem("holds " + key + ", which is not known")
		default:
			t.problem("holds a key that is not known")
		}
	}
	if s[keySSLMode] == "no-verify" { // node-postgres
		s[keySSLMode] = modeRequire
	}
	if fallback := s["fallback_application_name"]; fallback != "" && s["application_name"] == "" {
		s["application_name"] = fallback
	}
	delete(s, "fallback_application_name")
	if s["client_encoding"] == "auto" {
		delete(s, "client_encoding")
	}
	t.finishSSLMode()
	return s, t.problems.Err()
}

// finishSSLMode sets sslmode to what other drivers mean. An sslmode that is written wins over them, unless it allows what
// they do not.
func (t *translation) finishSSLMode() {
	s := t.settings
	mode := s[keySSLMode]
	wanted := mode
	switch {
	case slices.Contains(falseValues(), t.ssl):
		wanted = modeDisable
	case slices.Contains(trueValues(), t.ssl):
		wanted = modeRequire
		if t.jdbc && !strings.HasSuffix(t.sslfactory, ".NonValidatingFactory") {
			wanted = modeVerifyFull
		}
	case slices.Contains(sslModes(), t.ssl):
		wanted = t.ssl
	case t.ssl != "":
		t.problem("holds " + t.sslName + ", which must be true, false or a value of sslmode")
	case t.requiressl == "1":
		wanted = modeRequire
	}
	switch {
	case mode == "" && wanted != "":
		s[keySSLMode] = wanted
	case isEncrypted(wanted) && !isEncrypted(mode):
		t.problem("holds " + t.sslName + ", which requires TLS, and sslmode, which does not: keep one of them")
	}
	switch factory := t.sslfactory[strings.LastIndex(t.sslfactory, ".")+1:]; factory {
	case "", "NonValidatingFactory", "LibPQFactory":
	default:
		t.problem("holds sslfactory, whose class is not known here: write sslmode and sslrootcert instead")
	}
	t.finishPrisma()
}

// finishPrisma sets sslmode and sslrootcert to what Prisma means.
func (t *translation) finishPrisma() {
	s := t.settings
	switch t.sslaccept {
	case "":
		return
	case "strict", "accept_invalid_certs":
	default:
		t.problem("holds sslaccept, which must be strict or accept_invalid_certs")
	}
	strict := t.sslaccept == "strict" && s[keySSLMode] != modeDisable
	if strict {
		s[keySSLMode] = modeVerifyFull
	}
	if s["sslkey"] == "" && s["sslcert"] != "" { // the certificate of an authority
		if strict {
			s["sslrootcert"] = s["sslcert"]
		}
		delete(s, "sslcert")
	}
}

// isCustomParameter reports whether a key is the name of a run-time parameter of an extension or application, which has a
// dot in it.
func isCustomParameter(key string) bool {
	prefix, name, found := strings.Cut(key, ".")
	return found && isKey(prefix) && isKey(name) && prefix != "" && name != ""
}

func trueValues() []string  { return []string{"true", "1", "on", "yes", "t", "y"} }
func falseValues() []string { return []string{"false", "0", "off", "no", "f", "n"} }
