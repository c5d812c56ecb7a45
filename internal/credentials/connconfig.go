// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/config"
)

// parse makes the settings of a login of a connection string, as libpq does: with libpq's environment, its passfile,
// its service file, and the files of the TLS settings. The connection string must name one server. Errors are those of
// config.CheckConnString, verifyFiles and config.ConnStringError.
func parse(dsn config.Secret) (*pgconn.Config, error) {
	if err := config.CheckConnString(dsn); err != nil {
		return nil, err
	}
	if err := verifyFiles(dsn); err != nil {
		return nil, err
	}
	cfg, err := pgconn.ParseConfig(string(dsn))
	if err == nil && cfg.Database == "" {
		// The database is part of the connection string, so that pgconn searches libpq's passfile for it.
		database := config.KindPostgres.DefaultDatabase()
		cfg, err = pgconn.ParseConfig(string(config.AddSettings(dsn, map[string]string{"dbname": database})))
	}
	if err != nil {
		return nil, config.ConnStringError(err)
	}
	if slices.ContainsFunc(cfg.Fallbacks, func(f *pgconn.FallbackConfig) bool {
		return f.Host != cfg.Host || f.Port != cfg.Port
	}) {
		return nil, config.ErrSeveralServers
	}
	if _, ok := cfg.RuntimeParams["application_name"]; !ok {
		cfg.RuntimeParams["application_name"] = config.ApplicationName
	}
	return cfg, nil
}

// dropForeignParams removes the run-time parameters that pgconn took from libpq's environment. keys are those of the
// operator's connection string.
func dropForeignParams(cfg *pgconn.Config, keys []string) {
	for name := range cfg.RuntimeParams {
		if name != "application_name" && !slices.Contains(keys, name) {
			delete(cfg.RuntimeParams, name)
		}
	}
}
