// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Pg_liveness_exporter tells Prometheus whether a PostgreSQL server is alive, how quickly it answers, and whether there
// are connections left.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	webflag "github.com/prometheus/exporter-toolkit/web/kingpinflag"
	_ "golang.org/x/crypto/x509roots/fallback" // for sslrootcert=system where the machine has no certificates of its own

	"pg_liveness_exporter/collector"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/health"
	"pg_liveness_exporter/internal/credentials"
	"pg_liveness_exporter/probe"
)

const (
	defaultAddress = ":10432"

	// Time-outs of the HTTP server. That for reading is for a whole request, its body included; net/http lifts it while it
	// waits for a client that may hang up. That for writing begins with the request, so it leaves time for the longest
	// probe; the exporter shortens it once it has its answer.
	readTimeout  = 5 * time.Second
	idleTimeout  = 2 * time.Minute
	writeTimeout = config.MaxTimeout + 10*time.Second

	// manyGCPercent is Go's GOGC with a file of targets, unless somebody sets it: most of the memory is sessions that wait,
	// and as much again for garbage would be too much. It costs a hundredth of a core with 1,000 targets.
	manyGCPercent = 60

	// At a signal, scrapes under way may take finishGrace to end by themselves; sessions closeGrace to be closed.
	finishGrace = 3 * time.Second
	closeGrace  = time.Second
)

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// flags are what the command line says.
type flags struct {
	web           *web.FlagConfig
	log           promslog.Config
	telemetryPath string
	configFile    string
	configCheck   bool
	lifecycle     bool
	healthAddress string
	asks          bool // the command is check
	question      question
	targets       bool // on /metrics
	compat        bool
	probing       config.Probing
	offset        time.Duration
	keep          bool
	maxInFlight   int
}

// parseFlags returns what args say. Help and version are written to out and end the program, as the last result says.
func parseFlags(args []string, out, errs io.Writer) (f flags, code int, ended bool) {
	app := kingpin.New(collector.Name, "Tells Prometheus whether a PostgreSQL server is alive, how quickly it answers, "+
		"and whether there are connections left. Without --config.file it watches one server, which is named by "+
		"DATA_SOURCE_NAME or, without it, DATA_SOURCE_URI, DATABASE_URL, POSTGRES_HOST or libpq's own variables.")
	app.UsageWriter(out).ErrorWriter(errs)
	app.Terminate(func(status int) { code, ended = status, true })
	app.HelpFlag.Short('h')
	app.Version(version.Print(collector.Name))
	f.web = webflag.AddFlags(app, defaultAddress)
	promslogflag.AddFlags(app, &f.log)
	app.Flag("web.telemetry-path", "Path under which to expose metrics.").Default("/metrics").StringVar(&f.telemetryPath)
	app.Flag("config.file", "YAML file with the servers to watch.").StringVar(&f.configFile)
	app.Flag("config.check", "Read --config.file, say what is wrong with it, and exit.").BoolVar(&f.configCheck)
	app.Flag("health.listen-address", "Also serve the health paths, and nothing else, on this address, without TLS and "+
		"passwords: for kubelets and balancers when the other one asks for them.").StringVar(&f.healthAddress)
	app.Flag("web.enable-lifecycle", "Let POST /-/reload read --config.file again, as SIGHUP does.").BoolVar(&f.lifecycle)
	app.Flag("metrics.targets", "Show the configured targets on the telemetry path; without, it has the exporter's own "+
		"metrics alone, for those who scrape the targets through /sd and /probe.").Default("true").BoolVar(&f.targets)
	app.Flag("metrics.compat", "Also show facts under the names that postgres_exporter gives them, for dashboards that ask "+
		"for those.").BoolVar(&f.compat)
	app.Flag("probe.timeout", "The most one probe may take.").Default("5s").DurationVar(&f.probing.Timeout)
	app.Flag("probe.timeout-offset", "Time to take off the scrape timeout that Prometheus announces, for the way back.").
		Default("0.5s").DurationVar(&f.offset)
	app.Flag("probe.interval", "Also probe between scrapes, this often, so that an outage shorter than a scrape interval "+
		"shows in counters and histograms; 0s does not.").Default("0s").DurationVar(&f.probing.Interval)
	app.Flag("probe.max-in-flight", "The most probes at once: of the configured targets, and of ad-hoc ones.").Default("1024").IntVar(&f.maxInFlight)
	app.Flag("probe.keep", "Keep a session open between probes, beside the new one of each probe: it reads the connection "+
		"figures also while no login succeeds, and notices restarts between scrapes.").Default("true").BoolVar(&f.keep)
	app.Flag("probe.commit", "Also commit a transaction in each probe, which needs no table and no privilege: SELECT 1 "+
		"succeeds while commits hang.").BoolVar(&f.probing.Commit)
	app.Flag("collect.applications", "Count connections by application name.").BoolVar(&f.probing.Applications)
	app.Command("serve", "Serve metrics; what happens without a command.").Default()
	check := app.Command("check", "Probe once, say what was found, and exit: 0 accepting, 1 rejecting or no connections left, "+
		"2 no response, 3 misconfigured or not tried. Of a check, 0 that it does not fail, 1 that it does.")
	check.Arg("name", "A target or a check of --config.file; may be left out where there is one target.").StringVar(&f.question.target)
	check.Flag("format", "A line for people, or JSON.").Default(formatText).EnumVar(&f.question.format, formatText, formatJSON)
	check.Flag("style", "What the exit code is like; Docker's is 0 or 1.").Default(styleIsReady).EnumVar(&f.question.style, styleIsReady, styleDocker)
	check.Flag("wait", "Try again for so long while the server is not accepting.").Default("0s").DurationVar(&f.question.wait)
	command, err := app.Parse(args)
	f.asks = command == check.FullCommand()
	if ended {
		return f, code, true
	}
	switch {
	case err == nil:
		err = f.validate()
	case strings.HasPrefix(err.Error(), "unexpected "): // kingpin would repeat what may be a connection string
		err = errors.New("unexpected argument: servers are named in the environment or in a --config.file")
	}
	if err != nil {
		fmt.Fprintf(errs, "%s: error: %s, try --help\n", collector.Name, err)
		if slices.Contains(args, "check") { // where 2 is an answer
			f.question.style = styleIsReady
			if strings.Contains(strings.Join(args, "=")+"=", "--style="+styleDocker+"=") {
				f.question.style = styleDocker
			}
			return f, f.question.code(exitNotTried), true
		}
		return f, 2, true
	}
	return f, 0, false
}

func (f *flags) validate() error {
	switch {
	case f.probing.Timeout < config.MinTimeout || f.probing.Timeout > config.MaxTimeout:
		return fmt.Errorf("--probe.timeout is %s, not from %s to %s", f.probing.Timeout, config.MinTimeout, config.MaxTimeout)
	case f.probing.Interval != 0 && f.probing.Interval < config.MinTimeout:
		return fmt.Errorf("--probe.interval is %s, neither 0s nor at least %s", f.probing.Interval, config.MinTimeout)
	case f.maxInFlight < 1:
		return fmt.Errorf("--probe.max-in-flight is %d, less than 1", f.maxInFlight)
	case f.configFile == "" && f.configCheck:
		return errors.New("--config.check needs --config.file")
	case f.offset < 0:
		return fmt.Errorf("--probe.timeout-offset is %s, less than 0s", f.offset)
	case taken(f.telemetryPath):
		return fmt.Errorf("--web.telemetry-path %q is taken", f.telemetryPath)
	case !strings.HasPrefix(f.telemetryPath, "/") || strings.ContainsAny(f.telemetryPath, "{} "):
		return fmt.Errorf("--web.telemetry-path %q is not a path", f.telemetryPath)
	}
	return nil
}

// taken says whether something else is served under a path.
func taken(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return path == probePath || path == "/sd" || first == "-" || slices.Contains(health.Paths(), first)
}

// run is the program. It returns the exit code.
func run(args []string, getenv func(string) string, out, errs io.Writer) int {
	f, code, ended := parseFlags(args, out, errs)
	if ended {
		return code
	}
	log.SetOutput(io.Discard) // Go's HTTP client writes there what strangers say
	f.log.Writer = errs
	logger := promslog.New(&f.log)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // from the first moment to the last, or one would end the program
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	store := credentials.NewStore(ctx)
	load := loader(f, getenv)
	if f.asks {
		return f.question.ask(ctx, load, store, out, errs)
	}
	if f.configCheck {
		return checkConfiguration(f, load, out, errs)
	}
	file, err := load()
	if err != nil {
		logProblems(logger, err)
		return 1
	}
	logger.Info("starting", "version", version.Info())
	if file.TakenFrom != "" {
		logger.Info("a target comes from the environment", "taken_from", file.TakenFrom)
	}
	if err := serve(ctx, f, file, store, hangup, load, logger); err != nil {
		logger.Error("cannot serve", "err", err)
		return 1
	}
	return 0
}

// loader returns what reads the configuration: the file, again at each call, or the environment, which does not change.
func loader(f flags, getenv func(string) string) func() (*config.File, error) {
	if f.configFile == "" {
		return func() (*config.File, error) {
			target, err := config.FromEnvironment(getenv, f.probing)
			if err == nil {
				err = credentials.VerifyEnvironment(target.Login.Environment)
			}
			if err != nil {
				return nil, err
			}
			return &config.File{
				Targets: []*config.Target{target}, Health: config.DefaultHealth(), TakenFrom: target.Login.Environment.Source,
			}, nil
		}
	}
	if getenv("GOGC") == "" {
		debug.SetGCPercent(manyGCPercent)
	}
	return func() (*config.File, error) {
		// A file alone says where its targets are. pgconn cannot be told to ignore this variable.
		if err := os.Unsetenv("PGSERVICE"); err != nil {
			return nil, err
		}
		return config.Load(f.configFile, f.probing, credentials.VerifyEnvironment)
	}
}

// checkConfiguration says whether the configuration file can be used, and returns the exit code.
func checkConfiguration(f flags, load func() (*config.File, error), out, errs io.Writer) int {
	file, err := load()
	if err != nil {
		fmt.Fprintln(errs, err)
		return 1
	}
	fmt.Fprintf(out, "%s can be used; targets: %d, modules: %d, checks: %d\n", f.configFile, len(file.Targets), file.Modules(), len(file.Checks))
	return 0
}

// serve answers HTTP requests until ctx ends, and then ends scrapes and sessions in less than five seconds.
func serve(
	ctx context.Context, f flags, file *config.File, store *credentials.Store,
	hangup <-chan os.Signal, load func() (*config.File, error), logger *slog.Logger,
) error {
	var sessions probe.Sessions
	exporter := collector.NewExporter(collector.Options{
		TimeoutOffset: f.offset, MaxInFlight: f.maxInFlight, HideTargets: !f.targets, Compat: f.compat, Keeps: f.keep, Sessions: &sessions, Logger: logger,
		NewProber: func(target *config.Target, events collector.Events) collector.Prober {
			return probe.New(target, store.For(target), probe.Options{
				Keep: f.keep, Sessions: &sessions, OnLoss: events.Lost, OnCommit: events.Committed, Logger: events.Logger,
			})
		},
	})
	warnOfDescriptors(logger, len(file.Targets))
	exporter.Apply(file)
	reloads := newReloads(hangup, load, exporter, logger)
	var ready atomic.Bool
	hostname, _ := os.Hostname() // empty where there is none
	answers := health.New(exporter, ready.Load, hostname)
	mux, err := newMux(f, exporter, reloads)
	if err != nil {
		return err
	}
	answers.Register(mux)
	healthMux := http.NewServeMux()
	answers.Register(healthMux)
	go reloads.run(ctx)
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	most, mostForHealth := mostConnections(), 0
	if f.healthAddress != "" {
		mostForHealth = min(most/4, healthConnections)
	}
	serverOf := func(handler http.Handler, bound *connectionBound) func() *http.Server {
		return func() *http.Server {
			return &http.Server{
				Handler:      bound.protect(withoutBody(handler)),
				ConnState:    bound.track,
				ConnContext:  bound.remember,
				BaseContext:  func(net.Listener) context.Context { return requests },
				ReadTimeout:  readTimeout,
				WriteTimeout: writeTimeout,
				IdleTimeout:  idleTimeout,
				ErrorLog:     slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
			}
		}
	}
	servers := newServers(f,
		serverOf(mux, newConnectionBound(most-mostForHealth)), serverOf(healthMux, newConnectionBound(mostForHealth)))
	served := servers.listen(logger)
	ready.Store(true)
	select {
	case err = <-served:
	case <-ctx.Done():
		logger.Info("stopping")
	}
	ready.Store(false)
	servers.stop(requests, endRequests)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	if closeErr := exporter.Close(closing); closeErr != nil {
		logger.Warn("sessions were not closed in time", "err", closeErr)
	}
	return err
}

const probePath = "/probe"

// newMux says what is served where.
func newMux(f flags, exporter *collector.Exporter, reloads *reloads) (*http.ServeMux, error) {
	mux := http.NewServeMux()
	mux.Handle(f.telemetryPath, exporter)
	mux.HandleFunc("GET "+probePath, exporter.ServeProbe)
	mux.Handle("GET /sd", exporter.Discovery(f.telemetryPath, probePath))
	mux.HandleFunc("/-/reload", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodPost:
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "this needs POST", http.StatusMethodNotAllowed)
		case !f.lifecycle:
			http.Error(w, "the lifecycle API is off; --web.enable-lifecycle turns it on", http.StatusForbidden)
		default:
			reloads.ServeHTTP(w, r)
		}
	})
	if f.telemetryPath == "/" {
		return mux, nil
	}
	landing, err := web.NewLandingPage(web.LandingConfig{
		Name:        collector.Name,
		Description: "Is this PostgreSQL alive, how quickly does it answer, and are there connections left?",
		Version:     version.Info(),
		Links: []web.LandingLinks{
			{Address: f.telemetryPath, Text: "Metrics"},
			{Address: "/health", Text: "Health", Description: "The verdict on all targets, as JSON"},
			{Address: "/sd", Text: "Service discovery", Description: "All targets, for Prometheus's http_sd_configs"},
		},
		Profiling: "false",
	})
	if err != nil {
		return nil, fmt.Errorf("landing page: %w", err)
	}
	mux.Handle("/", landing)
	return mux, nil
}

// listener is an HTTP server with what exporter-toolkit needs to serve it.
type listener struct {
	server *http.Server
	flags  web.FlagConfig
}

type listeners []listener

// newServers makes a server for each address: exporter-toolkit changes the server that it serves, and races with itself
// where it is given one for several. With systemd's sockets it makes the listeners itself.
//
// The address of the health paths has a server of its own, without TLS and passwords.
func newServers(f flags, newServer, newHealthServer func() *http.Server) listeners {
	var all listeners
	if f.healthAddress != "" {
		plain, off := "", false
		all = append(all, listener{newHealthServer(), web.FlagConfig{
			WebListenAddresses: &[]string{f.healthAddress}, WebConfigFile: &plain, WebSystemdSocket: &off,
		}})
	}
	if *f.web.WebSystemdSocket {
		return append(all, listener{newServer(), *f.web})
	}
	for _, address := range *f.web.WebListenAddresses {
		one := *f.web
		one.WebListenAddresses = &[]string{address}
		all = append(all, listener{newServer(), one})
	}
	return all
}

// listen starts all servers. The first error of one comes through the channel.
func (all listeners) listen(logger *slog.Logger) <-chan error {
	served := make(chan error, len(all))
	for _, l := range all {
		go func() {
			if err := web.ListenAndServe(l.server, &l.flags, logger); !errors.Is(err, http.ErrServerClosed) {
				served <- err
			}
		}()
	}
	return served
}

// stop lets the requests under way end by themselves for a while, and then ends them.
func (all listeners) stop(requests context.Context, endRequests func()) {
	grace, cancel := context.WithTimeout(requests, finishGrace)
	defer cancel()
	var stopping sync.WaitGroup
	for _, l := range all {
		stopping.Go(func() {
			if l.server.Shutdown(grace) != nil {
				endRequests()
				_ = l.server.Close() // closes the connections; there is nobody to tell
			}
		})
	}
	stopping.Wait()
}
