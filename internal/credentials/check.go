// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import "pg_liveness_exporter/config"

// maxRootsSize bounds, in bytes, a file of certificates to trust. The system's has about 200 KiB.
const maxRootsSize = 4 << 20

// CheckSource reads the files that a check names, at each call.
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
		err = c.Kind.ValidateLocation(location)
	}
	return location, withKey(string(c.Kind)+"_file", err)
}

// RootCertificates returns the certificates to trust, in PEM. It returns nil for the system's.
func (s CheckSource) RootCertificates() ([]byte, error) {
	if s.settings.RootsFile == "" {
		return nil, nil
	}
	content, err := config.ReadFile(s.settings.RootsFile, maxRootsSize)
	return content, withKey("sslrootcert", err)
}
