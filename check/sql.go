// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"math"
	"strconv"

	"pg_liveness_exporter/config"
)

// sql runs a statement that must return one value: true, the value of the key equals, or a number to compare with the
// limits.
type sql struct {
	*config.Check
	query Query
}

func (c *sql) run(ctx context.Context) (number, error) {
	result, err := c.query(ctx, c.SQL)
	if err != nil {
		return number{}, err
	}
	return c.evaluate(result)
}

// evaluate returns the number to compare with the limits, or an unknown number if the check has no limits. It returns a
// PublicError if the result fails the check.
func (c *sql) evaluate(result Scalar) (number, error) {
	switch {
	case result.Columns > 1:
		return number{}, PublicError("the statement returned several columns")
	case result.Columns == 0:
		return number{}, PublicError("the statement returned no column")
	case result.Rows == 0:
		return number{}, PublicError("the statement returned no row")
	case result.Rows > 1:
		return number{}, PublicError("the statement returned several rows")
	case result.Null:
		return number{}, PublicError("the statement returned NULL")
	}
	text := result.Text
	if result.Bool { // PostgreSQL's text format is t or f
		text = strconv.FormatBool(text == "t")
	}
	found := numberOf(result)
	switch {
	case c.Equals != nil && text != *c.Equals:
		return number{}, PublicError("the value is another one")
	case c.Equals != nil, result.Bool && text == "true" && !c.Limits.Any():
		return number{}, nil
	case result.Bool && !c.Limits.Any():
		return number{}, PublicError("the statement returned false")
	case !c.Limits.Any():
		return number{}, PublicError(
			"the statement returned neither true nor false, and there are no limits nor a value to equal")
	case !found.known:
		return number{}, PublicError("the statement returned no number to compare with the limits")
	}
	return found, nil
}

// numberOf returns the number that a statement returned. NaN and the infinities are unknown: a comparison with a limit
// would be meaningless.
func numberOf(result Scalar) number {
	value, err := strconv.ParseFloat(result.Text, 64)
	if err != nil || !result.Number || math.IsNaN(value) || math.IsInf(value, 0) {
		return number{}
	}
	return known(value)
}
