// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"math"
	"strconv"

	"pg_liveness_exporter/config"
)

// sql runs a statement that returns one value: true, what it is to equal, or a number to be held against limits.
type sql struct {
	*config.Check
	query Query
}

func (c *sql) ask(ctx context.Context) (number, error) {
	result, err := c.query(ctx, c.SQL)
	if err != nil {
		return number{}, err
	}
	return c.judge(result)
}

func (c *sql) judge(result Scalar) (number, error) {
	switch {
	case result.Columns > 1:
		return number{}, Problem("the statement returned several columns")
	case result.Columns == 0:
		return number{}, Problem("the statement returned no column")
	case result.Rows == 0:
		return number{}, Problem("the statement returned no row")
	case result.Rows > 1:
		return number{}, Problem("the statement returned several rows")
	case result.Null:
		return number{}, Problem("the statement returned NULL")
	}
	text := result.Text
	if result.Bool { // which is t or f on the wire
		text = strconv.FormatBool(text == "t")
	}
	found := numberOf(result)
	switch {
	case c.Equals != nil && text != *c.Equals:
		return number{}, Problem("the value is another one")
	case c.Equals != nil, result.Bool && text == "true" && !c.Limits.Any():
		return number{}, nil
	case result.Bool && !c.Limits.Any():
		return number{}, Problem("the statement returned false")
	case !c.Limits.Any():
		return number{}, Problem("the statement returned neither true nor false, and there are no limits nor a value to equal")
	case !found.measured:
		return number{}, Problem("the statement returned no number to hold against the limits")
	}
	return found, nil
}

// numberOf reads a number. NaN and infinities are none: no limit would bound them.
func numberOf(result Scalar) number {
	value, err := strconv.ParseFloat(result.Text, 64)
	if err != nil || !result.Number || math.IsNaN(value) || math.IsInf(value, 0) {
		return number{}
	}
	return measured(value)
}
