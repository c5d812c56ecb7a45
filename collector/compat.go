// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"strconv"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// compat adds metrics under the names that they have in postgres_exporter, for dashboards and rules that use those
// names. Other functions add the metrics whose names are the same in both exporters. compat leaves out labels that
// identify single sessions: sums by datname and state are the same without them.
func (t *Table) compat() {
	t.add(gauge, "pg_exporter_last_scrape_error", "Compatibility: whether the connection figures could not be read.", nil,
		func(s *monitor.Snapshot, emit emit) {
			if s.Kind == config.KindPostgres {
				emit.bool(s.Result.ServerStats == nil || !s.Result.ServerStats.Used.Known)
			}
		})
	t.serverStat("pg_static", "Compatibility: the server's version.", []string{"short_version", "version"},
		func(s *probe.ServerStats, emit emit) {
			if s.Version != "" {
				emit(1, semver(s.VersionNum), "PostgreSQL "+s.Version)
			}
		})
	t.serverStat("pg_stat_activity_count", "Compatibility: pg_connections.", []string{"datname", "state"},
		func(s *probe.ServerStats, emit emit) {
			for _, c := range s.Connections {
				emit(float64(c.Count), c.Database, c.State)
			}
		})
	t.serverStat("pg_stat_activity_max_tx_duration",
		"Compatibility: age of the oldest transaction in seconds, by database and state.",
		[]string{"datname", "state"}, func(s *probe.ServerStats, emit emit) {
			for _, c := range s.Connections {
				emit.number(c.TransactionMax, c.Database, c.State)
			}
		})
	t.serverStat("pg_stat_database_numbackends", "Compatibility: client connections by database.", []string{"datname"},
		func(s *probe.ServerStats, emit emit) {
			sums := make(map[string]int)
			for _, c := range s.Connections {
				if c.Database != "" { // the session has no database yet
					sums[c.Database] += c.Count
				}
			}
			for database, n := range sums {
				emit(float64(n), database)
			}
		})
	t.serverStat("pg_replication_lag", "Compatibility: pg_replication_lag_seconds.", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.ReplicationLag) })
}

// semver returns a server_version_num in postgres_exporter's format: 160014 becomes 16.14.0. If the argument is not a
// number, semver returns it unchanged.
func semver(versionNum string) string {
	n, err := strconv.Atoi(versionNum)
	if err != nil {
		return versionNum
	}
	return fmt.Sprintf("%d.%d.0", n/10000, n%10000)
}
