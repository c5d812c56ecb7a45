// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package dsn splits connection strings into settings. It knows both forms of libpq, keyword=value and URL, and knows no
// keyword. The rules are those of conninfo_parse and conninfo_uri_parse in src/interfaces/libpq/fe-connect.c. Where it is
// more lenient than libpq, a comment says so.
//
// No error text holds a part of the connection string.
package dsn

import (
	"encoding/hex"
	"errors"
	"regexp"
	"slices"
	"strings"
)

// Setting is a keyword of a connection string with its value.
type Setting struct{ Key, Value string }

// ErrSeveral reports that a text holds several connection strings.
var ErrSeveral = errors.New("holds several connection strings")

// Parse returns the settings of a connection string in their order. A keyword may occur several times. The parts of a URL
// before its parameters have the keywords user, password, host, port and dbname. They are absent if they are empty. Several
// hosts of a URL are one value with commas, and so are their ports.
//
// jdbc reports whether the text is a URL of a JDBC driver, which begins with "jdbc:". Its host is localhost unless it names
// one (ConnectionFactory and Driver.parseURL of pgjdbc).
func Parse(text string) (settings []Setting, jdbc bool, err error) {
	// Editors and shells leave line ends behind, and editors of Windows put a byte order mark before the text.
	untrimmed := strings.TrimPrefix(text, "\ufeff")
	text = strings.Trim(untrimmed, space)
	if err := several(text); err != nil {
		return nil, false, err
	}
	rest, jdbc := strings.CutPrefix(text, "jdbc:")
	if name, found := strings.CutPrefix(rest, "postgresql:"); jdbc && found && !strings.HasPrefix(name, "//") {
		rest = "postgresql:///" + strings.TrimPrefix(name, "/") // jdbc:postgresql:database
	}
	scheme := urlScheme.FindString(rest)
	switch {
	case strings.Contains(text, "\x00"):
		return nil, false, errors.New("holds a NUL byte")
	case scheme != "":
		settings, err = parseURL(rest[len(scheme):], jdbc)
	case strings.HasPrefix(text, "'"), strings.HasPrefix(text, `"`):
		err = errors.New("is in quotes: remove them")
	case strings.HasPrefix(text, "{"):
		err = errors.New("is JSON, such as a secret of a cloud: write a URL, or set host, port, user, password and database separately")
	case strings.HasPrefix(text, "$"):
		err = errors.New("begins with $: a variable was not replaced by its value")
	case command.MatchString(text):
		err = errors.New("begins with a command or with the name of a variable: keep only the connection string behind it")
	case looksLikeURL(text):
		err = errors.New("is a URL that does not begin with postgres:// or postgresql://")
	case semicolons.MatchString(text):
		err = errors.New("is in the form of Npgsql (Host=…;Username=…): write it as a URL or as keyword=value, with spaces between")
	default:
		settings, err = parseKeywords(untrimmed) // a backslash may stand before the last space
	}
	return settings, jdbc, err
}

// urlScheme matches the beginning of a URL: libpq's two schemes, those of Django and Rails for PostgreSQL with extensions,
// and each of them with the name of a driver, as SQLAlchemy writes it (postgresql+psycopg://). Unlike libpq, it takes
// capitals, since the scheme of a URL has no case (RFC 3986, section 3.1).
var urlScheme = regexp.MustCompile(`(?i)^(postgres|postgresql|postgis|pgsql|timescale|timescalegis)(\+[a-z0-9_]+)?://`)

// command matches a call of psql, as consoles of platforms offer it for copying, and a line of a file of variables.
var command = regexp.MustCompile(`^(psql\s|(export\s+)?[A-Z][A-Z0-9_]*\s*=\s*['"]?[a-z0-9+]+://)`)

const space = " \t\n\r\v\f" // isspace in the C locale

var (
	errKeywords = errors.New("is not a list of keyword=value: put values with spaces into single quotes, " +
		`and a backslash before ' and \`)
	errURL = errors.New("is not a valid URL: " + percentEncode)
)

// percentEncode says what to write instead of a URL that is split in the wrong places. libpq takes the first @ of a URL for
// the end of the password, and none behind a /.
const percentEncode = "percent-encode special characters in the user name and the password (%40 for @, %2F for /, %25 for %)"

// parseKeywords parses a list of keyword=value.
func parseKeywords(rest string) ([]Setting, error) {
	var settings []Setting
	for rest = strings.TrimLeft(rest, space); rest != ""; rest = strings.TrimLeft(rest, space) {
		key, after, found := strings.Cut(rest, "=")
		key = strings.TrimRight(key, space)
		if !found || key == "" || strings.ContainsAny(key, space) {
			return nil, errKeywords
		}
		value, after, ok := cutValue(strings.TrimLeft(after, space))
		if !ok {
			return nil, errKeywords
		}
		settings, rest = append(settings, Setting{key, value}), after
	}
	return settings, nil
}

// cutValue returns the first value of a list of keyword=value, and what is behind it. It returns false if the quotes of the
// value do not end.
func cutValue(s string) (value, rest string, ok bool) {
	s, quoted := strings.CutPrefix(s, "'")
	ends := space
	if quoted {
		ends = "'"
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case strings.IndexByte(ends, s[i]) >= 0:
			return b.String(), s[i+1:], true
		case s[i] != '\\':
			b.WriteByte(s[i])
		case i+1 < len(s): // a backslash at the end stands for nothing
			i++
			b.WriteByte(s[i])
		}
	}
	return b.String(), "", !quoted
}

// parseURL parses what is behind the scheme of a URL. In a URL of JDBC, a parameter may have no value. Unlike libpq, it refuses
// an @ in the host and the database and a port that is no number: a password with such a character that is not encoded would
// become the name of a server.
func parseURL(rest string, jdbc bool) ([]Setting, error) {
	var settings []Setting
	add := func(key, value string) {
		if value != "" {
			settings = append(settings, Setting{key, value})
		}
	}
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		user, password, _ := strings.Cut(rest[:i], ":")
		add("user", user)
		add("password", password)
		rest = rest[i+1:]
	}
	rest, query, _ := strings.Cut(rest, "?")
	location, database, _ := strings.Cut(rest, "/")
	if strings.Contains(location, "@") || strings.Contains(database, "@") {
		return nil, errURL
	}
	var hosts, ports []string
	for server := range strings.SplitSeq(location, ",") {
		host, port, ok := splitServer(server)
		switch {
		case !ok:
			return nil, errURL
		case strings.Trim(port, "0123456789") != "":
			return nil, errors.New("is not a valid URL, because its port is not a number: put an IPv6 address into brackets, and " + percentEncode)
		}
		hosts, ports = append(hosts, host), append(ports, port)
	}
	if jdbc && location == "" {
		add("host", "localhost")
	}
	add("host", strings.Join(hosts, ","))
	if port := strings.Join(ports, ","); strings.Trim(port, ",") != "" {
		add("port", port)
	}
	add("dbname", database)
	for query != "" {
		var parameter string
		parameter, query, _ = strings.Cut(query, "&")
		// libpq refuses a second "=". Neon's options=endpoint=… is often written with one.
		key, value, found := strings.Cut(parameter, "=")
		if !found && !jdbc || key == "" {
			return nil, errors.New("is not a valid URL, because a parameter is not name=value: " + percentEncode)
		}
		settings = append(settings, Setting{key, value})
	}
	for i := range settings {
		var okKey, okValue bool
		settings[i].Key, okKey = decode(settings[i].Key)
		settings[i].Value, okValue = decode(settings[i].Value)
		if !okKey || !okValue {
			return nil, errURL
		}
	}
	return settings, nil
}

// splitServer splits host:port of a URL. An IPv6 address is in brackets, which the result lacks.
func splitServer(server string) (host, port string, ok bool) {
	address, bracketed := strings.CutPrefix(server, "[")
	if !bracketed {
		host, port, _ = strings.Cut(server, ":")
		return host, port, true
	}
	host, rest, closed := strings.Cut(address, "]")
	port, hasPort := strings.CutPrefix(rest, ":")
	return host, port, closed && host != "" && (rest == "" || hasPort)
}

// decode decodes a part of a URL. It removes spaces around it, as conninfo_uri_decode does. Unlike libpq, it takes spaces
// inside it. It returns false if a "%" is not followed by two hexadecimal digits, or if they stand for a NUL byte.
func decode(s string) (string, bool) {
	s = strings.Trim(s, " ")
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		decoded, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil || decoded[0] == 0 {
			return "", false
		}
		b.WriteByte(decoded[0])
		i += 2
	}
	return b.String(), true
}

// looksLikeURL reports whether a text looks like a URL of another scheme, or a mistyped one. Such a URL passes for
// keyword=value if it holds a "=".
func looksLikeURL(text string) bool {
	scheme, _, found := strings.Cut(text, "/")
	return found && strings.HasSuffix(scheme, ":") && !strings.ContainsAny(scheme, `= @'\`)
}

// semicolons matches a list of Keyword=value with semicolons, as Npgsql writes it.
var semicolons = regexp.MustCompile(`(?i)^\s*(host|server|port|database|username|user id)\s*=[^=;'\s]*;\s*[a-z ]+=`)

// several returns an error if a text holds several connection strings, as postgres_exporter takes them with commas between:
// there is a second URL, or outside quotes a comma before a keyword that the text has already. A list of settings with
// commas between is an error as well, since libpq takes a comma for a part of the value before it.
func several(text string) error {
	quoted := false
	trimmed := strings.TrimPrefix(text, "jdbc:")
	isURL, hasURL := urlScheme.MatchString(trimmed), strings.Contains(text, "://")
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\':
			i++
		case text[i] == '\'':
			quoted = !quoted
		case isURL && strings.IndexByte(space+",;", text[i]) >= 0 && urlScheme.MatchString(strings.TrimPrefix(text[i+1:], "jdbc:")):
			return ErrSeveral
		case text[i] == ',' && !quoted && !hasURL:
			found := regexp.MustCompile(`^(\s*)([a-z_]+)\s*=`).FindStringSubmatch(text[i+1:])
			switch {
			case found == nil:
			case beginsServer(found[2]) && regexp.MustCompile(`(^|[\s,])`+found[2]+`\s*=`).MatchString(text[:i]):
				return ErrSeveral
			case beginsServer(found[2]) || found[1] != "":
				return errors.New("has commas between its settings: separate them with spaces only")
			}
		}
	}
	return nil
}

// beginsServer reports whether a keyword is one with which a connection string begins.
func beginsServer(keyword string) bool {
	return slices.Contains([]string{"host", "hostaddr", "user", "dbname", "service"}, keyword)
}
