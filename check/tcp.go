// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
)

// tcp opens a connection and closes it without sending anything.
type tcp struct{ dependency }

func (c *tcp) run(ctx context.Context) (number, error) {
	address, err := c.location()
	if err != nil {
		return number{}, err
	}
	conn, err := dial(ctx, "tcp", string(address))
	if err != nil {
		return number{}, err
	}
	return number{}, conn.Close()
}
