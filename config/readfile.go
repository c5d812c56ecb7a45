// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// ReadFile returns the content of a regular file of at most maxSize bytes. It refuses other kinds of files, whose
// reading may never end. The error's text does not hold the path: an operator may have written the secret itself in its
// place.
func ReadFile(path string, maxSize int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	switch {
	case info.IsDir():
		return nil, errors.New("is a directory")
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer func() { _ = file.Close() }() // it was only read
	content, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return nil, withoutPath(err)
	}
	if int64(len(content)) > maxSize {
		return nil, fmt.Errorf("is larger than %d KiB", maxSize>>10)
	}
	return content, nil
}

// ReadNamedFile is ReadFile with an error that names the path of a file that it refuses. That file exists, so the path is
// no secret in the wrong place. An error of the system does not name the path.
func ReadNamedFile(path string, maxSize int64) ([]byte, error) {
	content, err := ReadFile(path, maxSize)
	if err != nil && !IsSystemError(err) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return content, err
}

// IsSystemError reports whether the system did not let a file be read.
func IsSystemError(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno)
}

func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}
