// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// Secret is a text that never prints: every formatting verb and slog show a placeholder.
type Secret string

const redacted = "<secret>"

// String hides the secret.
func (Secret) String() string { return redacted }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return redacted }

// MarshalText hides the secret from JSON, YAML and slog.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// longestSecret is the most that a file or a command may give as a password or a connection string; tokens have a few
// thousand bytes.
const longestSecret = 64 << 10

// readSecret returns what a file holds, without the line end that editors leave behind.
func readSecret(path string) (Secret, error) {
	content, err := readFile(path, longestSecret)
	if err != nil {
		return "", err
	}
	return onlyLine(content)
}

func onlyLine(content []byte) (Secret, error) {
	value := strings.TrimRight(string(content), "\r\n")
	switch {
	case value == "":
		return "", errors.New("is empty")
	case strings.ContainsAny(value, "\x00"):
		return "", errors.New("holds a NUL byte")
	}
	return Secret(value), nil
}

// readFile returns the content of a regular file of at most so many bytes: anything else may never end. Errors do not
// hold the path, since somebody may have put the secret itself in its place.
func readFile(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, pathless(err)
	}
	switch {
	case info.IsDir():
		return nil, errors.New("is a directory")
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, pathless(err)
	}
	defer func() { _ = file.Close() }() // was only read
	content, err := io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return nil, pathless(err)
	}
	if int64(len(content)) > most {
		return nil, fmt.Errorf("is larger than %d KiB", most>>10)
	}
	return content, nil
}

func pathless(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}
