// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"errors"

	"pg_liveness_exporter/config"
)

// maxRootsSize bounds, in bytes, a file of certificates to trust, and each other file of a check. The system's has about
// 200 KiB.
const maxRootsSize = 4 << 20

// CheckSource reads the files that a check names, at each call. Its errors have no path: everybody may see the output of a
// check.
type CheckSource struct{ settings *config.Check }

// ForCheck returns the source of a check's files.
func ForCheck(settings *config.Check) CheckSource { return CheckSource{settings} }

// Location returns where the dependency is: a URL, or host:port for the kind tcp. An error's text holds no part of it.
func (s CheckSource) Location() (config.Secret, error) {
	c := s.settings
	if c.LocationFile == "" {
		return c.Location, nil
	}
	location, err := readSecret(c.LocationFile)
	if err == nil {
		err = c.ValidateLocation(location)
	}
	return location, withKey(string(c.Kind)+"_file", withoutPath(err))
}

// Read returns the text of a setting, which is read again if it is in a file. It has no line end. An error's text holds
// neither the text nor the path.
func (s CheckSource) Read(c config.Content) (config.Secret, error) {
	if c.File == "" {
		return c.Text, nil
	}
	content, err := config.ReadFile(c.File, maxRootsSize)
	if err != nil {
		return "", withKey(c.Key, withoutPath(err))
	}
	text, err := trimSecret(content)
	return text, withKey(c.Key, err)
}

// withoutPath returns an error without the path of the file, if it is about one.
func withoutPath(err error) error {
	var fileErr *config.FileError
	if errors.As(err, &fileErr) {
		return fileErr.Unwrap()
	}
	return err
}
