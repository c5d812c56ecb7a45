// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/config"
)

// Credentials provides the settings of each login to one server. A prober calls its methods from several goroutines
// concurrently.
type Credentials interface {
	// ConnConfig returns the settings of one login. The prober modifies the result. ctx bounds all waiting. Its
	// deadline is the login's and not the probe's.
	//
	// An error that wraps a *config.TLSError is about TLS settings. Every other error is about credentials. The error's
	// text may be shown to anyone.
	ConnConfig(ctx context.Context) (*pgconn.Config, error)
	// FetchesPassword reports whether ConnConfig may wait for a command or a cloud that gives the password.
	FetchesPassword() bool
	// PasswordRefused records that the server refused a password that ConnConfig returned. It reports whether the next
	// ConnConfig may return a different password, so that a second login makes sense.
	PasswordRefused(password config.Secret) (mayChange bool)
	// Accepted records that a login succeeded.
	Accepted()
}
