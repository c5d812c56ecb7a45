// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// ownSettingError is a server's error about a setting that the exporter sent or chose.
type ownSettingError struct {
	detail string // for Failure.Detail
	// isParameter reports whether the server refuses a run-time parameter that the exporter sent.
	isParameter bool
	err         error
}

func (e *ownSettingError) Error() string { return e.detail + ": " + e.err.Error() }
func (e *ownSettingError) Unwrap() error { return e.err }

// explainBySettings returns an *ownSettingError if err is a server's or pooler's error about a setting of this session, and
// err itself otherwise.
func (s *session) explainBySettings(err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return err
	}
	if name := refusedParameter(pgErr, s.parameters); name != "" {
		return &ownSettingError{"the server or a pooler refuses what the exporter sends: check " + name, true, err}
	}
	if pgErr.Code != "28000" || pgErr.Routine != "ClientAuthentication" || serverDetail(pgErr) != noHBALine {
		return err
	}
	switch d := s.dialer; {
	case d.loginHandshake.conn != nil && d.allowPlaintext:
		return &ownSettingError{noHBALine + "; if it is hostnossl, set sslmode=disable, because the login was encrypted", false, err}
	case d.tlsConfig == nil && d.metered.RemoteAddr().Network() != "unix":
		return &ownSettingError{noHBALine + "; if it is hostssl, set sslmode=require, because the login was not encrypted", false, err}
	}
	return err
}

// refusedParameter returns the keyword of the run-time parameter that an error is about, if it is one of those that were
// sent. The error's text is translated, but holds the parameter's name as it is (guc.c, and unsupported startup parameters
// of poolers). It returns "" for any other error: a server's own settings may be wrong too.
func refusedParameter(e *pgconn.PgError, sent map[string]string) string {
	if e.Routine == "process_postgres_switches" { // src/backend/tcop/postgres.c
		return "options"
	}
	isAboutSetting := e.Routine == "" && strings.Contains(e.Message, "parameter") || strings.HasPrefix(e.Code, "22") ||
		slices.Contains([]string{"42704", "55P02", "42501", "0A000", "42602"}, e.Code)
	if !isAboutSetting {
		return ""
	}
	for _, found := range optionNames().FindAllStringSubmatch(sent["options"], -1) {
		if name := strings.ReplaceAll(found[1], "-", "_"); holdsName(e.Message, name) {
			return "options (" + name + ")"
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sent)) {
		if holdsName(e.Message, name) {
			return name
		}
	}
	return ""
}

// optionNames matches the parameters of options: -c name=value, -cname=value and --name=value.
func optionNames() *regexp.Regexp {
	return regexp.MustCompile(`(?:^|\s)(?:-c\s*|--)([A-Za-z_][A-Za-z0-9_.-]{0,62})=`)
}

// holdsName reports whether a text holds a parameter's name, in any case, and not as a part of another word.
func holdsName(text, name string) bool {
	return regexp.MustCompile(`(?i)(^|[^a-z0-9_.])` + regexp.QuoteMeta(name) + `($|[^a-z0-9_])`).MatchString(text)
}
