// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"errors"
	"maps"
	"slices"

	"pg_liveness_exporter/config"
)

// VerifyLogin returns what is wrong with the content of the files that a login names. Each error begins with a key. A file that
// cannot be read and a variable that is not set are not reported: they may exist only where the exporter runs.
// It runs no command, and does not look at the environment.
func VerifyLogin(l *config.Login) []error {
	var errs []error
	add := func(err error) {
		if err != nil && !config.IsSystemError(err) && !errors.Is(err, errNotSet) {
			errs = append(errs, err)
		}
	}
	login := *l
	if l.Unread != nil {
		files, contents := l.Unread.Files(), make(map[string]config.Secret)
		for _, key := range slices.Sorted(maps.Keys(files)) {
			content, err := readSecret(files[key])
			add(withKey(key, err))
			if err == nil {
				contents[key] = content
			}
		}
		var err error
		login, err = l.Unread.Verify(contents)
		add(err)
	}
	if login.Password.File != "" {
		_, err := readSource("password", &login.Password)
		add(err)
	}
	if login.Connection == nil || login.Connection.TLS.Mode == "disable" {
		return errs
	}
	t := &login.Connection.TLS
	_, err := readRoots(t)
	add(err)
	_, err = readKeyPair(t)
	add(err)
	_, err = readRevoked(t)
	add(err)
	return errs
}
