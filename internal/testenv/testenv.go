// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package testenv finds the programs that tests need, and hides what they must not see. Only tests import it. A test that
// lacks a program is skipped, or fails if the environment variable REQUIRE_ALL is 1.
package testenv

import (
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"pg_liveness_exporter/internal/testservers"
)

// Need skips the test unless have is true. If REQUIRE_ALL is 1, as in CI, the test fails instead. The message says that
// the test needs what, and that command installs it.
func Need(t testing.TB, have bool, what, command string) {
	t.Helper()
	if have {
		return
	}
	if os.Getenv("REQUIRE_ALL") == "1" {
		t.Fatalf("needs %s: %s", what, command)
	}
	t.Skipf("needs %s: %s", what, command)
}

// Tool returns the path of a program: the value of an environment variable or, if that is empty, the program of the
// given name on PATH. Without it the test is skipped (see Need).
func Tool(t testing.TB, variable, name string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		path = name
	}
	path, err := exec.LookPath(path)
	Need(t, err == nil, name, "make test, as root")
	return path
}

// GoTool returns the path of a program that the go.mod of a folder of tools/ lists as a tool. The go command builds it if
// necessary. If it cannot, the test is skipped (see Need).
func GoTool(t testing.TB, folder, name string) string {
	t.Helper()
	root, err := testservers.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	tools := filepath.Join(root, "tools", folder, "go.mod")
	path, err := exec.CommandContext(t.Context(), "go", "tool", "-modfile="+tools, "-n", name).Output()
	Need(t, err == nil, name, fmt.Sprintf("go tool -modfile=tools/%s/go.mod %s", folder, name))
	return strings.TrimSpace(string(path))
}

// Bin returns the folder with initdb and postgres. Without one the test is skipped (see Need).
func Bin(t testing.TB) string {
	t.Helper()
	bin, err := testservers.FindPostgres()
	Need(t, err == nil, "a PostgreSQL server", "apt-get install postgresql")
	return bin
}

// Major returns the major version of the PostgreSQL in Bin, such as 17. Without one the test is skipped (see Need).
func Major(t testing.TB) int {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(Bin(t), "postgres"), "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(` (\d+)[.\w]`).FindSubmatch(out) // "postgres (PostgreSQL) 15.18 (Debian ...)", "19devel"
	if found == nil {
		t.Fatalf("%q names no version", out)
	}
	major, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return major
}

// CeleryPython returns the path of a Python that can import celery and redis. Without one the test is skipped (see
// Need).
func CeleryPython(t testing.TB) string {
	t.Helper()
	const python = "/usr/bin/python3" // that of Debian, whose packages hold both
	err := exec.CommandContext(t.Context(), python, "-c", "import celery, redis").Run()
	Need(t, err == nil, "Celery", "make test, as root")
	return python
}

// HideRoots makes the machine look as if it had no certificates of authorities. It returns a function that reports whether there
// are some nevertheless. crypto/x509 reads those of the machine once, so a test that calls HideRoots must be the first in its
// process that needs them.
func HideRoots(t *testing.T) (haveRoots func() bool) {
	t.Helper()
	t.Setenv("SSL_CERT_FILE", os.DevNull)
	t.Setenv("SSL_CERT_DIR", t.TempDir())
	return func() bool {
		roots, err := x509.SystemCertPool()
		return err == nil && !roots.Equal(x509.NewCertPool())
	}
}
