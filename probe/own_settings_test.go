// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// TestOwnParameters checks that an error about a parameter that the login sent is the exporter's, in any language and
// through a pooler, and that an error about any other is not.
func TestOwnParameters(t *testing.T) {
	t.Parallel()
	const sent = "sslmode=disable search_path=x app.tenant=y options='-c work_mem=1MB --lock-timeout=x -ctimezone=z'"
	for _, test := range []struct{ code, routine, message, key string }{
		{"22023", "parse_and_validate_value", `invalid value for parameter "search_path": "x"`, "search_path"},
		{"42704", "find_option", `unbekannter Konfigurationsparameter »app.tenant«`, "app.tenant"},
		{"55P02", "set_config_with_handle", `parameter "work_mem" cannot be changed now`, "options (work_mem)"},
		{"42501", "set_config_with_handle", `permission denied to set parameter "lock_timeout"`, "options (lock_timeout)"},
		{"22023", "x", `недопустимое значение для параметра "TimeZone": "z"`, "options (timezone)"},
		{"42601", "process_postgres_switches", "ungültiges Kommandozeilenargument für Serverprozess: x", "options"},
		{"08P01", "", "unsupported startup parameter: search_path", "search_path"},
		{"08P01", "", "unsupported startup parameter in options: lock_timeout", "options (lock_timeout)"},
		{"08P01", "", "unsupported startup parameter: options", "options"},
		{"0A000", "x", `invalid value for parameter "application_name": "x"`, "application_name"},

		{"22023", "x", `invalid value for parameter "other.search_path": "x"`, ""},
		{"42704", "x", `unrecognized configuration parameter "search_path_x"`, ""},
		{"22012", "int4div", "division by zero", ""},
		{"28000", "InitializeSessionUserId", `role "search_path" does not exist`, ""},
		{"58P01", "internal_load_library", `could not access file "work_mem"`, ""},
	} {
		t.Run(test.message, func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t, refuse(pgproto3.ErrorResponse{
				Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: test.code, Routine: test.routine, Message: test.message,
			}))
			r := runProbe(t, newTestProber(t, s.Port, sent), hanging)
			if r.Up() {
				t.Fatal("up")
			}
			detail := "the server or a pooler refuses what the exporter sends: check " + test.key
			if own := r.Failure.Detail == detail; own != (test.key != "") || own && (r.Failure.Reason != ReasonOther || r.Failure.State != StateMisconfigured) {
				t.Errorf("got %+v, want the detail %q", r.Failure, detail)
			}
		})
	}
}
