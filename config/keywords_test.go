// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden file and the tables of docs/connection-strings.md")

// TestLibpqKeywords: every keyword and variable of libpq 18 is known. testdata/libpq18.txt has what PQconndefaults() returns.
func TestLibpqKeywords(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("testdata/libpq18.txt")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range libpqKeywords() {
		variable := k.variable
		if variable == "" || k.name == keySSLPassword { // whose variable is pgx's
			variable = "-"
		}
		if k.name != "servicefile" { // of PostgreSQL 19
			got = append(got, k.name+" "+variable)
		}
	}
	_, want, _ := strings.Cut(string(content), "\n")
	if diff := cmp.Diff(strings.Fields(want), strings.Fields(strings.Join(got, " "))); diff != "" {
		t.Error(diff)
	}
}

// TestVerdicts: the golden file has what becomes of each of libpq's keywords, with values that matter.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	values := map[string][]string{
		"channel_binding": {"disable", "prefer", "require"}, keyHost: {"db", "/run/postgresql", "@name", "a,b", "db:5432"},
		keyHostaddr: {"10.0.0.1", "::1", "db"}, keyPort: {"5433", "0"}, "client_encoding": {"UTF8", "auto"},
		keySSLMode: append(sslModes(), "no-verify", "maybe"), "sslnegotiation": {"postgres", "direct"},
		"sslcertmode": {"disable", "allow", "require"}, "sslrootcert": {"root.crt", "system"}, "sslsni": {"0", "1"},
		"require_auth": {"scram-sha-256", "!password,!md5", "maybe"}, "min_protocol_version": {"3.0", "3.2", "latest", "2.0"},
		"max_protocol_version": {"3.0", "3.2", "latest", "2.0"}, "ssl_min_protocol_version": {"TLSv1", "TLSv1.3", "SSLv3"},
		"ssl_max_protocol_version": {"TLSv1.3", "SSLv3"}, "gssencmode": {"disable", "prefer", "require"},
		"replication": {"false", "true", "database"}, "requirepeer": {"", "postgres"},
		"target_session_attrs": {"any", "read-write", "primary", "standby"}, "options": {"-c geqo=off", "endpoint=ep-x"},
	}
	var b strings.Builder
	for _, k := range libpqKeywords() {
		tried := values[k.name]
		if tried == nil {
			tried = []string{"1"}
		}
		for _, value := range tried {
			fmt.Fprintf(&b, "%s=%s: ", k.name, value)
			settings, err := ParseConnString(Secret(fmt.Sprintf("host=h user=u %s='%s'", k.name, value)))
			_, given := settings[k.name]
			_, asOther := settings["application_name"]
			if err == nil {
				_, err = NewConnection(settings)
			}
			switch {
			case err != nil:
				fmt.Fprintf(&b, "refused: %s\n", err)
			case given || asOther:
				b.WriteString("honoured\n")
			default:
				b.WriteString("left out\n")
			}
		}
	}
	expectFile(t, "testdata/libpq-keywords.golden", b.String())
}

// expectFile compares a text with the content of a file, or writes the file with -update.
func expectFile(t *testing.T, path, text string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(content), text); diff != "" {
		t.Errorf("%s: run go test ./config -update\n%s", path, diff)
	}
}

// TestKeywordDocs: docs/connection-strings.md has all keywords, in two tables.
func TestKeywordDocs(t *testing.T) {
	t.Parallel()
	const path, begin, end = "../docs/connection-strings.md", "<!-- keywords: go test ./config -update -->\n", "<!-- end of keywords -->\n"
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(content), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatal("no place for the tables")
	}
	expectFile(t, path, before+begin+keywordTables()+end+after)
}

// keywordTables returns the tables of the documentation.
func keywordTables() string {
	var b strings.Builder
	b.WriteString("\n### Keywords of libpq\n\n| keyword | variable | what happens | meaning or reason |\n|---|---|---|---|\n")
	for _, k := range libpqKeywords() {
		variable := k.variable
		if variable != "" {
			variable = "`" + variable + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.name, variable, k.verdict(), k.note)
	}
	b.WriteString("\n### Parameters of other drivers and platforms\n\n| parameter | what happens | meaning or reason |\n|---|---|---|\n")
	var names []string
	all := otherKeywords()
	slices.SortStableFunc(all, func(a, b keyword) int {
		return strings.Compare(string(a.use)+a.note+a.means+a.name, string(b.use)+b.note+b.means+b.name)
	})
	for i, k := range all {
		names = append(names, "`"+k.name+"`")
		if i+1 < len(all) && all[i+1].use == k.use && all[i+1].note == k.note && all[i+1].means == k.means {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", strings.Join(names, ", "), k.verdict(), k.note)
		names = nil
	}
	fmt.Fprintf(&b, "| `%s`, and names with a dot | sent to the server | parameters of the server. libpq takes them only in `options` |\n\n",
		strings.Join(runTimeParameters(), "`, `"))
	return b.String()
}

// verdict returns what becomes of a keyword, in words.
func (k *keyword) verdict() string {
	switch {
	case k.means != "":
		return "used as `" + k.means + "`"
	case k.use == refused && len(k.harmless) > 0:
		return "refused, except for `" + strings.Join(k.harmless, "`, `") + "`"
	}
	return string(k.use)
}

// TestKeywordsOnce: no keyword stands in the tables twice.
func TestKeywordsOnce(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, name := range runTimeParameters() {
		seen[name] = true
	}
	for _, k := range slices.Concat(libpqKeywords(), otherKeywords()) {
		if seen[k.name] {
			t.Errorf("%s is there twice", k.name)
		}
		seen[k.name] = true
		if k.note == "" {
			t.Errorf("%s has no note", k.name)
		}
	}
}
