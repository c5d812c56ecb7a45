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

// compat adds postgres_exporter's names of facts that have other names here, for dashboards and rules that use them. Names that
// are the same in both are in the other tables. Labels of single sessions are left out: sums by datname and state are the same
// without them.
func (t *Table) compat() {
	t.add(gauge, "pg_exporter_last_scrape_error", "Compatibility: whether the connection figures could not be read.", nil,
		func(s *monitor.Snapshot, emit emit) {
			if s.Kind == config.KindPostgres {
				emit.bool(s.Result.ServerStats == nil)
			}
		})
	t.figure("pg_static", "Compatibility: the server's version.", []string{"short_version", "version"},
		func(f *probe.ServerStats, emit emit) { emit(1, semver(f.VersionNum), "PostgreSQL "+f.Version) })
	t.figure("pg_stat_activity_count", "Compatibility: pg_connections.", []string{"datname", "state"},
		func(f *probe.ServerStats, emit emit) {
			for _, c := range f.Connections {
				emit(float64(c.Count), c.Database, c.State)
			}
		})
	t.figure("pg_stat_activity_max_tx_duration", "Compatibility: age of the oldest transaction in seconds, by database and state.",
		[]string{"datname", "state"}, func(f *probe.ServerStats, emit emit) {
			for _, c := range f.Connections {
				emit.number(c.TransactionMax, c.Database, c.State)
			}
		})
	t.figure("pg_stat_database_numbackends", "Compatibility: client connections by database.", []string{"datname"},
		func(f *probe.ServerStats, emit emit) {
			sums := make(map[string]int)
			for _, c := range f.Connections {
				if c.Database != "" { // no database is chosen yet
					sums[c.Database] += c.Count
				}
			}
			for database, n := range sums {
				emit(float64(n), database)
			}
		})
	t.figure("pg_replication_lag", "Compatibility: pg_replication_lag_seconds.", nil,
		func(f *probe.ServerStats, emit emit) { emit.number(f.ReplicationLag) })
}

// semver returns a server_version_num as postgres_exporter writes it: 160014 is 16.14.0. Anything but a number stays as it is.
func semver(versionNum string) string {
	n, err := strconv.Atoi(versionNum)
	if err != nil {
		return versionNum
	}
	return fmt.Sprintf("%d.%d.0", n/10000, n%10000)
}
