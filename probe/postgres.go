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

func (*postgres) ping(ctx context.Context, s *session) error {
	results, err := s.query(ctx, "SELECT 1", smallBudget)
	if err != nil {
		return err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1 || string(results[0].Rows[0][0]) != "1" {
		return errors.New("SELECT 1 did not return 1")
	}
	return nil
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
	s.pooled = server.Pooled
	if withReplay {
		c.setReplication(server, replay, time.Now())
	}
	if err := c.refresh(ctx, s.queryRows, backends); err != nil {
		return stats{}, err
	}
	c.fill(server, backends)
	if server.SessionStats, err = c.readSessionStats(ctx, s.queryRows, server.VersionNum); err != nil {
		return stats{}, err
	}
	return stats{server: server}, nil
}

// runStats runs the statistics statement. It reads replication if withReplay is set and the server supports it, and
// reports whether the result includes it.
func (p *postgres) runStats(ctx context.Context, s *session, withReplay bool) ([]*pgconn.Result, bool, error) {
	if withReplay {
		results, err := s.queryRows(ctx, p.sql)
		if !unsupported(err) {
			return results, true, err
		}
	}
	results, err := s.queryRows(ctx, strings.Replace(p.sql, replayColumns, noReplayColumns, 1))
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
}

func (s *ServerStats) startTimes() startTimes {
	return startTimes{s.PostmasterStart, s.CheckpointerStart}
}
