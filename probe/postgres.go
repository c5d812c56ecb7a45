// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// postgres is the kind of a PostgreSQL server. It runs SELECT 1 and then reads the server statistics.
type postgres struct {
	sql       string // reads the server statistics
	catalogue catalogue
}

const pingSQL = "SELECT 1"

// roleSQL reads what a new transaction on this server is, and what shows a proxy or a pooler. The start time is a
// statement of its own and comes last: it may be refused.
const roleSQL = `;
SELECT pg_is_in_recovery(), current_setting('transaction_read_only'), current_setting('default_transaction_isolation');
SELECT pg_backend_pid(), inet_client_port();
SELECT extract(epoch FROM pg_postmaster_start_time())`

// ownSettingSQL returns a row if transactions are read-only by a setting of the session's own role, which says nothing about
// other roles, and not also by one of the database. A setting of the server below it cannot be seen without the privileges of a
// superuser. Reading pg_settings takes milliseconds.
const ownSettingSQL = `SELECT 1 FROM pg_settings WHERE name = 'default_transaction_read_only' AND source IN ('user', 'database user')
AND NOT EXISTS (SELECT FROM pg_db_role_setting, unnest(setconfig) AS setting WHERE setrole = 0
  AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND setting ~* '^default_transaction_read_only=.?(on|t|y|1)')`

// isOwnSetting reports whether only the exporter's own role is read-only.
func isOwnSetting(ctx context.Context, s *session) bool {
	results, err := s.queryPrefixed(ctx, s.pingPrefix(), ownSettingSQL, smallBudget)
	data := dataOf(results)
	return err == nil && len(data) > 0 && len(data[len(data)-1].Rows) > 0
}

func (*postgres) ping(ctx context.Context, s *session) error {
	results, err := s.queryPrefixed(ctx, s.pingPrefix(), pingSQL, smallBudget)
	if isRefusal(err) && !isTransient(err) && !s.refusal.isRecent() && !pinged(results) {
		if results, err = s.query(ctx, pingSQL, smallBudget); err == nil {
			s.refusal.record()
		}
	}
	if err != nil {
		return err
	}
	if !pinged(results) {
		return errors.New("SELECT 1 did not return 1")
	}
	return nil
}

// pinged reports whether SELECT 1 returned 1.
func pinged(results []*pgconn.Result) bool {
	data := dataOf(results)
	return len(data) > 0 && len(data[0].Rows) == 1 && len(data[0].Rows[0]) == 1 && string(data[0].Rows[0][0]) == "1"
}

// pingWithRole is ping, and reads the server's role in the same simple query, so that one server sends both. An error in the role
// leaves the reply to SELECT 1.
func (p *postgres) pingWithRole(ctx context.Context, s *session) (*Role, error) {
	results, err := s.queryPrefixed(ctx, s.pingPrefix(), pingSQL+roleSQL, smallBudget)
	if !pinged(results) {
		if isRefusal(err) && !isTransient(err) {
			return s.reportedRole(), p.ping(ctx, s) // without the role, and without the prefix if that was refused
		}
		if err == nil {
			err = errors.New("SELECT 1 did not return 1")
		}
		return nil, err
	}
	if err != nil && !isRefusal(err) {
		return nil, err
	}
	data := dataOf(results)[1:]
	role := parseRole(data)
	if role == nil {
		return s.reportedRole(), nil
	}
	if len(data) > 1 {
		var p numberParser
		if pid, port := p.number(firstRow(data[1], 0)), p.number(firstRow(data[1], 1)); p.err == nil {
			s.setRelayed(pid, port)
		}
	}
	return role, nil
}

// parseRole parses the results of roleSQL. It returns nil if the server refused it.
func parseRole(data []*pgconn.Result) *Role {
	if len(data) == 0 || len(data[0].Rows) != 1 || len(data[0].Rows[0]) != 3 {
		return nil
	}
	role := &Role{
		Replica: string(firstRow(data[0], 0)) == "t", ReadOnly: string(firstRow(data[0], 1)) == "on",
		Serializable: string(firstRow(data[0], 2)) == "serializable",
	}
	if len(data) > 2 {
		var p numberParser
		if start := p.number(firstRow(data[2], 0)); p.err == nil {
			role.postmasterStart = start
		}
	}
	return role
}

// reportedRole returns the role that the server reported at the login (PostgreSQL 14 and later), nil if it did not. It is for
// servers that refuse roleSQL. A pooler reports the role that its own session had when it began, so it does not count.
func (s *session) reportedRole() *Role {
	standby := s.conn.ParameterStatus("in_hot_standby")
	if standby == "" || s.pooled {
		return nil
	}
	replica := standby == "on"
	return &Role{Replica: replica, ReadOnly: replica || s.conn.ParameterStatus("default_transaction_read_only") == "on"}
}

// readStats reads the server statistics and session statistics. Names and limits are read if they are due.
func (p *postgres) readStats(ctx context.Context, s *session) (stats, error) {
	c := &p.catalogue
	results, withReplay, err := p.runStats(ctx, s, !c.noReplayFunctions)
	if err != nil {
		return stats{}, err
	}
	c.noReplayFunctions = !withReplay
	server, backends, replay, err := parseStats(results, s.conn.PID())
	if err != nil {
		return stats{}, fmt.Errorf("read the server statistics: %w", err)
	}
	if err := c.refresh(ctx, s.queryCatalog, backends, server.Replica); err != nil {
		return stats{}, err
	}
	if withReplay {
		c.setReplication(server, replay, time.Now())
	}
	c.fill(server, backends)
	if server.SessionStats, err = c.readSessionStats(ctx, s.queryCatalog, server.VersionNum); err != nil {
		return stats{}, err
	}
	return stats{server: server}, nil
}

// runStats runs the statistics statement. It reads replication if withReplay is set and the server supports it, and
// reports whether the result includes it.
func (p *postgres) runStats(ctx context.Context, s *session, withReplay bool) ([]*pgconn.Result, bool, error) {
	if withReplay {
		results, err := s.queryCatalog(ctx, p.sql)
		if !unsupported(err) {
			return results, true, err
		}
	}
	results, err := s.queryCatalog(ctx, strings.Replace(p.sql, replayColumns, noReplayColumns, 1))
	return results, false, err
}

func (p *postgres) readStartTimes(ctx context.Context, s *session) startTimes {
	results, _, err := p.runStats(ctx, s, true)
	if err != nil {
		return startTimes{}
	}
	server, _, _, err := parseStats(results, s.conn.PID())
	if err != nil {
		return startTimes{}
	}
	return server.startTimes()
}

// queryCount counts SELECT 1 and the statements for server statistics, databases, role and session statistics.
func (p *postgres) queryCount() int { return 5 }

func (p *postgres) reset() {
	p.catalogue.lastRefresh, p.catalogue.caughtUpAt, p.catalogue.lagZeroAt, p.catalogue.noReplayFunctions = time.Time{}, time.Time{}, time.Time{}, false
	p.catalogue.replayedTo, p.catalogue.archiveOnly = "", false
}

func (s *ServerStats) startTimes() startTimes {
	return startTimes{s.PostmasterStart, s.CheckpointerStart, s.readAt}
}
