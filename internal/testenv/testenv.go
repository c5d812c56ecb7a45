// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package testenv finds on this machine what a test needs, and skips the test where it is missing.
package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"pg_liveness_exporter/internal/testservers"
)

// Need skips a test that lacks something of the machine and names the command that would bring it. Under
// REQUIRE_ALL=1, as in CI, the test fails instead.
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

// Tool returns a program that a variable names or that is on PATH, or skips the test.
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

// GoTool returns a program of tools/release, which Go builds the first time, or skips the test.
func GoTool(t testing.TB, name string) string {
	t.Helper()
	root, err := testservers.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	tools := filepath.Join(root, "tools", "release", "go.mod")
	path, err := exec.CommandContext(t.Context(), "go", "tool", "-modfile="+tools, "-n", name).Output()
	Need(t, err == nil, name, "go tool -modfile=tools/release/go.mod "+name)
	return strings.TrimSpace(string(path))
}

// Bin returns the folder with a server's binaries, or skips the test.
func Bin(t testing.TB) string {
	t.Helper()
	bin, err := testservers.FindPostgres()
	Need(t, err == nil, "a PostgreSQL server", "apt-get install postgresql")
	return bin
}

// Major returns the major version of the servers that NewPostgres starts.
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

// CeleryPython returns a Python that has Celery and its Redis transport, or skips the test.
func CeleryPython(t testing.TB) string {
	t.Helper()
	const debians = "/usr/bin/python3"
	err := exec.CommandContext(t.Context(), debians, "-c", "import celery, redis").Run()
	Need(t, err == nil, "Celery", "make test, as root")
	return debians
}
