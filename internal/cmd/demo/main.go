// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Demo is what `make run` starts: the exporter against the server that the environment names, or against a throwaway
// one; and what `make demo` starts: the exporter among all that it is used with. Whatever it started has ended when it
// ends.
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
	// defaultListen is the exporter's own port, but for this machine alone: here it asks nobody for a password.
	defaultListen = "127.0.0.1:10432"
	// role cannot be called pg_liveness: PostgreSQL keeps names that start with pg_ to itself.
	role = "liveness"

	answerTimeout = 15 * time.Second
	pollInterval  = 50 * time.Millisecond
	// stopTimeout is what a child may take to end by itself; the exporter takes at most half of it.
	stopTimeout = 10 * time.Second
)

func main() {
	os.Exit(run(os.Args[1:]))
}

// run is the program. It returns the exit code, 0 when a signal ended it.
func run(args []string) int {
	if len(args) != 2 || args[0] != "run" && args[0] != "demo" {
		fmt.Fprintln(os.Stderr, "usage: demo run|demo EXPORTER")
		return 2
	}
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		signals = append(signals, syscall.SIGHUP)
	}
	// Left alone, it would end us and leave the server when nobody reads any more what we print. That it can also come
	// from a connection which the other side closed is no reason to end.
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

// endingWriter calls end when nobody reads any more what is written.
type endingWriter struct {
	io.Writer
	end func()
}

// Write writes.
func (w endingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		w.end()
	}
	return n, err
}

// runner runs the exporter, from the folder of the repository.
type runner struct {
	exporter  string   // its binary
	listen    string   // host:port, or nothing for the default
	environ   []string // as os.Environ
	out, errs io.Writer
}

// run runs the exporter until ctx ends, which is no error.
func (r *runner) run(ctx context.Context) (err error) {
	if err := r.reserveAddress(ctx); err != nil {
		return err
	}
	if name := serverVariable(r.environ); name != "" {
		return r.serve(ctx, r.environ, "the server that "+name+" names", "pg_up ")
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

// reserveAddress refuses an address that cannot be had before anything is started.
func (r *runner) reserveAddress(ctx context.Context) error {
	if r.listen == "" {
		r.listen = defaultListen
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", r.listen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s is taken; choose another address with LISTEN=host:port", r.listen)
	case err != nil:
		return fmt.Errorf("LISTEN=%s does not do, it takes host:port: %w", r.listen, err)
	}
	r.listen = l.Addr().String() // with the port that port 0 became
	return l.Close()
}

// throwaway starts a server with a role for the exporter, and returns it with the role's connection string.
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

// findServer returns the folder with a server's binaries, which it brings where there are none.
func findServer(ctx context.Context, errs io.Writer) (string, error) {
	bin, err := testservers.FindPostgres()
	if errors.Is(err, testservers.ErrPostgresNotFound) {
		if err := bring(ctx, errs); err != nil {
			return "", err
		}
		bin, err = testservers.FindPostgres()
	}
	return bin, err
}

// bring brings a server to a machine that has none. The error says what would.
func bring(ctx context.Context, errs io.Writer) error {
	var said strings.Builder
	script := exec.CommandContext(ctx, "scripts/install-postgres")
	// No writer of ours is a file, so waiting for the script is waiting for all that it started.
	script.Stdout, script.Stderr = &said, struct{ io.Writer }{errs}
	endGently(script)
	err := script.Run()
	if err != nil && said.Len() > 0 {
		return errors.New(strings.TrimSpace(said.String()))
	}
	return err
}

// serve runs the exporter until ctx ends, and says where to look once it says what is wanted.
func (r *runner) serve(ctx context.Context, env []string, subject, wanted string) error {
	running, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	exporter := exec.CommandContext(running, r.exporter, "--web.listen-address="+r.listen)
	exporter.Env, exporter.Stdout, exporter.Stderr = env, r.out, r.errs
	endGently(exporter)
	if err := exporter.Start(); err != nil {
		return err
	}
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		if err := r.announce(running, subject, wanted); err != nil {
			giveUp(err)
		}
	}()
	_ = exporter.Wait() // how it ended is in its ProcessState
	given := context.Cause(running)
	giveUp(nil)
	<-asked
	switch {
	case ctx.Err() != nil:
		return nil
	case given != nil:
		return given
	}
	return fmt.Errorf("the exporter ended by itself: %s", exporter.ProcessState)
}

// announce waits for a line that starts with wanted, and prints it with what a person wants to know.
func (r *runner) announce(ctx context.Context, subject, wanted string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	address := r.listen
	if host, port, err := net.SplitHostPort(address); err == nil && net.ParseIP(host).IsUnspecified() {
		address = net.JoinHostPort("localhost", port)
	}
	address = "http://" + address + "/metrics"
	for {
		line, err := ask(ctx, address, wanted)
		if err == nil {
			fmt.Fprintf(r.out, "\n%s says\n    %s\nof %s.\nCtrl-C stops it all.\n\n", address, line, subject)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not say %s: %w", address, wanted, err)
		case <-time.After(pollInterval):
		}
	}
}

// ask returns the line of the page at address that starts with wanted.
func ask(ctx context.Context, address, wanted string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{DisableKeepAlives: true} // and no proxy: it is our own
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
	return "", fmt.Errorf("HTTP %s without it", response.Status)
}

// endGently makes the end of a command's context a SIGTERM to it and all its children, and a SIGKILL to it only after
// stopTimeout.
func endGently(cmd *exec.Cmd) {
	cmd.SysProcAttr = childAttributes()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
}

// serverVariable returns the first variable that names a server for the exporter, in the order in which it looks.
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

// withoutServers returns the variables that say nothing to the exporter about servers, users and passwords.
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
