// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// PoolerStats is what a PgBouncer's console says: the answers to SHOW commands, by PgBouncer's own names (doc/usage.md of
// PgBouncer). A command that this version or this role does not have leaves its part empty.
type PoolerStats struct {
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

// PoolLabels returns the columns that are the labels of a row of PoolerStats.Pools.
func PoolLabels() []string { return []string{"database", "user"} }

// DatabaseLabels returns the columns that are the labels of a row of PoolerStats.Databases: all texts but the address.
func DatabaseLabels() []string { return []string{"database", "force_user", "name", "pool_mode"} }

// TotalLabels returns the columns that are the labels of a row of PoolerStats.Totals.
func TotalLabels() []string { return []string{"database"} }

// pgbouncer asks PgBouncer's console, which knows the simple protocol and one command at a time.
type pgbouncer struct{}

const showVersion = "SHOW VERSION"

func (pgbouncer) ping(ctx context.Context, s *session) error {
	s.pooled = true
	_, err := readVersion(ctx, s)
	return err
}

// errNoConsole is a server, or a database behind a pooler, that does not know a console's command.
var errNoConsole = errors.New("this is not the console of a PgBouncer")

func readVersion(ctx context.Context, s *session) (string, error) {
	results, err := s.queryRows(ctx, showVersion)
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr) && pgErr.Code == "42704": // PostgreSQL knows no parameter of this name
		return "", errNoConsole
	case err != nil:
		return "", err
	}
	for columns := range rowsOf(results) {
		if text := toValidUTF8(columns["version"]); text != "" {
			return text, nil
		}
	}
	return "", errors.New("SHOW VERSION did not return a version")
}

// readStats asks for everything in the one session. What a console refuses is left out: other poolers have a part of these
// commands, and a role that is neither in admin_users nor in stats_users does not get here.
func (pgbouncer) readStats(ctx context.Context, s *session) (stats, error) {
	var (
		pooler = &PoolerStats{}
		err    error
	)
	if pooler.Version, err = readVersion(ctx, s); err != nil {
		return stats{}, err
	}
	for _, part := range []struct {
		command string
		parse   func(results []*pgconn.Result)
	}{
		{"SHOW POOLS", func(results []*pgconn.Result) { pooler.Pools = poolerRows(results, PoolLabels()) }},
		{"SHOW DATABASES", func(results []*pgconn.Result) { pooler.Databases = poolerRows(results, DatabaseLabels()) }},
		{"SHOW STATS_TOTALS", func(results []*pgconn.Result) { pooler.Totals = poolerRows(results, TotalLabels()) }},
		{"SHOW LISTS", func(results []*pgconn.Result) { pooler.Lists = namedNumbers(results, "list", "items") }},
		{"SHOW CONFIG", func(results []*pgconn.Result) { pooler.Config = namedNumbers(results, "key", "value") }},
	} {
		results, err := s.queryRows(ctx, part.command)
		switch {
		case err == nil:
			part.parse(results)
		case !isRefusal(err):
			return stats{}, err
		}
	}
	return stats{pooler: pooler}, nil
}

// readStartTimes knows nothing: PgBouncer does not tell when it began.
func (pgbouncer) readStartTimes(context.Context, *session) startTimes { return startTimes{} }

func (pgbouncer) reset() {}

func (pgbouncer) queryCount() int { return 7 }

// rowsOf returns the rows of an answer, by the names of their columns. A row is the next one's once it was looked at.
func rowsOf(results []*pgconn.Result) iter.Seq[map[string][]byte] {
	return func(yield func(map[string][]byte) bool) {
		columns := make(map[string][]byte)
		for _, result := range results {
			for _, row := range result.Rows {
				clear(columns)
				for i, value := range row[:min(len(row), len(result.FieldDescriptions))] {
					columns[result.FieldDescriptions[i].Name] = value
				}
				if !yield(columns) {
					return
				}
			}
		}
	}
}

// poolerRows splits rows into labels and numbers. Rows whose labels are equal, once they are valid UTF-8, are summed.
func poolerRows(results []*pgconn.Result, labels []string) []PoolerRow {
	var rows []PoolerRow
	indexes := make(map[string]int)
	for columns := range rowsOf(results) {
		row := PoolerRow{Labels: make([]string, len(labels)), Values: make(map[string]float64)}
		for i, label := range labels {
			row.Labels[i] = toValidUTF8(columns[label])
		}
		for column, text := range columns {
			if value, err := strconv.ParseFloat(string(text), 64); err == nil && !slices.Contains(labels, column) {
				row.Values[column] = value
			}
		}
		key := strings.Join(row.Labels, "\x00")
		i, ok := indexes[key]
		if !ok {
			indexes[key] = len(rows)
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
func namedNumbers(results []*pgconn.Result, name, value string) map[string]float64 {
	numbers := make(map[string]float64)
	for columns := range rowsOf(results) {
		if n, err := strconv.ParseFloat(string(columns[value]), 64); err == nil {
			numbers[toValidUTF8(columns[name])] = n
		}
	}
	return numbers
}
