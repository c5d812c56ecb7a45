// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ReadFile returns the content of a regular file of at most maxSize bytes. It refuses other kinds of files, whose
// reading may never end. An error is a *FileError.
func ReadFile(path string, maxSize int64) ([]byte, error) {
	content, err := readRegular(path, maxSize)
	if err != nil {
		return nil, NewFileError(path, err)
	}
	return content, nil
}

func readRegular(path string, maxSize int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	switch {
	case info.IsDir():
		return nil, errors.New("is a directory")
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	content, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > maxSize {
		return nil, fmt.Errorf("is larger than %d KiB", maxSize>>10)
	}
	return content, nil
}

// FileError is an error about a file that an operator has named. Its text has the path, and the user's number if a
// permission is missing. If the file is not known to exist, a secret may stand in place of a path: the text then has the
// nearest folder that exists.
type FileError struct {
	path  string
	cause error
}

// NewFileError returns a FileError. A cause that is a *fs.PathError loses its path.
func NewFileError(path string, cause error) *FileError {
	var pathErr *fs.PathError
	if errors.As(cause, &pathErr) {
		cause = pathErr.Err
	}
	return &FileError{path, cause}
}

// Unwrap returns the cause, whose text does not have the path.
func (e *FileError) Unwrap() error { return e.cause }

func (e *FileError) Error() string {
	where := e.path
	if _, err := os.Lstat(e.path); err != nil {
		folder := filepath.Dir(e.path)
		for folder != filepath.Dir(folder) && !isFolder(folder) {
			folder = filepath.Dir(folder)
		}
		where = "a file in " + folder
	}
	text := where + ": " + e.cause.Error()
	if uid := os.Geteuid(); errors.Is(e.cause, fs.ErrPermission) && uid >= 0 { // Windows has no such number
		text += fmt.Sprintf(" for the user with uid %d", uid)
	}
	return text
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// IsSystemError reports whether the system did not let a file be read.
func IsSystemError(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno)
}
