// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxProblems bounds how many problems one error holds.
const maxProblems = 50

// decoder reads YAML strictly and collects the problems with it. The text of a problem never repeats a value, which may
// be a secret in the wrong place.
//
// Its methods that read a node take the node, and the key of the node for problems. They return a zero value or nil if
// there is a problem, unless their comment says otherwise.
type decoder struct {
	path     string
	problems []problem
}

type problem struct {
	line int
	text string
}

// problem adds a problem with a node. where is the node's key; it is empty for the document.
func (d *decoder) problem(n *yaml.Node, where, format string, args ...any) {
	if d.full() {
		return
	}
	text := fmt.Sprintf(format, args...)
	if where != "" {
		text = where + ": " + text
	}
	d.problems = append(d.problems, problem{n.Line, text})
}

// full reports whether there are more problems than an error holds: with aliases, a small file may have very many.
func (d *decoder) full() bool { return len(d.problems) > maxProblems }

// error returns the problems as one error, a line each, in the order of the file.
func (d *decoder) error() error {
	slices.SortStableFunc(d.problems, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	var lines []string
	for i, p := range d.problems {
		if i == maxProblems {
			lines = append(lines, d.path+": and more")
			break
		}
		lines = append(lines, fmt.Sprintf("%s:%d: %s", d.path, p.line, p.text))
	}
	return errors.New(strings.Join(lines, "\n"))
}

// document parses a file, which must have exactly one document, and returns the document's root.
func (d *decoder) document(r io.Reader) (*yaml.Node, error) {
	content, err := io.ReadAll(io.LimitReader(r, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.path, err)
	}
	if len(content) > maxFileSize {
		return nil, fmt.Errorf("%s: is larger than %d KiB", d.path, maxFileSize>>10)
	}
	if bad := invalid(content); bad >= 0 {
		return nil, fmt.Errorf("%s:%d: is not UTF-8", d.path, 1+strings.Count(string(content[:bad]), "\n"))
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(content)))
	var document yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s: is empty", d.path)
	case err != nil:
		return nil, d.syntax(err)
	}
	var next yaml.Node
	if err := decoder.Decode(&next); err == nil {
		d.problem(&next, "", "begins a second document: a file can have only one")
		return nil, d.error()
	} else if !errors.Is(err, io.EOF) {
		return nil, d.syntax(err)
	}
	return document.Content[0], nil
}

// invalid returns the position of the first byte that is not UTF-8, or -1.
func invalid(content []byte) int {
	for i := 0; i < len(content); {
		r, size := utf8.DecodeRune(content[i:])
		if r == utf8.RuneError && size <= 1 {
			return i
		}
		i += size
	}
	return -1
}

// syntax adds the file's name to the parser's error, "yaml: line 3: text". The parser's texts hold no part of the file,
// except for the name of an unknown anchor: it may be a password that begins with "*", and is left out.
func (d *decoder) syntax(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if strings.Contains(text, "unknown anchor") {
		return fmt.Errorf("%s: an alias (*name) has no anchor (&name); a text that begins with * needs quotes", d.path)
	}
	if found := regexp.MustCompile(`^line (\d+): (.*)`).FindStringSubmatch(text); found != nil {
		switch {
		case strings.HasPrefix(found[2], "did not find expected"): // the line is that where the list or mapping begins
			found[2] += " somewhere in the list or mapping that begins here"
		case found[2] == "found character that cannot start any token":
			found[2] += ": write spaces instead of tabs, and quotes around a text that begins with %, @ or `"
		}
		return fmt.Errorf("%s:%s: %s", d.path, found[1], found[2])
	}
	return fmt.Errorf("%s: %s", d.path, text)
}

// fields has the known keys of a mapping, each with the function that reads its value.
type fields map[string]func(n *yaml.Node, where string)

// mapping reads a mapping that may have only the known keys.
func (d *decoder) mapping(n *yaml.Node, where string, known fields) {
	d.pairs(n, where, func(key *yaml.Node, value *yaml.Node) {
		read := known[key.Value]
		if read == nil {
			names := strings.Join(slices.Sorted(maps.Keys(known)), ", ")
			switch name := knownAs(key.Value, maps.Keys(known)); {
			case key.Value == "<<":
				d.problem(key, where, "has a merge key (<<), which is not supported: write common settings into a module or into defaults")
			case name != "":
				d.problem(key, where, "has another spelling of %s: write %s", name, name)
			case resolve(value).Tag != "!!null" && isKey(key.Value): // otherwise it may be a part of a value, such as "pass:word"
				d.problem(key, join(where, key.Value), "unknown key; known here are %s", names)
			default:
				d.problem(key, where, "unknown key; known here are %s", names)
			}
			return
		}
		read(value, join(where, key.Value))
	})
}

// entries reads a mapping whose keys are names that the operator chose.
func (d *decoder) entries(n *yaml.Node, where string, read func(name string, n *yaml.Node, where string)) {
	d.pairs(n, where, func(key *yaml.Node, value *yaml.Node) {
		switch {
		case key.Value == "" || len(key.Value) > 200 || strings.ContainsFunc(key.Value, unicode.IsControl):
			d.problem(key, where, "a name must have 1 to 200 bytes and no control character")
			return
		case key.Value == "." || key.Value == "..":
			d.problem(key, where, "a name must not be . or .., because the path of a URL cannot contain it")
			return
		case strings.Contains(key.Value, "://"), strings.Contains(key.Value, "password="):
			d.problem(key, where, "has a connection string in place of a name")
			return
		}
		read(key.Value, value, join(where, key.Value))
	})
}

// add adds a key.
func (f fields) add(key string, read func(n *yaml.Node, where string)) { f[key] = read }

// oneWay calls add for each key of a value that can be given in several ways, of which a file may have one. readers are by
// their keys.
func (d *decoder) oneWay(
	add func(key string, read func(*yaml.Node, string)), readers map[string]func(n *yaml.Node, where string),
) {
	given := false
	for key, read := range readers {
		add(key, func(n *yaml.Node, where string) {
			if given {
				ways := slices.Sorted(maps.Keys(readers))
				last := len(ways) - 1
				d.problem(n, where, "is given in several ways: keep one of %s and %s", strings.Join(ways[:last], ", "), ways[last])
			}
			given = true
			read(n, where)
		})
	}
}

// textOrFile returns readers for oneWay of a text that the configuration has, that an environment variable has (key_env), or
// that a file has which is read when it is used (key_file). text gets the text of the first two, file the path; both may be
// empty if there is a problem.
func (b *builder) textOrFile(key string, text, file func(string)) map[string]func(n *yaml.Node, where string) {
	return map[string]func(*yaml.Node, string){
		key:           func(n *yaml.Node, where string) { text(b.text(n, where)) },
		key + "_env":  func(n *yaml.Node, where string) { text(string(b.variable(n, where))) },
		key + "_file": func(n *yaml.Node, where string) { file(b.fromFolder(b.text(n, where))) },
	}
}

// pairs calls read for each key of a mapping, which may be empty, and finds keys that occur twice. It follows aliases.
// A merge key ("<<") is a key like any other, and unknown.
func (d *decoder) pairs(n *yaml.Node, where string, read func(key, value *yaml.Node)) {
	n = resolve(n)
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.problem(n, where, "must be a mapping (key: value)")
		return
	}
	lines := make(map[string]int)
	for i := 0; i+1 < len(n.Content) && !d.full(); i += 2 {
		key, value := resolve(n.Content[i]), n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.problem(key, where, "a key must be a text")
			continue
		}
		if line, twice := lines[key.Value]; twice {
			d.problem(key, where, "duplicate key, first in line %d", line)
			continue
		}
		lines[key.Value] = key.Line
		read(key, value)
	}
}

// isKey reports whether a text looks like a key of the file, and not like a secret in the wrong place.
func isKey(text string) bool {
	return len(text) <= 30 && !strings.ContainsFunc(text, func(r rune) bool { return (r < 'a' || r > 'z') && r != '_' })
}

// resolve follows aliases.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// join returns the path of a key inside another one. It quotes a key that is not a plain word.
func join(where, key string) string {
	odd := func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsNumber(r) && !strings.ContainsRune("_./-", r)
	}
	if key == "" || len(key) > 100 || strings.ContainsFunc(key, odd) {
		key = strconv.Quote(cut(key, 100))
	}
	if where == "" {
		return key
	}
	return where + "." + key
}

// cut shortens a text to at most maxSize bytes and an ellipsis.
func cut(s string, maxSize int) string {
	if len(s) <= maxSize {
		return s
	}
	return strings.ToValidUTF8(s[:maxSize], "") + "…"
}

// text reads a text, which must not be empty. It takes a number, a boolean or a date as it is written: a password may
// look like one.
func (d *decoder) text(n *yaml.Node, where string) string {
	n = resolve(n)
	tags := []string{"!!str", "!!int", "!!float", "!!bool", "!!timestamp", "!!null"}
	switch {
	case n.Kind != yaml.ScalarNode, !slices.Contains(tags, n.Tag):
		d.problem(n, where, "must be a text")
	case n.Tag == "!!null", n.Value == "":
		d.problem(n, where, "is empty")
	case strings.Contains(n.Value, "\x00"):
		d.problem(n, where, "holds a NUL byte")
	default:
		return n.Value
	}
	return ""
}

// list reads a list of texts, which must not be empty.
func (d *decoder) list(n *yaml.Node, where string) []string {
	n = resolve(n)
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		d.problem(n, where, `must be a list, such as ["a", "b"]`)
		return nil
	}
	texts := make([]string, 0, len(n.Content))
	for i, entry := range n.Content {
		texts = append(texts, d.text(entry, fmt.Sprintf("%s[%d]", where, i)))
	}
	return texts
}

// oneOf reads a text that must be one of the values.
func (d *decoder) oneOf(n *yaml.Node, where string, values ...string) string {
	s := d.text(n, where)
	if s != "" && !slices.Contains(values, s) {
		d.problem(n, where, "must be one of %s", strings.Join(values, ", "))
		return ""
	}
	return s
}

// duration reads a duration from minValue to maxValue.
func (d *decoder) duration(n *yaml.Node, where string, minValue, maxValue time.Duration) *time.Duration {
	s := d.text(n, where)
	if s == "" {
		return nil
	}
	v, err := time.ParseDuration(s)
	switch {
	case err != nil:
		d.problem(n, where, "must be a duration such as 5s or 500ms")
		return nil
	case v < minValue || v > maxValue:
		d.problem(n, where, "must be a duration from %s to %s", ShortDuration(minValue), ShortDuration(maxValue))
		return nil
	}
	return &v
}

// ShortDuration returns a duration as an operator writes it: 24h and not 24h0m0s.
func ShortDuration(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// boolean reads true or false.
func (d *decoder) boolean(n *yaml.Node, where string) *bool {
	n = resolve(n)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
		d.problem(n, where, "must be true or false")
		return nil
	}
	v := strings.EqualFold(n.Value, "true")
	return &v
}
