// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"strconv"
	"strings"
)

// SessionStats counts the sessions of a database since its statistics were reset (pg_stat_get_db_sessions and related
// functions in src/backend/utils/adt/pgstatfuncs.c).
type SessionStats struct {
	Database string
	// Sessions counts all sessions that began. Abandoned counts those lost by the network or the client, Fatal those
	// that an error ended, and Killed those that an administrator ended.
	Sessions, Abandoned, Fatal, Killed float64
}

// hasSessionStats reports whether a server with this server_version_num has session statistics.
func hasSessionStats(versionNum string) bool {
	version, err := strconv.Atoi(versionNum)
	return err == nil && version >= 140000
}

// buildSessionStatsSQL returns a statement that reads by OID, which waits for no lock on a catalogue. It has a
// statement_timeout, because the statistics collector of PostgreSQL 14 may delay a reader by ten seconds
// (backend_read_statsfile in src/backend/postmaster/pgstat.c).
func buildSessionStatsSQL(oids []uint32) string {
	var list strings.Builder
	for i, oid := range oids {
		if i > 0 {
			list.WriteByte(',')
		}
		list.WriteString(strconv.FormatUint(uint64(oid), 10))
	}
	return `SET LOCAL statement_timeout = '250ms';
SELECT d, pg_catalog.pg_stat_get_db_sessions(d), pg_catalog.pg_stat_get_db_sessions_abandoned(d),
  pg_catalog.pg_stat_get_db_sessions_fatal(d), pg_catalog.pg_stat_get_db_sessions_killed(d)
FROM pg_catalog.unnest('{` + list.String() + `}'::pg_catalog.oid[]) AS d`
}

// sessionColumnCount is the number of columns of a row of session statistics.
const sessionColumnCount = 5

// parseSessionStats returns the session statistics of the known databases that have had sessions or allow connections.
func (c *catalogue) parseSessionStats(rows [][][]byte) ([]SessionStats, error) {
	var p numberParser
	byName := make(map[string]SessionStats, len(rows))
	for _, row := range rows {
		if len(row) != sessionColumnCount {
			return nil, errors.New("a row of another width")
		}
		d := c.databases[p.oid(row[0])]
		var n [4]float64
		for i := range n {
			n[i] = p.number(row[i+1]).Value
		}
		// A database that had sessions and now has none was dropped.
		if d == nil || n[0] == 0 && (!d.allowsConnections || d.hadSessions) {
			continue
		}
		d.hadSessions = n[0] > 0
		sum := byName[d.name] // two names may become equal in toValidUTF8
		byName[d.name] = SessionStats{d.name, sum.Sessions + n[0], sum.Abandoned + n[1], sum.Fatal + n[2], sum.Killed + n[3]}
	}
	all := make([]SessionStats, 0, len(byName))
	for _, stats := range byName {
		all = append(all, stats)
	}
	return all, p.err
}
