// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/config"
)

// VerifyEnvironment reports why no login can be made of environment variables. It reads the files that they name. An
// error names the variable and never its value.
func VerifyEnvironment(e *config.Environment) error {
	_, err := environment{e}.connConfig()
	return err
}

// environment makes logins of environment variables.
type environment struct{ *config.Environment }

// connConfig makes the settings of one login. It reads the files that the variables name.
func (e environment) connConfig() (*pgconn.Config, error) {
	switch e.Form {
	case config.FormDataSourceName:
		return e.dataSourceName()
	case config.FormDataSourceURI:
		return e.dataSourceURI()
	case config.FormDatabaseURL:
		return e.databaseURL()
	case config.FormContainerImage:
		return e.containerImage()
	case config.FormLibpq:
	}
	return e.parse("")
}

// parse is the function parse with an error that names where the connection string comes from.
func (e environment) parse(dsn config.Secret) (*pgconn.Config, error) {
	cfg, err := parse(dsn)
	switch {
	case errors.Is(err, config.ErrSeveralServers):
		return nil, fmt.Errorf("%s: %w: list them in a --config.file", e.Source, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", e.Source, err)
	}
	return cfg, nil
}

// read returns a variable's value, which is empty if the variable is not set. The value of a file has no line end.
func (e environment) read(variable string) (config.Secret, error) {
	v := e.Variables[variable]
	if v.File == "" {
		return v.Text, nil
	}
	value, err := readSecret(v.File)
	return value, withKey(variable+"_FILE", err)
}

// dataSourceName makes a login of DATA_SOURCE_NAME, a URL or keyword=value.
func (e environment) dataSourceName() (*pgconn.Config, error) {
	dsn, err := e.read("DATA_SOURCE_NAME")
	if err != nil {
		return nil, err
	}
	return e.parse(dsn)
}

// dataSourceURI makes a login of DATA_SOURCE_URI, DATA_SOURCE_USER and DATA_SOURCE_PASS. The URI may have a scheme.
func (e environment) dataSourceURI() (*pgconn.Config, error) {
	uri, err := e.read("DATA_SOURCE_URI")
	if err != nil {
		return nil, err
	}
	for _, scheme := range []string{"postgres://", "postgresql://"} { // postgres_exporter wants none
		uri = config.Secret(strings.TrimPrefix(string(uri), scheme))
	}
	user, err := e.read("DATA_SOURCE_USER")
	if err != nil {
		return nil, err
	}
	if user != "" {
		uri = config.Secret(url.User(string(user)).String()+"@") + uri
	}
	return e.withPassword("postgresql://"+uri, "DATA_SOURCE_PASS")
}

// databaseURL makes a login of DATABASE_URL. It also accepts SQLAlchemy's form "postgresql+driver://", and parameters
// for the application's libraries. A variable with this name often has both.
func (e environment) databaseURL() (*pgconn.Config, error) {
	dsn, err := e.read("DATABASE_URL")
	if err != nil {
		return nil, err
	}
	driver := regexp.MustCompile(`^(postgres(?:ql)?)\+[a-z0-9_]+://`)
	return e.parse(withoutLibraries(config.Secret(driver.ReplaceAllString(string(dsn), "$1://"))))
}

// withoutLibraries removes the parameters of a URL that are known to be for a library: Prisma, SQLAlchemy, asyncpg,
// Django or Rails. It turns asyncpg's ssl into libpq's sslmode.
func withoutLibraries(dsn config.Secret) config.Secret {
	u, err := url.Parse(string(dsn))
	if err != nil {
		return dsn // parse says what is wrong
	}
	before, ok := strings.CutSuffix(string(dsn), u.RawQuery)
	if !ok || u.RawQuery == "" {
		return dsn
	}
	var kept []string
	for parameter := range strings.SplitSeq(u.RawQuery, "&") {
		switch key, value, _ := strings.Cut(parameter, "="); key {
		case "schema", "connection_limit", "pool_timeout", "pgbouncer", "sslaccept", "socket_timeout", // Prisma
			"pool_size", "max_overflow", "pool_recycle", "pool_pre_ping", "async_fallback", // SQLAlchemy
			"prepared_statement_cache_size",
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
	return config.Secret(before + strings.Join(kept, "&"))
}

// containerImage makes a login of the container image's variables, POSTGRES_*.
func (e environment) containerImage() (*pgconn.Config, error) {
	var dsn strings.Builder
	for _, v := range []struct{ key, variable string }{
		{"host", "POSTGRES_HOST"}, {"port", "POSTGRES_PORT"}, {"dbname", "POSTGRES_DB"}, {"user", "POSTGRES_USER"},
	} {
		value, err := e.read(v.variable)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(string(value), "tcp://") {
			continue // what Kubernetes sets POSTGRES_PORT to for a Service called postgres
		}
		if value != "" {
			fmt.Fprintf(&dsn, "%s='%s' ", v.key, strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(string(value)))
		}
	}
	return e.withPassword(config.Secret(dsn.String()), "POSTGRES_PASSWORD")
}

// withPassword makes a login of a connection string and the password that a variable has, which needs no quoting that
// way. If the variable is not set, the password of the connection string or of libpq's passfile stays.
func (e environment) withPassword(dsn config.Secret, variable string) (*pgconn.Config, error) {
	password, err := e.read(variable)
	if err != nil {
		return nil, err
	}
	cfg, err := e.parse(dsn)
	if err != nil {
		return nil, err
	}
	if password != "" {
		cfg.Password = string(password)
	}
	return cfg, nil
}
