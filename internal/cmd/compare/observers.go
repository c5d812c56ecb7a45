// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"pg_liveness_exporter/internal/testservers"
)

// scrapeTimeout is the timeout of a scrape, as examples/prometheus.yml sets it. A scraper that gets no answer in this
// time has no metrics.
const scrapeTimeout = 10 * time.Second

// The verdicts.
const (
	up            = "up"
	down          = "down"
	misconfigured = "misconfigured" // the server refuses this observer, which says so
	noAnswer      = "no answer"     // in scrapeTimeout
)

// The roles on the server. Each observer has its own, so that its sessions can be told apart. blackbox_exporter does not
// log in.
const (
	application = "app"
	oursRole    = "liveness"
	theirsRole  = "exporter"
	boundedRole = "bounded"
	isReadyRole = "isready"
)

// exporterRoles returns the roles of all exporters that log in.
func exporterRoles() []string { return []string{oursRole, theirsRole, boundedRole} }

// passwordOf returns the password of a role.
func passwordOf(role string) string { return "secret-" + role }

// said is what an observer said about the server at one time.
type said struct {
	Verdict string `json:"verdict"`
	// Reason is its own word for the cause, if it has one.
	Reason string `json:"reason,omitempty"`
	// Shows are metrics beside the verdict that show something unusual.
	Shows []string `json:"shows,omitempty"`
	// At is the time from the beginning of the fault until it had said that, Seconds the time that it took.
	At      float64 `json:"at"`
	Seconds float64 `json:"seconds"`
}

// words returns the verdict and its reason.
func (s said) words() string {
	if s.Reason == "" {
		return s.Verdict
	}
	return s.Verdict + " (" + s.Reason + ")"
}

// access is how to reach the server.
type access struct {
	port     int
	database string
	sslmode  string
	root     string // path of the certificates that are trusted; may be empty
}

// dsn returns a connection string.
func (a access) dsn(role string) string {
	s := fmt.Sprintf("host=127.0.0.1 port=%d dbname=%s user=%s password=%s sslmode=%s",
		a.port, a.database, role, passwordOf(role), a.sslmode)
	if a.root != "" {
		s += " sslrootcert=" + a.root
	}
	return s
}

// environment returns the variables that both postgres_exporter and pg_liveness_exporter read. options, such as "&a=b",
// are added to the parameters.
func (a access) environment(role, options string) []string {
	uri := fmt.Sprintf("127.0.0.1:%d/%s?sslmode=%s%s", a.port, a.database, a.sslmode, options)
	if a.root != "" {
		uri += "&sslrootcert=" + a.root
	}
	return []string{"DATA_SOURCE_URI=" + uri, "DATA_SOURCE_USER=" + role, "DATA_SOURCE_PASS=" + passwordOf(role)}
}

// programs are the paths of the programs that are compared.
type programs struct {
	postgres                                             string // a folder
	ours, postgresExporter, blackbox, isReady, pgBouncer string
}

// observer watches the server of one scene.
type observer struct {
	role string // of its sessions; empty if it never logs in
	ask  func(ctx context.Context) said
	end  func() error
}

// The names of the observers, in the order of the page.
const (
	oursName     = "pg_liveness_exporter"
	theirsName   = "postgres_exporter"
	boundedName  = "postgres_exporter with connect_timeout=5"
	blackboxName = "blackbox_exporter"
	isReadyName  = "pg_isready"
)

func observerNames() []string {
	return []string{oursName, theirsName, boundedName, blackboxName, isReadyName}
}

// startObservers starts one observer of each kind. The caller ends them. If it fails, it leaves no process.
func startObservers(ctx context.Context, p programs, a access) (_ map[string]*observer, err error) {
	observers := map[string]*observer{}
	defer func() {
		if err != nil {
			err = errors.Join(err, endObservers(observers))
		}
	}()
	if observers[oursName], err = startOurs(ctx, p.ours, a); err != nil {
		return observers, err
	}
	if observers[theirsName], err = startPostgresExporter(ctx, p.postgresExporter, a, theirsRole, ""); err != nil {
		return observers, err
	}
	bounded := "&connect_timeout=5"
	if observers[boundedName], err = startPostgresExporter(ctx, p.postgresExporter, a, boundedRole, bounded); err != nil {
		return observers, err
	}
	if observers[blackboxName], err = startBlackbox(ctx, p.blackbox, a); err != nil {
		return observers, err
	}
	observers[isReadyName] = newIsReady(p.isReady, a)
	return observers, nil
}

// unanswered returns the verdict if a scrape failed. It has a reason unless the time was over.
func unanswered(ctx context.Context, err error) said {
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return said{Verdict: noAnswer}
	}
	return said{Verdict: noAnswer, Reason: err.Error()}
}

func endObservers(observers map[string]*observer) error {
	var err error
	for _, o := range observers {
		if o != nil && o.end != nil {
			err = errors.Join(err, o.end())
		}
	}
	return err
}

// startOurs starts pg_liveness_exporter with its defaults and the commit probe.
func startOurs(ctx context.Context, path string, a access) (*observer, error) {
	exporter, err := startExporter(ctx, oursName, path, a.environment(oursRole, ""), nil, "--probe.commit")
	if err != nil {
		return nil, err
	}
	var failures map[string]float64 // by reason, until now
	ask := func(ctx context.Context) said {
		page, err := exporter.scrape(ctx, "/metrics")
		if err != nil {
			return unanswered(ctx, err)
		}
		s := said{Verdict: down, Shows: page.unusual(map[string]float64{
			"pg_commit_up": 0, "pg_kept_session_up": 0, "pg_transaction_read_only": 1, "pg_replication_is_replica": 1,
		})}
		now := page.byLabel("pg_probe_failures_total", "reason")
		for reason, n := range now {
			if failures != nil && n > failures[reason] {
				s.Reason = reason
			}
		}
		failures = now
		for state, is := range page.byLabel("pg_probe_state", "state") {
			switch {
			case is != 1:
			case state == misconfigured:
				s.Verdict = misconfigured
			case state == "connection_limit":
				s.Reason = strings.TrimSuffix("connection_limit: "+s.Reason, ": ")
			}
		}
		if v, ok := page.value("pg_up"); ok && v == 1 {
			s.Verdict, s.Reason = up, ""
		}
		return s
	}
	return &observer{oursRole, ask, exporter.end}, nil
}

// startPostgresExporter starts postgres_exporter with its defaults and some options of the connection.
func startPostgresExporter(ctx context.Context, path string, a access, role, options string) (*observer, error) {
	exporter, err := startExporter(ctx, theirsName, path, a.environment(role, options), nil)
	if err != nil {
		return nil, err
	}
	ask := func(ctx context.Context) said {
		page, err := exporter.scrape(ctx, "/metrics")
		if err != nil {
			return unanswered(ctx, err)
		}
		s := said{Verdict: down, Shows: page.unusual(map[string]float64{
			"pg_exporter_last_scrape_error": 1, "pg_settings_default_transaction_read_only": 1, "pg_replication_is_replica": 1,
		})}
		if v, ok := page.value("pg_up"); ok && v == 1 {
			s.Verdict = up
		}
		failed := 0
		for _, success := range page.byLabel("pg_scrape_collector_success", "collector") {
			if success == 0 {
				failed++
			}
		}
		if failed > 0 {
			s.Shows = append(s.Shows, fmt.Sprintf("pg_scrape_collector_success 0 of %d collectors", failed))
		}
		return s
	}
	return &observer{role, ask, exporter.end}, nil
}

// startBlackbox starts blackbox_exporter with the module that its example configuration has for TCP.
func startBlackbox(ctx context.Context, path string, a access) (*observer, error) {
	exporter, err := startExporter(ctx, blackboxName, path, nil,
		map[string]string{"blackbox.yml": "modules: {tcp_connect: {prober: tcp}}\n"}, "--config.file=blackbox.yml")
	if err != nil {
		return nil, err
	}
	ask := func(ctx context.Context) said {
		page, err := exporter.scrape(ctx, fmt.Sprintf("/probe?module=tcp_connect&target=127.0.0.1:%d", a.port))
		if err != nil {
			return unanswered(ctx, err)
		}
		if v, ok := page.value("probe_success"); ok && v == 1 {
			return said{Verdict: up}
		}
		return said{Verdict: down}
	}
	return &observer{"", ask, exporter.end}, nil
}

// newIsReady returns the observer that runs pg_isready each time, with its own timeout.
func newIsReady(path string, a access) *observer {
	ask := func(ctx context.Context) said {
		cmd := exec.CommandContext(ctx, path, "--quiet", "--host=127.0.0.1", "--port="+strconv.Itoa(a.port),
			"--username="+isReadyRole, "--dbname="+a.database)
		cmd.Env = []string{"HOME=/nonexistent", "LC_ALL=C", "PGSSLMODE=" + a.sslmode}
		if a.root != "" {
			cmd.Env = append(cmd.Env, "PGSSLROOTCERT="+a.root)
		}
		err := cmd.Run()
		var exit *exec.ExitError
		switch {
		case err == nil:
			return said{Verdict: up}
		case errors.As(err, &exit) && exit.ExitCode() == 1:
			return said{Verdict: down, Reason: "rejecting"}
		case errors.As(err, &exit) && exit.ExitCode() == 2:
			return said{Verdict: down, Reason: "no response"}
		case errors.As(err, &exit) && exit.ExitCode() == 3:
			return said{Verdict: misconfigured, Reason: "not tried"}
		}
		return said{Verdict: noAnswer}
	}
	return &observer{role: isReadyRole, ask: ask}
}

// exporter is an exporter that is scraped as Prometheus does it.
type exporter struct {
	address string
	port    *testservers.Port
	program *testservers.Program
}

// startExporter starts an exporter in a folder with files, and waits until it listens.
func startExporter(
	ctx context.Context, name, path string, env []string, files map[string]string, args ...string,
) (_ *exporter, err error) {
	e := &exporter{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("the %s: %w", name, err), e.end())
		}
	}()
	if e.port, err = testservers.ReservePort(); err != nil {
		return nil, err
	}
	e.address = fmt.Sprintf("127.0.0.1:%d", e.port.Number)
	if e.program, err = testservers.NewProgram(files); err != nil {
		return nil, err
	}
	if err := e.program.Start(path, env, append(args, "--web.listen-address="+e.address)...); err != nil {
		return nil, err
	}
	return e, e.program.Await(ctx, name, func() bool {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", e.address)
		return err == nil && conn.Close() == nil
	})
}

func (e *exporter) end() error {
	var err error
	if e.program != nil {
		err = e.program.Remove()
	}
	if e.port != nil {
		err = errors.Join(err, e.port.Release())
	}
	return err
}

// scrape gets a page as Prometheus does: it announces scrapeTimeout and gives up after that.
func (e *exporter) scrape(ctx context.Context, path string) (families, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.address+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", strconv.FormatFloat(scrapeTimeout.Seconds(), 'f', -1, 64))
	transport := &http.Transport{DisableKeepAlives: true} // and no proxy
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(response.Status)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(strings.NewReader(string(body)))
}

// families are the metrics of a page, by name.
type families map[string]*dto.MetricFamily

// value returns the value of a metric's first series. ok is false if there is none.
func (f families) value(name string) (v float64, ok bool) {
	metrics := f[name].GetMetric()
	if len(metrics) == 0 {
		return 0, false
	}
	return valueOf(metrics[0]), true
}

// byLabel returns the values of a metric by those of one of its labels.
func (f families) byLabel(name, label string) map[string]float64 {
	values := map[string]float64{}
	for _, m := range f[name].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == label {
				values[l.GetValue()] = valueOf(m)
			}
		}
	}
	return values
}

// unusual returns the metrics, sorted, that have the given values.
func (f families) unusual(values map[string]float64) []string {
	var lines []string
	for name, unusual := range values {
		if v, ok := f.value(name); ok && v == unusual {
			lines = append(lines, fmt.Sprintf("%s %v", name, v))
		}
	}
	slices.Sort(lines)
	return lines
}

// valueOf returns the value of a gauge, a counter or a metric without a type.
func valueOf(m *dto.Metric) float64 {
	switch {
	case m.Gauge != nil:
		return m.GetGauge().GetValue()
	case m.Counter != nil:
		return m.GetCounter().GetValue()
	}
	return m.GetUntyped().GetValue()
}
