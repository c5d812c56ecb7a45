// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"iter"
	"slices"
	"strings"
)

// keyword is a parameter of connection strings and what becomes of it.
type keyword struct {
	// name is the keyword as it is written.
	name string
	// variable is libpq's environment variable for it, empty if there is none.
	variable string
	// use is what becomes of it.
	use use
	// means is the keyword of libpq that it stands for, empty if it stands for itself.
	means string
	// harmless are the values with which a refused keyword asks for nothing, and is left out.
	harmless []string
	// note says what an honoured keyword does, why another one has no meaning, or what to write instead of it.
	note string
}

// use is what becomes of a keyword.
type use string

const (
	honoured use = "honoured"
	leftOut  use = "left out"
	refused  use = "refused"
)

// accepts reports whether a connection string may have the keyword with this value.
func (k *keyword) accepts(value string) bool {
	return k.use != refused || value == "" || slices.Contains(k.harmless, strings.ToLower(value))
}

// knownAs returns the known name that a text writes in another way, with capitals, spaces, dashes and underscores. It is empty
// if there is none. Of several, it is the first in the order of the alphabet.
func knownAs(text string, known iter.Seq[string]) string {
	plain := func(name string) string {
		return strings.NewReplacer(" ", "", "-", "", "_", "").Replace(strings.ToLower(name))
	}
	for _, name := range slices.Sorted(known) {
		if plain(name) == plain(text) {
			return name
		}
	}
	return ""
}

// Keywords of libpq that this package looks at.
const (
	keyHost     = "host"
	keyHostaddr = "hostaddr"
	keyPort     = "port"
	keyDatabase = "dbname"
	keyUser     = "user"
	keyPassword = "password"
	keySSLMode  = "sslmode"

	keySSLPassword = "sslpassword"
	keyCloudAuth   = "cloud_auth" // not one of libpq
	keyRequireAuth = "require_auth"
	keyMinTLS      = "ssl_min_protocol_version"
	keyMaxTLS      = "ssl_max_protocol_version"

	// keyServerName is not one of libpq: the name for which a certificate is verified, if it is not the host.
	keyServerName = "server_name"
)

// libpqKeywords returns every keyword of libpq of PostgreSQL 18 (PQconninfoOptions in fe-connect.c), in its order, and
// servicefile of PostgreSQL 19. The variable of sslpassword is pgx's.
func libpqKeywords() []keyword {
	const (
		oneServer = "it chooses among several servers, and a target is one server"
		ownTCP    = "the exporter has its own limit of 10 s for a connection that does not answer"
		kerberos  = "the exporter does not log in with Kerberos"
		noOAuth   = "the exporter fetches no OAuth token: set require_auth=oauth, and give the token as the password, in a file or by a command"
		noSCRAM   = "write password instead"
	)
	return []keyword{
		{name: "service", variable: "PGSERVICE", use: honoured, note: "a section of the service file; refused in a configuration file"},
		{name: "servicefile", variable: "PGSERVICEFILE", use: honoured, note: "the service file, otherwise `~/.pg_service.conf`; refused in a configuration file"},
		{name: keyUser, variable: "PGUSER", use: honoured, note: "the role"},
		{name: keyPassword, variable: "PGPASSWORD", use: honoured, note: "the password"},
		{name: "passfile", variable: "PGPASSFILE", use: honoured, note: "a file of passwords; refused in a configuration file"},
		{name: "channel_binding", variable: "PGCHANNELBINDING", use: honoured, note: "`disable`, `prefer` or `require`"},
		{name: "connect_timeout", variable: "PGCONNECT_TIMEOUT", use: leftOut, note: "`timeout` and `--probe.timeout` bound a probe"},
		{name: keyDatabase, variable: "PGDATABASE", use: honoured, note: "the database; `postgres` if there is none"},
		{name: keyHost, variable: "PGHOST", use: honoured, note: "a name, an address, the folder of a Unix socket, the socket's file, or `@name` for an abstract socket"},
		{name: keyHostaddr, variable: "PGHOSTADDR", use: honoured, note: "the IP address to dial; certificates are verified for `host`"},
		{name: keyPort, variable: "PGPORT", use: honoured, note: "the port; 5432 if there is none"},
		{name: "client_encoding", variable: "PGCLIENTENCODING", use: honoured, note: "sent to the server, except for `auto`"},
		{name: "options", variable: "PGOPTIONS", use: honoured, note: "sent to the server, as is Neon's `endpoint=…` in it"},
		{name: "application_name", variable: "PGAPPNAME", use: honoured, note: "`pg_liveness_exporter` if there is none"},
		{name: "fallback_application_name", use: honoured, note: "used if there is no `application_name`"},
		{name: "keepalives", use: leftOut, note: ownTCP},
		{name: "keepalives_idle", use: leftOut, note: ownTCP},
		{name: "keepalives_interval", use: leftOut, note: ownTCP},
		{name: "keepalives_count", use: leftOut, note: ownTCP},
		{name: "tcp_user_timeout", use: leftOut, note: ownTCP},
		{name: keySSLMode, variable: "PGSSLMODE", use: honoured, note: "libpq's modes; `allow` acts like `prefer`, and `no-verify` (node-postgres) like `require`"},
		{name: "sslnegotiation", variable: "PGSSLNEGOTIATION", use: honoured, note: "`postgres` or `direct`"},
		{name: "sslcompression", variable: "PGSSLCOMPRESSION", use: leftOut, note: "TLS is never compressed"},
		{name: "sslcert", variable: "PGSSLCERT", use: honoured, note: "the client certificate; needs `sslkey`"},
		{name: "sslkey", variable: "PGSSLKEY", use: honoured, note: "its private key"},
		{name: "sslcertmode", variable: "PGSSLCERTMODE", use: honoured, note: "`disable`, `allow` or `require`"},
		{name: keySSLPassword, variable: "PGSSLPASSWORD", use: honoured, note: "the password of an encrypted `sslkey`"},
		{name: "sslrootcert", variable: "PGSSLROOTCERT", use: honoured, note: "the certificates to trust, or `system`"},
		{name: "sslcrl", variable: "PGSSLCRL", use: honoured, note: "revoked certificates; needs `sslmode` `verify-ca` or `verify-full`"},
		{name: "sslcrldir", variable: "PGSSLCRLDIR", use: refused, note: "write the lists into one file, and set sslcrl to it"},
		{name: "sslsni", variable: "PGSSLSNI", use: honoured, note: "`0`: the name of the host is not sent (SNI)"},
		{name: "requirepeer", variable: "PGREQUIREPEER", use: refused, note: "the exporter does not check who owns a server's process; use TLS with sslmode verify-full"},
		{name: keyRequireAuth, variable: "PGREQUIREAUTH", use: honoured, note: "the authentication methods that the server may use"},
		{name: "min_protocol_version", variable: "PGMINPROTOCOLVERSION", use: honoured, note: "`3.0`, `3.2` or `latest`"},
		{name: "max_protocol_version", variable: "PGMAXPROTOCOLVERSION", use: honoured, note: "`3.0`, `3.2` or `latest`"},
		{name: keyMinTLS, variable: "PGSSLMINPROTOCOLVERSION", use: honoured, note: "`TLSv1` to `TLSv1.3`; `TLSv1.2` if there is none"},
		{name: keyMaxTLS, variable: "PGSSLMAXPROTOCOLVERSION", use: honoured, note: "`TLSv1` to `TLSv1.3`; below `TLSv1.2` it needs `ssl_min_protocol_version`"},
		{name: "gssencmode", variable: "PGGSSENCMODE", use: refused, harmless: []string{"disable", "prefer"}, note: "the exporter does not encrypt with Kerberos; use TLS with sslmode"},
		{name: "krbsrvname", variable: "PGKRBSRVNAME", use: leftOut, note: kerberos},
		{name: "gsslib", variable: "PGGSSLIB", use: leftOut, note: kerberos},
		{name: "gssdelegation", variable: "PGGSSDELEGATION", use: leftOut, note: kerberos},
		{name: "replication", use: refused, harmless: falseValues(), note: "a replication session runs no statements of the exporter"},
		{name: "target_session_attrs", variable: "PGTARGETSESSIONATTRS", use: leftOut, note: oneServer},
		{name: "load_balance_hosts", variable: "PGLOADBALANCEHOSTS", use: leftOut, note: oneServer},
		{name: "scram_client_key", use: refused, note: noSCRAM},
		{name: "scram_server_key", use: refused, note: noSCRAM},
		{name: "oauth_issuer", use: refused, note: noOAuth},
		{name: "oauth_client_id", use: refused, note: noOAuth},
		{name: "oauth_client_secret", use: refused, note: noOAuth},
		{name: "oauth_scope", use: refused, note: noOAuth},
		{name: "sslkeylogfile", use: refused, note: "the exporter does not write the keys of TLS"},
	}
}

// findKeyword returns the keyword of this name, or nil.
func findKeyword(keywords []keyword, name string) *keyword {
	for i := range keywords {
		if keywords[i].name == name {
			return &keywords[i]
		}
	}
	return nil
}

// keywordNames returns the names of keywords.
func keywordNames(keywords []keyword) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, k := range keywords {
			if !yield(k.name) {
				return
			}
		}
	}
}

// otherKeywords returns what other drivers, frameworks and platforms put into connection strings.
func otherKeywords() []keyword {
	const (
		driver = "an option of the driver"
		pool   = "an option of the application's connection pool"
		schema = "no statement of the exporter depends on it"
		trust  = "write sslmode and sslrootcert instead"
	)
	all := []keyword{
		{name: "database", use: honoured, means: keyDatabase, note: "pgx"},
		{name: "username", use: honoured, means: keyUser, note: "Rails"},
		{name: "ApplicationName", use: honoured, means: "application_name", note: "JDBC"},
		{name: "channelBinding", use: honoured, means: "channel_binding", note: "JDBC"},
		{name: "requireAuth", use: honoured, means: "require_auth", note: "JDBC"},
		{name: "sslNegotiation", use: honoured, means: "sslnegotiation", note: "JDBC"},
		{name: "unix_sock", use: honoured, means: keyHost, note: "pg8000: the socket's file"},
		{name: "ssl-mode", use: honoured, means: keySSLMode, note: "SQLx"},
		{name: "sslMode", use: honoured, means: keySSLMode, note: "R2DBC"},
		{name: "ssl-root-cert", use: honoured, means: "sslrootcert", note: "SQLx"},
		{name: "ssl-ca", use: honoured, means: "sslrootcert", note: "SQLx"},
		{name: "ssl-cert", use: honoured, means: "sslcert", note: "SQLx"},
		{name: "ssl-key", use: honoured, means: "sslkey", note: "SQLx"},
		{name: "ssl", use: honoured, means: keySSLMode, note: "true: `require`, or `verify-full` in a URL that begins with `jdbc:`; " +
			"false: `disable`; the values of `sslmode` as they are (asyncpg)"},
		{name: "ssl_require", use: honoured, means: keySSLMode, note: "Django; true: `require`"},
		{name: "requiressl", use: honoured, means: keySSLMode, note: "old libpq; 1: `require`"},
		{name: "sslaccept", use: honoured, means: keySSLMode, note: "Prisma; `strict`: `verify-full`, and an `sslcert` without `sslkey` is used as `sslrootcert`"},
		{name: "sslfactory", use: honoured, means: keySSLMode, note: "JDBC; `NonValidatingFactory`: `require`; `LibPQFactory`: no effect; every other class is refused"},

		{name: "gssEncMode", use: refused, harmless: []string{"disable", "prefer", "allow"}, note: "the exporter does not encrypt with Kerberos; use TLS with sslmode"},
		{name: "sslidentity", use: refused, note: "the exporter does not read PKCS #12: write sslcert and sslkey instead"},
		{name: "sslinline", use: refused, harmless: falseValues(), note: "write the certificates and the key into files, and set sslrootcert, sslcert and sslkey to them"},
		{name: "sslhostnameverifier", use: refused, note: trust},
		{name: "sslfactoryarg", use: refused, note: trust},
		{name: "sslpasswordcallback", use: refused, note: "write sslpassword instead"},
		{name: "socketFactory", use: refused, note: "the exporter has no Java class to connect with: write host"},
		{name: "socketFactoryArg", use: refused, note: "the exporter has no Java class to connect with: write host"},
		{name: "authenticationPluginClassName", use: refused, note: "the exporter has no Java class to log in with: write password"},
		{name: "direct_tls", use: refused, harmless: falseValues(), note: "write sslnegotiation=direct instead"},
	}
	ignored := func(note string, names ...string) {
		for _, name := range names {
			all = append(all, keyword{name: name, use: leftOut, note: note})
		}
	}
	ignored(schema, "schema", "currentSchema", "schema_search_path", "charset", "encoding", "serverVersion", "server_version")
	ignored(pool, "connection_limit", "pool_timeout", "max_idle_connection_lifetime", "max_connection_lifetime", // Prisma
		"pool", "checkout_timeout", "reaping_frequency", "idle_timeout", "keepalive", "max_age", // Rails
		"pool_size", "max_overflow", "pool_recycle", "pool_pre_ping", "pool_use_lifo", "pool_reset_on_return", // SQLAlchemy
		"min_size", "max_size", "max_queries", "max_inactive_connection_lifetime", // asyncpg
		"conn_max_age", "conn_health_checks", // Django
		"pool_max_conns", "pool_min_conns", "pool_min_idle_conns", "pool_max_conn_lifetime", "pool_max_conn_lifetime_jitter",
		"pool_max_conn_idle_time", "pool_health_check_period", // pgx
		"max", "max_lifetime", "max_connections", "idleTimeoutMillis", "connectionTimeoutMillis") // node-postgres, postgres.js
	ignored(driver, "statement_cache_size", "socket_timeout", "single_use_connections", // Prisma
		"async_fallback", "prepared_statement_cache_size", "prepared_statement_name_func", "executemany_mode", "use_native_hstore", // SQLAlchemy
		"command_timeout", "timeout", "max_cached_statement_lifetime", "max_cacheable_statement_size", // asyncpg
		"disable_server_side_cursors",                                                  // Django
		"prepared_statements", "advisory_locks", "statement_limit", "insert_returning", // Rails
		"binary_parameters", "disable_prepared_binary_result", "krbspn", // lib/pq
		"default_query_exec_mode", "statement_cache_capacity", "description_cache_capacity", // pgx
		"statement_cache_mode", "prefer_simple_protocol", "statement-cache-capacity", "sslsnimode", // SQLx
		"uselibpqcompat", "binary", "query_timeout", "keepAlive", "fetch_types", "prepare", // node-postgres, postgres.js
		"adaptiveFetch", "adaptiveFetchMaximum", "adaptiveFetchMinimum", "allowEncodingChanges", "assumeMinServerVersion", // JDBC
		"autosave", "binaryTransfer", "binaryTransferDisable", "binaryTransferEnable", "cancelSignalTimeout",
		"cleanupSavepoints", "connectTimeout", "convertBooleanToNumeric", "databaseMetadataCacheFields",
		"databaseMetadataCacheFieldsMiB", "defaultRowFetchSize", "disableColumnSanitiser", "escapeSyntaxCallMode",
		"groupStartupParameters", "gssResponseTimeout", "gssUseDefaultCreds", "hideUnprivilegedObjects", "hostRecheckSeconds",
		"jaasApplicationName", "jaasLogin", "kerberosServerName", "loadBalanceHosts", "loggerFile", "loggerLevel",
		"logServerErrorDetail", "logUnclosedConnections", "loginTimeout", "maxResultBuffer", "maxSendBufferSize",
		"preferQueryMode", "preparedStatementCacheQueries", "preparedStatementCacheSizeMiB", "prepareThreshold",
		"protocolVersion", "queryTimeout", "quoteReturningIdentifiers", "readOnly", "readOnlyMode", "receiveBufferSize",
		"reWriteBatchedInserts", "sendBufferSize", "socketTimeout", "sspiServiceClass", "sslResponseTimeout", "stringtype",
		"targetServerType", "tcpKeepAlive", "tcpNoDelay", "unknownLength", "useSpnego", "xmlFactoryFactory")
	ignored("an option of the platform", "pgbouncer", "supa", "workaround")               // Prisma, Supabase and Vercel
	ignored(driver, "adapter", "min_messages", "variables", "reconnect", "tcp_keepalive") // Rails, pg8000
	ignored(schema, "jit", "plan_cache_mode", "row_security", "default_text_search_config")
	ignored("it would end the kept session", "idle_session_timeout")
	return all
}

// runTimeParameters returns parameters of the server that some drivers take in a connection string (lib/pq, pgx). They are
// sent to the server, as those with a dot in the name. libpq takes them in options.
func runTimeParameters() []string {
	return []string{
		"DateStyle", "IntervalStyle", "TimeZone", "bytea_output", "client_min_messages", "datestyle", "default_tablespace",
		"default_transaction_deferrable", "default_transaction_isolation", "default_transaction_read_only", "extra_float_digits",
		"geqo", "idle_in_transaction_session_timeout", "intervalstyle", "lock_timeout", "role",
		"search_path", "session_replication_role", "standard_conforming_strings", "statement_timeout", "tcp_keepalives_idle",
		"timezone", "transaction_timeout", "work_mem",
	}
}
