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

// postgres asks a PostgreSQL server: SELECT 1, and then the figures.
type postgres struct {
	sql   string // reads the figures
	names catalogue
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

// readStats reads the connection figures, and names and limits when it is time.
func (p *postgres) readStats(ctx context.Context, s *session) (stats, error) {
	c := &p.names
	results, replayed, err := p.run(ctx, s, !c.noReplay)
	if err != nil {
		return stats{}, err
	}
	c.noReplay = !replayed
	f, backends, replay, err := parseFigures(results, s.conn.PID())
	if err != nil {
		return stats{}, fmt.Errorf("read the figures: %w", err)
	}
	s.pooled = f.Pooled
	if replayed {
		c.replicated(f, replay, time.Now())
	}
	if err := c.refresh(ctx, s.queryRows, backends); err != nil {
		return stats{}, err
	}
	c.fill(f, backends)
	if f.SessionStats, err = c.churn(ctx, s.queryRows, f.VersionNum); err != nil {
		return stats{}, err
	}
	return stats{server: f}, nil
}

// run runs the statement for the figures, and without what it says of replay where the server does not have that or it
// is not asked for. It reports whether that is in the answer.
func (p *postgres) run(ctx context.Context, s *session, replay bool) ([]*pgconn.Result, bool, error) {
	if replay {
		results, err := s.queryRows(ctx, p.sql)
		if !unsupported(err) {
			return results, true, err
		}
	}
	results, err := s.queryRows(ctx, strings.Replace(p.sql, replayColumns, noReplayColumns, 1))
	return results, false, err
}

func (p *postgres) readStartTimes(ctx context.Context, s *session) startTimes {
	results, _, err := p.run(ctx, s, true)
	if err != nil {
		return startTimes{}
	}
	f, _, _, err := parseFigures(results, s.conn.PID())
	if err != nil {
		return startTimes{}
	}
	return f.startTimes()
}

// queryCount counts SELECT 1, figures, databases, role and churn.
func (p *postgres) queryCount() int { return 5 }

func (p *postgres) reset() {
	p.names.read, p.names.caughtUp, p.names.lagWas0, p.names.noReplay = time.Time{}, time.Time{}, time.Time{}, false
}

func (f *ServerStats) startTimes() startTimes {
	return startTimes{f.PostmasterStart, f.CheckpointerStart}
}
