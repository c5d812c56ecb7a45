// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Pooler is what a PgBouncer's console says: the answers to SHOW commands, by PgBouncer's own names (doc/usage.md of
// PgBouncer). A command that this version or this role does not have leaves its part empty.
type Pooler struct {
	// Version is as PgBouncer spells it: "PgBouncer 1.26.1".
	Version string
	// Pools, Databases and Totals have a row for each pool, database, and database again, by the labels that
	// PoolLabels, DatabaseLabels and TotalLabels name, in this order.
	Pools, Databases, Totals []PoolerRow
	// Lists are counts of PgBouncer's own, Config its settings that are numbers.
	Lists, Config map[string]float64
}

// PoolerRow is a row of a SHOW command's answer.
type PoolerRow struct {
	// Labels tell the rows of one answer apart, and say what they are about.
	Labels []string
	// Values are the columns that hold a number. The unit is PgBouncer's: times are microseconds, but for maxwait.
	Values map[string]float64
}

// PoolLabels returns the columns that are the labels of a row of Pooler.Pools.
func PoolLabels() []string { return []string{"database", "user"} }

// DatabaseLabels returns the columns that are the labels of a row of Pooler.Databases: all texts but the address.
func DatabaseLabels() []string { return []string{"database", "force_user", "name", "pool_mode"} }

// TotalLabels returns the columns that are the labels of a row of Pooler.Totals.
func TotalLabels() []string { return []string{"database"} }

// pgbouncer asks PgBouncer's console, which knows the simple protocol and one command at a time.
type pgbouncer struct{}

const showVersion = "SHOW VERSION"

func (pgbouncer) alive(ctx context.Context, s *session) error {
	s.pooled = true
	_, err := version(ctx, s)
	return err
}

// errNoConsole is a server, or a database behind a pooler, that does not know a console's command.
var errNoConsole = errors.New("this is not the console of a PgBouncer")

func version(ctx context.Context, s *session) (string, error) {
	answer, err := show(ctx, s, showVersion)
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr) && pgErr.Code == "42704": // PostgreSQL knows no parameter of this name
		return "", errNoConsole
	case err != nil:
		return "", err
	}
	if len(answer) != 1 || answer[0]["version"] == "" {
		return "", errors.New("SHOW VERSION did not return a version")
	}
	return answer[0]["version"], nil
}

// read asks for everything in the one session. What a console refuses is left out: other poolers have a part of these
// commands, and a role that is neither in admin_users nor in stats_users does not get here.
func (pgbouncer) read(ctx context.Context, s *session) (reading, error) {
	var (
		p   = &Pooler{}
		err error
	)
	if p.Version, err = version(ctx, s); err != nil {
		return reading{}, err
	}
	for _, part := range []struct {
		command string
		take    func(answer []map[string]string)
	}{
		{"SHOW POOLS", func(answer []map[string]string) { p.Pools = poolerRows(answer, PoolLabels()) }},
		{"SHOW DATABASES", func(answer []map[string]string) { p.Databases = poolerRows(answer, DatabaseLabels()) }},
		{"SHOW STATS_TOTALS", func(answer []map[string]string) { p.Totals = poolerRows(answer, TotalLabels()) }},
		{"SHOW LISTS", func(answer []map[string]string) { p.Lists = namedNumbers(answer, "list", "items") }},
		{"SHOW CONFIG", func(answer []map[string]string) { p.Config = namedNumbers(answer, "key", "value") }},
	} {
		answer, err := show(ctx, s, part.command)
		switch {
		case err == nil:
			part.take(answer)
		case !isRefusal(err):
			return reading{}, err
		}
	}
	return reading{pooler: p}, nil
}

// started knows nothing: PgBouncer does not tell when it began.
func (pgbouncer) started(context.Context, *session) startTimes { return startTimes{} }

func (pgbouncer) forget() {}

func (pgbouncer) queries() int { return 7 }

// show runs a command and returns the rows of its answer, by the names of their columns.
func show(ctx context.Context, s *session, command string) ([]map[string]string, error) {
	results, err := s.query(ctx, command)
	if err != nil {
		return nil, err
	}
	var rows []map[string]string
	for _, result := range results {
		for _, row := range result.Rows {
			rows = append(rows, named(result, row))
		}
	}
	return rows, nil
}

func named(result *pgconn.Result, row [][]byte) map[string]string {
	columns := make(map[string]string, len(row))
	for i, value := range row {
		if i < len(result.FieldDescriptions) {
			columns[result.FieldDescriptions[i].Name] = valid(value)
		}
	}
	return columns
}

// poolerRows splits rows into labels and numbers. Rows whose labels are equal, once they are valid UTF-8, are summed.
func poolerRows(answer []map[string]string, labels []string) []PoolerRow {
	var rows []PoolerRow
	at := make(map[string]int, len(answer))
	for _, columns := range answer {
		row := PoolerRow{Labels: make([]string, len(labels)), Values: make(map[string]float64, len(columns))}
		for i, label := range labels {
			row.Labels[i] = columns[label]
		}
		for column, text := range columns {
			if value, err := strconv.ParseFloat(text, 64); err == nil && !slices.Contains(labels, column) {
				row.Values[column] = value
			}
		}
		key := strings.Join(row.Labels, "\x00")
		i, ok := at[key]
		if !ok {
			at[key] = len(rows)
			rows = append(rows, row)
			continue
		}
		for column, value := range row.Values {
			rows[i].Values[column] += value
		}
	}
	return rows
}

// namedNumbers reads an answer that has a name and a value in each row.
func namedNumbers(answer []map[string]string, name, value string) map[string]float64 {
	numbers := make(map[string]float64, len(answer))
	for _, columns := range answer {
		if n, err := strconv.ParseFloat(columns[value], 64); err == nil {
			numbers[columns[name]] = n
		}
	}
	return numbers
}
