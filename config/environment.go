// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// FromEnvironment makes the one target that needs no file, from the first of these that is set:
//
//   - DATA_SOURCE_NAME, a URL or keyword=value
//   - DATA_SOURCE_URI with DATA_SOURCE_USER and DATA_SOURCE_PASS (postgres_exporter's names)
//   - DATABASE_URL
//   - POSTGRES_HOST, POSTGRES_PORT, POSTGRES_DB, POSTGRES_USER, POSTGRES_PASSWORD (the container image's names)
//   - libpq's own variables and defaults
//
// Each of them but libpq's may carry the suffix _FILE and then names a file with the value, which wins over the plain
// variable and is read again before every login. What a connection string leaves open comes from
// libpq's variables. getenv is os.Getenv or a stand-in for it; pgconn reads libpq's variables from the process itself.
//
// The second result names the variable that was used. An error names the variable and never its value.
func FromEnvironment(getenv func(string) string, probing Probing) (*Target, string, error) {
	env := environment{getenv}
	var (
		used string
		load func() (*pgconn.Config, error)
	)
	switch {
	case env.has("DATA_SOURCE_NAME"):
		used, load = env.used("DATA_SOURCE_NAME"), env.dataSourceName
	case env.has("DATA_SOURCE_URI"):
		used, load = env.used("DATA_SOURCE_URI"), env.dataSourceURI
	case env.has("DATABASE_URL"):
		used, load = env.used("DATABASE_URL"), env.databaseURL
	case env.has("POSTGRES_HOST"), env.has("POSTGRES_USER"), env.has("POSTGRES_DB"), env.has("POSTGRES_PASSWORD"):
		used, load = containerImage, env.containerImage
	case env.has("DATA_SOURCE_USER"), env.has("DATA_SOURCE_PASS"):
		return nil, "", errors.New("DATA_SOURCE_USER and DATA_SOURCE_PASS need DATA_SOURCE_URI, which is not set")
	default:
		used, load = libpq, func() (*pgconn.Config, error) { return parse(libpq, "") }
	}
	if _, err := load(); err != nil {
		return nil, used, err
	}
	return &Target{Kind: KindPostgres, Probing: probing, load: func(context.Context, Secret) (*pgconn.Config, error) { return load() }}, used, nil
}

const (
	fileSuffix = "_FILE"
	// What is said of variables that are used together.
	containerImage = "POSTGRES_*"
	libpq          = "libpq's variables and defaults"
)

// environment reads variables that may stand for a file.
type environment struct{ getenv func(string) string }

func (e environment) has(name string) bool {
	return e.getenv(name) != "" || e.getenv(name+fileSuffix) != ""
}

// used is the name under which the value was given.
func (e environment) used(name string) string {
	if e.getenv(name+fileSuffix) != "" {
		return name + fileSuffix
	}
	return name
}

// read returns a variable's value; from its file without the line end that editors leave behind.
func (e environment) read(name string) (Secret, error) {
	path := e.getenv(name + fileSuffix)
	if path == "" {
		return Secret(e.getenv(name)), nil
	}
	value, err := readSecret(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name+fileSuffix, err)
	}
	return value, nil
}

func (e environment) dataSourceName() (*pgconn.Config, error) {
	dsn, err := e.read("DATA_SOURCE_NAME")
	if err != nil {
		return nil, err
	}
	return parse(e.used("DATA_SOURCE_NAME"), dsn)
}

func (e environment) dataSourceURI() (*pgconn.Config, error) {
	uri, err := e.read("DATA_SOURCE_URI")
	if err != nil {
		return nil, err
	}
	for _, scheme := range []string{"postgres://", "postgresql://"} { // postgres_exporter wants none
		uri = Secret(strings.TrimPrefix(string(uri), scheme))
	}
	user, err := e.read("DATA_SOURCE_USER")
	if err != nil {
		return nil, err
	}
	if user != "" {
		uri = Secret(url.User(string(user)).String()+"@") + uri
	}
	return e.withPassword(e.used("DATA_SOURCE_URI"), "postgresql://"+uri, "DATA_SOURCE_PASS")
}

// databaseURL also takes the form "postgresql+driver://" of SQLAlchemy, and parameters that are not for the server but for a
// library of the application's: such a variable often has both.
func (e environment) databaseURL() (*pgconn.Config, error) {
	dsn, err := e.read("DATABASE_URL")
	if err != nil {
		return nil, err
	}
	driver := regexp.MustCompile(`^(postgres(?:ql)?)\+[a-z0-9_]+://`)
	return parse(e.used("DATABASE_URL"), withoutLibraries(Secret(driver.ReplaceAllString(string(dsn), "$1://"))))
}

// withoutLibraries drops the parameters of a URL that are known to be a library's: Prisma's, SQLAlchemy's, asyncpg's, Django's,
// Rails'. asyncpg's ssl is libpq's sslmode.
func withoutLibraries(dsn Secret) Secret {
	u, err := url.Parse(string(dsn))
	if err != nil {
		return dsn // whoever parses it next says what is wrong
	}
	before, ok := strings.CutSuffix(string(dsn), u.RawQuery)
	if !ok || u.RawQuery == "" {
		return dsn
	}
	var kept []string
	for parameter := range strings.SplitSeq(u.RawQuery, "&") {
		switch key, value, _ := strings.Cut(parameter, "="); key {
		case "schema", "connection_limit", "pool_timeout", "pgbouncer", "sslaccept", "socket_timeout", // Prisma
			"pool_size", "max_overflow", "pool_recycle", "pool_pre_ping", "async_fallback", "prepared_statement_cache_size", // SQLAlchemy
			"statement_cache_size", "command_timeout", "min_size", "max_size", // asyncpg
			"conn_max_age", "conn_health_checks", // Django
			"pool", "checkout_timeout", "reaping_frequency", "prepared_statements", "advisory_locks": // Rails
		case "ssl":
			if value != "true" && value != "false" {
				parameter = "sslmode=" + value
			}
			kept = append(kept, parameter)
		default:
			kept = append(kept, parameter)
		}
	}
	return Secret(before + strings.Join(kept, "&"))
}

func (e environment) containerImage() (*pgconn.Config, error) {
	var dsn strings.Builder
	for _, v := range []struct{ key, name string }{
		{"host", "POSTGRES_HOST"}, {"port", "POSTGRES_PORT"}, {"dbname", "POSTGRES_DB"}, {"user", "POSTGRES_USER"},
	} {
		value, err := e.read(v.name)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(string(value), "tcp://") {
			continue // Kubernetes sets POSTGRES_PORT so for a Service called postgres, and means something else
		}
		if value != "" {
			fmt.Fprintf(&dsn, "%s='%s' ", v.key, strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(string(value)))
		}
	}
	return e.withPassword(containerImage, Secret(dsn.String()), "POSTGRES_PASSWORD")
}

// withPassword sets the password beside the connection string, so that no character of it needs quoting. Without one,
// what the connection string and libpq's passfile gave stays.
func (e environment) withPassword(used string, dsn Secret, name string) (*pgconn.Config, error) {
	password, err := e.read(name)
	if err != nil {
		return nil, err
	}
	cfg, err := parse(used, dsn)
	if err != nil {
		return nil, err
	}
	if password != "" {
		cfg.Password = string(password)
	}
	return cfg, nil
}
