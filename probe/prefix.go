// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// prefixSQL makes the statements behind it, in the same simple query, independent of the settings of the role, the database
// and the server. SET TRANSACTION must come first, and takes no snapshot: with serializable as the default, SELECT fails on a hot
// standby (SQLSTATE 0A000), and with deferrable as the default it waits for other transactions. A search_path can put look-alike
// functions and operators before pg_catalog. extra_float_digits below 1 rounds times before PostgreSQL 14. The lock_timeout
// bounds statements that wait for a lock on a catalogue. jit may take seconds to compile a statement. With exit_on_error, a
// function that is refused would end the session. All settings end with the transaction, also through a pooler.
const prefixSQL = `SET TRANSACTION ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE;
SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '100ms'; SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL extra_float_digits = 1; SET LOCAL jit = off; SET LOCAL exit_on_error = off;
`

// transactionTimeoutSQL is for PostgreSQL 17 and later, which have this setting.
const transactionTimeoutSQL = `SET LOCAL transaction_timeout = 0;
`

// plainPrefixSQL is for servers that refuse prefixSQL. Some refuse this too, and get no prefix.
const plainPrefixSQL = `SELECT pg_catalog.set_config('lock_timeout', '100ms', true);
`

// prefix returns the SQL text that goes before each statement of the session. The major version is the one that the login
// reported.
func (s *session) prefix() string {
	switch {
	case s.refusals.refused(PartSettings) == nil:
		return s.fullPrefix()
	case s.refusals.refused(PartLockTimeout) == nil:
		return plainPrefixSQL
	}
	return ""
}

// pingPrefix is prefix for statements that need no setting on a server that refuses prefixSQL.
func (s *session) pingPrefix() string {
	if s.refusals.refused(PartSettings) != nil {
		return ""
	}
	return s.fullPrefix()
}

func (s *session) fullPrefix() string {
	if s.major() >= 17 {
		return prefixSQL + transactionTimeoutSQL
	}
	return prefixSQL
}

// maxCancelled is how many times a statement is sent that the server cancels.
const maxCancelled = 3

// queryPrefixed runs sql behind the session's prefix. It tries again if the server cancels the statement (SQLSTATE
// 57014): a statement_timeout of the role may end the prefix before it has lifted that timeout.
func (s *session) queryPrefixed(ctx context.Context, prefix, sql string, budget int) ([]*pgconn.Result, error) {
	for tried := 1; ; tried++ {
		results, err := s.query(ctx, prefix+sql, budget)
		if tried == maxCancelled || !isCancelled(err) || ctx.Err() != nil {
			return results, err
		}
	}
}

// isCancelled reports whether the server cancelled the statement and the session goes on.
func isCancelled(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == "57014" && !isFatal(pgErr)
}

// major returns the server's major version as the login reported it, 0 if it did not.
func (s *session) major() int {
	n, _ := strconv.Atoi(versionNum(s.conn.ParameterStatus("server_version")))
	return n / 10000
}

// versionNum returns server_version_num for a server_version: 180004 for "18.4 (Debian)", 90624 for "9.6.24" (PG_VERSION_NUM in
// configure.ac). It returns an empty string if version has no number.
func versionNum(version string) string {
	var numbers [3]int
	for i, text := range strings.SplitN(version, ".", len(numbers)) {
		end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
		if end >= 0 { // "19rc1", "4 (Debian)"
			text = text[:end]
		}
		numbers[i], _ = strconv.Atoi(text)
		if end >= 0 {
			break
		}
	}
	switch major := numbers[0]; {
	case major == 0:
		return ""
	case major < 10:
		return strconv.Itoa(major*10000 + numbers[1]*100 + numbers[2])
	default:
		return strconv.Itoa(major*10000 + numbers[1])
	}
}

// dataOf returns the results that have rows, and not those of SET and LOCK: pgconn describes no columns of a result without
// rows. A statement that failed after its first row does not count.
func dataOf(results []*pgconn.Result) []*pgconn.Result {
	var data []*pgconn.Result
	for _, r := range results {
		if r.Err == nil && len(r.FieldDescriptions) > 0 {
			data = append(data, r)
		}
	}
	return data
}

// firstRow returns the value in a column of the first row, nil if it is NULL or missing.
func firstRow(r *pgconn.Result, column int) []byte {
	if len(r.Rows) == 0 || column >= len(r.Rows[0]) {
		return nil
	}
	return r.Rows[0][column]
}
