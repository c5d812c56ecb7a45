// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

// Secret is a text that is never printed: every formatting verb and slog show a placeholder. Package fmt calls no methods
// of an unexported field and would print it, so such a field must be a Sealed.
type Secret string

const redacted = "<secret>"

// String hides the secret.
func (Secret) String() string { return redacted }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return redacted }

// MarshalText hides the secret from JSON, YAML and slog.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Sealed is a Secret in an unexported field: package fmt prints an address. The zero value is an empty one.
type Sealed struct{ secret *Secret }

// Seal returns a secret for an unexported field.
func Seal(s Secret) Sealed { return Sealed{&s} }

// Secret returns what is sealed.
func (s Sealed) Secret() Secret {
	if s.secret == nil {
		return ""
	}
	return *s.secret
}
