// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// buildTimeout is long enough for the first build on a machine without caches.
const buildTimeout = 5 * time.Minute

// announcement matches what announce prints about a throwaway server. Its groups are the page and the server's folder.
var announcement = regexp.MustCompile(`(http://\S+) says\n +pg_up 1\nfor a throwaway server \(psql -h (\S+) `)

// TestMakeRunLeavesNothing: make run leaves no process and no file, whatever signal ends it.
func TestMakeRunLeavesNothing(t *testing.T) {
	bin, err := testservers.FindPostgres()
	testenv.Need(t, err == nil, "a PostgreSQL server", "scripts/install-postgres")
	_, err = exec.LookPath("make")
	testenv.Need(t, err == nil, "make", "apt-get install make")
	// A job in the background of a shell ignores these signals, and make would inherit that. It does not inherit handlers.
	handled := make(chan os.Signal, 1)
	signal.Notify(handled, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(handled)
	for _, tt := range []struct {
		name   string
		signal syscall.Signal
		group  bool // send it to the process group, as Ctrl-C does
	}{
		{"Ctrl-C", syscall.SIGINT, true},
		{"SIGINT to make alone", syscall.SIGINT, false},
		{"SIGTERM to make alone", syscall.SIGTERM, false},
		{"the terminal closes", syscall.SIGHUP, true},
		{"make is killed", syscall.SIGKILL, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out testservers.Output
			ctx, cancel := context.WithTimeout(t.Context(), buildTimeout+time.Minute)
			defer cancel()
			run := exec.CommandContext(ctx, "make", "run")
			run.Dir = "../../.."
			run.Env = append(withoutServers(os.Environ()), "LISTEN=127.0.0.1:0", "PG_BIN="+bin, "PGPASSWORD=not this one")
			run.Stdout, run.Stderr = &out, &out // pipes: Wait also waits for what make has started
			run.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := run.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = syscall.Kill(-run.Process.Pid, syscall.SIGTERM) }()
			found := await(t, &out, announcement)
			page, folder := found[1], found[2]
			pid := run.Process.Pid
			if tt.group {
				pid = -pid
			}
			if err := syscall.Kill(pid, tt.signal); err != nil {
				t.Fatal(err)
			}
			if err := run.Wait(); err == nil {
				t.Error("make ignored the signal")
			}
			if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is still there (%v)", folder, err)
			}
			if _, err := fetchLine(t.Context(), page, ""); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s still answers (%v)", page, err)
			}
			if processes := mentioning(t, folder); len(processes) > 0 {
				t.Errorf("still running: %q", processes)
			}
		})
	}
}

// TestMakeDemo: make demo starts, its keys break and mend something, an unknown key shows the help, broken connections
// do not end it, and after Ctrl-C no process and no file is left.
func TestMakeDemo(t *testing.T) {
	bin, err := testservers.FindPostgres()
	testenv.Need(t, err == nil, "a PostgreSQL server", "scripts/install-postgres")
	testenv.Tool(t, "PGBOUNCER", "pgbouncer")
	testenv.Tool(t, "PROMETHEUS", "prometheus")
	handled := make(chan os.Signal, 1) // as in TestMakeRunLeavesNothing
	signal.Notify(handled, syscall.SIGINT)
	defer signal.Stop(handled)
	var out testservers.Output
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout+time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, "make", "demo")
	run.Dir = "../../.."
	run.Env = append(os.Environ(), "PG_BIN="+bin)
	keys, err := run.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	run.Stdout, run.Stderr = &out, &out
	run.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(-run.Process.Pid, syscall.SIGTERM) }()
	folders := []string{
		await(t, &out, regexp.MustCompile(`primary +psql -h (\S+)`))[1],
		await(t, &out, regexp.MustCompile(`standby +psql -h (\S+)`))[1],
	}
	prometheus := await(t, &out, regexp.MustCompile(`Prometheus +(http://\S+)`))[1]
	for _, step := range []struct{ key, want string }{
		{"nonsense", `(?s)\?  show this help.*\?  show this help`},
		{"x", `(?s)now: crash the primary.*Alertmanager sends PostgresCrashRestarted \(primary\) within 2 min`},
		{"l", "now: pause replay on the standby"},
		{"h", `(?s)mended: pause replay.*now: hang the primary`},
		{"h", "mended: hang the primary"},
		{"s", "now: stop the primary"},
	} {
		if _, err := io.WriteString(keys, step.key+"\n"); err != nil {
			t.Fatal(err)
		}
		await(t, &out, regexp.MustCompile(step.want))
		if step.key == "x" {
			time.Sleep(10 * time.Second) // every client of the load has noticed its broken connection by then
		}
	}
	if err := syscall.Kill(-run.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := run.Wait(); err == nil {
		t.Error("make ignored the signal")
	}
	printed := out.String()
	if !strings.HasSuffix(strings.TrimSpace(printed), "Stopping.") && !strings.Contains(printed, "Stopping.\nmake: ") {
		t.Errorf("unexpected output at the end:\n%s", printed)
	}
	for _, folder := range folders {
		if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", folder, err)
		}
		if processes := mentioning(t, folder); len(processes) > 0 {
			t.Errorf("still running: %q", processes)
		}
	}
	if _, err := fetchLine(t.Context(), prometheus, ""); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%s still answers (%v)", prometheus, err)
	}
}

// TestMissingPrograms: make demo names all programs that are missing, and finds those of /usr/sbin without it on PATH.
func TestMissingPrograms(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("PROMETHEUS", "/nothing")
	t.Setenv("PGBOUNCER", "/nothing")
	_, err := demo{exporter: "exporter"}.findPrograms(t.Context())
	want := "not found: prometheus, pgbouncer. Install what is missing, or set PROMETHEUS or PGBOUNCER to the path"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if got := findProgram("pgbouncer", "/nothing"); got != "" {
		t.Errorf("got %s, though the path that is set is wrong", got)
	}
	programs, err := filepath.Glob("/usr/sbin/*")
	if err != nil || len(programs) == 0 {
		t.Skip("nothing is in /usr/sbin")
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			continue // no program, or not for everybody
		}
		if got := findProgram(filepath.Base(program), ""); got != program {
			t.Errorf("got %q, want %s", got, program)
		}
		break
	}
}

// TestPromise: a key says which notifications follow and when, "resolved" included.
func TestPromise(t *testing.T) {
	f := testservers.Fault{
		Seen: "It is down.",
		Notices: []testservers.Notice{
			{Alert: "PostgresDown", Target: "primary", Firing: 2 * time.Minute, Resolved: 90 * time.Second},
		},
	}
	const want = "\n          It is down.\n          " +
		`Alertmanager sends PostgresDown (primary) within 2 min, and "resolved" within 1.5 min of the key.`
	if got := promise(f); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	f.Mend = func(context.Context) error { return nil }
	if got, want := promise(f), strings.Replace(want, "the key", "the mend", 1); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// mentioning returns the command lines of the processes that contain text. Without a /proc it returns none.
func mentioning(t *testing.T, text string) (found []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && bytes.Contains(line, []byte(text)) {
			found = append(found, string(line))
		}
	}
	return found
}

// TestTakenAddress: an address that is in use or invalid is refused before a server is started.
func TestTakenAddress(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	// With this PG_BIN no server can be started, so the error about the address came first.
	t.Setenv("PG_BIN", t.TempDir())
	r := runner{exporter: "/nothing", listen: l.Addr().String(), out: io.Discard, errs: io.Discard}
	err = r.run(t.Context())
	want := l.Addr().String() + " is in use; choose another address with LISTEN=host:port"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	r.listen = "10432"
	if err = r.run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "invalid address LISTEN=10432") {
		t.Errorf("got %v", err)
	}
}

// TestServerInTheEnvironmentIsUsed: no throwaway server is started if the environment names one.
func TestServerInTheEnvironmentIsUsed(t *testing.T) {
	// The script replaces the exporter. It prints what it gets and exits.
	exporter := filepath.Join(t.TempDir(), "exporter")
	if err := os.WriteFile(exporter, []byte("#!/bin/sh\necho \"$* $PGHOST $PGPASSWORD\"\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PG_BIN", t.TempDir()) // no throwaway server can be started
	var out testservers.Output
	r := runner{
		exporter: exporter, listen: "127.0.0.1:0", out: &out, errs: &out,
		environ: []string{"PGHOST=db.example", "PGPASSWORD=secret"},
	}
	err := r.run(t.Context())
	if err == nil || err.Error() != "the exporter exited: exit status 3" {
		t.Errorf("got %v", err)
	}
	if got, want := out.String(), "--web.listen-address="+r.listen+" db.example secret\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestAnnounce: announce prints the line that starts with the wanted text, and fails without one.
func TestAnnounce(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "# TYPE pg_up gauge\npg_up 0\npg_uptime 1\n")
		}),
		ReadHeaderTimeout: time.Second,
	}
	go func() { _ = server.Serve(l) }()
	defer func() { _ = server.Close() }()
	_, port, _ := net.SplitHostPort(l.Addr().String())

	var out testservers.Output
	r := runner{listen: l.Addr().String(), out: &out}
	if err := r.announce(t.Context(), "a server", "pg_up "); err != nil {
		t.Fatal(err)
	}
	want := "http://localhost:" + port + "/metrics says\n    pg_up 0\nfor a server.\n"
	if !strings.Contains(out.String(), want) {
		t.Errorf("got %q, want %q in it", out.String(), want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := r.announce(ctx, "a server", "pg_up 1"); err == nil {
		t.Error("announce accepted pg_up 0 as pg_up 1")
	}
}

func TestServerVariable(t *testing.T) {
	for _, tt := range []struct {
		environ []string
		want    string
	}{
		{nil, ""},
		{[]string{"PATH=/bin", "DATABASE_URL=", "PGUSER=me", "PGPASSWORD=x", "POSTGRES_PASSWORD=x", "PG_BIN=/x"}, ""},
		{[]string{"PGHOST=db", "DATABASE_URL=postgres://db"}, "DATABASE_URL"},
		{[]string{"DATA_SOURCE_URI_FILE=/run/uri"}, "DATA_SOURCE_URI_FILE"},
		{[]string{"PGSERVICE=orders"}, "PGSERVICE"},
	} {
		if got := serverVariable(tt.environ); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.environ, got, tt.want)
		}
	}
}

func TestWithoutServers(t *testing.T) {
	got := withoutServers([]string{
		"PATH=/bin", "PGSSLMODE=verify-full", "POSTGRES_PASSWORD=x", "DATABASE_URL=", "DATA_SOURCE_PASS_FILE=/x",
		"HOME=/root",
	})
	if want := []string{"PATH=/bin", "HOME=/root"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// await waits until the output matches pattern, and returns the match and its groups. It fails after buildTimeout.
func await(t *testing.T, o *testservers.Output, pattern *regexp.Regexp) []string {
	t.Helper()
	for end := time.Now().Add(buildTimeout); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if found := pattern.FindStringSubmatch(o.String()); found != nil {
			return found
		}
	}
	t.Fatalf("no %s in:\n%s", pattern, o)
	return nil
}
