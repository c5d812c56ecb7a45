// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// ServerStats is what a PostgreSQL server reports about itself and its connections. What the server refuses is unknown, or
// empty.
type ServerStats struct {
	// Connections counts client backends by database and state.
	Connections []Connections
	// Applications counts client backends by application name, largest first. It is nil if the target does not enable
	// it.
	Applications []Applications
	// Used is the number of client slots in use. It is an upper bound if the role does not see other roles' sessions.
	// Usable is how many of MaxConnections ordinary roles may use: those that the server, Amazon RDS or Citus does not
	// reserve.
	Used, Usable Number
	// ReservedConnections is unknown before PostgreSQL 16.
	MaxConnections, SuperuserReservedConnections, ReservedConnections Number
	// DatabaseLimits holds the databases that have a limit (pg_database.datconnlimit). RoleLimit is the limit of the
	// exporter's own role (rolconnlimit).
	DatabaseLimits []DatabaseLimit
	RoleLimit      Number
	// SessionStats counts sessions by database since the statistics were reset. It is nil before PostgreSQL 14.
	SessionStats []SessionStats
	// LockWaiting is a number of client backends. The others are ages in seconds. All are unknown if the role does not
	// see other roles' sessions.
	LockWaiting, IdleInTransactionMax, TransactionMax Number
	// Privileged reports whether the role sees other roles' sessions. It means nothing if Used is unknown.
	Privileged bool
	// Start times are in seconds since the epoch. CheckpointerStart is unknown if the role does not see other roles'
	// sessions.
	PostmasterStart, CheckpointerStart Number
	// Role is that of the session that read the statistics, nil if it is not known. Its ReadOnly may be due to a setting of
	// the exporter's own role. Result.Role has that of the new session.
	Role *Role
	// WALReceiverUp, ReplicationLag and ApplyDelay are set for replicas only. WALReceiverUp is 1 while the receiver is
	// streaming and 0 otherwise. It is unknown if the role may not see it, and on a replica that only restores an archive.
	// ReplicationLag is how far the replica may be behind, in seconds. ApplyDelay is recovery_min_apply_delay in seconds,
	// unknown if there is none.
	WALReceiverUp, ReplicationLag, ApplyDelay Number
	// Pooled reports whether a pooler is between the exporter and the server.
	Pooled bool
	// IsTemplate reports whether the session's database is a template. While a session is open, no database can be
	// created from it.
	IsTemplate bool
	// Version is as the server spells it. VersionNum is server_version_num, for example 160014. Both are empty if the server
	// reports no version.
	Version, VersionNum string

	readAt Number // when the server was asked, by its own clock, in seconds since the epoch
}

// isReplica reports whether the server is known to be in recovery.
func (s *ServerStats) isReplica() bool { return s.Role != nil && s.Role.Replica }

// Connections counts the client backends of one database in one state. Database is empty for backends that have not
// selected a database yet.
type Connections struct {
	Database, State string
	Count           int
	// TransactionMax is the age of their oldest transaction in seconds, 0 if there is none. It is unknown if the role
	// does not see other roles' sessions.
	TransactionMax Number
}

// Applications counts the client backends with one application name.
type Applications struct {
	Name  string
	Count int
}

// DatabaseLimit is a database's own connection limit.
type DatabaseLimit struct {
	Database string
	Limit    int
}

// stateUnknown stands for a state or a database that the server does not show.
const stateUnknown = "unknown"

// backendStates returns the states of a client backend in pg_stat_activity (pg_stat_get_activity in
// src/backend/utils/adt/pgstatfuncs.c). PostgreSQL 18 adds "starting", for backends that have no database yet.
func backendStates() []string {
	return []string{
		"active", "idle", "idle in transaction", "idle in transaction (aborted)", "fastpath function call", "disabled",
	}
}

// maxApplications is how many application names are shown individually.
const maxApplications = 20

// statsSQL returns the statement that reads the server statistics, without the parts in leftOut. It uses the function below
// pg_stat_activity: the view joins pg_database and pg_authid and would wait for their locks. Grouping sets return one row for
// each database and state, one for each application name if applications is set, and one for the totals.
func statsSQL(applications bool, leftOut []Part) string {
	columns := statsColumns
	if len(leftOut) > 0 {
		for _, p := range statsParts() {
			if slices.Contains(leftOut, p.part) {
				columns = strings.Replace(columns, p.columns, strings.Repeat(" NULL,", p.count), 1)
			}
		}
	}
	switch {
	case slices.Contains(leftOut, PartConnections): // then there is nothing to group
		return "SELECT 'total', NULL, NULL, NULL," + columns
	case len(leftOut) == 0 && applications:
		return statsApplicationsSQL
	case len(leftOut) == 0:
		return statsPlainSQL
	case applications:
		return applicationsRowSQL + columns + statsFromSQL + applicationsGroupsSQL
	}
	return plainRowSQL + columns + statsFromSQL + plainGroupsSQL
}

// statsPart is a part of the statement that a server may refuse by itself.
type statsPart struct {
	part    Part
	columns string // each followed by a comma
	count   int
}

// statsParts returns the parts in the order of their columns.
func statsParts() []statsPart {
	return []statsPart{
		{PartConnections, connectionColumns, columnStart - columnClients},
		{PartStartTime, startColumns, columnMaxConnections - columnStart},
		{PartLimits, limitColumns, columnIsReplica - columnMaxConnections},
		{PartRecovery, recoveryColumns, columnReceiverPID - columnIsReplica},
		{PartReplication, replayColumns, columnBackendPID - columnReceiverPID},
		{PartOwnSession, sessionColumns, columnEnd - columnBackendPID},
	}
}

// sql returns a statement that reads this part alone.
func (p statsPart) sql() string {
	sql := "SELECT" + strings.TrimSuffix(p.columns, ",")
	if p.part == PartConnections {
		sql += statsFromSQL
	}
	return sql
}

// The two whole statements are constants, so that all targets share their memory.
const (
	statsPlainSQL        = plainRowSQL + statsColumns + statsFromSQL + plainGroupsSQL
	statsApplicationsSQL = applicationsRowSQL + statsColumns + statsFromSQL + applicationsGroupsSQL

	plainRowSQL        = `SELECT CASE WHEN GROUPING(datid) = 0 THEN 'database' ELSE 'total' END, datid, state, NULL,`
	plainGroupsSQL     = ` GROUP BY GROUPING SETS ((datid, state), ())`
	applicationsRowSQL = `SELECT CASE WHEN GROUPING(datid) = 0 THEN 'database'
  WHEN GROUPING(application_name) = 0 THEN 'application' ELSE 'total' END, datid, state, application_name,`
	applicationsGroupsSQL = ` GROUP BY GROUPING SETS ((datid, state), (application_name), ())`

	statsColumns = connectionColumns + startColumns + limitColumns + recoveryColumns + replayColumns + sessionColumns + ` NULL`
	statsFromSQL = `
FROM pg_catalog.pg_stat_get_activity(NULL)`

	connectionColumns = `
  count(*) FILTER (WHERE backend_type = 'client backend'),
  count(*) FILTER (WHERE datid IS NOT NULL AND usesysid IS NOT NULL),
  count(*) FILTER (WHERE backend_type = 'client backend' AND wait_event_type = 'Lock'),
  max(extract(epoch FROM pg_catalog.clock_timestamp() - state_change)) FILTER (WHERE state LIKE 'idle in transaction%'),
  max(extract(epoch FROM pg_catalog.clock_timestamp() - xact_start)) FILTER (WHERE backend_type = 'client backend'),
  extract(epoch FROM max(backend_start) FILTER (WHERE backend_type = 'checkpointer')),
  NOT bool_or(backend_type IS NULL AND query = '<insufficient privilege>'),
  max(datid) FILTER (WHERE pid = pg_catalog.pg_backend_pid()),`
	startColumns = `
  extract(epoch FROM pg_catalog.pg_postmaster_start_time()),`
	limitColumns = `
  pg_catalog.current_setting('max_connections'),
  pg_catalog.current_setting('superuser_reserved_connections'),
  pg_catalog.current_setting('reserved_connections', true),
  pg_catalog.current_setting('rds.rds_superuser_reserved_connections', true),
  pg_catalog.current_setting('citus.max_client_connections', true),
  pg_catalog.current_setting('server_version'),
  pg_catalog.current_setting('server_version_num'),`
	sessionColumns = `
  pg_catalog.pg_backend_pid(), extract(epoch FROM pg_catalog.clock_timestamp()), pg_catalog.current_database(),`
	recoveryColumns = `
  pg_catalog.pg_is_in_recovery(),
  pg_catalog.current_setting('transaction_read_only'),`
	replayColumns = `
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN (SELECT pid FROM pg_catalog.pg_stat_get_wal_receiver()) END,
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN (SELECT status FROM pg_catalog.pg_stat_get_wal_receiver()) END,
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN
    (SELECT extract(epoch FROM pg_catalog.clock_timestamp() - last_msg_receipt_time) FROM pg_catalog.pg_stat_get_wal_receiver()) END,
  extract(epoch FROM pg_catalog.current_setting('wal_receiver_timeout')::pg_catalog.interval),
  CASE WHEN pg_catalog.pg_is_in_recovery()
    THEN pg_catalog.pg_last_wal_receive_lsn() <= pg_catalog.pg_last_wal_replay_lsn() END,
  CASE WHEN pg_catalog.pg_is_in_recovery()
    THEN extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) END,
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() END,
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_is_wal_replay_paused() END,
  CASE WHEN pg_catalog.pg_is_in_recovery()
    THEN extract(epoch FROM pg_catalog.current_setting('recovery_min_apply_delay')::pg_catalog.interval) END,`
)

// The columns of the rows that statsSQL returns.
const (
	columnKind = iota
	columnDatabase
	columnState
	columnApplication
	columnClients
	columnVisible
	columnLockWaiting
	columnIdleInTransaction
	columnTransaction
	columnCheckpointerStart
	columnPrivileged
	columnOwnDatabase
	columnStart
	columnMaxConnections
	columnSuperuserReserved
	columnReserved
	columnReservedByRDS
	columnLimitOfCitus
	columnVersion
	columnVersionNum
	columnIsReplica
	columnReadOnly
	columnReceiverPID
	columnReceiverStatus
	columnReceiptAge
	columnReceiverTimeout
	columnReplayed
	columnReplayAge
	columnReplayedTo
	columnPaused
	columnApplyDelay
	columnBackendPID
	columnClock
	columnOwnName
	columnEnd // always NULL
	columnCount
)

// The values of columnKind for rows other than those of a database and state.
const (
	rowTotal       = "total"
	rowApplication = "application"
)

// backendCount is a row of statsSQL's result that counts the backends of one database and state.
type backendCount struct {
	database uint32 // OID, 0 if there is none
	state    string
	count    int
	age      float64 // age of their oldest transaction in seconds
}

// statsReply is the parsed result of statsSQL. Databases are still OIDs, and fill adds their names.
type statsReply struct {
	server   *ServerStats
	backends []backendCount
	replay   replay
	sessions [][][]byte // the rows of the session statistics, nil if they were not read with the rest
	locked   error      // the server's error if the connections are left out because another session locks them
	own      uint32     // OID of the session's own database, 0 if it is not known
	ownName  string
}

// parseStats parses the result of statsSQL. pid is the process ID from the login. A pooler sends a number of its own, which
// shows that there is a pooler.
func parseStats(results []*pgconn.Result, pid uint32) (statsReply, error) {
	if len(results) == 0 {
		return statsReply{}, errors.New("no result")
	}
	rows := results[len(results)-1].Rows
	i := slices.IndexFunc(rows, func(row [][]byte) bool {
		return len(row) == columnCount && string(row[columnKind]) == rowTotal
	})
	if i < 0 {
		return statsReply{}, errors.New("no row of totals")
	}
	var p numberParser
	totals := rows[i]
	server := p.parseTotals(totals)
	backend := p.number(totals[columnBackendPID])
	server.Pooled = backend.Known && backend.Value != float64(pid)
	reply := statsReply{server: server, replay: p.parseReplay(totals), ownName: toValidUTF8(totals[columnOwnName])}
	if totals[columnOwnDatabase] != nil {
		reply.own = p.oid(totals[columnOwnDatabase])
	}
	countColumn := columnVisible
	if server.Privileged {
		countColumn = columnClients
	}
	for _, row := range rows {
		if len(row) != columnCount {
			return statsReply{}, errors.New("a row of another width")
		}
		p.parseCount(&reply, row, row[countColumn])
	}
	server.Applications = topApplications(server.Applications)
	return reply, p.err
}

// parseCount adds what a row counts to the reply: all backends, those of an application, or those of a database and state.
func (p *numberParser) parseCount(reply *statsReply, row [][]byte, count []byte) {
	kind := string(row[columnKind])
	if kind == rowTotal {
		reply.server.Used = p.number(count)
		return
	}
	n := p.integer(count)
	switch {
	case n == 0:
	case kind == rowApplication:
		reply.server.Applications = append(reply.server.Applications, Applications{toValidUTF8(row[columnApplication]), n})
	default:
		c := backendCount{state: stateUnknown, count: n}
		if row[columnDatabase] != nil {
			c.database = p.oid(row[columnDatabase])
		}
		if row[columnState] != nil {
			c.state = toValidUTF8(row[columnState])
		}
		c.age = max(0, p.number(row[columnTransaction]).Value)
		reply.backends = append(reply.backends, c)
	}
}

// numberParser parses numbers in text format and keeps the first error.
type numberParser struct{ err error }

func (p *numberParser) recordError(err error) {
	if p.err == nil {
		p.err = err
	}
}

func (p *numberParser) integer(text []byte) int {
	n, err := strconv.Atoi(string(text))
	p.recordError(err)
	return n
}

func (p *numberParser) oid(text []byte) uint32 {
	n, err := strconv.ParseUint(string(text), 10, 32)
	p.recordError(err)
	return uint32(n)
}

// number returns an unknown Number for NULL, NaN and the infinities.
func (p *numberParser) number(text []byte) Number {
	if text == nil {
		return Number{}
	}
	n, err := parseNumber(text)
	p.recordError(err)
	return n
}

// parseTotals parses the row of totals, except for Used.
func (p *numberParser) parseTotals(row [][]byte) *ServerStats {
	server := &ServerStats{
		MaxConnections:               p.number(row[columnMaxConnections]),
		SuperuserReservedConnections: p.number(row[columnSuperuserReserved]),
		ReservedConnections:          p.number(row[columnReserved]),
		Privileged:                   string(row[columnPrivileged]) == "t",
		PostmasterStart:              p.number(row[columnStart]),
		Version:                      toValidUTF8(row[columnVersion]),
		VersionNum:                   toValidUTF8(row[columnVersionNum]),
		readAt:                       p.number(row[columnClock]),
	}
	if row[columnIsReplica] != nil {
		server.Role = &Role{Replica: string(row[columnIsReplica]) == "t", ReadOnly: string(row[columnReadOnly]) == "on"}
	}
	if delay := p.number(row[columnApplyDelay]); delay.Value > 0 {
		server.ApplyDelay = delay
	}
	server.Usable = usable(server, row)
	if server.Privileged {
		server.CheckpointerStart = p.number(row[columnCheckpointerStart])
		server.LockWaiting = p.number(row[columnLockWaiting])
		// If no session has an age, it is 0, since the role would have seen one. An age is never negative, although the
		// clock is read for each row and a transaction may be younger than that reading.
		server.IdleInTransactionMax = known(max(0, p.number(row[columnIdleInTransaction]).Value))
		server.TransactionMax = known(max(0, p.number(row[columnTransaction]).Value))
	}
	return server
}

// usable returns how many slots ordinary roles may use, unknown if the server refused its settings.
func usable(server *ServerStats, row [][]byte) Number {
	if !server.MaxConnections.Known {
		return Number{}
	}
	slots := server.MaxConnections.Value - server.SuperuserReservedConnections.Value - server.ReservedConnections.Value
	// These two are settings of extensions, which may have any value. A negative limit of Citus means no limit.
	if reserved, _ := parseNumber(row[columnReservedByRDS]); reserved.Value > 0 {
		slots -= reserved.Value
	}
	if limit, _ := parseNumber(row[columnLimitOfCitus]); limit.Known && limit.Value >= 0 {
		slots = min(slots, limit.Value)
	}
	return known(slots)
}

// toValidUTF8 makes text from the server usable as a label value. Databases may have any encoding.
func toValidUTF8(text []byte) string { return strings.ToValidUTF8(string(text), "\uFFFD") }

// topApplications returns the largest applications, largest first. It sums equal names. It adds up the rest as "other".
func topApplications(all []Applications) []Applications {
	counts := make(map[string]int, len(all))
	for _, a := range all {
		counts[a.Name] += a.Count
	}
	all = all[:0]
	for name, count := range counts {
		all = append(all, Applications{name, count})
	}
	slices.SortFunc(all, func(a, b Applications) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name))
	})
	if len(all) <= maxApplications {
		return all
	}
	other := Applications{Name: "other"}
	shown := all[:maxApplications:maxApplications]
	for _, a := range all[maxApplications:] {
		other.Count += a.Count
	}
	for i := range shown {
		if shown[i].Name == other.Name {
			shown[i].Count += other.Count
			return shown
		}
	}
	return append(shown, other)
}
