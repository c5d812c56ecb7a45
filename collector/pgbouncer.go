// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	dto "github.com/prometheus/client_model/go"

	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// pgbouncer adds the metrics of PgBouncer, under pgbouncer_exporter's names.
func (t *Table) pgbouncer() {
	t.pooler("pgbouncer_version_info", "PgBouncer's version.", []string{"version"},
		func(p *probe.PoolerStats, emit emit) { emit(1, p.Version) })
	t.pools()
	t.databases()
	t.totals()
	for _, list := range []struct{ list, name, help string }{
		{"databases", "databases", "Databases."},
		{"users", "users", "Users."},
		{"pools", "pools", "Pools."},
		{"free_clients", "free_clients", "Client slots that are allocated and free."},
		{"used_clients", "used_clients", "Clients, of which there may be max_client_conn."},
		{"login_clients", "login_clients", "Clients that are logging in."},
		{"free_servers", "free_servers", "Server connection slots that are allocated and free."},
		{"used_servers", "used_servers", "Server connections."},
		{"dns_names", "cached_dns_names", "Names in the DNS cache."},
		{"dns_zones", "cached_dns_zones", "Zones in the DNS cache."},
		{"dns_queries", "in_flight_dns_queries", "DNS queries under way."},
	} {
		t.pooler("pgbouncer_"+list.name, list.help, nil,
			func(p *probe.PoolerStats, emit emit) { emit.of(p.Lists, list.list) })
	}
	for _, setting := range []struct{ key, name, help string }{
		{"max_client_conn", "max_client_connections", "Setting max_client_conn."},
		{"max_user_connections", "max_user_connections", "Setting max_user_connections; 0 is no limit."},
	} {
		t.pooler("pgbouncer_config_"+setting.name, setting.help, nil,
			func(p *probe.PoolerStats, emit emit) { emit.of(p.Config, setting.key) })
	}
}

// pooler adds a gauge that is absent if no session could read PgBouncer's statistics.
func (t *Table) pooler(name, help string, labels []string, read func(*probe.PoolerStats, emit)) {
	t.add(gauge, name, help, labels, func(s *monitor.Snapshot, emit emit) {
		if s.Result.PoolerStats != nil {
			read(s.Result.PoolerStats, emit)
		}
	})
}

// of emits the value with this name, if there is one.
func (e emit) of(values map[string]float64, name string, labels ...string) {
	if value, ok := values[name]; ok {
		e(value, labels...)
	}
}

const micro = 1e-6

// column is a column of a SHOW command, and the metric made from it.
type column struct {
	column, name, help string
	unit               float64 // the metric is the column times unit
}

// columns adds a metric for each column. Each metric has a series for each row, with the labels of the row.
func (t *Table) columns(
	kind dto.MetricType, prefix string, labels []string,
	rows func(*probe.PoolerStats) []probe.PoolerRow, columns []column,
) {
	for _, c := range columns {
		t.add(kind, prefix+c.name, c.help, labels, func(s *monitor.Snapshot, emit emit) {
			if s.Result.PoolerStats == nil {
				return
			}
			for _, row := range rows(s.Result.PoolerStats) {
				if value, ok := row.Values[c.column]; ok {
					emit(value*c.unit, row.Labels...)
				}
			}
		})
	}
}

func (t *Table) pools() {
	rows := func(p *probe.PoolerStats) []probe.PoolerRow { return p.Pools }
	t.columns(gauge, "pgbouncer_pools_", probe.PoolLabels(), rows, []column{
		{"cl_active", "client_active_connections", "Clients that are linked to a server connection or idle.", 1},
		{"cl_waiting", "client_waiting_connections", "Clients that wait for a server connection.", 1},
		{
			"cl_active_cancel_req", "client_active_cancel_connections",
			"Clients whose request to cancel was passed on and is not answered.", 1,
		},
		{
			"cl_waiting_cancel_req", "client_waiting_cancel_connections",
			"Clients whose request to cancel was not passed on yet.", 1,
		},
		{"sv_active", "server_active_connections", "Server connections that are linked to a client.", 1},
		{
			"sv_active_cancel", "server_active_cancel_connections",
			"Server connections that pass on a request to cancel.", 1,
		},
		{
			"sv_being_canceled", "server_being_canceled_connections",
			"Server connections that wait for requests to cancel to end.", 1,
		},
		{"sv_idle", "server_idle_connections", "Server connections that are ready for a client.", 1},
		{
			"sv_used", "server_used_connections",
			"Server connections that were idle for so long that they are checked before the next use.", 1,
		},
		{"sv_tested", "server_testing_connections", "Server connections that are being reset or checked.", 1},
		{"sv_login", "server_login_connections", "Server connections that are logging in.", 1},
	})
	t.add(gauge, "pgbouncer_pools_client_maxwait_seconds",
		"How long the oldest waiting client has waited for a server connection.",
		probe.PoolLabels(), func(s *monitor.Snapshot, emit emit) {
			if s.Result.PoolerStats == nil {
				return
			}
			for _, row := range rows(s.Result.PoolerStats) {
				if seconds, ok := row.Values["maxwait"]; ok {
					emit(seconds+row.Values["maxwait_us"]*micro, row.Labels...)
				}
			}
		})
}

func (t *Table) databases() {
	rows := func(p *probe.PoolerStats) []probe.PoolerRow { return p.Databases }
	t.columns(gauge, "pgbouncer_databases_", probe.DatabaseLabels(), rows, []column{
		{"pool_size", "pool_size", "Server connections that each pool of the database may have.", 1},
		{"max_connections", "max_connections", "Server connections that the database may have; 0 is no limit.", 1},
		{"current_connections", "current_connections", "Server connections of the database.", 1},
		{"paused", "paused", "Whether the database is paused.", 1},
		{"disabled", "disabled", "Whether the database is disabled.", 1},
		{
			"max_client_connections", "max_client_connections",
			"Clients that the database may have; 0 is no limit (PgBouncer 1.24 and later).", 1,
		},
		{
			"current_client_connections", "current_client_connections",
			"Clients of the database (PgBouncer 1.24 and later).", 1,
		},
	})
	t.add(gauge, "pgbouncer_databases_reserve_pool",
		"Further server connections for each pool when clients wait too long.",
		probe.DatabaseLabels(), func(s *monitor.Snapshot, emit emit) {
			if s.Result.PoolerStats == nil {
				return
			}
			for _, row := range rows(s.Result.PoolerStats) {
				name := "reserve_pool"
				if _, renamed := row.Values["reserve_pool_size"]; renamed {
					name = "reserve_pool_size"
				}
				emit.of(row.Values, name, row.Labels...)
			}
		})
}

func (t *Table) totals() {
	rows := func(p *probe.PoolerStats) []probe.PoolerRow { return p.Totals }
	t.columns(counter, "pgbouncer_stats_totals_", probe.TotalLabels(), rows, []column{
		{"query_count", "queries_pooled_total", "Queries.", 1},
		{"query_time", "queries_duration_seconds_total", "Time that queries took on the server.", micro},
		{"bytes_received", "received_bytes_total", "Bytes received.", 1},
		{"bytes_sent", "sent_bytes_total", "Bytes sent.", 1},
		{"wait_time", "client_wait_seconds_total", "Time that clients waited for a server connection.", micro},
		{"xact_count", "sql_transactions_pooled_total", "Transactions.", 1},
		{"xact_time", "server_in_transaction_seconds_total", "Time that server connections were in a transaction.", micro},
		{
			"server_assignment_count", "server_assignments_total",
			"Times that a server connection was given to a client.", 1,
		},
		{"client_parse_count", "client_parses_total", "Prepared statements that clients made.", 1},
		{"server_parse_count", "server_parses_total", "Prepared statements made on the server.", 1},
		{"bind_count", "binds_total", "Times that prepared statements were bound.", 1},
		{"client_login_count", "client_logins_total", "Logins of clients.", 1},
	})
}
