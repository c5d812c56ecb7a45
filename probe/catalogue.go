// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"maps"
	"slices"
	"time"
)

// namesInterval is how often names and limits are read if no unknown database appears in between.
const namesInterval = time.Minute

// Every way to turn an OID into a name waits for a lock on the catalogue. The statements therefore take the lock first,
// with NOWAIT. They fail with SQLSTATE 55P03 if another session holds a conflicting lock. LOCK TABLE on a view also
// locks the view's tables.
const (
	databasesSQL = `LOCK TABLE pg_catalog.pg_database IN ACCESS SHARE MODE NOWAIT;
SELECT oid, datname, datconnlimit, datallowconn, datistemplate AND datname = current_database() FROM pg_catalog.pg_database`
	// The session's own role is the one that logged in: a setting of the role may change the current one.
	roleLimitSQL = `LOCK TABLE pg_catalog.pg_roles IN ACCESS SHARE MODE NOWAIT;
SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = SESSION_USER`
	// standbyKindSQL returns whether a replica is an Amazon Aurora reader, and primary_conninfo: "none" if there is none, "some",
	// or NULL to a role without the privileges of pg_read_all_settings.
	standbyKindSQL = `SELECT pg_catalog.to_regproc('pg_catalog.aurora_replica_status') IS NOT NULL,
  (SELECT CASE setting WHEN '' THEN 'none' ELSE 'some' END FROM pg_catalog.pg_settings WHERE name = 'primary_conninfo')`
)

// catalogue remembers names, limits and replay between two probes. It belongs to the goroutine that reads the
// statistics.
type catalogue struct {
	lastRefresh     time.Time // when refresh last tried to read
	missing         []Part    // the parts that the server refused to refresh
	databases       map[uint32]*database
	roleLimit       Number
	isTemplate      bool      // the session's database is a template
	caughtUpAt      time.Time // when the receiver last heard from the primary with everything replayed
	lagZeroAt       time.Time // when the lag was last reported as 0
	replayedTo      string    // the position in the WAL that was last read, empty if none was
	aurora          bool      // the server is a reader of Amazon Aurora
	archiveOnly     bool      // the server is a replica that has no primary to stream from
	sourceHidden    bool      // the role may not see whether it has one
	hadReceiver     bool      // it has had a WAL receiver
	hasSessionStats bool      // the last reading found that the server has session statistics
	sessionStatsSQL string    // reads the session statistics of the known databases
}

type database struct {
	name              string
	limit             int  // negative: no limit
	allowsConnections bool // datallowconn
	hadConnections    bool // a probe has seen a connection to it
	hadSessions       bool // the session statistics counted a session earlier
}

// refresh reads names and limits if backends belong to an unknown database, namesInterval has passed, or a part that the
// server refused may be queried again. If the server refuses a statement, the old values stay. Any other error is
// returned: the session is lost or the reply is malformed.
func (c *catalogue) refresh(ctx context.Context, s *session, read statsReply) error {
	now := time.Now()
	isRefused := func(part Part) bool { return s.refusals.refused(part) != nil }
	mayRetry := slices.ContainsFunc(c.missing, func(part Part) bool { return !isRefused(part) })
	unknown := c.hasUnknownDatabase(read.backends) && !isRefused(PartDatabases)
	if !unknown && now.Sub(c.lastRefresh) < namesInterval && !mayRetry {
		return nil
	}
	c.lastRefresh, c.missing = now, nil
	defer func() {
		for _, part := range []Part{PartDatabases, PartRoleLimit, PartStandbyKind} {
			if isRefused(part) {
				c.missing = append(c.missing, part)
			}
		}
	}()
	if err := c.readDatabases(ctx, s, read); err != nil {
		return err
	}
	if err := c.readRoleLimit(ctx, s); err != nil {
		return err
	}
	if !read.server.isReplica() {
		return nil
	}
	return c.readStandbyKind(ctx, s)
}

// readDatabases reads the names and limits of the databases. If the server refuses to show them, only the session's own one is
// known.
func (c *catalogue) readDatabases(ctx context.Context, s *session, read statsReply) error {
	rows, err := s.queryPart(ctx, PartDatabases, databasesSQL, 5)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		if s.refusals.refused(PartDatabases) != nil {
			c.isTemplate = false
			c.setOnlyDatabase(read.own, read.ownName)
		}
		return nil
	}
	var p numberParser
	fresh := make(map[uint32]*database, len(rows))
	c.isTemplate = false
	for _, row := range rows {
		c.isTemplate = c.isTemplate || string(row[4]) == "t"
		oid := p.oid(row[0])
		fresh[oid] = &database{name: toValidUTF8(row[1]), limit: p.integer(row[2]), allowsConnections: string(row[3]) == "t"}
		if old := c.databases[oid]; old != nil {
			fresh[oid].hadConnections, fresh[oid].hadSessions = old.hadConnections, old.hadSessions
		}
	}
	c.setDatabases(fresh)
	return p.err
}

// readRoleLimit reads the connection limit of the exporter's role.
func (c *catalogue) readRoleLimit(ctx context.Context, s *session) error {
	rows, err := s.queryPart(ctx, PartRoleLimit, roleLimitSQL, 1)
	if err != nil {
		return err
	}
	if len(rows) == 1 || s.refusals.refused(PartRoleLimit) != nil {
		c.roleLimit = Number{}
	}
	var p numberParser
	if len(rows) == 1 {
		if limit := p.number(rows[0][0]); limit.Value >= 0 {
			c.roleLimit = limit
		}
	}
	return p.err
}

// readStandbyKind reads where a replica gets its WAL from.
func (c *catalogue) readStandbyKind(ctx context.Context, s *session) error {
	rows, err := s.queryPart(ctx, PartStandbyKind, standbyKindSQL, 2)
	if err != nil {
		return err
	}
	if len(rows) == 1 {
		c.aurora, c.archiveOnly = string(rows[0][0]) == "t", string(rows[0][1]) == "none"
	}
	if len(rows) == 1 || s.refusals.refused(PartStandbyKind) != nil {
		c.sourceHidden = len(rows) == 0 || rows[0][1] == nil
	}
	return nil
}

// setOnlyDatabase makes the session's own database the only one that is known. oid is 0, or name empty, if it is not known
// either.
func (c *catalogue) setOnlyDatabase(oid uint32, name string) {
	if len(c.databases) == 1 && c.databases[oid] != nil && c.databases[oid].name == name {
		return
	}
	own := make(map[uint32]*database)
	if oid != 0 && name != "" {
		own[oid] = &database{name: name, limit: -1, allowsConnections: true}
	}
	c.setDatabases(own)
}

func (c *catalogue) setDatabases(databases map[uint32]*database) {
	c.databases = databases
	c.sessionStatsSQL = buildSessionStatsSQL(slices.Sorted(maps.Keys(databases)))
}

// hasUnknownDatabase reports whether a backend belongs to a database whose name is not known yet.
func (c *catalogue) hasUnknownDatabase(backends []backendCount) bool {
	for _, b := range backends {
		if b.database != 0 && c.databases[b.database] == nil {
			return true
		}
	}
	return false
}

// fill sets what a reply has by OID, with names: the connections and the limits. If the server refused to show its sessions,
// there are no connections. For each database that has had a connection, fill adds zeros for all states, so that a series
// does not end with the last connection.
func (c *catalogue) fill(server *ServerStats, backends []backendCount) {
	type (
		key   struct{ database, state string }
		group struct {
			count int
			age   float64
		}
	)
	groups := make(map[key]group, len(backends))
	add := func(k key, count int, age float64) {
		g := groups[k]
		groups[k] = group{g.count + count, max(g.age, age)}
	}
	for _, b := range backends {
		name := ""
		if b.database != 0 {
			name = stateUnknown
			if d := c.databases[b.database]; d != nil {
				name, d.hadConnections = d.name, true
			}
		}
		add(key{name, b.state}, b.count, b.age)
	}
	for _, d := range c.databases {
		if d.hadConnections {
			for _, state := range shownStates(server) {
				add(key{d.name, state}, 0, 0)
			}
		}
	}
	server.Connections = make([]Connections, 0, len(groups))
	for k, g := range groups {
		row := Connections{Database: k.database, State: k.state, Count: g.count}
		if server.Privileged {
			row.TransactionMax = known(g.age)
		}
		server.Connections = append(server.Connections, row)
	}
	c.fillLimits(server)
}

// shownStates returns the states for which a database without connections has zeros.
func shownStates(server *ServerStats) []string {
	switch {
	case !server.Used.Known:
		return nil
	case !server.Privileged:
		return []string{stateUnknown}
	}
	return backendStates()
}

// fillLimits sets the limits and IsTemplate.
func (c *catalogue) fillLimits(server *ServerStats) {
	limits := make(map[string]int)
	for _, d := range c.databases {
		if d.limit >= 0 {
			limits[d.name] += d.limit // two names may become equal in toValidUTF8
		}
	}
	for name, limit := range limits {
		server.DatabaseLimits = append(server.DatabaseLimits, DatabaseLimit{name, limit})
	}
	server.RoleLimit, server.IsTemplate = c.roleLimit, c.isTemplate
}
