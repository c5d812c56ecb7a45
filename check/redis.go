// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
)

// redis asks for PING, or for the length of a key.
type redis struct{ dependency }

func (c *redis) ask(ctx context.Context) (number, error) {
	conn, err := dialRedis(ctx, c.dependency)
	if err != nil {
		return number{}, err
	}
	defer conn.close()
	if c.LengthOf == "" {
		answer, err := conn.do(ctx, "PING")
		if err == nil && answer != "PONG" {
			err = errNonsense
		}
		return number{}, err
	}
	kind, err := conn.do(ctx, "TYPE", c.LengthOf)
	if err != nil {
		return number{}, err
	}
	command, ok := map[any]string{"list": "LLEN", "stream": "XLEN", "set": "SCARD", "zset": "ZCARD"}[kind]
	switch {
	case kind == "none": // a queue without entries is no key
		return measured(0), nil
	case !ok:
		return number{}, Problem("the key is no list, stream, set or sorted set")
	}
	length, err := conn.number(ctx, command, c.LengthOf)
	if err != nil {
		return number{}, err
	}
	return measured(float64(length)), nil
}
