// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A fault of TestMends begins at faultBegins and is mended at faultEnds, in minutes.
const faultBegins, faultEnds, faultMinutes = 15, 45, 120

// mendedFaults returns the faults of TestMends. Each changes a healthy cluster from one minute to another.
func mendedFaults() map[string]func(p *play, from, until int) {
	return map[string]func(p *play, from, until int){
		"the primary is stopped": func(p *play, from, until int) {
			p.fail("one", "no_response", "refused", from, until)
			p.startPrimary(until)
			p.change("one", `pg_liveness_check_up{check="backlog"}`, from, until+1, "0")
			p.change("pool", `pgbouncer_pools_server_active_connections{database="app",user="web"}`, from, until, "0")
			p.change("pool", `pgbouncer_pools_client_waiting_connections{database="app",user="web"}`, from, until, "20")
			p.change("pool", `pgbouncer_pools_client_maxwait_seconds{database="app",user="web"}`, from, until, "60")
			p.change("two", "pg_wal_receiver_up", from, until, "0")
			for i := from; i < until; i++ {
				p.change("two", "pg_replication_lag_seconds", i, i+1, fmt.Sprint(60*(i-from)))
			}
		},
		"the primary hangs": func(p *play, from, until int) { p.fail("one", "no_response", "timeout", from, until) },
		"the slots are exhausted, and then freed": func(p *play, from, until int) {
			p.fail("one", "connection_limit", "reserved_slots", from, until)
			p.change("one", "pg_connections_used", from, until, "92")
		},
		"the slots fill, then the server stops": func(p *play, from, until int) {
			p.change("one", "pg_connections_used", from, from+10, "91")
			p.fail("one", "connection_limit", "reserved_slots", from+10, from+18)
			p.change("one", "pg_connections_used", from+10, from+18, "92")
			p.fail("one", "no_response", "refused", from+18, until)
			p.startPrimary(until)
		},
		"commits hang, then the server is restarted": func(p *play, from, until int) {
			p.change("one", "pg_commit_up", from, until-10, "0")
			p.fail("one", "no_response", "refused", until-10, until)
			p.change("one", "pg_commit_up", until-10, until, gone)
			p.change("one", "pg_commit_up", until, p.minutes, "1")
			p.startPrimary(until)
		},
		"the replica does not stream": func(p *play, from, until int) {
			p.change("two", "pg_wal_receiver_up", from, until, "0")
			for i := from; i < until; i++ {
				p.change("two", "pg_replication_lag_seconds", i, i+1, fmt.Sprint(60*(i-from)))
			}
		},
		"the exporter is cut off": func(p *play, from, until int) {
			p.fail("one", "no_response", "unreachable", from, until)
			p.fail("two", "no_response", "unreachable", from, until)
			p.fail("pool", "no_response", "unreachable", from, until)
		},
		"a full server hangs": func(p *play, from, until int) {
			p.failLogins("one", "no_response", "timeout", from, until)
			p.change("one", "pg_connections_used", from, until, "92")
		},
		"the exporter crashes again and again": func(p *play, from, until int) {
			for i := from; i < until; i += 6 {
				p.failScrapes(i, min(i+4, until))
			}
		},
		"the pool is stopped": func(p *play, from, until int) { p.fail("pool", "no_response", "refused", from, until) },
		"a full pool hangs": func(p *play, from, until int) {
			p.change("pool", "pgbouncer_used_clients", from, until, "100")
			p.change("pool", `pgbouncer_pools_client_maxwait_seconds{database="app",user="web"}`, from, until, "60")
			p.failLogins("pool", "no_response", "timeout", from+10, until)
		},
		"a pool is full": func(p *play, from, until int) {
			p.change("pool", "pgbouncer_used_clients", from, until, "100")
			p.fail("pool", "connection_limit", "pooler", from, until)
		},
		"a pool is paused": func(p *play, from, until int) {
			p.change("pool", `pgbouncer_databases_paused{database="app_1",force_user="",name="app",pool_mode="transaction"}`, from, until, "1")
			p.change("pool", `pgbouncer_pools_client_waiting_connections{database="app",user="web"}`, from, until, "20")
			p.change("pool", `pgbouncer_pools_client_maxwait_seconds{database="app",user="web"}`, from, until, "60")
		},
		"a pool finds no server": func(p *play, from, until int) {
			p.change("pool", `pgbouncer_pools_server_active_connections{database="app",user="web"}`, from, until, "0")
			p.change("pool", `pgbouncer_pools_client_waiting_connections{database="app",user="web"}`, from, until, "20")
			p.change("pool", `pgbouncer_pools_client_maxwait_seconds{database="app",user="web"}`, from, until, "60")
		},
		"there is no primary": func(p *play, from, until int) {
			p.change("one", "pg_replication_is_replica", from, until, "1")
			p.change("one", "pg_transaction_read_only", from, until, "1")
		},
		"there is no primary, and the replica stops": func(p *play, from, until int) {
			p.change("one", "pg_replication_is_replica", from, until, "1")
			p.fail("two", "no_response", "refused", from, until)
			p.change("pool", `pgbouncer_pools_server_active_connections{database="app",user="web"}`, from, until, "0")
			p.change("pool", `pgbouncer_pools_client_waiting_connections{database="app",user="web"}`, from, until, "20")
		},
		"the primary is stopped, and begins as a replica": func(p *play, from, until int) {
			p.fail("one", "no_response", "refused", from, until)
			p.startPrimary(until)
			p.change("one", "pg_replication_is_replica", until, until+1, "1")
			p.change("pool", `pgbouncer_pools_server_active_connections{database="app",user="web"}`, from, until+1, "0")
			p.change("pool", `pgbouncer_pools_client_waiting_connections{database="app",user="web"}`, from, until+1, "20")
		},
		"the server crashes": func(p *play, from, _ int) {
			p.change("one", `pg_session_losses_total{reason="crash"}`, from, p.minutes, "2")
			p.change("one", "pg_checkpointer_start_time_seconds", from, p.minutes, fmt.Sprint(from*60-5))
		},
		"the certificate expires, and is replaced": func(p *play, _, until int) {
			p.change("one", "pg_tls_certificate_not_after_timestamp_seconds", 0, until, fmt.Sprint(until*60+3600))
		},
		"the password is refused": func(p *play, from, until int) { p.fail("one", "misconfigured", "auth", from, until) },
		"the server fails now and then": func(p *play, from, until int) {
			for i := from; i+1 < until; i += 3 {
				p.fail("one", "no_response", "timeout", i, i+1)
			}
			for i := from; i < p.minutes; i++ {
				p.change("one", `pg_probe_failures_total{reason="timeout"}`, i, i+1, fmt.Sprint(min(i, until)/3-from/3+1))
			}
		},
	}
}

// bareSuffix marks a copy of an alert that does not leave out what explains it.
const bareSuffix = "Bare"

// withBareCopies writes the rules without annotations, and beside each alert that leaves others out a copy that does not. It
// returns the path, and the pairs of alerts of which the first leaves out the second.
func withBareCopies(t *testing.T) (path string, pairs [][2]string) {
	t.Helper()
	f := readRules(t)
	source := regexp.MustCompile(`alertname=~?"([^"]+)"`)
	// Such a clause is a line of its own, or has its selector on the lines that follow.
	clause := regexp.MustCompile(`(?m)^ *unless on \([a-z, ]*\)\s*(last_over_time\()?(ALERTS\{[^}]*\}|[a-z_:]+:last_primary_down)(\[[^\]]*\]\))?.*$\n?`)
	for i := range f.Groups {
		g := &f.Groups[i]
		for j := range g.Rules {
			g.Rules[j].Annotations = nil
		}
		for _, r := range slices.Clone(g.Rules) {
			if r.Alert == "" {
				continue
			}
			left := clause.FindAllString(r.Expr, -1)
			for _, text := range left {
				names := "PostgresDown" // of the last primary
				if found := source.FindStringSubmatch(text); found != nil {
					names = found[1]
				}
				for _, name := range strings.Split(names, "|") {
					if pair := [2]string{r.Alert, name}; !slices.Contains(pairs, pair) {
						pairs = append(pairs, pair)
					}
				}
			}
			if len(left) > 0 {
				r.Expr = strings.ReplaceAll(clause.ReplaceAllString(r.Expr, ""), `"`+r.Alert+`"`, `"`+r.Alert+bareSuffix+`"`)
				r.Alert += bareSuffix
				g.Rules = append(g.Rules, r)
			}
		}
	}
	content, err := yaml.Marshal(f)
	check(t, err)
	path = filepath.Join(t.TempDir(), "rules.yml")
	check(t, os.WriteFile(path, content, 0o600))
	return path, pairs
}

// TestMends tests that no alert begins after a fault is mended, and that none stays, except for those that report what has
// happened. A page after the mend wakes somebody for nothing. For each pair of alerts of which one leaves out the other, a fault
// must have both.
func TestMends(t *testing.T) {
	t.Parallel()
	rules, pairs := withBareCopies(t)
	if len(pairs) < 20 {
		t.Fatalf("only %d pairs of alerts", len(pairs))
	}
	const margin = 2 // minutes: a scrape and an evaluation
	notices := []string{"PostgresRestarted", "PostgresCrashRestarted", "PostgresRoleChanged"}
	firing := `ALERTS{alertstate="firing", alertname!~".*` + bareSuffix + `"}`
	begins := fmt.Sprintf("group by (alertname, target) (count_over_time((%[1]s unless %[1]s offset 1m)[%dm:1m]))",
		firing, faultMinutes-faultEnds-margin)
	ends := "group by (alertname, target) (" + firing + ")"
	var both []string
	for _, pair := range pairs {
		both = append(both, fmt.Sprintf(`label_replace(group(count_over_time((`+
			`ALERTS{alertname="%s%s", alertstate="firing"} and on (job) ALERTS{alertname="%s", alertstate="firing"})[%dm:1m])), `+
			`"alertname", "%[1]s %[3]s", "", "")`, pair[0], bareSuffix, pair[1], faultMinutes))
	}
	covered := make(chan []string, len(mendedFaults()))
	t.Run("faults", func(t *testing.T) {
		for name, breaks := range mendedFaults() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := newPlay(faultMinutes)
				p.standard(t)
				p.change("one", "pg_commit_up", 0, p.minutes, "1")
				breaks(p, faultBegins, faultEnds)
				found := p.ask(t, rules, begins, ends, strings.Join(both, " or "))
				for i, what := range []string{"begins after the mend", "still fires"} {
					for _, alert := range found[i] {
						if name, _, _ := strings.Cut(alert, " "); !slices.Contains(notices, name) {
							t.Errorf("%s %s", alert, what)
						}
					}
				}
				covered <- found[2]
			})
		}
	})
	close(covered)
	var seen []string
	for some := range covered {
		seen = append(seen, some...)
	}
	never := map[string]string{
		"PgLivenessCheckFailing PgBouncerDown":                 "no check runs on a PgBouncer",
		"PostgresConnectionsFillingUp PostgresConnectionsHigh": "the one looks an hour ahead, and a fault is shorter",
		"PostgresRestarted PostgresCrashRestarted":             "a crash leaves the start of the postmaster as it is",
	}
	for _, pair := range pairs {
		text := pair[0] + " " + pair[1]
		if isCovered := slices.Contains(seen, text); isCovered == (never[text] != "") {
			t.Errorf("no fault has both, or there is a reason why none can have them: %s (%s)", text, never[text])
		}
	}
}
