// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Demo is the program behind `make run` and `make demo`. `make run` starts the exporter with the server that the
// environment names, or with a throwaway one. `make demo` starts the exporter together with throwaway servers,
// Prometheus, Alertmanager and Grafana. Both run until a signal, and end everything that they have started.
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"pg_liveness_exporter/internal/testservers"
)

const (
	// defaultListen is the default port of the exporter, on the loopback interface only: /metrics needs no password here.
	defaultListen = "127.0.0.1:10432"
	// role is not called pg_liveness because PostgreSQL reserves names that start with pg_.
	role = "liveness"

	// announceTimeout is how long /metrics may take until it has the expected line.
	announceTimeout = 15 * time.Second
	// pollInterval is the time between two requests for that line.
	pollInterval = 50 * time.Millisecond
	// stopTimeout is how long a child may take to end after SIGTERM. The exporter needs at most half of it.
	stopTimeout = 10 * time.Second
)

func main() {
	os.Exit(run(os.Args[1:]))
}

// run is the program. It returns the exit code, which is 0 if a signal ended it.
func run(args []string) int {
	if len(args) != 2 || args[0] != "run" && args[0] != "demo" {
		fmt.Fprintln(os.Stderr, "usage: demo run|demo EXPORTER")
		return 2
	}
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup makes it ignored
		signals = append(signals, syscall.SIGHUP)
	}
	// By default, SIGPIPE would end this program, and leave the server behind, when the reader of its output has gone. It
	// is not a reason to end, because it can also come from a closed connection: endingWriter sees the error instead.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	ctx, end := context.WithCancel(ctx)
	defer end()
	go watchParent(ctx, end)

	var err error
	out := endingWriter{os.Stdout, end}
	if args[0] == "demo" {
		err = demo{exporter: args[1], in: os.Stdin, out: out, errs: os.Stderr}.run(ctx)
	} else {
		r := runner{exporter: args[1], listen: os.Getenv("LISTEN"), environ: os.Environ(), out: out, errs: os.Stderr}
		err = r.run(ctx)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "make %s: %v\n", args[0], err)
		return 1
	}
	return 0
}

// endingWriter calls end when a write fails because the reader has gone.
type endingWriter struct {
	io.Writer
	end func()
}

// Write implements io.Writer.
func (w endingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		w.end()
	}
	return n, err
}

// runner runs the exporter in the folder of the repository.
type runner struct {
	exporter  string   // path of the binary
	listen    string   // host:port; empty means the default
	environ   []string // as os.Environ returns it
	out, errs io.Writer
}

// run runs the exporter until ctx ends, and then returns nil.
func (r *runner) run(ctx context.Context) (err error) {
	if err := r.checkAddress(ctx); err != nil {
		return err
	}
	if name := serverVariable(r.environ); name != "" {
		return r.serve(ctx, r.environ, "the server in "+name, "pg_up ")
	}
	server, dsn, err := r.throwaway(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer func() { err = errors.Join(err, server.Remove()) }()
	return r.serve(ctx, append(withoutServers(r.environ), "DATA_SOURCE_NAME="+dsn),
		fmt.Sprintf("a throwaway server (psql -h %s -p %d -U %s)", server.Dir, server.Port, testservers.Superuser), "pg_up 1")
}

// checkAddress returns an error if the exporter could not listen on its address, before anything is started. It sets
// the default and replaces port 0 by a free port.
func (r *runner) checkAddress(ctx context.Context) error {
	if r.listen == "" {
		r.listen = defaultListen
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", r.listen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s is in use; choose another address with LISTEN=host:port", r.listen)
	case err != nil:
		return fmt.Errorf("invalid address LISTEN=%s, want host:port: %w", r.listen, err)
	}
	r.listen = l.Addr().String() // port 0 has become a real one
	return l.Close()
}

// throwaway starts a server with a role for the exporter. It returns the server, which the caller removes, and the
// connection string of the role.
func (r *runner) throwaway(ctx context.Context) (*testservers.Postgres, string, error) {
	bin, err := findServer(ctx, r.errs)
	if err != nil {
		return nil, "", err
	}
	server, err := testservers.NewPostgres(ctx, testservers.PostgresConfig{Bin: bin})
	if err != nil {
		return nil, "", err
	}
	password := rand.Text()
	err = server.Exec(ctx, fmt.Sprintf(
		"CREATE ROLE %s LOGIN CONNECTION LIMIT 10 PASSWORD '%s'; GRANT pg_monitor TO %s", role, password, role))
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("create the role: %w", err), server.Remove())
	}
	return server, fmt.Sprintf("postgresql://%s:%s@127.0.0.1:%d/postgres", role, password, server.Port), nil
}

// findServer returns the folder with the binaries of a PostgreSQL server. If there is none, it installs one.
func findServer(ctx context.Context, errs io.Writer) (string, error) {
	bin, err := testservers.FindPostgres()
	if errors.Is(err, testservers.ErrPostgresNotFound) {
		if err := installPostgres(ctx, errs); err != nil {
			return "", err
		}
		bin, err = testservers.FindPostgres()
	}
	return bin, err
}

// installPostgres runs the script that installs a PostgreSQL server. If the script fails, the error is the command that
// the user has to run instead.
func installPostgres(ctx context.Context, errs io.Writer) error {
	var advice strings.Builder
	script := exec.CommandContext(ctx, "scripts/install-postgres")
	// Neither writer is a file, so Run also waits for the processes that the script has started.
	script.Stdout, script.Stderr = &advice, struct{ io.Writer }{errs}
	terminateOnCancel(script)
	err := script.Run()
	if err != nil && advice.Len() > 0 {
		return errors.New(strings.TrimSpace(advice.String()))
	}
	return err
}

// serve runs the exporter with the environment env until ctx ends, and then returns nil. Once /metrics has a line that
// starts with wanted, it prints that line and where it is. subject describes the server.
func (r *runner) serve(ctx context.Context, env []string, subject, wanted string) error {
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	exporter := exec.CommandContext(running, r.exporter, "--web.listen-address="+r.listen)
	exporter.Env, exporter.Stdout, exporter.Stderr = env, r.out, r.errs
	terminateOnCancel(exporter)
	if err := exporter.Start(); err != nil {
		return err
	}
	announced := make(chan struct{})
	go func() {
		defer close(announced)
		if err := r.announce(running, subject, wanted); err != nil {
			cancel(err)
		}
	}()
	_ = exporter.Wait() // ProcessState has the result
	cause := context.Cause(running)
	cancel(nil)
	<-announced
	switch {
	case ctx.Err() != nil:
		return nil
	case cause != nil:
		return cause
	}
	return fmt.Errorf("the exporter exited: %s", exporter.ProcessState)
}

// announce waits until /metrics has a line that starts with wanted. It prints the line, where it is, what subject was
// probed and how to stop. It fails after announceTimeout.
func (r *runner) announce(ctx context.Context, subject, wanted string) error {
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	address := r.listen
	if host, port, err := net.SplitHostPort(address); err == nil && net.ParseIP(host).IsUnspecified() {
		address = net.JoinHostPort("localhost", port)
	}
	address = "http://" + address + "/metrics"
	for {
		line, err := fetchLine(ctx, address, wanted)
		if err == nil {
			fmt.Fprintf(r.out, "\n%s says\n    %s\nfor %s.\nPress Ctrl-C to stop.\n\n", address, line, subject)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no line %q on %s: %w", wanted, address, err)
		case <-time.After(pollInterval):
		}
	}
}

// fetchLine returns the first line of the page at address that starts with wanted.
func fetchLine(ctx context.Context, address, wanted string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{DisableKeepAlives: true} // and no proxy
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), wanted) {
			return lines.Text(), nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", err
	}
	return "", fmt.Errorf("the response has status %s and no such line", response.Status)
}

// terminateOnCancel makes cancellation of cmd's context send SIGTERM to the process group of cmd. If cmd has not ended
// after stopTimeout, it is killed.
func terminateOnCancel(cmd *exec.Cmd) {
	cmd.SysProcAttr = childAttributes()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
}

// serverVariable returns the name of the variable in environ from which the exporter would take a server, or "" if
// there is none. The order is that of the exporter.
func serverVariable(environ []string) string {
	for _, name := range []string{
		"DATA_SOURCE_NAME", "DATA_SOURCE_URI", "DATABASE_URL", "POSTGRES_HOST", "PGHOST", "PGSERVICE",
	} {
		for _, variable := range environ {
			key, value, _ := strings.Cut(variable, "=")
			if value != "" && (key == name || key == name+"_FILE") {
				return key
			}
		}
	}
	return ""
}

// withoutServers returns environ without the variables from which the exporter takes servers, users and passwords.
func withoutServers(environ []string) []string {
	var kept []string
next:
	for _, variable := range environ {
		for _, prefix := range []string{"DATA_SOURCE_", "DATABASE_URL", "POSTGRES_", "PG"} {
			if strings.HasPrefix(variable, prefix) {
				continue next
			}
		}
		kept = append(kept, variable)
	}
	return kept
}
