// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"pg_liveness_exporter/config"
)

// maxSecretSize bounds, in bytes, what a file or a command may give as a password or a connection string. Tokens have a
// few thousand bytes.
const maxSecretSize = 64 << 10

// readSecret returns what a file holds, as trimSecret does.
func readSecret(path string) (config.Secret, error) {
	content, err := config.ReadFile(path, maxSecretSize)
	if err != nil {
		return "", err
	}
	value, err := trimSecret(content)
	if err != nil {
		return "", config.NewFileError(path, err)
	}
	return value, nil
}

// trimSecret returns a secret without the line ends behind it and the byte order mark that editors of Windows put before it. It
// must not be empty.
func trimSecret(content []byte) (config.Secret, error) {
	value := strings.TrimRight(strings.TrimPrefix(string(content), "\ufeff"), "\r\n")
	switch {
	case value == "":
		return "", errors.New("is empty")
	case strings.Contains(value, "\x00"):
		return "", errors.New("holds a NUL byte")
	}
	return config.Secret(value), nil
}

var errNotSet = errors.New("the variable is not set, or is empty")

// readVariable returns the value of an environment variable, which must be set. An error names the key and not the
// variable.
func readVariable(key, name string) (config.Secret, error) {
	value := os.Getenv(name)
	if value == "" {
		return "", withKey(key, errNotSet)
	}
	return config.Secret(value), nil
}

// readSource reads a password that no command prints.
func readSource(key string, from *config.PasswordSource) (config.Secret, error) {
	switch {
	case from.File != "":
		password, err := readSecret(from.File)
		return password, withKey(key+"_file", err)
	case from.Variable != "":
		return readVariable(key+"_env", from.Variable)
	}
	return from.Text, nil
}

// withKey adds the configuration's key to an error, if there is one.
func withKey(key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", key, err)
}
