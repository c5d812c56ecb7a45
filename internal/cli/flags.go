// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package cli implements the command line: the flags, the loading of the configuration, and the command check.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	webflag "github.com/prometheus/exporter-toolkit/web/kingpinflag"

	"pg_liveness_exporter/collector"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/health"
	"pg_liveness_exporter/status"
)

const (
	defaultAddress = ":10432"
	// minAutoReload is the shortest --config.auto-reload-interval, as in Prometheus.
	minAutoReload = time.Second
	// lookupTimeout bounds the lookup of a port's name, which reads a file unless the machine asks a directory service.
	lookupTimeout = time.Second
)

// Flags are the values of the command line.
type Flags struct {
	// Web has the flags of exporter-toolkit, Log those of promslog.
	Web *web.FlagConfig
	Log promslog.Config
	// ConfigFile is empty if the target comes from the environment. ConfigCheck reports whether to validate the file
	// and exit.
	ConfigFile  string
	ConfigCheck bool
	// AutoReloadInterval is the time between two looks at the file, 0 for none.
	AutoReloadInterval time.Duration
	// TelemetryPath is the path of the metrics. Targets reports whether it shows the metrics of the targets, and Compat
	// whether to show metrics under postgres_exporter's names as well.
	TelemetryPath   string
	Targets, Compat bool
	// Status reports whether the pages for people are on.
	Status bool
	// ExternalURL is the URL that the exporter has for clients, without a slash at the end of its path. It has no host if that
	// is the one of the request. RoutePrefix is what all paths begin with: empty, or with a slash at its beginning alone.
	ExternalURL *url.URL
	RoutePrefix string
	// Lifecycle reports whether to serve POST /-/reload.
	Lifecycle bool
	// HealthAddress is a second address for the health paths, empty if there is none.
	HealthAddress string
	// Probing has the default settings of all targets.
	Probing config.Probing
	// TimeoutOffset is subtracted from the scrape timeout that Prometheus announces.
	TimeoutOffset time.Duration
	// MaxInFlight is the most configured targets, and the most ad-hoc targets, that are probed at once.
	MaxInFlight int
	// IsCheck reports whether the command is check, and Check has its flags.
	IsCheck bool
	Check   Check
}

// Parse parses the command line. If ended is set, the program must exit with code: Parse has written help or the
// version to out, or an error to errs.
func Parse(args []string, out, errs io.Writer) (f Flags, code int, ended bool) {
	app := kingpin.New(collector.Name, "Tells Prometheus whether PostgreSQL servers are alive, how quickly they answer, "+
		"and whether connections are left. Without --config.file it watches the server that the environment names: "+
		"DATA_SOURCE_NAME, DATA_SOURCE_URI, DATABASE_URL, POSTGRES_HOST or libpq's variables, the first that is set.")
	app.UsageWriter(out).ErrorWriter(errs).UsageTemplate(usageTemplate).UsageFuncs(usageFuncs())
	app.Terminate(func(status int) { code, ended = status, true })
	app.HelpFlag.Short('h')
	app.Version(version.Print(collector.Name))
	var urls urlFlags
	f.define(app, &urls)
	app.Command("serve", "Serve metrics. This is the default.").Default()
	check, style := f.Check.define(app)
	context, _ := app.ParseContext(args) // it also adds the command help
	if len(args) > 0 && args[0] == completionFlag {
		for _, candidate := range complete(app.Model(), args[1:]) {
			fmt.Fprintln(out, candidate)
		}
		return f, 0, true
	}
	if hasFlag(context, app.GetFlag("help-man")) {
		if err := writeManPage(out, app.Model()); err != nil {
			fmt.Fprintln(errs, err)
			return f, 1, true
		}
		return f, 0, true
	}
	command, err := app.Parse(args)
	f.IsCheck = command == check.FullCommand()
	if ended {
		return f, code, true
	}
	mistaken := err != nil
	if !mistaken {
		f.ExternalURL, f.RoutePrefix, err = urls.parse()
	}
	if err == nil {
		err = f.validate()
	}
	if err == nil {
		return f, 0, false
	}
	understood, refused := understand(app, args)
	if mistaken {
		err = withoutArguments(err, understood)
	}
	fmt.Fprintf(errs, "%s: error: %s, try --help\n", collector.Name, err)
	for _, hint := range foreignFlags(refused) {
		fmt.Fprintf(errs, "%s: %s\n", collector.Name, hint)
	}
	if understood.SelectedCommand != check {
		return f, 2, true
	}
	f.Check.style = lastValue(understood, style) // the exit code 2 means that the server did not respond
	return f, f.Check.exitCode(exitNotTried), true
}

// define adds the flags of all commands to app: one statement for each.
func (f *Flags) define(app *kingpin.Application, urls *urlFlags) {
	app.GetFlag("help").Help("Show the flags of the program, or of the command before it. --help-man writes the manual page.")
	f.Web = webflag.AddFlags(app, defaultAddress)
	if socket := app.GetFlag("web.systemd-socket"); socket != nil { // only Linux has it
		socket.Default("false")
	}
	promslogflag.AddFlags(app, &f.Log)
	app.GetFlag(promslogflag.LevelFlagName).PlaceHolder(strings.Join(promslog.LevelFlagOptions, "|"))
	app.GetFlag(promslogflag.FormatFlagName).PlaceHolder(strings.Join(promslog.FormatFlagOptions, "|"))
	app.Flag("web.telemetry-path", "Path under which to expose metrics.").Default("/metrics").StringVar(&f.TelemetryPath)
	app.Flag("web.external-url", "URL under which clients reach the exporter, such as that of a reverse proxy. "+
		"/sd, the landing page and redirects use it. If it is only a path, the host is that of the request.").StringVar(&urls.external)
	app.Flag("web.route-prefix", "Prefix of all paths on --web.listen-address. Defaults to the path of "+
		"--web.external-url. Set it to / if a proxy strips the path.").StringVar(&urls.prefix)
	app.Flag("config.file", "YAML file with the servers to watch.").StringVar(&f.ConfigFile)
	app.Flag("config.check", "Read --config.file, print what is wrong with it, and exit.").BoolVar(&f.ConfigCheck)
	app.Flag("config.auto-reload-interval", "How often to look at --config.file, and read it again if its content has changed; "+
		"0s turns this off.").Default("0s").DurationVar(&f.AutoReloadInterval)
	app.Flag("health.listen-address", "Address on which to serve the health paths only, without TLS and passwords. "+
		"It is for kubelets and load balancers if --web.listen-address requires these.").StringVar(&f.HealthAddress)
	app.Flag("web.enable-lifecycle", "Let POST /-/reload read --config.file again, like SIGHUP.").Default("false").BoolVar(&f.Lifecycle)
	app.Flag("web.status", "Serve the status page at /, pages of targets, badges and events. Otherwise / is a "+
		"landing page.").Default("true").BoolVar(&f.Status)
	app.Flag("metrics.targets", "Show the configured targets on the telemetry path. Turn it off if Prometheus scrapes "+
		"them through /sd and /probe: the path then has only the exporter's own metrics.").Default("true").BoolVar(&f.Targets)
	app.Flag("metrics.compat", "Also show some metrics under postgres_exporter's names, for dashboards and rules that use "+
		"them.").Default("false").BoolVar(&f.Compat)
	app.Flag("probe.timeout", "Time limit of a probe.").Default("5s").DurationVar(&f.Probing.Timeout)
	app.Flag("probe.timeout-offset", "Time to subtract from the scrape timeout that Prometheus announces.").
		Default("0.5s").DurationVar(&f.TimeoutOffset)
	app.Flag("probe.interval", "How often to probe between scrapes, so that counters and histograms show an outage that is "+
		"shorter than a scrape interval; 0s turns this off.").Default("0s").DurationVar(&f.Probing.Interval)
	app.Flag("probe.max-in-flight", "Maximum number of probes at once of configured targets, and the same number of ad-hoc targets.").
		Default("1024").IntVar(&f.MaxInFlight)
	app.Flag("probe.keep", "Keep a session open between probes. It reads the connection figures even while logins fail, and "+
		"notices restarts between scrapes. If this is off, no target keeps one, whatever its key keep says.").Default("true").BoolVar(&f.Probing.Keep)
	app.Flag("probe.commit", "Also commit a transaction in each probe of a primary, because SELECT 1 can succeed while commits hang. "+
		"It needs no table and no privilege.").Default("false").BoolVar(&f.Probing.Commit)
	app.Flag("collect.applications", "Count connections by application name.").Default("false").BoolVar(&f.Probing.Applications)
}

// define adds the command check to app. It returns the command and its flag for the style.
func (c *Check) define(app *kingpin.Application) (command *kingpin.CmdClause, style *kingpin.FlagClause) {
	command = app.Command("check", "Probe a target once, print the result, and exit with 0 if it is accepting, 1 if it is rejecting "+
		"or full, 2 if there is no response, 3 if something is misconfigured. For a check: 0 if it passes or warns, 1 if it fails.")
	command.Arg("name", "A target or a check of --config.file. May be omitted if there is only one target.").
		PlaceHolder("NAME").StringVar(&c.target)
	command.Flag("format", "Output: text or json.").Default(formatText).PlaceHolder(formatText+"|"+formatJSON).
		EnumVar(&c.format, formatText, formatJSON)
	style = command.Flag("style", "Exit codes: pg_isready as above, or docker with 0 and 1.").Default(styleIsReady).
		PlaceHolder(styleIsReady + "|" + styleDocker)
	style.EnumVar(&c.style, styleIsReady, styleDocker)
	command.Flag("livez", "Probe nothing, but ask a running exporter whether it is alive, at a URL such as "+
		"http://127.0.0.1:10432/livez. It is for the health checks of containers.").PlaceHolder("URL").StringVar(&c.livez)
	command.Flag("wait", "How long to try again until the target is accepting or the check passes.").Default("0s").DurationVar(&c.wait)
	return command, style
}

// HasPages reports whether to serve the pages for people: they are on, and the metrics are not at their path.
func (f *Flags) HasPages() bool { return f.Status && f.TelemetryPath != "/" }

func (f *Flags) validate() error {
	switch {
	case f.Probing.Timeout < config.MinTimeout || f.Probing.Timeout > config.MaxTimeout:
		return fmt.Errorf("--probe.timeout is %s, but must be from %s to %s", config.ShortDuration(f.Probing.Timeout),
			config.ShortDuration(config.MinTimeout), config.ShortDuration(config.MaxTimeout))
	case f.Probing.Interval != 0 && f.Probing.Interval < config.MinTimeout:
		return fmt.Errorf("--probe.interval is %s, but must be 0s or at least %s", f.Probing.Interval, config.MinTimeout)
	case f.MaxInFlight < 1:
		return fmt.Errorf("--probe.max-in-flight is %d, but must be at least 1", f.MaxInFlight)
	case f.ConfigFile == "" && f.ConfigCheck:
		return errors.New("--config.check needs --config.file")
	case f.AutoReloadInterval != 0 && f.AutoReloadInterval < minAutoReload:
		return fmt.Errorf("--config.auto-reload-interval is %s, but must be 0s or at least %s", f.AutoReloadInterval, minAutoReload)
	case f.ConfigFile == "" && f.AutoReloadInterval != 0:
		return errors.New("--config.auto-reload-interval needs --config.file")
	case f.TimeoutOffset < 0:
		return fmt.Errorf("--probe.timeout-offset is %s, but must not be negative", f.TimeoutOffset)
	case f.isTaken(f.TelemetryPath):
		return errors.New("--web.telemetry-path is the path of another endpoint")
	case !strings.HasPrefix(f.TelemetryPath, "/") || strings.ContainsAny(f.TelemetryPath, "{} "):
		return errors.New("--web.telemetry-path is not a path such as /metrics")
	case slices.ContainsFunc(*f.Web.WebListenAddresses, isNoAddress):
		return errors.New("--web.listen-address is not an address such as :10432 or 127.0.0.1:10432")
	case f.HealthAddress != "" && isNoAddress(f.HealthAddress):
		return errors.New("--health.listen-address is not an address such as :10433 or 127.0.0.1:10433")
	}
	return nil
}

// isNoAddress reports whether a text is not an address to listen on, so that an error of the listener does not repeat it.
// vsock:// is exporter-toolkit's.
func isNoAddress(text string) bool {
	host, port, err := net.SplitHostPort(strings.TrimPrefix(text, "vsock://"))
	if err != nil || strings.ContainsAny(host, "/@ ") {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	_, err = net.DefaultResolver.LookupPort(ctx, "tcp", port)
	return err != nil
}

// isTaken reports whether another handler serves a path.
func (f *Flags) isTaken(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return path == collector.ProbePath || path == collector.DiscoveryPath || path == collector.ConfigPath || first == "-" ||
		slices.Contains(health.Paths(), first) || f.Status && slices.Contains(status.Paths(), first)
}

// CheckConfig validates the configuration file that load reads. It writes what is wrong to errs, or a summary to out,
// and returns the exit code.
func (f *Flags) CheckConfig(load func() (*config.File, error), out, errs io.Writer) int {
	file, err := load()
	if err != nil {
		fmt.Fprintln(errs, err)
		return 1
	}
	fmt.Fprintf(out, "%s can be used; targets: %d, modules: %d, checks: %d\n",
		f.ConfigFile, len(file.Targets), file.Modules(), len(file.Checks))
	return 0
}
