// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
)

// foreignOption is an option of postgres_exporter that is none here. docs/migrating.md has the same table.
type foreignOption struct {
	// flag is the name without dashes, and variable that of the environment variable with the same effect. Either may be
	// empty.
	flag, variable string
	// here is what the option is here.
	here string
}

const noCounterpart = "nothing: it has no counterpart"

// foreignOptions returns the options of postgres_exporter that are none here: those of 0.19.1
// (cmd/postgres_exporter/main.go and collector/ of its repository), and variables and flags of older releases
// (its CHANGELOG.md).
func foreignOptions() []foreignOption {
	options := []foreignOption{
		{"", "PG_EXPORTER_WEB_LISTEN_ADDRESS", "--web.listen-address"},
		{"", "PG_EXPORTER_WEB_TELEMETRY_PATH", "--web.telemetry-path"},
		{"auto-discover-databases", "PG_EXPORTER_AUTO_DISCOVER_DATABASES", "nothing, since a target shows all databases of its server"},
		{"collection-timeout", "PG_EXPORTER_COLLECTION_TIMEOUT", "--probe.timeout, or timeout in a --config.file"},
		{"constantLabels", "PG_EXPORTER_CONSTANT_LABELS", "labels in a --config.file"},
		{"disable-default-metrics", "PG_EXPORTER_DISABLE_DEFAULT_METRICS", noCounterpart},
		{"disable-settings-metrics", "PG_EXPORTER_DISABLE_SETTINGS_METRICS", "nothing: only the settings that limit connections are shown"},
		{"dumpmaps", "", noCounterpart},
		{"exclude-databases", "PG_EXPORTER_EXCLUDE_DATABASES", "nothing, since a target shows all databases of its server"},
		{"extend.query-path", "PG_EXPORTER_EXTEND_QUERY_PATH", "checks with sql in a --config.file"},
		{"include-databases", "PG_EXPORTER_INCLUDE_DATABASES", "nothing, since a target shows all databases of its server"},
		{"metric-prefix", "PG_EXPORTER_METRIC_PREFIX", "nothing: metric_relabel_configs of Prometheus rename metrics"},
		{"collector.long_running_transactions", "", "always on, as pg_transaction_max_seconds"},
		{"collector.postmaster", "", "always on, as pg_postmaster_start_time_seconds"},
		{"collector.process_idle", "", "always on, as pg_connections and pg_idle_in_transaction_max_seconds"},
		{"collector.replication", "", "always on, as pg_replication_is_replica and pg_replication_lag_seconds"},
		{"collector.roles", "", "always on for the exporter's own role, as pg_role_connection_limit"},
		{"collector.stat_wal_receiver", "", "always on, as pg_wal_receiver_up"},
	}
	for _, name := range []string{
		"buffercache_summary", "database", "database_wraparound", "locks", "replication_slot", "stat_activity_autovacuum", "stat_bgwriter",
		"stat_checkpointer", "stat_database", "stat_progress_vacuum", "stat_statements", "stat_statements.exclude_databases",
		"stat_statements.exclude_users", "stat_statements.include_query", "stat_statements.limit", "stat_statements.query_length",
		"stat_user_tables", "statio_user_indexes", "statio_user_tables", "wal", "xlog_location",
	} {
		options = append(options, foreignOption{"collector." + name, "", noCounterpart})
	}
	return options
}

// WarnOfForeignVariables logs which variables of postgres_exporter are set, and what each is here. It logs no value.
func WarnOfForeignVariables(getenv func(string) string, logger *slog.Logger) {
	for _, option := range foreignOptions() {
		if option.variable != "" && getenv(option.variable) != "" {
			logger.Warn("Variable of postgres_exporter has no effect", "variable", option.variable, "here", option.here)
		}
	}
}

// collectorFlag matches the flags of postgres_exporter's collectors, those of other releases too.
var collectorFlag = regexp.MustCompile(`^collector\.[a-z0-9_.]+$`)

// foreignFlags returns a line for each flag of postgres_exporter among the names of flags, with what it is here. A line holds no
// part of a name that is not known.
func foreignFlags(names []string) []string {
	var lines []string
	for _, name := range names {
		name = strings.TrimPrefix(name, "no-")
		line := ""
		for _, option := range foreignOptions() {
			if option.flag != "" && option.flag == name {
				line = fmt.Sprintf("--%s is a flag of postgres_exporter; here it is: %s", name, option.here)
			}
		}
		if line == "" && collectorFlag.MatchString(name) {
			line = "--collector.… is a flag of postgres_exporter; here it is: " + noCounterpart
		}
		if line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}
