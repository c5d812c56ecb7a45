// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"

	"github.com/jackc/pgservicefile"

	"pg_liveness_exporter/config"
)

// maxConnFileSize bounds, in bytes, each file that pgconn reads.
const maxConnFileSize = maxRootsSize

// verifyFiles returns an error if pgconn must not read one of the files of a connection string: it would wait forever for a
// named pipe, and would read an endless or huge file into memory. pgconn itself reports, or ignores, a file that is missing
// or not readable.
//
// The error contains the path. The file exists, so the path is not a secret in the wrong place. For a file with TLS material
// it is a *config.TLSError.
func verifyFiles(dsn config.Secret) error {
	settings := libpqFiles()
	own := config.ConnStringSettings(dsn)
	maps.Copy(settings, own)
	if name := settings["service"]; name != "" {
		content, err := readConnFile("servicefile", settings["servicefile"])
		if err != nil {
			return err
		}
		// pgconn reports what is wrong with the file.
		if file, err := pgservicefile.ParseServicefile(bytes.NewReader(content)); err == nil {
			if service, err := file.GetService(name); err == nil {
				maps.Copy(settings, service.Settings)
				maps.Copy(settings, own)
			}
		}
	}
	if _, err := readConnFile("passfile", settings["passfile"]); err != nil {
		return err
	}
	for _, key := range []string{"sslrootcert", "sslcert", "sslkey"} {
		if key == "sslrootcert" && settings[key] == "system" {
			continue
		}
		if _, err := readConnFile(key, settings[key]); err != nil {
			return config.NewTLSError(err)
		}
	}
	return nil
}

// libpqFiles returns the settings of files that libpq's environment and the home directory give
// (libpq-envars.html, and pgconn's defaults.go).
func libpqFiles() map[string]string {
	files := make(map[string]string)
	if home, err := os.UserHomeDir(); err == nil {
		files["passfile"] = filepath.Join(home, ".pgpass")
		files["servicefile"] = filepath.Join(home, ".pg_service.conf")
		files["sslrootcert"] = filepath.Join(home, ".postgresql", "root.crt")
		files["sslcert"] = filepath.Join(home, ".postgresql", "postgresql.crt")
		files["sslkey"] = filepath.Join(home, ".postgresql", "postgresql.key")
	}
	for key, variable := range map[string]string{
		"passfile": "PGPASSFILE", "service": "PGSERVICE", "servicefile": "PGSERVICEFILE",
		"sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY",
	} {
		if path := os.Getenv(variable); path != "" {
			files[key] = path
		}
	}
	return files
}

// readConnFile returns the content of a file, nil if the system does not let it be read. An error says that pgconn must
// not read it. os.DevNull is how libpq's users turn a file off.
func readConnFile(key, path string) ([]byte, error) {
	if path == "" || path == os.DevNull {
		return nil, nil
	}
	content, err := config.ReadFile(path, maxConnFileSize)
	if err != nil && !config.IsSystemError(err) {
		return nil, withKey(key, err)
	}
	return content, nil
}
