// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// poolerError is a fixed text in the errors of a pooler or proxy, and what it means.
type poolerError struct {
	text   string
	reason Reason
	state  State
}

// poolerErrors returns the texts that are known. The first one that is part of an error counts. They are English and
// fixed, unlike PostgreSQL's, and come without a routine. They were read from the sources of the versions named, except
// those of RDS Proxy, which has no public source, and some of Neon.
func poolerErrors() []poolerError {
	noServer := func(text string) poolerError { return poolerError{text, ReasonPooler, StateRejecting} }
	noRoom := func(text string) poolerError { return poolerError{text, ReasonPooler, StateConnectionLimit} }
	misconfigured := func(reason Reason, text string) poolerError { return poolerError{text, reason, StateMisconfigured} }
	return []poolerError{
		// PgBouncer 1.18 to 1.25: calls of disconnect_client in src/client.c, objects.c, admin.c and janitor.c. The first
		// one may quote any other text.
		noServer("server login"),
		noServer("(server down)"),
		noServer("query_wait_timeout"),
		noServer("pooler is shutting down"),
		noRoom("no more connections allowed"),
		misconfigured(ReasonRoleLimit, "client connections exceeded (max_user_client_connections)"),
		noRoom("client connections exceeded"),
		misconfigured(ReasonNoDatabase, "no such database"),
		misconfigured(ReasonNoDatabase, "is disabled"),
		misconfigured(ReasonAuth, "no such user"),
		misconfigured(ReasonAuth, "login rejected"),
		misconfigured(ReasonAuth, "no authentication method"),
		misconfigured(ReasonAuth, "empty password"),
		misconfigured(ReasonOther, "startup parameter"), // Neon too
		misconfigured(ReasonOther, "invalid server parameter"),
		misconfigured(ReasonTLS, "SSL required"),
		misconfigured(ReasonNoDatabase, "invalid command"), // on the console

		// Odyssey 1.5: sources/frontend.c and auth.c.
		misconfigured(ReasonNoDatabase, "route for '"),
		misconfigured(ReasonRoleLimit, "too many client tcp connections (client_max for user"),
		noServer("failed to connect to remote server"),
		noServer("failed to get remote server connection"),
		noServer("can't find suitable host"),
		noServer("replication lag too big"),
		noServer("is gracefully shutting down"),
		misconfigured(ReasonAuth, "incorrect user"),
		misconfigured(ReasonAuth, "user blocked"),
		misconfigured(ReasonAuth, "host based authentication rejected"),
		misconfigured(ReasonTLS, "TLS connection required"),
		misconfigured(ReasonTLS, "SSL is required"),

		// pgagroal 1.5 to 2.1: src/libpgagroal/message.c. It refuses with the second text for want of a server, an unknown
		// user, a disabled database and others.
		noRoom("connection pool is full"),
		noServer("connection refused"),
		misconfigured(ReasonAuth, "no pgagroal_hba.conf entry"),
		misconfigured(ReasonAuth, "unsupported security model"),

		// Pgpool-II 4.7: src/auth, src/protocol/child.c and src/protocol/pool_connection_pool.c.
		noRoom("Sorry, too many clients already"),
		noServer("failed to create a backend"),
		noServer("all backend nodes are down"),
		noServer("all backends are down"),
		noServer("unable to read data from DB node"),
		noServer("pgpool is not accepting any"),

		// PgCat 0.2: src/client.rs.
		misconfigured(ReasonNoDatabase, "No pool configured for database"),
		noServer("Pool down for database"),
		noServer("could not get connection from the pool"),
		noServer("checkout failure limit reached"),

		// Supavisor up to 2.8, and from 2.9 on, which begins with a code: lib/supavisor/errors.
		misconfigured(ReasonAuth, "Tenant or user not found"),
		noRoom("Max client connections reached"),
		noRoom("MaxClientsInSessionMode"),
		noServer("Unable to check out connection from the pool"),
		noServer("Failed to subscribe to tenant"),
		noServer("Circuit breaker open"),
		misconfigured(ReasonAuth, "Address not in tenant allow_list"),
		misconfigured(ReasonNoDatabase, "(ENOTFOUND)"),
		misconfigured(ReasonNoDatabase, "(ENOIDENTIFIER)"),
		misconfigured(ReasonNoDatabase, "(EINVALIDUSERINFO)"),
		misconfigured(ReasonNoDatabase, "(EMULTIPLEUSERS)"),
		misconfigured(ReasonAuth, "(EAUTHQUERY) user not found"),
		noServer("(EAUTHQUERY)"),
		noServer("(EAUTHSECRETS)"),
		noRoom("(EMAXCONN)"),
		noRoom("(EMAXCONNSESSION)"),
		noRoom("(EMAXPOOLSREACHED)"),
		noServer("(ECHECKOUT"),
		noServer("(EPOOL"),
		noServer("(EDBHANDLEREXITED)"),
		noServer("(EPROXY"),
		noServer("(EWORKERNOTFOUND)"),
		noServer("(ESUBSCRIBERETRIES)"),
		noServer("Failed to connect to database"),
		misconfigured(ReasonAuth, "Authentication credentials are invalid"),
		misconfigured(ReasonAuth, "(ECIRCUITBREAKER) too many authentication failures"),
		noServer("(ECIRCUITBREAKER)"),
		misconfigured(ReasonTLS, "(ESSL"),
		misconfigured(ReasonAuth, "(EADDRNOTALLOWED)"),
		misconfigured(ReasonNoDatabase, "(EBANNED)"),

		// Neon's proxy (proxy/src/auth, compute and control_plane). The third text is from its documentation.
		misconfigured(ReasonNoDatabase, "Endpoint ID is not specified"),
		misconfigured(ReasonNoDatabase, "Project name ('"),
		misconfigured(ReasonNoDatabase, "endpoint could not be found"),
		misconfigured(ReasonNoDatabase, "endpoint cannot be found"),
		noServer("endpoint is temporarily unavailable"),
		noServer("Control plane request failed"),
		noServer("Couldn't connect to compute node"),
		noRoom("Failed to acquire permit to connect"),
		noRoom("Too many connections"),
		misconfigured(ReasonAuth, "is not allowed to connect to this endpoint"),
		misconfigured(ReasonAuth, "from a blocked network"),
		misconfigured(ReasonTLS, "connection is insecure"),

		// PgDog 0.1: src/net/messages/error_response.rs and src/backend/pool/error.rs.
		misconfigured(ReasonAuth, "is wrong, or the database does not exist"),
		noServer("connection pool for user"),
		noServer("PgDog is shutting down"),
		misconfigured(ReasonTLS, "only TLS connections are allowed"),

		// RDS Proxy, from Amazon's user guide and from reports.
		misconfigured(ReasonTLS, "requires TLS connections"),
		misconfigured(ReasonTLS, "is allowed only with SSL connections"),
		misconfigured(ReasonAuth, "has no credentials for the role"),
		misconfigured(ReasonAuth, "The password that was provided for the role"),
		noRoom("because of too many competing requests"),
		noRoom("The maximum number of client connections to the proxy"),
		noRoom("Rate of connection to proxy exceeded"),
		noServer("Timed-out waiting to acquire database connection"),
		misconfigured(ReasonOther, "Feature not supported: RDS Proxy"),

		// Most of them, in several forms.
		misconfigured(ReasonAuth, "authentication failed"),
		misconfigured(ReasonAuth, "failed to authenticate"), // Pgpool-II, with a password of its own
	}
}

// classifyPoolerError returns what an error of a pooler or proxy means. It returns false if its text is not known.
func classifyPoolerError(e *pgconn.PgError) (Reason, State, bool) {
	switch {
	case e.Code == "53300" && e.Routine == "auth_failed": // pgagroal: server failover
		return ReasonPooler, StateRejecting, true
	case e.Routine != "": // PostgreSQL always sends one
		return "", "", false
	}
	switch e.Message { // as a part of another text they would mean nothing
	case "failure": // how PgBouncer's console ends the session after "invalid command"
		return ReasonNoDatabase, StateMisconfigured, true
	case "not allowed": // on PgBouncer's console
		return ReasonPermission, StateMisconfigured, true
	}
	text := e.Message + "\n" + e.Detail // Pgpool-II puts the cause into the detail
	for _, known := range poolerErrors() {
		if strings.Contains(text, known.text) {
			return known.reason, known.state, true
		}
	}
	return "", "", false
}
