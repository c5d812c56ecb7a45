// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"context"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

var update = flag.Bool("update", false, "write the golden files")

func seconds(v float64) probe.Number { return probe.Number{Value: v, Known: true} }

func took(d time.Duration) probe.Duration { return probe.Duration{Value: d, Known: true} }

// healthy returns a result of a healthy server whose role has pg_monitor.
func healthy() *probe.Result {
	r := &probe.Result{
		Start: time.Unix(1800000000, 0), Duration: 4 * time.Millisecond, Deadline: 5 * time.Second,
		Connect: took(3 * time.Millisecond), Query: took(80 * time.Microsecond), Keep: true, KeptUp: true, Role: &probe.Role{},
		ServerStats: &probe.ServerStats{
			Connections: []probe.Connections{
				{Database: "", State: "starting", Count: 1},
				{Database: "app", State: "active", Count: 3, TransactionMax: seconds(30)},
				{Database: "app", State: "idle", Count: 7, TransactionMax: seconds(0)},
				{Database: "app", State: "idle in transaction", Count: 1, TransactionMax: seconds(12.5)},
				{Database: "app", State: "idle in transaction (aborted)"},
				{Database: "app", State: "fastpath function call"},
				{Database: "app", State: "disabled"},
			},
			Applications: []probe.Applications{
				{Name: "web", Count: 9}, {Name: "", Count: 2}, {Name: "pg_liveness_exporter", Count: 1},
			},
			Used: seconds(12), Usable: seconds(92), MaxConnections: seconds(100), SuperuserReservedConnections: seconds(3), ReservedConnections: seconds(5),
			SessionStats:   []probe.SessionStats{{Database: "app", Sessions: 500, Abandoned: 3, Fatal: 2, Killed: 1}},
			DatabaseLimits: []probe.DatabaseLimit{{Database: "app", Limit: 50}}, RoleLimit: seconds(10),
			LockWaiting: seconds(1), IdleInTransactionMax: seconds(12.5), TransactionMax: seconds(30), Privileged: true,
			PostmasterStart: seconds(1790000000), CheckpointerStart: seconds(1790000000.5), Version: "18.4", VersionNum: "180004",
		},
	}
	for i, tenths := range []time.Duration{1, 2, 9, 18, 1} {
		r.Phases[probe.AllPhases()[i]] = took(tenths * 100 * time.Microsecond)
	}
	return r
}

// standby returns a result of a replica that is two seconds behind.
func standby() *probe.Result {
	r := healthy()
	r.Role = &probe.Role{Replica: true, ReadOnly: true}
	stats := r.ServerStats
	stats.Role, stats.WALReceiverUp, stats.ReplicationLag, stats.ApplyDelay = r.Role, seconds(1), seconds(2), seconds(300)
	return r
}

// overTLS returns a result of a healthy server with TLS.
func overTLS() *probe.Result {
	r := healthy()
	r.TLS = &probe.TLS{NotAfter: time.Unix(1900000000, 0), Version: "TLS 1.3", Cipher: "TLS_AES_256_GCM_SHA384"}
	return r
}

// pooler returns a result of a PgBouncer whose version has all columns.
func pooler() *probe.Result {
	r := healthy()
	r.ServerStats, r.Role = nil, nil
	r.PoolerStats = &probe.PoolerStats{
		Version: "PgBouncer 1.26.1",
		Pools: []probe.PoolerRow{{Labels: []string{"app", "web"}, Values: map[string]float64{
			"cl_active": 30, "cl_waiting": 2, "cl_active_cancel_req": 0, "cl_waiting_cancel_req": 0, "sv_active": 20, "sv_active_cancel": 0,
			"sv_being_canceled": 0, "sv_idle": 0, "sv_used": 0, "sv_tested": 0, "sv_login": 0, "maxwait": 1, "maxwait_us": 250000,
		}}},
		Databases: []probe.PoolerRow{{Labels: []string{"app_1", "", "app", "transaction"}, Values: map[string]float64{
			"pool_size": 20, "reserve_pool_size": 5, "max_connections": 0, "current_connections": 20, "paused": 0, "disabled": 0,
			"max_client_connections": 0, "current_client_connections": 32,
		}}},
		Totals: []probe.PoolerRow{{Labels: []string{"app"}, Values: map[string]float64{
			"query_count": 1000, "query_time": 2500000, "bytes_received": 5000, "bytes_sent": 6000, "wait_time": 1500000, "xact_count": 900,
			"xact_time": 3000000, "server_assignment_count": 800, "client_parse_count": 7, "server_parse_count": 6, "bind_count": 5,
			"client_login_count": 40,
		}}},
		Lists: map[string]float64{
			"databases": 2, "users": 3, "pools": 2, "free_clients": 18, "used_clients": 32, "login_clients": 0, "free_servers": 0,
			"used_servers": 20, "dns_names": 1, "dns_zones": 0, "dns_queries": 0,
		},
		Config: map[string]float64{"max_client_conn": 100, "max_user_connections": 0},
	}
	return r
}

// unprivileged returns a result of a healthy server whose role lacks pg_monitor.
func unprivileged() *probe.Result {
	r := healthy()
	stats := r.ServerStats
	stats.Connections = []probe.Connections{
		{Database: "app", State: "unknown", Count: 11}, {Database: "app", State: "active", Count: 1},
	}
	stats.LockWaiting, stats.IdleInTransactionMax = probe.Number{}, probe.Number{}
	stats.TransactionMax, stats.CheckpointerStart = probe.Number{}, probe.Number{}
	stats.Privileged = false
	return r
}

// down returns a result of a server that refuses connections.
func down() *probe.Result {
	r := &probe.Result{
		Start: time.Unix(1800000000, 0), Duration: time.Millisecond, Deadline: 5 * time.Second, Keep: true,
		Failure: &probe.Failure{Reason: probe.ReasonRefused, State: probe.StateNoResponse, Phase: probe.PhaseDial},
	}
	r.Phases[probe.PhaseResolve], r.Phases[probe.PhaseDial] = took(100*time.Microsecond), took(900*time.Microsecond)
	return r
}

// unqueried is embedded in fake probers of tests that run no statements.
type unqueried struct{}

func (unqueried) Query(context.Context, string, time.Duration) (probe.Scalar, *probe.Failure) {
	panic("no statement is expected")
}

// fixedProber is a fake prober whose probes all have the same result.
type fixedProber struct {
	unqueried
	result *probe.Result
}

func (p fixedProber) Probe(context.Context) *probe.Result { return p.result }
func (p fixedProber) ForgetRefusals()                     {}
func (p fixedProber) SetKeep(bool)                        {}
func (p fixedProber) Close(context.Context) error         { return nil }

// newTestExporter returns an exporter with a target for each name. All their probes have the result r.
func newTestExporter(t testing.TB, r *probe.Result, names ...string) *testExporter {
	t.Helper()
	e := &testExporter{}
	e.Exporter = New(newTestMonitor(t, func(_ *config.Target, events monitor.Events) monitor.Prober {
		e.events = events
		return fixedProber{result: r}
	}), Options{TimeoutOffset: 500 * time.Millisecond, Sessions: &probe.Sessions{}, Logger: slog.New(slog.DiscardHandler)})
	file := &config.File{}
	kind := config.KindPostgres
	if r.PoolerStats != nil {
		kind = config.KindPgBouncer
	}
	for _, name := range names {
		file.Targets = append(file.Targets, &config.Target{
			Name: name, Implied: name == "", Kind: kind,
			Probing: config.Probing{Timeout: 5 * time.Second, Keep: true, Commit: r.ServerStats != nil && !r.Role.Replica},
		})
	}
	e.monitor.ApplyConfig(file)
	return e
}

// testExporter is an exporter and the events of its last target.
type testExporter struct {
	*Exporter
	events monitor.Events
}

// newTestMonitor returns a monitor, and closes it when the test ends.
func newTestMonitor(t testing.TB, newProber func(*config.Target, monitor.Events) monitor.Prober) *monitor.Monitor {
	t.Helper()
	m := monitor.New(monitor.Options{
		MaxInFlight: 10, NewProber: newProber, NewHistograms: NewHistograms, Logger: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// exposition returns the metrics of a view in the text format. prometheus.Gatherers returns the errors that a registry
// would return.
func exposition(t *testing.T, e *testExporter, v *View) string {
	t.Helper()
	families, err := prometheus.Gatherers{v, e.registry}.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for _, family := range families {
		if strings.HasPrefix(family.GetName(), Name) || !strings.HasPrefix(family.GetName(), "pg") {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			t.Fatal(err)
		}
	}
	return text.String()
}

// TestGolden compares the metrics of a target with the files in testdata, and checks them with promlint.
func TestGolden(t *testing.T) {
	for name, r := range goldens() {
		t.Run(name, func(t *testing.T) {
			e := newTestExporter(t, r, "")
			target := e.monitor.Targets()[0]
			e.events.OnSessionLost(probe.Loss{Reason: probe.LossCrash, At: time.Unix(1799999999, 0)})
			snapshot, _ := target.Probe(t.Context(), time.Now().Add(time.Minute))
			if snapshot.Commit != nil {
				snapshot.CommitResult = &probe.CommitResult{Took: took(2 * time.Millisecond)}
				e.events.OnCommit(snapshot.CommitResult)
			}
			got := exposition(t, e, e.table.View(snapshot))
			file := filepath.Join("testdata", name+".prom")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("differs from %s (go test ./collector -update writes it anew):\n%s", file, got)
			}
			problems, err := promlint.New(strings.NewReader(got)).Lint()
			if err != nil || len(problems) > 0 {
				t.Errorf("promlint: %v %v", problems, err)
			}
		})
	}
}

// goldens returns the results by the name of their file in testdata.
func goldens() map[string]*probe.Result {
	return map[string]*probe.Result{
		"up": healthy(), "unprivileged": unprivileged(), "standby": standby(), "tls": overTLS(),
		"pgbouncer": pooler(), "down": down(),
	}
}

// TestCompat tests that the option Compat changes no other metric, and compares the metrics that it adds with files in
// testdata/compat.
func TestCompat(t *testing.T) {
	for name, r := range goldens() {
		e := newTestExporter(t, r, "")
		target := e.monitor.Targets()[0]
		snapshot, _ := target.Probe(t.Context(), time.Now().Add(time.Minute))
		plain, all := exposition(t, e, e.table.View(snapshot)), exposition(t, e, NewTable(true).View(snapshot))
		var added strings.Builder
		for line := range strings.Lines(all) {
			if !strings.Contains(plain, line) {
				added.WriteString(line)
			}
		}
		for line := range strings.Lines(plain) {
			if !strings.Contains(all, line) {
				t.Errorf("%s: lost %s", name, line)
			}
		}
		file := filepath.Join("testdata", "compat", name+".prom")
		if *update {
			if err := os.WriteFile(file, []byte(added.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if added.String() != string(want) {
			t.Errorf("differs from %s (go test ./collector -update writes it anew):\n%s", file, &added)
		}
	}
}

// TestLabel tests that /metrics has the same series as /probe, except for the label target and the target's own labels,
// and that targets may have different ones.
func TestLabel(t *testing.T) {
	names := []string{"a", "b", `odd "name" {}, ü\`}
	e := newTestExporter(t, healthy(), names...)
	file := &config.File{}
	for i, name := range names {
		file.Targets = append(file.Targets, &config.Target{
			Name: name, Kind: config.KindPostgres, Probing: config.Probing{Timeout: 5 * time.Second, Keep: true, Commit: true},
			Labels: [][]config.Label{nil, {{Name: "zone", Value: "1"}}, {{Name: "Team", Value: `d"b`}, {Name: "cluster", Value: "ü"}}}[i],
		})
	}
	e.monitor.ApplyConfig(file)
	var snapshots []monitor.Snapshot
	want := map[string]bool{}
	for _, target := range e.monitor.Targets() {
		s, err := target.Probe(t.Context(), time.Now().Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		snapshots = append(snapshots, s)
		pair := func(name, value string) string {
			return name + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
		}
		ofTarget := []string{pair(targetLabel, s.Target)}
		for _, l := range s.Labels {
			ofTarget = append(ofTarget, pair(l.Name, l.Value))
		}
		slices.Sort(ofTarget)
		for line := range strings.Lines(exposition(t, e, e.table.View(s))) {
			switch name, rest, labelled := strings.Cut(line, "{"); {
			case strings.HasPrefix(line, "#"):
				want[line] = true
			case !labelled:
				want[strings.Replace(name, " ", "{"+strings.Join(ofTarget, ",")+"} ", 1)] = true
			default: // labels are sorted by name, except that le is last
				labels, value, _ := strings.Cut(rest, "} ")
				all := append(regexp.MustCompile(`[a-z_]+="(?:[^"\\]|\\.)*"`).FindAllString(labels, -1), ofTarget...)
				slices.SortFunc(all, func(a, b string) int {
					if aIsLe, bIsLe := strings.HasPrefix(a, "le="), strings.HasPrefix(b, "le="); aIsLe != bIsLe {
						if aIsLe {
							return 1
						}
						return -1
					}
					return strings.Compare(a, b)
				})
				want[name+"{"+strings.Join(all, ",")+"} "+value] = true
			}
		}
	}
	got := map[string]bool{}
	for line := range strings.Lines(exposition(t, e, e.table.LabelledView(snapshots))) {
		got[line] = true
		if !want[line] {
			t.Errorf("only /metrics has %s", line)
		}
	}
	for line := range want {
		if !got[line] {
			t.Errorf("/metrics lacks %s", line)
		}
	}
}

// TestOwnMetrics tests that /metrics has the exporter's own metrics as well as those of the target, and checks them
// with promlint.
func TestOwnMetrics(t *testing.T) {
	e := newTestExporter(t, healthy(), "")
	response := httptest.NewRecorder()
	e.ServeHTTP(response, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if response.Code != http.StatusOK {
		t.Fatalf("status %d", response.Code)
	}
	for _, series := range []string{
		"pg_up 1", "pg_liveness_exporter_targets 1", "pg_liveness_exporter_config_last_reload_successful 1",
		"pg_liveness_exporter_config_last_reload_success_timestamp_seconds 1.", `pg_liveness_exporter_sessions{state="idle"} 0`,
		"pg_liveness_exporter_shared_probes_total 0", "pg_liveness_exporter_build_info{", "go_goroutines ",
	} {
		if !strings.Contains(response.Body.String(), "\n"+series) {
			t.Errorf("%q is missing", series)
		}
	}
	problems, err := testutil.GatherAndLint(e.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, Name) {
			t.Errorf("promlint: %s: %s", p.Metric, p.Text)
		}
	}
}

// TestReservedLabels tests that no target can have a label that a metric has, and that only these and Prometheus's own are
// refused.
func TestReservedLabels(t *testing.T) {
	t.Parallel()
	reserved := map[string]bool{"job": true, "instance": true, targetLabel: true, "le": true, "quantile": true}
	for _, m := range NewTable(true).metrics {
		for _, name := range m.labels {
			reserved[name] = true
		}
	}
	for _, m := range checkMetrics() {
		for _, name := range m.labels {
			reserved[name] = true
		}
	}
	families, err := newTestExporter(t, healthy(), "").registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, series := range family.GetMetric() {
			for _, l := range series.GetLabel() {
				reserved[l.GetName()] = true
			}
		}
	}
	for _, free := range []string{"cluster", "standby_cluster", "environment", "region", "team", "module", "host"} {
		reserved[free] = false
	}
	for name, want := range reserved {
		_, err := config.Parse(strings.NewReader("targets: {a: {host: h, user: u, labels: {"+name+": x}}}"), "x.yml",
			config.Probing{Timeout: time.Second}, nil)
		if refused := err != nil && strings.Contains(err.Error(), "is reserved"); refused != want {
			t.Errorf("%s: refused %v, want %v: %v", name, refused, want, err)
		}
	}
}

func TestMaxWait(t *testing.T) {
	e := newTestExporter(t, healthy(), "")
	for header, want := range map[string]time.Duration{
		"": 5 * time.Second, "10": 9500 * time.Millisecond, "3": 2500 * time.Millisecond, "0.55": minWait, "0.01": minWait,
		"0": 5 * time.Second, "-1": 5 * time.Second, "NaN": 5 * time.Second, "+Inf": 5 * time.Second, "soon": 5 * time.Second,
		"1e300": 5 * time.Second,
	} {
		if got := e.maxWait(header, 5*time.Second); got != want {
			t.Errorf("%q: got %s, want %s", header, got, want)
		}
	}
}

// TestClientHangsUp checks that a client that hangs up while it is written to costs one debug line, without its address.
func TestClientHangsUp(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	e := newTestExporter(t, healthy(), "a")
	e.options.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w := &brokenWriter{ResponseRecorder: httptest.NewRecorder()}
	e.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=DEBUG") || strings.Contains(got, "192.0.2.1") {
		t.Errorf("logged: %s", got)
	}
	if w.writes != 1 {
		t.Errorf("%d writes", w.writes)
	}
}

// brokenWriter fails like a connection that the client has closed.
type brokenWriter struct {
	*httptest.ResponseRecorder
	writes int
}

func (w *brokenWriter) Write([]byte) (int, error) {
	w.writes++
	return 0, &net.OpError{Op: "write", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, Err: syscall.EPIPE}
}
