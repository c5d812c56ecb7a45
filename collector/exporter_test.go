package collector

import (
	"bytes"
	"context"
	"flag"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"

	"pg_liveness_exporter/probe"
)

var update = flag.Bool("update", false, "write the golden files")

func seconds(v float64) probe.Number { return probe.Number{Value: v, Known: true} }

// healthy is a server as a role with pg_monitor sees it.
func healthy() *probe.Result {
	r := &probe.Result{
		Start: time.Unix(1800000000, 0), Duration: 4 * time.Millisecond, Deadline: 5 * time.Second,
		Connect: seconds(.003), Query: seconds(.00008), Keeps: true, KeptUp: true,
		Figures: &probe.Figures{
			Connections: []probe.Connections{
				{Database: "", State: "starting", Count: 1},
				{Database: "app", State: "active", Count: 3},
				{Database: "app", State: "idle", Count: 7},
				{Database: "app", State: "idle in transaction", Count: 1},
				{Database: "app", State: "idle in transaction (aborted)"},
				{Database: "app", State: "fastpath function call"},
				{Database: "app", State: "disabled"},
			},
			Applications: []probe.Applications{{Name: "web", Count: 9}, {Name: "", Count: 2}, {Name: "pg_liveness_exporter", Count: 1}},
			Used:         12, Usable: 92, MaxConnections: 100, SuperuserReservedConnections: 3, ReservedConnections: seconds(5),
			DatabaseLimits: []probe.DatabaseLimit{{Database: "app", Limit: 50}}, RoleLimit: seconds(10),
			LockWaiting: seconds(1), IdleInTransactionMax: seconds(12.5), TransactionMax: seconds(30), Privileged: true,
			PostmasterStart: seconds(1790000000), CheckpointerStart: seconds(1790000000.5), Version: "18.4", VersionNum: "180004",
		},
	}
	for i, took := range []float64{.0001, .0002, .0009, .0018, .0001} {
		r.Phases[probe.AllPhases()[i]] = seconds(took)
	}
	return r
}

func unprivileged() *probe.Result {
	r := healthy()
	f := r.Figures
	f.Connections = []probe.Connections{{Database: "app", State: "unknown", Count: 11}, {Database: "app", State: "active", Count: 1}}
	f.Applications, f.DatabaseLimits, f.RoleLimit = nil, nil, probe.Number{}
	f.LockWaiting, f.IdleInTransactionMax, f.TransactionMax, f.CheckpointerStart = probe.Number{}, probe.Number{}, probe.Number{}, probe.Number{}
	f.Privileged = false
	return r
}

func down() *probe.Result {
	r := &probe.Result{
		Start: time.Unix(1800000000, 0), Duration: time.Millisecond, Deadline: 5 * time.Second, Keeps: true,
		Failure: &probe.Failure{Reason: probe.ReasonRefused, State: probe.StateNoResponse, Phase: probe.PhaseDial},
	}
	r.Phases[probe.PhaseResolve], r.Phases[probe.PhaseDial] = seconds(.0001), seconds(.0009)
	return r
}

// fixedProber finds the same each time.
type fixedProber struct{ result *probe.Result }

func (p fixedProber) Probe(context.Context) *probe.Result { return p.result }
func (p fixedProber) Close(context.Context) error         { return nil }

func newTestExporter(r *probe.Result) (*Exporter, *Target) {
	shared, sessions := &atomic.Uint64{}, &probe.Sessions{}
	logger := slog.New(slog.DiscardHandler)
	target := NewTarget(TargetOptions{Timeout: 5 * time.Second, Keeps: true, Logger: logger, Shared: shared},
		func(func(probe.LossReason, time.Time)) Prober { return fixedProber{r} })
	return NewExporter([]*Target{target}, Options{
		TimeoutOffset: 500 * time.Millisecond, Sessions: sessions, Shared: shared, Logger: logger,
	}), target
}

// TestGolden holds what is shown of a server against the files in testdata, and promlint finds nothing in it.
func TestGolden(t *testing.T) {
	for name, r := range map[string]*probe.Result{"up": healthy(), "unprivileged": unprivileged(), "down": down()} {
		t.Run(name, func(t *testing.T) {
			e, target := newTestExporter(r)
			target.lost(probe.LossCrash, time.Unix(1799999999, 0))
			snapshot, _ := target.Probe(t.Context(), time.Now().Add(time.Minute))
			registry := prometheus.NewPedanticRegistry()
			registry.MustRegister(e.table.View(snapshot))
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			for _, family := range families {
				if _, err := expfmt.MetricFamilyToText(&got, family); err != nil {
					t.Fatal(err)
				}
			}
			file := filepath.Join("testdata", name+".prom")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("differs from %s (go test ./collector -update writes it anew):\n%s", file, got.String())
			}
			problems, err := promlint.New(&got).Lint()
			if err != nil || len(problems) > 0 {
				t.Errorf("promlint: %v %v", problems, err)
			}
		})
	}
}

// TestOwnMetrics: the exporter's own metrics are there beside the target's, and are as promlint wants them.
func TestOwnMetrics(t *testing.T) {
	e, _ := newTestExporter(healthy())
	response := httptest.NewRecorder()
	e.ServeHTTP(response, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if response.Code != http.StatusOK {
		t.Fatalf("status %d", response.Code)
	}
	for _, series := range []string{
		"pg_up 1", "pg_liveness_exporter_targets 1", `pg_liveness_exporter_sessions{state="idle"} 0`,
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

func TestBudget(t *testing.T) {
	e, _ := newTestExporter(healthy())
	for header, want := range map[string]time.Duration{
		"": 5 * time.Second, "10": 5 * time.Second, "3": 2500 * time.Millisecond, "0.55": leastBudget, "0.01": leastBudget,
		"0": 5 * time.Second, "-1": 5 * time.Second, "NaN": 5 * time.Second, "+Inf": 5 * time.Second, "soon": 5 * time.Second,
		"1e300": 5 * time.Second,
	} {
		if got := e.budget(header); got != want {
			t.Errorf("%q: got %s, want %s", header, got, want)
		}
	}
}
