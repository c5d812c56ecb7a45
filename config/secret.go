// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

// Secret is a text that is never printed: every formatting verb and slog show a placeholder. An unexported field of
// this type is no protection, since package fmt prints it without calling methods.
type Secret string

const redacted = "<secret>"

// String hides the secret.
func (Secret) String() string { return redacted }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return redacted }

// MarshalText hides the secret from JSON, YAML and slog.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
