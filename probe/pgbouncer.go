// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// PoolerStats is what a PgBouncer console reports: the results of its SHOW commands, under PgBouncer's own names
// (doc/usage.md of PgBouncer). If this version or this role does not have a command, its part is empty.
type PoolerStats struct {
	// Version is as PgBouncer spells it, for example "PgBouncer 1.26.1".
	Version string
	// Pools has a row for each pool, Databases and Totals have one for each database. PoolLabels, DatabaseLabels and
	// TotalLabels return the names of their labels.
	Pools, Databases, Totals []PoolerRow
	// Lists holds the rows of SHOW LISTS, which are counts. Config holds the settings that are numbers.
	Lists, Config map[string]float64
}

// isPgBouncer reports whether the console is that of a PgBouncer and not of another pooler. s may be nil.
func (s *PoolerStats) isPgBouncer() bool {
	return s != nil && strings.HasPrefix(s.Version, "PgBouncer")
}

// MayBeOneOfSeveral reports whether other processes may share this PgBouncer's port, so that the rest describes only one
// of them: so_reuseport is on, or a peer_id is set.
func (s *PoolerStats) MayBeOneOfSeveral() bool {
	return s.Config["so_reuseport"] > 0 || s.Config["peer_id"] > 0
}

// PoolerRow is one row of a SHOW command's result.
type PoolerRow struct {
	// Labels identify the row, in the order of PoolLabels, DatabaseLabels or TotalLabels.
	Labels []string
	// Values are the columns that hold a number. Units are PgBouncer's: times are in microseconds, except maxwait.
	Values map[string]float64
}

// PoolLabels returns the columns that are the labels of a row of PoolerStats.Pools.
func PoolLabels() []string { return []string{"database", "user"} }

// DatabaseLabels returns the columns that are the labels of a row of PoolerStats.Databases: all text columns except the
// address.
func DatabaseLabels() []string { return []string{"database", "force_user", "name", "pool_mode"} }

// TotalLabels returns the columns that are the labels of a row of PoolerStats.Totals.
func TotalLabels() []string { return []string{"database"} }

// pgbouncer is the kind of PgBouncer's console, which supports the simple protocol and one command at a time.
type pgbouncer struct{}

const showVersion = "SHOW VERSION"

// pgbouncerSQLState is the SQLSTATE of PgBouncer's own refusals (send_pooler_error in its src/proto.c). An error with
// another one is a server's, which refused PgBouncer's login for the auth_query (kill_pool_logins_server_error in
// src/server.c).
const pgbouncerSQLState = "08P01"

func (pgbouncer) ping(ctx context.Context, s *session) error {
	_, err := readVersion(ctx, s)
	return err
}

// pingWithRole returns no role: a PgBouncer has none.
func (b pgbouncer) pingWithRole(ctx context.Context, s *session) (*Role, error) {
	s.pooled = true
	return nil, b.ping(ctx, s)
}

// errNoConsole is returned if a server, or a database behind a pooler, does not know a command of the console.
var errNoConsole = errors.New("this is not the console of a PgBouncer")

// readVersion runs SHOW VERSION. It returns errNoConsole if the server does not know the command.
func readVersion(ctx context.Context, s *session) (string, error) {
	results, err := s.queryRows(ctx, showVersion)
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr) && pgErr.Code == "42704": // PostgreSQL has no parameter with this name
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

// readStats runs all commands on the same session. It leaves out what the console refuses: other poolers support some
// of these commands. A role that is in neither admin_users nor stats_users cannot log in.
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

// readStartTimes returns unknown times: PgBouncer does not report when it started.
func (pgbouncer) readStartTimes(context.Context, *session) startTimes { return startTimes{} }

func (pgbouncer) reset(bool) {}

func (pgbouncer) queryCount() int { return 7 }

// rowsOf iterates over the rows of all results, as maps from column name to value. The map is valid until the next
// iteration.
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

// poolerRows splits rows into labels and numbers. It sums rows whose labels are equal after toValidUTF8.
func poolerRows(results []*pgconn.Result, labels []string) []PoolerRow {
	var rows []PoolerRow
	indexes := make(map[string]int)
	for columns := range rowsOf(results) {
		row := PoolerRow{Labels: make([]string, len(labels)), Values: make(map[string]float64)}
		for i, label := range labels {
			row.Labels[i] = toValidUTF8(columns[label])
		}
		for column, text := range columns {
			if value, _ := parseNumber(text); value.Known && !slices.Contains(labels, column) {
				row.Values[column] = value.Value
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

// namedNumbers returns a map from the column called name to the column called value. It skips values that are not
// numbers.
func namedNumbers(results []*pgconn.Result, name, value string) map[string]float64 {
	numbers := make(map[string]float64)
	for columns := range rowsOf(results) {
		if n, _ := parseNumber(columns[value]); n.Known {
			numbers[toValidUTF8(columns[name])] = n.Value
		}
	}
	return numbers
}
