// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pg_liveness_exporter/config"
)

// TestCheckLocation: every call reads the file, and no error holds a part of it.
func TestCheckLocation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "url")
	source := ForCheck(&config.Check{Kind: config.CheckRedis, LocationFile: path})
	for content, want := range map[string]string{
		"redis://a/1\n":         "",
		"rediss://:hunter2@b\n": "",
		"mysql://hunter2":       "redis_file: must be a URL that begins with redis:// or rediss://",
		"":                      "redis_file: is empty",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		location, err := source.Location()
		switch {
		case want == "" && (err != nil || string(location) != strings.TrimSpace(content)):
			t.Errorf("%q: %q, %v", content, string(location), err)
		case want != "" && (err == nil || err.Error() != want):
			t.Errorf("%q: %v, want %s", content, err, want)
		}
	}
	text := ForCheck(&config.Check{Kind: config.CheckTCP, Location: "h:1"})
	if location, err := text.Location(); err != nil || location != "h:1" {
		t.Errorf("%q, %v", string(location), err)
	}
}

// TestCheckRoots: every call reads the file of certificates. Without one, the system's are trusted.
func TestCheckRoots(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hunter2")
	source := ForCheck(&config.Check{RootsFile: path})
	if _, err := source.RootCertificates(); err == nil || err.Error() != "sslrootcert: no such file or directory" {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte("PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	if content, err := source.RootCertificates(); err != nil || string(content) != "PEM" {
		t.Errorf("%q, %v", content, err)
	}
	if content, err := ForCheck(&config.Check{}).RootCertificates(); err != nil || content != nil {
		t.Errorf("the system's: %q, %v", content, err)
	}
}
