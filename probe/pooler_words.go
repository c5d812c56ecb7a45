// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import "strings"

// poolerError is a fixed text in the errors of a pooler or proxy, and what it means.
type poolerError struct {
	text   string
	reason Reason
	state  State
}

// poolerErrors returns the texts that are known. The first one that is part of a message counts. They are English and
// fixed, unlike PostgreSQL's, and come without a routine. What stands between names and numbers is left out.
func poolerErrors() []poolerError {
	noServer := func(text string) poolerError { return poolerError{text, ReasonPooler, StateRejecting} }
	noRoom := func(text string) poolerError { return poolerError{text, ReasonPooler, StateConnectionLimit} }
	ours := func(reason Reason, text string) poolerError { return poolerError{text, reason, StateMisconfigured} }
	return []poolerError{
		// PgBouncer 1.18 to 1.26: calls of disconnect_client in src/client.c, objects.c, admin.c and janitor.c. A message
		// about PgBouncer's own login at the server may quote any text, so that these two come first.
		noServer("server login"),
		noServer("(server down)"),
		noServer("query_wait_timeout"),
		noRoom("no more connections allowed"),
		ours(ReasonRoleLimit, "client connections exceeded (max_user_client_connections)"),
		noRoom("client connections exceeded"),
		ours(ReasonNoDatabase, "no such database"),
		ours(ReasonNoDatabase, "is disabled"),
		ours(ReasonAuth, "no such user"),
		ours(ReasonAuth, "login rejected"),
		ours(ReasonAuth, "no authentication method"),
		ours(ReasonAuth, "empty password"),
		ours(ReasonPermission, "not allowed"),
		ours(ReasonOther, "startup parameter"),
		ours(ReasonOther, "invalid server parameter"),
		ours(ReasonTLS, "SSL required"),
		ours(ReasonNoDatabase, "invalid command"), // on the console

		// Odyssey 1.5: calls of od_frontend_error and od_frontend_fatal in sources/frontend.c.
		ours(ReasonNoDatabase, "route for '"),
		ours(ReasonRoleLimit, "too many client tcp connections (client_max for user"),
		noServer("failed to connect to remote server"),
		noServer("is gracefully shutting down"),

		// pgagroal 2.1: src/libpgagroal/message.c.
		noRoom("connection pool is full"),
		noServer("connection refused"),
		ours(ReasonAuth, "no pgagroal_hba.conf entry"),
		ours(ReasonAuth, "unsupported security model"),

		// Pgpool-II 4.7: src/auth, src/protocol/child.c and src/protocol/pool_connection_pool.c.
		noRoom("Sorry, too many clients already"),
		noServer("failed to create a backend connection"),
		noServer("all backend nodes are down"),
		noServer("unable to read data from DB node"),
		noServer("pgpool is not accepting any"),

		// Most of them, in several forms.
		ours(ReasonAuth, "authentication failed"),
	}
}

// classifyPoolerError returns what a pooler's or proxy's error means. It returns false if its text is not known.
func classifyPoolerError(message string) (Reason, State, bool) {
	if message == "failure" { // how PgBouncer 1.18 ends the session after "invalid command"
		return ReasonNoDatabase, StateMisconfigured, true
	}
	for _, known := range poolerErrors() {
		if strings.Contains(message, known.text) {
			return known.reason, known.state, true
		}
	}
	return "", "", false
}
