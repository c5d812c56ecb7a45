// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// namesInterval is how often names and limits are read anew when no unknown database asks for it before.
const namesInterval = time.Minute

// Every way from an OID to a name waits for a lock on its catalogue, so the lock is asked for first and not waited for
// (55P03 when somebody holds it). The lock of a view takes those of its tables.
const (
	databasesSQL = lockTimeout + `
LOCK TABLE pg_catalog.pg_database IN ACCESS SHARE MODE NOWAIT;
SELECT oid, datname, datconnlimit, datallowconn FROM pg_catalog.pg_database`
	roleSQL = lockTimeout + `
LOCK TABLE pg_catalog.pg_roles IN ACCESS SHARE MODE NOWAIT;
SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = CURRENT_USER`
)

// catalogue is what is remembered of names, limits and replay. It belongs to the goroutine that asks for the figures.
type catalogue struct {
	lastRefresh       time.Time // the last attempt
	databases         map[uint32]*database
	roleLimit         Number
	noReplayFunctions bool      // the server does not tell of replay
	caughtUpAt        time.Time // when a replica had last replayed all that there was, as far as its receiver had heard
	lagZeroAt         time.Time // when that was last seen
	sessionStatsSQL   string    // reads the churn of the databases
}

type database struct {
	name              string
	limit             int  // below 0: none
	allowsConnections bool // sessions may begin in it
	hadConnections    bool // had a connection while we looked

	hadSessions bool // had sessions before
}

// query runs one simple query; a session's queryRows method is one.
type query func(ctx context.Context, sql string) ([]*pgconn.Result, error)

// refresh reads names and limits when backends of an unknown database are there or a minute has passed. What cannot be
// read stays as it was; only an error that is not the server's word (the session is lost) is returned.
func (c *catalogue) refresh(ctx context.Context, run query, backends []backendCount) error {
	now := time.Now()
	if !c.hasUnknownDatabase(backends) && now.Sub(c.lastRefresh) < namesInterval {
		return nil
	}
	c.lastRefresh = now
	rows, err := run.rows(ctx, databasesSQL, 4)
	if err != nil {
		return err
	}
	var p numberParser
	if len(rows) > 0 {
		fresh := make(map[uint32]*database, len(rows))
		for _, row := range rows {
			oid := p.oid(row[0])
			fresh[oid] = &database{name: toValidUTF8(row[1]), limit: p.integer(row[2]), allowsConnections: string(row[3]) == "t"}
			if old := c.databases[oid]; old != nil {
				fresh[oid].hadConnections, fresh[oid].hadSessions = old.hadConnections, old.hadSessions
			}
		}
		c.databases = fresh
		c.sessionStatsSQL = buildSessionStatsSQL(slices.Sorted(maps.Keys(fresh)))
	}
	rows, err = run.rows(ctx, roleSQL, 1)
	if err != nil {
		return err
	}
	if len(rows) == 1 {
		c.roleLimit = Number{}
		if limit := p.number(rows[0][0]); limit.Value >= 0 {
			c.roleLimit = limit
		}
	}
	return p.err
}

// rows runs sql and returns the rows of its last result, which must have so many columns; none when the server refused.
func (run query) rows(ctx context.Context, sql string, columns int) ([][][]byte, error) {
	results, err := run(ctx, sql)
	switch {
	case isRefusal(err), err == nil && len(results) == 0:
		return nil, nil
	case err != nil:
		return nil, err
	}
	rows := results[len(results)-1].Rows
	for _, row := range rows {
		if len(row) != columns {
			return nil, errors.New("a row of another width")
		}
	}
	return rows, nil
}

func (c *catalogue) hasUnknownDatabase(backends []backendCount) bool {
	for _, b := range backends {
		if b.database != 0 && c.databases[b.database] == nil {
			return true
		}
	}
	return false
}

// fill puts names in the place of OIDs and adds zeros for every state of a database that had a connection before, so
// that a series does not end with its last connection.
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
	states := backendStates()
	if !server.Privileged {
		states = []string{stateUnknown}
	}
	limits := make(map[string]int)
	for _, d := range c.databases {
		if d.hadConnections {
			for _, state := range states {
				add(key{d.name, state}, 0, 0)
			}
		}
		if d.limit >= 0 {
			limits[d.name] += d.limit // names that are equal once they are valid UTF-8
		}
	}
	for name, limit := range limits {
		server.DatabaseLimits = append(server.DatabaseLimits, DatabaseLimit{name, limit})
	}
	server.RoleLimit = c.roleLimit
	server.Connections = make([]Connections, 0, len(groups))
	for k, g := range groups {
		row := Connections{Database: k.database, State: k.state, Count: g.count}
		if server.Privileged {
			row.TransactionMax = known(g.age)
		}
		server.Connections = append(server.Connections, row)
	}
}
