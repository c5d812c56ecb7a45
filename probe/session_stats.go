// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"strconv"
	"strings"
)

// SessionStats counts the sessions of a database that have ended, and how, since its statistics were reset
// (pg_stat_get_db_sessions and its siblings in src/backend/utils/adt/pgstatfuncs.c).
type SessionStats struct {
	Database string
	// Sessions are all that began. Abandoned were lost by the network or the client, Fatal ended by an error, Killed by an
	// administrator.
	Sessions, Abandoned, Fatal, Killed float64
}

// churnSince is the first version_num of a server that counts sessions.
const sessionStatsMinVersion = 140000

// buildSessionStatsSQL asks by OID, which waits for no lock on a catalogue. The server's process for statistics may keep a reader of
// PostgreSQL 14 waiting for ten seconds (backend_read_statsfile in src/backend/postmaster/pgstat.c).
func buildSessionStatsSQL(oids []uint32) string {
	var list strings.Builder
	for i, oid := range oids {
		if i > 0 {
			list.WriteByte(',')
		}
		list.WriteString(strconv.FormatUint(uint64(oid), 10))
	}
	return `SELECT pg_catalog.set_config('statement_timeout', '250ms', true);
SELECT d, pg_catalog.pg_stat_get_db_sessions(d), pg_catalog.pg_stat_get_db_sessions_abandoned(d),
  pg_catalog.pg_stat_get_db_sessions_fatal(d), pg_catalog.pg_stat_get_db_sessions_killed(d)
FROM pg_catalog.unnest('{` + list.String() + `}'::pg_catalog.oid[]) AS d`
}

// readSessionStats reads how many sessions the known databases have had: those that sessions may begin in, or have begun in. What
// the server refuses is nil.
func (c *catalogue) readSessionStats(ctx context.Context, run query, versionNum string) ([]SessionStats, error) {
	if version, err := strconv.Atoi(versionNum); err != nil || version < sessionStatsMinVersion || len(c.databases) == 0 {
		return nil, nil
	}
	rows, err := run.rows(ctx, c.sessionStatsSQL, 5)
	if err != nil {
		return nil, err
	}
	var p numberParser
	byName := make(map[string]SessionStats, len(rows))
	for _, row := range rows {
		d := c.databases[p.oid(row[0])]
		var n [4]float64
		for i := range n {
			n[i] = p.number(row[i+1]).Value
		}
		// One that had sessions and has none any more was dropped.
		if d == nil || n[0] == 0 && (!d.allowsConnections || d.hadSessions) {
			continue
		}
		d.hadSessions = n[0] > 0
		sum := byName[d.name] // names that are equal once they are valid UTF-8
		byName[d.name] = SessionStats{d.name, sum.Sessions + n[0], sum.Abandoned + n[1], sum.Fatal + n[2], sum.Killed + n[3]}
	}
	all := make([]SessionStats, 0, len(byName))
	for _, stats := range byName {
		all = append(all, stats)
	}
	return all, p.err
}
