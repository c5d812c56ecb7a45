// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"math"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

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

func (c *sql) judge(result *pgconn.Result) (number, error) {
	switch {
	case len(result.FieldDescriptions) > 1:
		return number{}, Problem("the statement returned several columns")
	case len(result.FieldDescriptions) == 0:
		return number{}, Problem("the statement returned no column")
	case len(result.Rows) == 0:
		return number{}, Problem("the statement returned no row")
	case len(result.Rows) > 1:
		return number{}, Problem("the statement returned several rows")
	}
	value, kind := result.Rows[0][0], result.FieldDescriptions[0].DataTypeOID
	if value == nil {
		return number{}, Problem("the statement returned NULL")
	}
	text, isBool := string(value), kind == pgtype.BoolOID
	if isBool { // which is t or f on the wire
		text = strconv.FormatBool(text == "t")
	}
	found := asNumber(text, kind)
	switch {
	case c.Equals != nil && text != *c.Equals:
		return number{}, Problem("the value is another one")
	case c.Equals != nil, isBool && text == "true" && !c.Limits.Any():
		return number{}, nil
	case isBool && !c.Limits.Any():
		return number{}, Problem("the statement returned false")
	case !c.Limits.Any():
		return number{}, Problem("the statement returned neither true nor false, and there are no limits nor a value to equal")
	case !found.measured:
		return number{}, Problem("the statement returned no number to hold against the limits")
	}
	return found, nil
}

// asNumber reads the text of a value of PostgreSQL's numeric types (pg_type.dat). What has no end is no number here: no
// limit would bound it.
func asNumber(text string, kind uint32) number {
	kinds := []uint32{
		pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID, pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID,
	}
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || !slices.Contains(kinds, kind) || math.IsNaN(value) || math.IsInf(value, 0) {
		return number{}
	}
	return measured(value)
}
