// Pg_liveness_exporter tells Prometheus whether a PostgreSQL server is alive, how quickly it answers, and whether there
// are connections left.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
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

	"pg_liveness_exporter/collector"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/probe"
)

const (
	defaultAddress = ":10432"

	// Time-outs of the HTTP server. A scrape's answer is written at once, so writing may take its deadline and a little.
	// There is none for reading a whole request: it would count on while a handler works, and end it.
	headerTimeout = 5 * time.Second
	idleTimeout   = 2 * time.Minute
	writeMargin   = 10 * time.Second
	// mostConnections leaves half of the usual 1024 descriptors to the sessions.
	mostConnections = 512

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
	timeout       time.Duration
	offset        time.Duration
	keep          bool
	applications  bool
}

// parseFlags returns what args say. Help and version are written to out and end the program, as the last result says.
func parseFlags(args []string, out, errs io.Writer) (f flags, code int, ended bool) {
	app := kingpin.New(collector.Name, "Tells Prometheus whether a PostgreSQL server is alive, how quickly it answers, "+
		"and whether there are connections left. The server is named by DATA_SOURCE_NAME or, without it, DATA_SOURCE_URI, "+
		"DATABASE_URL, POSTGRES_HOST or libpq's own variables.")
	app.UsageWriter(out).ErrorWriter(errs)
	app.Terminate(func(status int) { code, ended = status, true })
	app.HelpFlag.Short('h')
	app.Version(version.Print(collector.Name))
	f.web = webflag.AddFlags(app, defaultAddress)
	promslogflag.AddFlags(app, &f.log)
	app.Flag("web.telemetry-path", "Path under which to expose metrics.").Default("/metrics").StringVar(&f.telemetryPath)
	app.Flag("probe.timeout", "The most one probe may take.").Default("5s").DurationVar(&f.timeout)
	app.Flag("probe.timeout-offset", "Time to take off the scrape timeout that Prometheus announces, for the way back.").
		Default("0.5s").DurationVar(&f.offset)
	app.Flag("probe.keep", "Keep a session open between probes, beside the new one of each probe: it reads the connection "+
		"figures also while no login succeeds, and notices restarts between scrapes.").Default("true").BoolVar(&f.keep)
	app.Flag("collect.applications", "Count connections by application name.").BoolVar(&f.applications)
	app.Command("serve", "Serve metrics; what happens without a command.").Default()
	_, err := app.Parse(args)
	if ended {
		return f, code, true
	}
	switch {
	case err == nil:
		err = f.validate()
	case strings.HasPrefix(err.Error(), "unexpected "): // kingpin would repeat what may be a connection string
		err = errors.New("unexpected argument: the server is named in the environment")
	}
	if err != nil {
		fmt.Fprintf(errs, "%s: error: %s, try --help\n", collector.Name, err)
		return f, 2, true
	}
	return f, 0, false
}

func (f *flags) validate() error {
	switch {
	case f.timeout < 100*time.Millisecond:
		return fmt.Errorf("--probe.timeout is %s, less than 100ms", f.timeout)
	case f.offset < 0:
		return fmt.Errorf("--probe.timeout-offset is %s, less than 0s", f.offset)
	case !strings.HasPrefix(f.telemetryPath, "/") || strings.ContainsAny(f.telemetryPath, "{} "):
		return fmt.Errorf("--web.telemetry-path %q is not a path", f.telemetryPath)
	}
	return nil
}

// run is the program. It returns the exit code.
func run(args []string, getenv func(string) string, out, errs io.Writer) int {
	f, code, ended := parseFlags(args, out, errs)
	if ended {
		return code
	}
	f.log.Writer = errs
	logger := promslog.New(&f.log)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	target, source, err := config.FromEnvironment(getenv)
	if err != nil {
		logger.Error("cannot use the target from the environment", "err", err)
		return 1
	}
	logger.Info("starting", "version", version.Info())
	logger.Info("the target comes from the environment", "taken_from", source)
	if err := serve(ctx, f, target, logger); err != nil {
		logger.Error("cannot serve", "err", err)
		return 1
	}
	return 0
}

// serve answers HTTP requests until ctx ends, and then ends scrapes and sessions in less than five seconds.
func serve(ctx context.Context, f flags, target *config.Target, logger *slog.Logger) error {
	var (
		sessions probe.Sessions
		shared   atomic.Uint64
	)
	exporter := collector.NewExporter(
		[]*collector.Target{collector.NewTarget(
			collector.TargetOptions{Timeout: f.timeout, Keeps: f.keep, Logger: logger, Shared: &shared},
			func(onLoss func(probe.LossReason, time.Time)) collector.Prober {
				return probe.NewPostgres(target, probe.Options{
					Keep: f.keep, Applications: f.applications, Sessions: &sessions, OnLoss: onLoss,
				})
			})},
		collector.Options{TimeoutOffset: f.offset, Sessions: &sessions, Shared: &shared, Logger: logger},
	)
	mux := http.NewServeMux()
	mux.Handle(f.telemetryPath, exporter)
	if f.telemetryPath != "/" {
		landing, err := web.NewLandingPage(web.LandingConfig{
			Name:        collector.Name,
			Description: "Is this PostgreSQL alive, how quickly does it answer, and are there connections left?",
			Version:     version.Info(),
			Links:       []web.LandingLinks{{Address: f.telemetryPath, Text: "Metrics"}},
			Profiling:   "false",
		})
		if err != nil {
			return fmt.Errorf("landing page: %w", err)
		}
		mux.Handle("/", landing)
	}
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	bound := newConnectionBound(mostConnections)
	servers := newServers(f, func() *http.Server {
		return &http.Server{
			Handler:           bound.protect(mux),
			ConnState:         bound.track,
			ConnContext:       bound.remember,
			BaseContext:       func(net.Listener) context.Context { return requests },
			ReadHeaderTimeout: headerTimeout,
			WriteTimeout:      f.timeout + writeMargin,
			IdleTimeout:       idleTimeout,
			ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		}
	})
	served := servers.listen(logger)
	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		logger.Info("stopping")
	}
	servers.stop(requests, endRequests)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	if closeErr := exporter.Close(closing); closeErr != nil {
		logger.Warn("sessions were not closed in time", "err", closeErr)
	}
	return err
}

// listener is an HTTP server with what exporter-toolkit needs to serve it.
type listener struct {
	server *http.Server
	flags  web.FlagConfig
}

type listeners []listener

// newServers makes a server for each address: exporter-toolkit changes the server that it serves, and races with itself
// where it is given one for several. With systemd's sockets it makes the listeners itself.
func newServers(f flags, newServer func() *http.Server) listeners {
	if *f.web.WebSystemdSocket {
		return listeners{{newServer(), *f.web}}
	}
	var all listeners
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
