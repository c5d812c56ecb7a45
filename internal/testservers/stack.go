// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	// role is the exporter's role, customer that of the load.
	role, customer = "liveness", "customer"

	// requestTimeout bounds an HTTP request to a program of the stack, or of one to us.
	requestTimeout = 5 * time.Second
)

// The addresses in examples/prometheus.yml. NewStack replaces them with those of the programs it has started.
const exporterAddress, alertmanagerAddress = "localhost:10432", "localhost:9093"

// StackConfig describes a new stack.
type StackConfig struct {
	// Postgres is the folder with initdb and postgres.
	Postgres string
	// Template, if not nil, is copied instead of running initdb.
	Template *Template
	// PgBouncer, Exporter and Prometheus are the paths of the programs.
	PgBouncer, Exporter, Prometheus string
	// Alertmanager is the path of the program. If it is empty, the stack has no Alertmanager.
	Alertmanager string
	// Grafana is the folder that holds bin/grafana and public/. If it is empty, the stack has no Grafana.
	Grafana string
	// Examples is the folder with the rules, the dashboard and the configurations.
	Examples string
	// Change, if not nil, edits the content of prometheus.yml before the addresses in it are replaced.
	Change func(configuration string) string
	// KnownPorts makes each program listen on its usual port if that is free.
	KnownPorts bool
	// Notified, if not nil, is called for each notification that Alertmanager sends, also for several at once.
	Notified func(Notification)
}

// Stack is everything that examples/ configures: throwaway servers with some load, the exporter, Prometheus with the
// alerting rules, Alertmanager and Grafana. It runs until Close is called.
type Stack struct {
	// Exporter, Prometheus, Alertmanager and Grafana are addresses (host:port). The address of a missing program is empty.
	Exporter, Prometheus, Alertmanager, Grafana string
	Primary, Standby                            *Postgres
	PgBouncer                                   *PgBouncer

	password string
	slots    SlotHolder
	failed   chan error
	ends     []func() error // Close calls them from the last to the first
}

// NewStack starts a stack and waits until every program answers. ctx bounds the start only. If NewStack fails, it
// leaves no process and no file.
func NewStack(ctx context.Context, c StackConfig) (*Stack, error) {
	s := &Stack{password: rand.Text(), failed: make(chan error, 8)}
	for _, start := range []func(context.Context, StackConfig) error{
		s.startServers, s.startExporter, s.startAlertmanager, s.startPrometheus, s.startGrafana, s.startLoad,
	} {
		if err := start(ctx, c); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// Close ends all processes of the stack and removes their folders.
func (s *Stack) Close() error {
	var err error
	for len(s.ends) > 0 {
		last := len(s.ends) - 1
		err = errors.Join(err, s.ends[last]())
		s.ends = s.ends[:last]
	}
	return err
}

// Failed returns a channel that receives an error if a program ends before Close is called.
func (s *Stack) Failed() <-chan error { return s.failed }

// startServers starts a primary with two databases, a standby, and a PgBouncer in front of the primary.
func (s *Stack) startServers(ctx context.Context, c StackConfig) error {
	certificate, key, err := NewCertificate(func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(0, 3, 0) })
	if err != nil {
		return err
	}
	s.Primary, err = NewPostgres(ctx, PostgresConfig{
		Bin: c.Postgres, Template: c.Template, Certificate: certificate, Key: key, Settings: []string{"max_connections = 40"},
	})
	if err != nil {
		return err
	}
	s.ends = append(s.ends, s.Primary.Remove)
	for _, sql := range []string{
		fmt.Sprintf("CREATE ROLE %s LOGIN CONNECTION LIMIT 10 PASSWORD '%s'; GRANT pg_monitor TO %[1]s", role, s.password),
		fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", customer, s.password),
		"CREATE DATABASE orders OWNER " + customer,
		"CREATE DATABASE billing CONNECTION LIMIT 20 OWNER " + customer,
	} {
		if err := s.Primary.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", strings.ReplaceAll(sql, s.password, "…"), err)
		}
	}
	if s.Standby, err = s.Primary.Standby(ctx); err != nil {
		return err
	}
	s.ends = append(s.ends, s.Standby.Remove)
	at := fmt.Sprintf("host=127.0.0.1 port=%d", s.Primary.Port)
	s.PgBouncer, err = NewPgBouncer(ctx, PgBouncerConfig{
		Bin: c.PgBouncer, Databases: []string{"orders = " + at + " pool_size=4", "billing = " + at + " pool_size=2"},
		Settings: []string{"pool_mode = transaction", "stats_users = " + role, "auth_query =", "server_login_retry = 1"},
		Users:    map[string]string{role: s.password, customer: s.password},
	})
	if err != nil {
		return err
	}
	s.ends = append(s.ends, s.PgBouncer.Remove)
	return nil
}

// startExporter starts the exporter with the three servers as targets and a few checks.
func (s *Stack) startExporter(ctx context.Context, c StackConfig) error {
	address, err := s.address(ctx, c.KnownPorts, 10432)
	if err != nil {
		return err
	}
	s.Exporter = address
	configuration := fmt.Sprintf(`
defaults: {user: %s, password_file: password, sslmode: require, commit: true, applications: true}
targets:
  primary: {host: 127.0.0.1, port: %d, dbname: orders}
  standby: {host: 127.0.0.1, port: %d, dbname: orders}
  pool: {kind: pgbouncer, host: 127.0.0.1, port: %[4]d, sslmode: disable}
checks:
  schema: {target: primary, sql: "SELECT to_regclass('account') IS NOT NULL"}
  lock-waits:
    target: primary
    sql: "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    warn_above: 3
  pool-port: {tcp: "127.0.0.1:%[4]d"}
`, role, s.Primary.Port, s.Standby.Port, s.PgBouncer.Port)
	return s.run(ctx, stackProgram{
		name: "exporter", bin: c.Exporter,
		files: map[string]string{"config.yml": configuration, "password": s.password},
		args:  []string{"--config.file=config.yml", "--web.listen-address=" + address}, ready: address + "/readyz",
	})
}

// startAlertmanager starts Alertmanager with the configuration of the examples. All its receivers call c.Notified.
func (s *Stack) startAlertmanager(ctx context.Context, c StackConfig) error {
	if c.Alertmanager == "" {
		return nil
	}
	shipped, err := os.ReadFile(filepath.Join(c.Examples, "alertmanager.yml"))
	if err != nil {
		return err
	}
	url, err := s.listenForNotifications(ctx, c.Notified)
	if err != nil {
		return err
	}
	configuration, err := withWebhook(shipped, url)
	if err != nil {
		return fmt.Errorf("alertmanager.yml: %w", err)
	}
	if s.Alertmanager, err = s.address(ctx, c.KnownPorts, 9093); err != nil {
		return err
	}
	return s.run(ctx, stackProgram{
		name: "Alertmanager", bin: c.Alertmanager, files: map[string]string{"alertmanager.yml": configuration},
		args: []string{
			"--config.file=alertmanager.yml", "--storage.path=data", "--cluster.listen-address=",
			"--web.listen-address=" + s.Alertmanager,
		},
		ready: s.Alertmanager + "/-/ready",
	})
}

// withWebhook returns an Alertmanager configuration in which every receiver is a webhook with the given URL, since
// those of the example are placeholders. Routes and inhibitions stay.
func withWebhook(shipped []byte, url string) (string, error) {
	var configuration map[string]any
	if err := yaml.Unmarshal(shipped, &configuration); err != nil {
		return "", err
	}
	receivers, _ := configuration["receivers"].([]any)
	for i, receiver := range receivers {
		fields, _ := receiver.(map[string]any)
		receivers[i] = map[string]any{
			"name":            fields["name"],
			"webhook_configs": []any{map[string]any{"url": url, "send_resolved": true}},
		}
	}
	for _, key := range []string{"global", "templates"} {
		delete(configuration, key) // only the placeholders use them
	}
	changed, err := yaml.Marshal(configuration)
	return string(changed), err
}

// startPrometheus starts Prometheus with the configuration and the alerting rules of the examples.
func (s *Stack) startPrometheus(ctx context.Context, c StackConfig) error {
	files := map[string]string{}
	for _, name := range []string{"prometheus.yml", "alerts.yml"} {
		content, err := os.ReadFile(filepath.Join(c.Examples, name))
		if err != nil {
			return err
		}
		files[name] = string(content)
	}
	const classic = "    # always_scrape_classic_histograms: true\n" // commented out, since Prometheus 2 does not know it
	if !strings.Contains(files["prometheus.yml"], classic) {
		return errors.New("prometheus.yml does not show how to keep classic histograms")
	}
	configuration := strings.Replace(files["prometheus.yml"], classic, strings.Replace(classic, "# ", "", 1), 1)
	if c.Change != nil {
		configuration = c.Change(configuration)
	}
	for old, address := range map[string]string{exporterAddress: s.Exporter, alertmanagerAddress: s.Alertmanager} {
		if !strings.Contains(configuration, old) {
			return fmt.Errorf("prometheus.yml does not name %s", old)
		}
		configuration = strings.ReplaceAll(configuration, old, address)
	}
	if s.Alertmanager == "" {
		var err error
		if configuration, err = without(configuration, "alerting"); err != nil {
			return fmt.Errorf("prometheus.yml: %w", err)
		}
	}
	files["prometheus.yml"] = configuration
	address, err := s.address(ctx, c.KnownPorts, 9090)
	if err != nil {
		return err
	}
	s.Prometheus = address
	return s.run(ctx, stackProgram{
		name: "Prometheus", bin: c.Prometheus, files: files,
		args: []string{
			"--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=" + address,
			"--enable-feature=native-histograms",
		},
		ready: address + "/-/ready",
	})
}

// without returns a YAML document without one of its top-level keys.
func without(document, key string) (string, error) {
	var fields map[string]any
	if err := yaml.Unmarshal([]byte(document), &fields); err != nil {
		return "", err
	}
	delete(fields, key)
	changed, err := yaml.Marshal(fields)
	return string(changed), err
}

// startGrafana starts Grafana with the data source and the dashboard of the examples. It asks for no login.
func (s *Stack) startGrafana(ctx context.Context, c StackConfig) error {
	if c.Grafana == "" {
		return nil
	}
	address, err := s.address(ctx, c.KnownPorts, 3000)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	examples, err := filepath.Abs(c.Examples)
	if err != nil {
		return err
	}
	// Grafana loads every dashboard in a folder, so this one is copied to a folder of its own.
	dashboard, err := os.ReadFile(filepath.Join(examples, "dashboard.json"))
	if err != nil {
		return err
	}
	s.Grafana = address
	return s.run(ctx, stackProgram{
		name: "Grafana", bin: filepath.Join(c.Grafana, "bin", "grafana"), args: []string{"server", "--homepath", c.Grafana},
		files: map[string]string{"dashboard.json": string(dashboard)},
		env: func(dir string) []string {
			return []string{
				"PROMETHEUS_URL=http://" + s.Prometheus, "DASHBOARDS=" + dir,
				"GF_PATHS_DATA=" + filepath.Join(dir, "data"), "GF_PATHS_LOGS=" + filepath.Join(dir, "data"),
				"GF_PATHS_PLUGINS=" + filepath.Join(dir, "plugins"), "GF_PATHS_PROVISIONING=" + filepath.Join(examples, "grafana"),
				"GF_SERVER_HTTP_ADDR=" + host, "GF_SERVER_HTTP_PORT=" + port,
				"GF_AUTH_ANONYMOUS_ENABLED=true", "GF_AUTH_ANONYMOUS_ORG_ROLE=Admin",
				"GF_ANALYTICS_REPORTING_ENABLED=false", "GF_ANALYTICS_CHECK_FOR_UPDATES=false",
				"GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES=false", "GF_NEWS_NEWS_FEED_ENABLED=false",
				"GF_SECURITY_DISABLE_GRAVATAR=true", "GF_SECURITY_ANGULAR_SUPPORT_ENABLED=false",
				"GF_PLUGINS_PREINSTALL_DISABLED=true",
			}
		},
		ready: address + "/api/health",
	})
}

// stackProgram is a program of the stack.
type stackProgram struct {
	name  string // for errors
	bin   string
	args  []string
	env   func(dir string) []string // gets the program's folder; may be nil
	files map[string]string         // their content by name
	ready string                    // host:port/path that answers with status 200 once the program can be used
}

// run starts a program and waits until it is ready. If the program ends after that, Failed receives an error.
func (s *Stack) run(ctx context.Context, c stackProgram) error {
	p, err := NewProgram(c.files)
	if err != nil {
		return err
	}
	closed := make(chan struct{})
	s.ends = append(s.ends, func() error {
		close(closed)
		return p.Remove()
	})
	var env []string
	if c.env != nil {
		env = c.env(p.Dir)
	}
	if err := p.Start(c.bin, env, c.args...); err != nil {
		return fmt.Errorf("the %s: %w", c.name, err)
	}
	if err := p.Await(ctx, c.name, func() bool { return isReady(ctx, "http://"+c.ready) }); err != nil {
		return err
	}
	go func() {
		select {
		case <-closed:
		case <-p.Exited():
			s.failed <- fmt.Errorf("the %s ended by itself:\n%s", c.name, p.LogTail())
		}
	}()
	return nil
}

// isReady reports whether a URL answers with status 200.
func isReady(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return false
	}
	transport := &http.Transport{DisableKeepAlives: true} // and no proxy
	response, err := transport.RoundTrip(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// address returns a free address on this machine. If known is true and port is free, the address has that port.
func (s *Stack) address(ctx context.Context, known bool, port int) (string, error) {
	var lc net.ListenConfig
	if known {
		if l, err := lc.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	free, err := ReservePort()
	if err != nil {
		return "", err
	}
	s.ends = append(s.ends, free.Release)
	return fmt.Sprintf("127.0.0.1:%d", free.Number), nil
}
