// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package architecture has only tests. They check which package may import which.
package architecture

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pg_liveness_exporter/internal/testservers"
)

const (
	module = "pg_liveness_exporter"
	pgx    = "github.com/jackc/pgx/"
)

// allowedImports returns, for each package of the program, the packages of this module that it may import. The key of
// main is "".
func allowedImports() map[string][]string {
	and := slices.Concat[[]string]
	// helpers import nothing of this module.
	helpers := []string{"internal/neterr", "internal/bounded", "internal/certchain", "internal/publicroots"}
	servers := and(helpers, []string{"config"})
	state := and(servers, []string{"probe", "check", "internal/credentials"})
	view := and(servers, []string{"probe", "check", "monitor"}) // no view imports another
	front := and(state, []string{"monitor", "collector", "health", "status"})
	return map[string][]string{
		"":                           and(front, []string{"internal/cli", "internal/web"}),
		"internal/cli":               front,
		"internal/web":               front,
		"collector":                  view,
		"health":                     view,
		"status":                     view,
		"monitor":                    state,
		"probe":                      servers,
		"check":                      servers,
		"internal/credentials":       and(servers, []string{"internal/credentials/cloud"}),
		"internal/credentials/cloud": {"config", "internal/publicroots"},
		"config":                     {"internal/dsn"},
		"internal/neterr":            nil,
		"internal/bounded":           nil,
		"internal/certchain":         nil,
		"internal/publicroots":       nil,
		"internal/dsn":               nil,
	}
}

// allowedPGX returns the packages that may import pgx.
func allowedPGX() []string { return []string{"probe", "internal/credentials"} }

// listed is a package as go list describes it.
type listed struct {
	ImportPath string
	Imports    []string
}

// name returns the import path of a package of this module without the module: "" for main, "probe" and so on.
func name(path string) (string, bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

// list runs go list -deps with args in the repository's folder. env is added to the environment.
func list(t *testing.T, env []string, args ...string) []listed {
	t.Helper()
	root, err := testservers.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-deps"}, args...)...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), env...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &errs)
	}
	var packages []listed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// violations returns what is wrong with the packages of the program and the packages that those depend on.
func violations(packages []listed) []string {
	var found []string
	report := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	allowed := allowedImports()
	for _, p := range packages {
		if p.ImportPath == "testing" || strings.HasPrefix(p.ImportPath, "testing/") {
			report("the program depends on %s", p.ImportPath)
		}
		own, ok := name(p.ImportPath)
		if !ok {
			continue
		}
		may, known := allowed[own]
		if !known {
			report("%s is part of the program but has no row in allowedImports", p.ImportPath)
		}
		for _, imported := range p.Imports {
			if other, ok := name(imported); ok && known && !slices.Contains(may, other) {
				report("%s imports %s; it may import %q", p.ImportPath, imported, may)
			}
			if strings.HasPrefix(imported, pgx) && !slices.Contains(allowedPGX(), own) {
				report("%s imports %s; only %q may import pgx", p.ImportPath, imported, allowedPGX())
			}
		}
	}
	return found
}

// TestImports: on every operating system, the packages of the program import only what the table allows, and none of
// them depends on testing or on the servers of the tests.
func TestImports(t *testing.T) {
	t.Parallel()
	for _, system := range []string{"linux", "darwin", "windows", "freebsd"} {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			packages := list(t, []string{"GOOS=" + system, "CGO_ENABLED=0"}, "-json=ImportPath,Imports", ".")
			for _, want := range []string{module, module + "/config", module + "/probe", module + "/collector"} {
				if !slices.ContainsFunc(packages, func(p listed) bool { return p.ImportPath == want }) {
					t.Errorf("go list does not list %s", want)
				}
			}
			for _, violation := range violations(packages) {
				t.Error(violation)
			}
		})
	}
}

// TestTable tests that each row of the table names a package that exists and allows only imports of packages on lower
// levels. The table therefore allows no cycle and no import of a view by another.
func TestTable(t *testing.T) {
	t.Parallel()
	rank := map[string]int{}
	for i, level := range [][]string{
		{"internal/neterr", "internal/bounded", "internal/certchain", "internal/publicroots", "internal/dsn"},
		{"config"},
		{"internal/credentials/cloud"},
		{"probe", "check", "internal/credentials"},
		{"monitor"},
		{"collector", "health", "status"},
		{"internal/cli", "internal/web"},
		{""},
	} {
		for _, p := range level {
			rank[p] = i
		}
	}
	allowed := allowedImports()
	if len(allowed) != len(rank) {
		t.Errorf("%d packages have a row, %d have a level", len(allowed), len(rank))
	}
	root, err := testservers.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for own, may := range allowed {
		if files, err := filepath.Glob(filepath.Join(root, own, "*.go")); err != nil || len(files) == 0 {
			t.Errorf("%q has a row but no Go files", own)
		}
		for _, other := range may {
			if rank[other] >= rank[own] {
				t.Errorf("the table allows %q to import %q, which is not below it", own, other)
			}
		}
	}
}

// TestViolations: each rule finds what breaks it.
func TestViolations(t *testing.T) {
	t.Parallel()
	in := func(own string) string { return strings.TrimSuffix(module+"/"+own, "/") }
	for _, tt := range []struct {
		from, imports, want string
	}{
		{in("health"), in("collector"), "health imports"},
		{in("collector"), in("health"), "collector imports"},
		{in("collector"), in("internal/credentials"), "collector imports"},
		{in("config"), in("internal/neterr"), "config imports"},
		{in("probe"), in("internal/credentials"), "probe imports"},
		{in("check"), in("probe"), "check imports"},
		{in("monitor"), in("collector"), "monitor imports"},
		{in("check"), pgx + "v5/pgconn", "check imports"},
		{in("config"), pgx + "v5/pgconn", "config imports"},
		{in(""), pgx + "v5", module + " imports"},
		{in("internal/testservers"), "os", "has no row"},
		{"testing", "os", "depends on testing"},
		{"testing/fstest", "os", "depends on testing/fstest"},

		{in(""), in("collector"), ""},
		{in("collector"), in("monitor"), ""},
		{in("monitor"), in("internal/credentials"), ""},
		{in("probe"), pgx + "v5/pgconn", ""},
		{in("config"), "go.yaml.in/yaml/v3", ""},
	} {
		found := violations([]listed{{ImportPath: tt.from, Imports: []string{tt.imports}}})
		if tt.want == "" && len(found) > 0 || tt.want != "" && (len(found) != 1 || !strings.Contains(found[0], tt.want)) {
			t.Errorf("%s imports %s: got %q, want %q", tt.from, tt.imports, found, tt.want)
		}
	}
}
