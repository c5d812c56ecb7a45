// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/jackc/pgpassfile"
	"github.com/jackc/pgservicefile"

	"pg_liveness_exporter/config"
)

// maxConnFileSize bounds, in bytes, each file that a connection string or libpq's environment names.
const maxConnFileSize = maxRootsSize

// homeFiles returns the files in the home directory that libpq reads if nothing names others (libpq-pgpass.html and
// libpq-pgservice.html).
func homeFiles() config.ConnSettings {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	return config.ConnSettings{"passfile": filepath.Join(home, ".pgpass"), "servicefile": filepath.Join(home, ".pg_service.conf")}
}

// addTLSFiles adds the files of TLS in the home directory, if they exist, that libpq reads if nothing names others
// (initialize_SSL in fe-secure-openssl.c). An empty name names no file. A key belongs to a certificate: it alone counts as none.
func addTLSFiles(settings config.ConnSettings) {
	add := func(key, name string) {
		if settings[key] == "" {
			settings[key] = homeFile(name)
		}
	}
	add("sslrootcert", "root.crt")
	add("sslcert", "postgresql.crt")
	if settings["sslcert"] != "" {
		add("sslkey", "postgresql.key")
	}
}

// addRevoked adds the list of revoked certificates in the home directory, if it exists and nothing names another one. As libpq
// does, it counts for the authorities of a file alone, and not for the system's.
func addRevoked(t *config.TLS) {
	if t.Revoked == "" && t.Verifies() && t.Roots != "" && t.Roots != "system" {
		t.Revoked = homeFile("root.crl")
	}
}

// homeFile returns the path of a file of TLS in the home directory. It is empty if the file does not exist.
func homeFile(name string) string {
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	path := filepath.Join(home, ".postgresql", name)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// defaultHost returns the folder of the Unix socket of a local server, or localhost. libpq has it compiled in.
func defaultHost() string {
	for _, folder := range []string{"/var/run/postgresql", "/private/tmp", "/tmp"} { // Debian's, Homebrew's, PostgreSQL's
		if _, err := os.Stat(folder); err == nil && filepath.IsAbs(folder) {
			return folder
		}
	}
	return "localhost"
}

// readService returns the settings of a section of libpq's service file. There are none if name is empty. libpq's file for
// the whole system is not read, since only libpq knows where it is.
func readService(name, path string) (config.ConnSettings, error) {
	if name == "" {
		return nil, nil
	}
	content, err := config.ReadFile(path, maxConnFileSize)
	switch {
	case config.IsSystemError(err):
		return nil, fmt.Errorf("the service file (PGSERVICEFILE, otherwise ~/.pg_service.conf) cannot be read: %w", err)
	case err != nil:
		return nil, withKey("servicefile", err)
	}
	file, err := pgservicefile.ParseServicefile(bytes.NewReader(content))
	if err != nil { // its text holds a line of the file
		return nil, errors.New("the service file cannot be parsed: it has sections, and lines of keyword=value in them")
	}
	service, err := file.GetService(name)
	if err != nil { // its text holds the name
		return nil, errors.New("the service file (PGSERVICEFILE, otherwise ~/.pg_service.conf) has no section for the service (PGSERVICE)")
	}
	settings, err := config.ServiceSettings(service.Settings)
	return settings, withKey("servicefile", err)
}

// passwordFromFile returns the password that libpq's passfile has for a connection, empty if it has none or if the system does
// not let it be read. os.DevNull is how libpq's users turn the file off. An error names the path: the file exists, so the path
// is not a secret in the wrong place.
func passwordFromFile(c *config.Connection) (config.Secret, error) {
	if c.PassFile == "" || c.PassFile == os.DevNull {
		return "", nil
	}
	content, err := config.ReadFile(c.PassFile, maxConnFileSize)
	switch {
	case config.IsSystemError(err):
		return "", nil
	case err != nil:
		return "", withKey("passfile", err)
	}
	passfile, err := pgpassfile.ParsePassfile(bytes.NewReader(content))
	if err != nil { // a line that is too long
		return "", errors.New("passfile: cannot be parsed")
	}
	host := c.Host
	switch {
	case c.IsSocket():
		host = "localhost"
	case host == "":
		host = c.Address
	}
	return config.Secret(passfile.FindPassword(host, strconv.Itoa(int(c.Port)), c.Database, c.User)), nil
}
