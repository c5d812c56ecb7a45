// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// readRunbooks returns the runbooks' texts by name.
func readRunbooks(t *testing.T) map[string]string {
	t.Helper()
	runbooks := map[string]string{}
	for _, file := range glob(t, "examples/runbooks/*.md") {
		runbooks[strings.TrimSuffix(filepath.Base(file), ".md")] = read(t, file)
	}
	return runbooks
}

// TestRunbooks: each alert has a runbook and says where, each runbook an alert, and all the same headings. No document speaks of an
// alert that does not exist.
func TestRunbooks(t *testing.T) {
	runbooks := readRunbooks(t)
	alerts := map[string]bool{}
	for _, r := range readRules(t).all() {
		if r.Alert == "" {
			continue
		}
		alerts[r.Alert] = true
		if runbooks[r.Alert] == "" {
			t.Errorf("%s has no runbook", r.Alert)
		}
		if got, want := r.Annotations["runbook_url"], "https://example.org/runbooks/"+r.Alert; got != want {
			t.Errorf("%s: runbook_url is %s, want %s", r.Alert, got, want)
		}
	}
	headings := regexp.MustCompile(`(?m)^#+ (.*)$`)
	mention := regexp.MustCompile(`\b(?:Postgres|PgBouncer|PgLiveness)[A-Z]\w+`)
	for _, page := range documents(t) {
		for _, other := range mention.FindAllString(read(t, page), -1) {
			if !alerts[other] {
				t.Errorf("%s speaks of %s, which is no alert", page, other)
			}
		}
	}
	for name, text := range runbooks {
		if !alerts[name] {
			t.Errorf("no alert is called %s", name)
		}
		var got []string
		for _, h := range headings.FindAllStringSubmatch(regexp.MustCompile("(?s)```.*?```").ReplaceAllString(text, ""), -1) {
			got = append(got, h[1])
		}
		want := []string{name, "Meaning", "Impact", "Diagnosis", "Mitigation", "Safe", "Not safe"}
		expectEqual(t, name+": headings", want, got)
		_, diagnosis, _ := strings.Cut(text, "## Diagnosis")
		diagnosis, _, _ = strings.Cut(diagnosis, "## Mitigation")
		if !strings.Contains(diagnosis, "```sql\n-- psql, ") {
			t.Errorf("%s: the diagnosis has no line for psql", name)
		}
		for _, other := range mention.FindAllString(text, -1) {
			if !alerts[other] {
				t.Errorf("%s speaks of %s, which is no alert", name, other)
			}
		}
	}
}

// TestRunbookSQL runs every statement of the runbooks and of docs/, so that none rots: those of the server on a throwaway primary,
// those of PgBouncer's console on a throwaway PgBouncer.
func TestRunbookSQL(t *testing.T) {
	t.Parallel()
	server, err := testservers.NewPostgres(t.Context(), testservers.PostgresConfig{Bin: testenv.Bin(t), Template: dataTemplate(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Remove() })
	const ofClouds = `; CREATE ROLE rds_iam; CREATE ROLE "liveness@my-project.iam"; CREATE FUNCTION ` +
		"pgaadauth_create_principal(text, boolean, boolean) RETURNS text LANGUAGE sql AS 'SELECT $1'"
	if err := server.Exec(t.Context(), "CREATE ROLE liveness LOGIN; CREATE ROLE app"+ofClouds); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("pgbouncer")
	testenv.Need(t, err == nil, "PgBouncer", "make test, as root")
	pool, err := testservers.NewPgBouncer(t.Context(), testservers.PgBouncerConfig{Bin: program})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pool.Remove() })

	// What only some servers have: the column and the setting are of PostgreSQL 14, and a primary has nothing to resume or to
	// promote. The role is there already.
	const undefinedColumn, notInThisState, undefinedObject, duplicateObject = "42703", "55000", "42704", "42710"
	allowed := map[string]string{
		"sessions": undefinedColumn, "pg_wal_replay_resume": notInThisState, "pg_promote": notInThisState,
		"idle_session_timeout": undefinedObject, "CREATE ROLE liveness": duplicateObject,
	}
	block := regexp.MustCompile("(?s)```sql\n-- psql, on ([^\n]*)\n(.*?)```")
	statements := 0
	texts := readRunbooks(t)
	for _, page := range glob(t, "docs/*.md") {
		texts[page] = read(t, page)
	}
	for name, text := range texts {
		if got, want := len(block.FindAllString(text, -1)), strings.Count(text, "```sql"); got != want {
			t.Errorf("%s: %d of %d blocks of SQL say where they are to be run", name, got, want)
		}
		for _, b := range block.FindAllStringSubmatch(text, -1) {
			connect := server.Connect
			if strings.HasPrefix(b[1], "PgBouncer's console") {
				connect = pool.Console
			}
			for statement := range strings.SplitSeq(strings.TrimSpace(b[2]), ";") {
				if strings.TrimSpace(statement) == "" {
					continue
				}
				statements++
				conn, err := connect(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				_, err = conn.Exec(t.Context(), statement).ReadAll()
				_ = conn.Close(t.Context())
				var refused *pgconn.PgError
				if errors.As(err, &refused) {
					for word, code := range allowed {
						if strings.Contains(statement, word) && refused.Code == code {
							err = nil
						}
					}
				}
				if err != nil {
					t.Errorf("%s: %s\n%v", name, statement, err)
				}
			}
		}
	}
	if statements < len(readRunbooks(t)) {
		t.Errorf("only %d statements", statements)
	}
}
