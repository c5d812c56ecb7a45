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
		"mysql://hunter2":       "redis_file: must be a URL that begins with redis://, redis+socket://, rediss://, sentinel://, unix://, valkey://, valkeys://",
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

// TestCheckContent: every call reads a file, and no error holds its path.
func TestCheckContent(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hunter2")
	source := ForCheck(&config.Check{})
	file := config.Content{Key: "sslrootcert", File: path}
	if _, err := source.Read(file); err == nil || err.Error() != "sslrootcert: no such file or directory" {
		t.Errorf("no file: %v", err)
	}
	for content, want := range map[string]string{"PEM": "PEM", "secret\n": "secret"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if text, err := source.Read(file); err != nil || string(text) != want {
			t.Errorf("%q, %v", string(text), err)
		}
	}
	for _, text := range []config.Secret{"", "hunter2"} {
		if got, err := source.Read(config.Content{Text: text}); err != nil || got != text {
			t.Errorf("%q, %v", string(got), err)
		}
	}
}
