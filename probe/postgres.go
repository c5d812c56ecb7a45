// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// postgres is the kind of a PostgreSQL server. It runs SELECT 1 and then reads the server statistics.
type postgres struct {
	applications bool // count connections by application
	catalogue    catalogue
}

const pingSQL = "SELECT 1"

// roleParts returns the parts that a ping with role reads, in their order.
func roleParts() []Part { return []Part{PartRole, PartClientPort, PartStartTime} }

// roleSQL returns the statement that reads a part: what a new transaction on this server is, what shows a proxy or a pooler,
// and when the server started.
func roleSQL(part Part) string {
	switch part {
	case PartRole:
		return "SELECT pg_is_in_recovery(), current_setting('transaction_read_only'), current_setting('default_transaction_isolation')"
	case PartClientPort:
		return "SELECT pg_backend_pid(), inet_client_port()"
	default:
		return "SELECT extract(epoch FROM pg_postmaster_start_time())"
	}
}

// ownSettingSQL returns a row if transactions are read-only by a setting of the session's own role or of the connection
// string, which says nothing about other roles, and not also by one of the database. A setting of the server below it cannot be seen without the privileges of a
// superuser. Reading pg_settings takes milliseconds.
const ownSettingSQL = `SELECT 1 FROM pg_settings WHERE name = 'default_transaction_read_only' AND source IN ('user', 'database user', 'client')
AND NOT EXISTS (SELECT FROM pg_db_role_setting, unnest(setconfig) AS setting WHERE setrole = 0
  AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND setting ~* '^default_transaction_read_only=.?(on|t|y|1)')`

// isOwnSetting reports whether only the exporter's own role is read-only.
func isOwnSetting(ctx context.Context, s *session) bool {
	if s.refusals.refused(PartOwnSetting) != nil {
		return false
	}
	results, err := s.queryPrefixed(ctx, s.pingPrefix(), ownSettingSQL, smallBudget)
	s.refusals.record(PartOwnSetting, err)
	data := dataOf(results)
	return err == nil && len(data) > 0
}

func (*postgres) ping(ctx context.Context, s *session) error {
	prefix := s.pingPrefix()
	results, err := s.queryPrefixed(ctx, prefix, pingSQL, smallBudget)
	if prefix != "" && isRefusal(err) && !isTransient(err) && !hasPinged(results) {
		refusal := err
		if results, err = s.query(ctx, pingSQL, smallBudget); err == nil {
			s.refusals.record(PartSettings, refusal)
		}
	} else if prefix != "" && err == nil {
		s.refusals.record(PartSettings, nil)
	}
	if err != nil {
		return err
	}
	if !hasPinged(results) {
		return errNotPinged
	}
	return nil
}

// errNotPinged is the error if the server replied to SELECT 1 with something other than 1.
var errNotPinged = errors.New("SELECT 1 did not return 1")

// hasPinged reports whether SELECT 1 returned 1.
func hasPinged(results []*pgconn.Result) bool {
	data := dataOf(results)
	return len(data) > 0 && len(data[0].Rows) == 1 && len(data[0].Rows[0]) == 1 && string(data[0].Rows[0][0]) == "1"
}

// pingWithRole is ping, and reads the server's role in the same simple query, so that one server sends both. A part that the
// server refuses costs another query: what is behind it was not run.
func (p *postgres) pingWithRole(ctx context.Context, s *session) (*Role, error) {
	var (
		role   *Role
		pinged bool
	)
	for {
		sql := pingSQL
		var parts []Part
		for _, part := range roleParts() {
			if s.refusals.refused(part) == nil {
				parts = append(parts, part)
				sql += ";\n" + roleSQL(part)
			}
		}
		prefix := s.pingPrefix()
		results, err := s.queryPrefixed(ctx, prefix, sql, smallBudget)
		switch {
		case hasPinged(results) && (err == nil || isRefusal(err)):
		case pinged: // the verdict is known
			return role, nil
		case !isRefusal(err) || isTransient(err):
			return nil, cmp.Or(err, errNotPinged)
		default: // the server refuses the prefix, or several statements at a time
			if err := p.ping(ctx, s); err != nil {
				return nil, err
			}
			if s.pingPrefix() != prefix {
				continue
			}
			for _, part := range parts {
				s.refusals.record(part, err)
			}
			return s.reportedRole(), nil
		}
		pinged = true
		data := dataOf(results)[1:]
		if prefix != "" {
			s.refusals.record(PartSettings, nil)
		}
		for _, part := range parts[:min(len(data), len(parts))] {
			s.refusals.record(part, nil)
		}
		role = s.parseParts(parts, data)
		if err == nil {
			return role, nil
		}
		if len(data) >= len(parts) || !s.refusals.record(parts[len(data)], err) {
			return role, nil
		}
	}
}

// parseParts parses the results of the first parts. It returns the role, that of the login if the server did not send one.
func (s *session) parseParts(parts []Part, data []*pgconn.Result) *Role {
	var role *Role
	s.postmasterStart = Number{}
	for i, result := range data[:min(len(data), len(parts))] {
		var p numberParser
		switch parts[i] {
		case PartRole:
			role = parseRole(result)
		case PartClientPort:
			if pid, port := p.number(firstRow(result, 0)), p.number(firstRow(result, 1)); p.err == nil {
				s.setRelayed(pid, port)
			}
		default:
			if at := p.number(firstRow(result, 0)); p.err == nil {
				s.postmasterStart = at
			}
		}
	}
	if role == nil {
		return s.reportedRole()
	}
	return role
}

// parseRole parses the result of PartRole. It returns nil if it is malformed.
func parseRole(result *pgconn.Result) *Role {
	if len(result.Rows) != 1 || len(result.Rows[0]) != 3 {
		return nil
	}
	return &Role{
		Replica: string(firstRow(result, 0)) == "t", ReadOnly: string(firstRow(result, 1)) == "on",
		Serializable: string(firstRow(result, 2)) == "serializable",
	}
}

// reportedRole returns the role that the server reported at the login (PostgreSQL 14 and later), nil if it did not. It is for
// servers that refuse PartRole. A pooler reports the role that its own session had when it began, so it does not count.
func (s *session) reportedRole() *Role {
	standby := s.conn.ParameterStatus("in_hot_standby")
	if standby == "" || s.pooled {
		return nil
	}
	replica := standby == "on"
	return &Role{Replica: replica, ReadOnly: replica || s.conn.ParameterStatus("default_transaction_read_only") == "on"}
}

// readStats reads the server statistics and session statistics. Names and limits are read if they are due. If the server
// refuses everything, only the version is known. If another session locks what shows the connections, the rest is returned
// with that error.
func (p *postgres) readStats(ctx context.Context, s *session) (stats, error) {
	c := &p.catalogue
	sessionsSQL := ""
	if c.hasSessionStats {
		sessionsSQL = c.sessionStatsSQL
	}
	read, err := p.runStats(ctx, s, sessionsSQL)
	if err != nil {
		return stats{}, err
	}
	if err := c.refresh(ctx, s, read); err != nil {
		return stats{}, err
	}
	server := read.server
	c.setReplication(server, read.replay, time.Now())
	if err := c.readAuroraLag(ctx, s, server); err != nil {
		return stats{}, err
	}
	c.fill(server, read.backends)
	c.hasSessionStats = hasSessionStats(server.VersionNum) && len(c.databases) > 0
	if !c.hasSessionStats {
		return stats{server: server}, read.locked
	}
	if read.sessions == nil || c.sessionStatsSQL != sessionsSQL { // the first reading, or there is a new database
		if read.sessions, err = s.queryPart(ctx, PartSessionCounter, c.sessionStatsSQL, sessionColumnCount); err != nil {
			return stats{}, err
		}
	}
	if server.SessionStats, err = c.parseSessionStats(read.sessions); err != nil {
		return stats{}, err
	}
	return stats{server: server}, read.locked
}

// runStats reads the server statistics, except for the parts that the server refuses. If it can, it also runs sessionsSQL,
// which is empty if there is none.
func (p *postgres) runStats(ctx context.Context, s *session, sessionsSQL string) (statsReply, error) {
	var leftOut []Part
	for _, part := range statsParts() {
		if s.refusals.refused(part.part) != nil {
			leftOut = append(leftOut, part.part)
		}
	}
	if s.refusals.refused(PartStatistics) != nil {
		return s.versionOnly(), nil
	}
	results, sessions, err := s.queryStats(ctx, statsSQL(p.applications, leftOut), sessionsSQL)
	var locked error
	if isRefusal(err) {
		if isLocked(err) {
			locked = err
		}
		if leftOut, err = s.findRefused(ctx, err, leftOut); err == nil {
			results, err = s.queryCatalog(ctx, statsSQL(p.applications, leftOut))
		}
	}
	switch {
	case err == nil:
		s.refusals.record(PartStatistics, nil)
	case s.refusals.record(PartStatistics, err): // no part alone is to blame
		return s.versionOnly(), nil
	default:
		return statsReply{}, err
	}
	for _, part := range statsParts() {
		if !slices.Contains(leftOut, part.part) {
			s.refusals.record(part.part, nil)
		}
	}
	read, err := parseStats(results, s.conn.PID())
	if err != nil {
		return statsReply{}, fmt.Errorf("read the server statistics: %w", err)
	}
	read.locked, read.sessions = locked, sessions
	if read.server.Version == "" {
		version := s.versionOnly().server
		read.server.Version, read.server.VersionNum = version.Version, version.VersionNum
	}
	return read, nil
}

// queryStats runs the statement for the server statistics, and in the same message sessionsSQL for the session statistics, unless
// that is empty or refused. It returns the rows of the latter, nil if there are none.
func (s *session) queryStats(ctx context.Context, sql, sessionsSQL string) (results []*pgconn.Result, sessions [][][]byte, err error) {
	if prefix := s.pingPrefix(); prefix != "" && sessionsSQL != "" && s.refusals.refused(PartSessionCounter) == nil {
		results, err := s.query(ctx, prefix+sql+";\n"+sessionsSQL, largeBudget)
		data := dataOf(results)
		switch {
		case err != nil && !isRefusal(err):
			return nil, nil, err
		case len(data) > 0: // if the server refuses anything, it is the session statistics
			s.refusals.record(PartSessionCounter, err)
			if len(data) == 2 {
				sessions = data[1].Rows
			}
			return data[:1], sessions, nil
		case !isCancelled(err):
			return results, nil, err
		}
	}
	results, err = s.queryCatalog(ctx, sql)
	return results, nil, err
}

// versionOnly returns statistics that have nothing but the version that the login reported.
func (s *session) versionOnly() statsReply {
	version := toValidUTF8([]byte(s.conn.ParameterStatus("server_version")))
	return statsReply{server: &ServerStats{Version: version, VersionNum: versionNum(version), Pooled: s.pooled}}
}

// findRefused finds out which parts the server refuses, after it has refused the whole statement without the parts in
// leftOut. It returns them and leftOut. Of all parts, only the connections can be locked, and they are not remembered
// then.
func (s *session) findRefused(ctx context.Context, refusal error, leftOut []Part) ([]Part, error) {
	if isTransient(refusal) {
		if isLocked(refusal) && !slices.Contains(leftOut, PartConnections) {
			return append(leftOut, PartConnections), nil
		}
		return nil, refusal
	}
	before := len(leftOut)
	for _, part := range statsParts() {
		if slices.Contains(leftOut[:before], part.part) {
			continue
		}
		_, err := s.queryCatalog(ctx, part.sql())
		if err != nil && !isRefusal(err) {
			return nil, err
		}
		if err != nil {
			s.refusals.record(part.part, err)
			leftOut = append(leftOut, part.part)
		}
	}
	if len(leftOut) == before {
		return nil, refusal
	}
	return leftOut, nil
}

func (p *postgres) readStartTimes(ctx context.Context, s *session) startTimes {
	read, err := p.runStats(ctx, s, "")
	if err != nil {
		return startTimes{}
	}
	return read.server.startTimes()
}

// queryCount counts SELECT 1 and the statements for server statistics, databases, role and session statistics.
func (p *postgres) queryCount() int { return 5 }

func (p *postgres) reset(otherServer bool) {
	old := p.catalogue
	p.catalogue = catalogue{}
	if !otherServer { // these are read again, but may be locked at the moment
		p.catalogue.databases, p.catalogue.sessionStatsSQL = old.databases, old.sessionStatsSQL
		p.catalogue.roleLimit, p.catalogue.isTemplate = old.roleLimit, old.isTemplate
	}
}

func (s *ServerStats) startTimes() startTimes {
	return startTimes{s.PostmasterStart, s.CheckpointerStart, s.readAt}
}
