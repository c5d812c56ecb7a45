// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
)

// redis sends PING, or reads the length of a key if the check has length_of.
type redis struct{ dependency }

func (c *redis) run(ctx context.Context) (number, error) {
	conn, err := dialRedis(ctx, c.dependency)
	if err != nil {
		return number{}, err
	}
	defer conn.close()
	if c.LengthOf == "" {
		reply, err := conn.do(ctx, "PING")
		if err == nil && reply != "PONG" {
			err = errUnexpectedReply
		}
		return number{}, err
	}
	kind, err := conn.do(ctx, "TYPE", c.LengthOf)
	if err != nil {
		return number{}, err
	}
	command, ok := map[any]string{"list": "LLEN", "stream": "XLEN", "set": "SCARD", "zset": "ZCARD"}[kind]
	switch {
	case kind == "none": // Redis has no key for an empty list
		return known(0), nil
	case !ok:
		return number{}, PublicError("the key is no list, stream, set or sorted set")
	}
	length, err := conn.integer(ctx, command, c.LengthOf)
	if err != nil {
		return number{}, err
	}
	return known(float64(length)), nil
}
