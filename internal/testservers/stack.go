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
	// role is the exporter's, customer the load's.
	role, customer = "liveness", "customer"

	askTimeout = 5 * time.Second
)

// The addresses of examples/prometheus.yml, which NewStack replaces by the ones it got.
const exporterAddress, alertmanagerAddress = "localhost:10432", "localhost:9093"

// StackConfig says what to run.
type StackConfig struct {
	// Postgres is the folder with a server's binaries; PgBouncer, Exporter and Prometheus are the programs.
	Postgres, PgBouncer, Exporter, Prometheus string
	// Alertmanager is the program, and Grafana its folder (with bin and public). Without them it goes on without.
	Alertmanager, Grafana string
	// Examples is the folder with the rules, the dashboard and the configurations.
	Examples string
	// Change, if not nil, changes what examples/prometheus.yml says, but for the addresses.
	Change func(configuration string) string
	// KnownPorts takes the programs' usual ports where they are free.
	KnownPorts bool
	// Notified, if not nil, is told of each notification that Alertmanager sends.
	Notified func(Notification)
}

// Stack is everything that examples/ speaks of: throwaway servers with some load, the exporter, Prometheus with the rules,
// Alertmanager and Grafana. Addresses are host:port on this machine, empty where the program is missing.
type Stack struct {
	Exporter, Prometheus, Alertmanager, Grafana string
	Primary, Standby                            *Postgres
	PgBouncer                                   *PgBouncer

	password string
	eater    slotEater
	failed   chan error
	ends     []func() error // what Close does, from the last to the first
}

// NewStack starts a stack and waits until every program answers. When ctx ends, this stops; the stack runs until Close. On an
// error nothing is left.
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

// Close ends everything and removes its folders.
func (s *Stack) Close() error {
	var err error
	for len(s.ends) > 0 {
		last := len(s.ends) - 1
		err = errors.Join(err, s.ends[last]())
		s.ends = s.ends[:last]
	}
	return err
}

// Failed yields an error when a program ended that nobody had asked to.
func (s *Stack) Failed() <-chan error { return s.failed }

// startServers starts a primary with two databases, its standby, and a PgBouncer before it.
func (s *Stack) startServers(ctx context.Context, c StackConfig) error {
	certificate, key, err := NewCertificate(func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(0, 3, 0) })
	if err != nil {
		return err
	}
	s.Primary, err = NewPostgres(ctx, PostgresConfig{
		Bin: c.Postgres, Certificate: certificate, Key: key, Settings: []string{"max_connections = 40"},
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

func (s *Stack) startExporter(ctx context.Context, c StackConfig) error {
	address, err := s.listenOn(ctx, c.KnownPorts, 10432)
	if err != nil {
		return err
	}
	s.Exporter = address
	targets := fmt.Sprintf(`defaults: {user: %s, password_file: password, sslmode: require, commit: true, applications: true}
targets:
  primary: {host: 127.0.0.1, port: %d, dbname: orders}
  standby: {host: 127.0.0.1, port: %d, dbname: orders}
  pool: {kind: pgbouncer, host: 127.0.0.1, port: %[4]d, sslmode: disable}
checks:
  schema: {target: primary, sql: "SELECT to_regclass('account') IS NOT NULL"}
  lock-waits: {target: primary, sql: "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'", warn_above: 3}
  pool-port: {tcp: "127.0.0.1:%[4]d"}
`, role, s.Primary.Port, s.Standby.Port, s.PgBouncer.Port)
	return s.run(ctx, stackProgram{
		name: "exporter", bin: c.Exporter, files: map[string]string{"config.yml": targets, "password": s.password},
		args: []string{"--config.file=config.yml", "--web.listen-address=" + address}, ready: address + "/readyz",
	})
}

func (s *Stack) startAlertmanager(ctx context.Context, c StackConfig) error {
	if c.Alertmanager == "" {
		return nil
	}
	shipped, err := os.ReadFile(filepath.Join(c.Examples, "alertmanager.yml"))
	if err != nil {
		return err
	}
	hook, err := s.listenForNotifications(ctx, c.Notified)
	if err != nil {
		return err
	}
	configuration, err := withReceiver(shipped, hook)
	if err != nil {
		return fmt.Errorf("alertmanager.yml: %w", err)
	}
	if s.Alertmanager, err = s.listenOn(ctx, c.KnownPorts, 9093); err != nil {
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

// withReceiver is a configuration with the same routes and inhibitions, but whose receivers all lead to hook: the
// placeholders of the example lead nowhere.
func withReceiver(shipped []byte, hook string) (string, error) {
	var configuration map[string]any
	if err := yaml.Unmarshal(shipped, &configuration); err != nil {
		return "", err
	}
	receivers, _ := configuration["receivers"].([]any)
	for i, receiver := range receivers {
		fields, _ := receiver.(map[string]any)
		receivers[i] = map[string]any{
			"name":            fields["name"],
			"webhook_configs": []any{map[string]any{"url": hook, "send_resolved": true}},
		}
	}
	for _, key := range []string{"global", "templates"} {
		delete(configuration, key) // they are the placeholders' alone
	}
	changed, err := yaml.Marshal(configuration)
	return string(changed), err
}

func (s *Stack) startPrometheus(ctx context.Context, c StackConfig) error {
	files := map[string]string{}
	for _, name := range []string{"prometheus.yml", "alerts.yml"} {
		content, err := os.ReadFile(filepath.Join(c.Examples, name))
		if err != nil {
			return err
		}
		files[name] = string(content)
	}
	configuration := files["prometheus.yml"]
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
	address, err := s.listenOn(ctx, c.KnownPorts, 9090)
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

// without is a YAML document that lacks one key.
func without(document, key string) (string, error) {
	var fields map[string]any
	if err := yaml.Unmarshal([]byte(document), &fields); err != nil {
		return "", err
	}
	delete(fields, key)
	changed, err := yaml.Marshal(fields)
	return string(changed), err
}

// startGrafana starts it with the data source and the dashboard of the examples, and nobody has to log in.
func (s *Stack) startGrafana(ctx context.Context, c StackConfig) error {
	if c.Grafana == "" {
		return nil
	}
	address, err := s.listenOn(ctx, c.KnownPorts, 3000)
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
	// Grafana provides all dashboards of a folder, so ours gets one of its own.
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
				"GF_SECURITY_DISABLE_GRAVATAR=true", "GF_SECURITY_ANGULAR_SUPPORT_ENABLED=false", "GF_PLUGINS_PREINSTALL_DISABLED=true",
			}
		},
		ready: address + "/api/health",
	})
}

// stackProgram is one that answers at the page ready with 200 once it is.
type stackProgram struct {
	name, bin, ready string
	files            map[string]string
	env              func(dir string) []string
	args             []string
}

// run starts a program and waits until it is ready. From then on its end is a failure.
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
	if err := p.Await(ctx, c.name, func() bool { return answers(ctx, "http://"+c.ready) }); err != nil {
		return err
	}
	go func() {
		select {
		case <-closed:
		case <-p.Exited():
			s.failed <- fmt.Errorf("the %s ended by itself:\n%s", c.name, p.LastWords())
		}
	}()
	return nil
}

func answers(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return false
	}
	transport := &http.Transport{DisableKeepAlives: true} // and no proxy: it is our own
	response, err := transport.RoundTrip(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// listenOn finds a free address, with the port that is known where that one is free.
func (s *Stack) listenOn(ctx context.Context, known bool, port int) (string, error) {
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
