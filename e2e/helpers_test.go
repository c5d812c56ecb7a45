// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/version"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials"
	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// Set by TestMain: each builds the program when the first test asks for it, and returns its path.
var (
	underTest func() (string, error) // as go test built the tests, so with the race detector under -race
	asShipped func() (string, error) // without the race detector, which takes several times the memory
)

// template is set by TestMain too: it makes the data directory that servers copy.
var template func() (*testservers.Template, error)

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "pg_liveness_exporter-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	underTest = sync.OnceValues(func() (string, error) { return buildUnderTest(filepath.Join(folder, "under-test")) })
	asShipped = sync.OnceValues(func() (string, error) { return buildAsShipped(filepath.Join(folder, "as-shipped")) })
	removeTemplate := func() error { return nil }
	template = sync.OnceValues(func() (*testservers.Template, error) {
		bin, err := testservers.FindPostgres()
		if err != nil {
			return nil, err
		}
		made, err := testservers.NewTemplate(context.Background(), bin)
		if err == nil {
			removeTemplate = made.Remove
		}
		return made, err
	})
	code := m.Run()
	_ = removeTemplate()
	_ = os.RemoveAll(folder) // it is in the folder for temporary files
	os.Exit(code)
}

// program returns the path of the program under test: $PROGRAM, or what the first call builds.
func program(t *testing.T) string {
	t.Helper()
	path, err := underTest()
	check(t, err)
	return path
}

// plainProgram returns the path of the program built as it is shipped.
func plainProgram(t *testing.T) string {
	t.Helper()
	path, err := asShipped()
	check(t, err)
	return path
}

// dataTemplate returns the data directory that servers copy.
func dataTemplate(t *testing.T) *testservers.Template {
	t.Helper()
	testenv.Bin(t) // skips the test without a server
	made, err := template()
	check(t, err)
	return made
}

const (
	role     = "monitor"
	password = `pa ss'w\o"rd%&,é=@:/?#` // every character that some syntax would trip over
	// scrapeTimeout is what a scraper announces. probeTimeout is the timeout of a probe unless a test sets it. The
	// difference lets a scrape show the result of its probe on a busy machine, too.
	scrapeTimeout = 3 * time.Second
	probeTimeout  = time.Second
	// hanging is the most any answer may take on a busy machine before it counts as hung.
	hanging = 10 * time.Second
	// building is the most a build may take on a machine without caches before it counts as hung.
	building = 10 * time.Minute
)

// buildUnderTest builds the program with the flags that go test was given, so that both share what is compiled. It adds
// no -trimpath, for the same reason. A relative $PROGRAM is one of the module's root.
func buildUnderTest(path string) (string, error) {
	if ready := os.Getenv("PROGRAM"); ready != "" {
		if filepath.IsAbs(ready) {
			return ready, nil
		}
		root, err := testservers.ModuleRoot()
		return filepath.Join(root, ready), err
	}
	flags := []string{"-buildvcs=false"}
	info, _ := debug.ReadBuildInfo()
	for _, setting := range info.Settings {
		switch setting.Key {
		case "-race", "-msan", "-asan", "-tags", "-gcflags":
			flags = append(flags, setting.Key+"="+setting.Value)
		}
	}
	if testing.CoverMode() != "" {
		flags = append(flags, "-cover")
	}
	return build(path, nil, flags...)
}

// buildAsShipped builds the program with the flags of scripts/build, so that both share what is compiled.
func buildAsShipped(path string) (string, error) {
	return build(path, []string{"CGO_ENABLED=0"}, "-trimpath", "-buildvcs=false")
}

func build(path string, env []string, flags ...string) (string, error) {
	root, err := testservers.ModuleRoot()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), building) // for all tests, so not the first one's
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build"}, flags...), "-o", path, ".")...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return path, nil
}

// inRoot returns the absolute path of a file of the repository.
func inRoot(t *testing.T, path string) string {
	t.Helper()
	root, err := testservers.ModuleRoot()
	check(t, err)
	return filepath.Join(root, path)
}

// read returns the content of a file, by its path from the module's root or by an absolute one.
func read(t *testing.T, path string) string {
	t.Helper()
	if !filepath.IsAbs(path) {
		path = inRoot(t, path)
	}
	content, err := os.ReadFile(path)
	check(t, err)
	return string(content)
}

// glob returns the files of the repository that match, by their paths from the module's root. There must be some.
func glob(t *testing.T, pattern string) []string {
	t.Helper()
	root := inRoot(t, "")
	files, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	for i, file := range files {
		files[i], err = filepath.Rel(root, file)
		check(t, err)
	}
	return files
}

func parse(t *testing.T, name, content string) (*config.File, error) {
	t.Helper()
	return config.Parse(strings.NewReader(content), name, config.Probing{Timeout: time.Second}, &config.Verifier{Environment: credentials.VerifyEnvironment})
}

// writeFile writes a configuration, or whatever else, and returns its path.
func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yml")
	check(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// runIn runs a program in a folder and returns what it wrote to its standard output.
func runIn(t *testing.T, folder string, limit time.Duration, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = hanging // for what it started
	cmd.Dir, cmd.Env = folder, append(os.Environ(), env...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &errs)
	}
	return string(out)
}

// needClone skips the test where there is no git or no clone.
func needClone(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("git")
	testenv.Need(t, err == nil, "git", "apt-get install git")
	inside := exec.CommandContext(t.Context(), "git", "rev-parse", "HEAD").Run() == nil
	testenv.Need(t, inside, "a git clone", "git clone")
}

// toolchain is the Go that go.mod names, for the faults mended in it.
func toolchain(t *testing.T) string {
	t.Helper()
	_, rest, found := strings.Cut(read(t, "go.mod"), "\ntoolchain ")
	name, _, _ := strings.Cut(rest, "\n")
	if !found || !version.IsValid(name) {
		t.Fatalf("go.mod names no toolchain but %q", name)
	}
	return name
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// expectEqual prints the difference between what is wanted and what is there, if there is one.
func expectEqual[T any](t *testing.T, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// eventually waits for something that happens in the background, as long as a user would call it hung.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(hanging); !happened(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dial returns a connection, or nil after a while if there is none to be had.
func dial(ctx context.Context, address string) net.Conn {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		_ = sleep(ctx, 100*time.Millisecond)
		return nil
	}
	return conn
}

func freePort(t *testing.T) string {
	t.Helper()
	port, err := testservers.ReservePort()
	check(t, err)
	t.Cleanup(func() { check(t, port.Release()) })
	return strconv.Itoa(port.Number)
}

func getJSON(t *testing.T, address string, to any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if err := json.NewDecoder(response.Body).Decode(to); err != nil {
		t.Fatalf("%s: %v", address, err)
	}
}

// Exporter is the program under test.
type Exporter struct {
	t       *testing.T
	cmd     *exec.Cmd
	address string
	exited  chan struct{}
	last    Metrics // of the scrape before
	quiet   usage   // what it uses when nothing is wrong
	log     *testservers.Output
}

// In returns the exporter for a subtest, whose failures are the subtest's.
func (e *Exporter) In(t *testing.T) *Exporter {
	in := *e
	in.t = t
	return &in
}

func (e *Exporter) Logged() string { return e.log.String() }

// startExporter starts the program and waits until it listens.
func startExporter(t *testing.T, env []string, args ...string) *Exporter {
	t.Helper()
	return startProgram(t, []string{program(t)}, env, args...)
}

// startWithFile starts the exporter with a configuration file, and returns the file's path.
func startWithFile(t *testing.T, content string, args ...string) (*Exporter, string) {
	t.Helper()
	path := writeFile(t, content)
	return startExporter(t, nil, append([]string{"--config.file=" + path}, args...)...), path
}

// startLimited is startExporter with a limit on open files.
func startLimited(t *testing.T, descriptors int, env []string, args ...string) *Exporter {
	t.Helper()
	limit := fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, descriptors)
	return startProgram(t, []string{"sh", "-c", limit, program(t)}, env, args...)
}

// startProgram starts a program, by the beginning of its command line, and waits until it listens. When the test ends,
// the program must end by itself, with exit code 0: it is 66 after a data race.
func startProgram(t *testing.T, program, env []string, args ...string) *Exporter {
	t.Helper()
	address := "127.0.0.1:" + freePort(t)
	e := &Exporter{t: t, address: address, exited: make(chan struct{}), log: &testservers.Output{}}
	args = append(append(program[1:len(program):len(program)], "--web.listen-address="+address), args...)
	if !slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--probe.timeout=") }) {
		args = append(args, "--probe.timeout="+probeTimeout.String())
	}
	e.cmd = exec.CommandContext(context.Background(), program[0], args...)
	e.cmd.Env = append(cleanEnvironment(), env...)
	e.cmd.Stderr = e.log
	check(t, e.cmd.Start())
	go func() {
		_ = e.cmd.Wait() // its exit code is looked at below
		close(e.exited)
	}()
	t.Cleanup(func() {
		_ = e.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-e.exited:
			if code := e.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("the exporter ended with exit code %d", code)
			}
		case <-time.After(3 * hanging):
			t.Error("the exporter did not stop")
			_ = e.cmd.Process.Kill()
		}
		if strings.Contains(e.Logged(), "DATA RACE") || strings.Contains(e.Logged(), password) {
			t.Error("a data race or the password is in the log")
		}
		if t.Failed() {
			t.Logf("exporter log:\n%s", e.Logged())
		}
	})
	e.ExpectListening(address)
	return e
}

// command prepares the program with a clean environment. It is killed if it runs for longer than any answer may take.
func command(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	path := program(t) // may have to be built, which does not count
	ctx, cancel := context.WithTimeout(t.Context(), 3*hanging)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(cleanEnvironment(), env...)
	return cmd
}

// cleanEnvironment is the environment that a program starts with, so that nothing else of the machine's reaches it.
func cleanEnvironment() []string {
	env := []string{"HOME=/nonexistent", "PATH=" + os.Getenv("PATH")}
	if testing.CoverMode() != "" {
		env = append(env, "GOCOVERDIR="+coverFolder())
	}
	return env
}

// coverFolder returns where a program that was built with -cover writes what it ran. go test sets GOCOVERDIR to a
// folder of its own, whatever the user has set it to, so that the flag of the same purpose comes first.
func coverFolder() string {
	if f := flag.Lookup("test.gocoverdir"); f != nil && f.Value.String() != "" {
		return f.Value.String()
	}
	return os.Getenv("GOCOVERDIR")
}

// login are the credentials of the role, as a line of a configuration.
func login() string { return fmt.Sprintf("user: %s, password: %q, sslmode: disable", role, password) }

// environment names a server the way postgres_exporter's users do.
func environment(port int, database string) []string {
	return []string{
		fmt.Sprintf("DATA_SOURCE_URI=127.0.0.1:%d/%s?sslmode=disable", port, database),
		"DATA_SOURCE_USER=" + role, "DATA_SOURCE_PASS=" + password,
	}
}

// ExpectListening waits until the exporter takes connections at an address.
func (e *Exporter) ExpectListening(address string) {
	e.t.Helper()
	for deadline := time.Now().Add(3 * hanging); ; time.Sleep(10 * time.Millisecond) {
		dialer := net.Dialer{Timeout: time.Second}
		conn, err := dialer.DialContext(e.t.Context(), "tcp", address)
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("the exporter does not listen: %v\n%s", err, e.Logged())
		}
	}
}

// Get requests a page. announced is the scrape timeout to send, 0 for none.
func (e *Exporter) Get(ctx context.Context, path string, announced time.Duration) (*http.Response, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.address+path, nil)
	if err != nil {
		return nil, "", err
	}
	if announced > 0 {
		request.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", strconv.FormatFloat(announced.Seconds(), 'f', -1, 64))
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * hanging}
	response, err := client.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return response, string(body), err
}

// Metrics are a scrape's series by name and labels, as the text format writes them.
type Metrics map[string]float64

func parseMetrics(t *testing.T, body string) Metrics {
	t.Helper()
	m := Metrics{}
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		m[line[:i]] = value
	}
	return m
}

// of are the series of one target without their label, as /probe shows them.
func (m Metrics) of(target string) Metrics {
	label := `target="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(target) + `"`
	own := Metrics{}
	for series, value := range m {
		name, labels, labelled := strings.Cut(series, "{")
		if !labelled || !strings.Contains(labels, label) {
			continue
		}
		labels = strings.NewReplacer(","+label, "", label+",", "", label, "").Replace(labels)
		if labels != "}" {
			name += "{" + labels
		}
		own[name] = value
	}
	return own
}

func hasKey(m map[string]float64, key string) bool {
	_, ok := m[key]
	return ok
}

func hasSeries(m Metrics, prefix string) bool {
	for series := range m {
		if strings.HasPrefix(series, prefix) {
			return true
		}
	}
	return false
}

// label returns the value of a metric's only label.
func label(series, name, key string) (string, bool) {
	rest, ok := strings.CutPrefix(series, name+"{"+key+`="`)
	if !ok {
		return "", false
	}
	return strings.TrimSuffix(rest, `"}`), true
}

// Scrape scrapes as Prometheus would and requires an answer inside the deadline.
func (e *Exporter) Scrape() Metrics {
	e.t.Helper()
	start := time.Now()
	response, body, err := e.Get(context.Background(), "/metrics", scrapeTimeout)
	if err != nil {
		e.t.Fatal(err)
	}
	if took := time.Since(start); took > hanging {
		e.t.Errorf("a scrape took %s", took)
	}
	if response.StatusCode != http.StatusOK {
		e.t.Fatalf("status %d: %s", response.StatusCode, body)
	}
	if strings.Contains(body, password) {
		e.t.Error("the password is on the page")
	}
	e.last = parseMetrics(e.t, body)
	// By the exporter's own clock: a busy machine may keep the answer, but not the probe, from being in time.
	if took := e.last["pg_probe_last_duration_seconds"]; took >= scrapeTimeout.Seconds() {
		e.t.Errorf("a probe took %v s, the scraper waits %s", took, scrapeTimeout)
	}
	return e.last
}

// ScrapePatiently scrapes without a look at any verdict.
func (e *Exporter) ScrapePatiently() Metrics {
	e.t.Helper()
	_, body, err := e.Get(context.Background(), "/metrics", 2*hanging)
	check(e.t, err)
	return parseMetrics(e.t, body)
}

// Probe asks for one target. The query holds the other parameters.
func (e *Exporter) Probe(target, query string) (int, string) {
	e.t.Helper()
	response, body, err := e.Get(context.Background(), "/probe?target="+url.QueryEscape(target)+query, scrapeTimeout)
	check(e.t, err)
	if strings.Contains(body, password) {
		e.t.Error("the password is on the page")
	}
	return response.StatusCode, body
}

// ProbeMetrics asks for one target that can be asked for.
func (e *Exporter) ProbeMetrics(target, query string) Metrics {
	e.t.Helper()
	status, body := e.Probe(target, query)
	if status != http.StatusOK {
		e.t.Fatalf("%s: status %d: %s", target, status, body)
	}
	return parseMetrics(e.t, body)
}

// Discovered is what /sd lists.
func (e *Exporter) Discovered() []string {
	e.t.Helper()
	_, body, err := e.Get(context.Background(), "/sd", 0)
	check(e.t, err)
	var groups []struct {
		Labels map[string]string `json:"labels"`
	}
	check(e.t, json.Unmarshal([]byte(body), &groups))
	var names []string
	for _, g := range groups {
		names = append(names, g.Labels["target"])
	}
	return names
}

// Health gets a health path and returns the status and the body.
func (e *Exporter) Health(path string) (int, string) {
	e.t.Helper()
	return e.HealthAt(http.MethodGet, e.address, path)
}

// HealthAt is Health with another method, or at another address of the exporter's.
func (e *Exporter) HealthAt(method, address, path string) (int, string) {
	e.t.Helper()
	return e.request(method, address, path, http.NoBody)
}

// request returns the status and the body of the answer.
func (e *Exporter) request(method, address, path string, body io.Reader) (int, string) {
	e.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, "http://"+address+path, body)
	check(e.t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * hanging}
	response, err := client.Do(request)
	check(e.t, err)
	answer, err := io.ReadAll(response.Body)
	check(e.t, errors.Join(err, response.Body.Close()))
	return response.StatusCode, string(answer)
}

// ExpectLive requires that /livez is answered, and soon.
func (e *Exporter) ExpectLive(address string) {
	e.t.Helper()
	start := time.Now()
	if code, body := e.HealthAt(http.MethodGet, address, "/livez"); code != http.StatusOK {
		e.t.Errorf("/livez: status %d: %s", code, body)
	}
	if took := time.Since(start); took > hanging {
		e.t.Errorf("/livez took %s", took)
	}
}

// HealthOutputs are what /health says of each component: status and output.
func (e *Exporter) HealthOutputs() map[string]string {
	e.t.Helper()
	_, body := e.Health("/health")
	clean(e.t, "/health", body)
	var answer struct {
		Checks map[string][]struct{ ComponentID, Status, Output string }
	}
	check(e.t, json.Unmarshal([]byte(body), &answer))
	found := make(map[string]string)
	for key, entries := range answer.Checks {
		if strings.HasSuffix(key, ":responseTime") {
			for _, entry := range entries {
				found[entry.ComponentID] = strings.TrimSpace(entry.Status + " " + entry.Output)
			}
		}
	}
	return found
}

// clean requires that a body holds nothing that it must not.
func clean(t *testing.T, path, body string) {
	t.Helper()
	for _, secret := range []string{password, "127.0.0.1", role, "://", "authentication", "hunter2"} {
		if strings.Contains(body, secret) {
			t.Errorf("%s holds %q: %s", path, secret, body)
		}
	}
}

// Reload posts to /-/reload and returns the status and the body.
func (e *Exporter) Reload() (int, string) {
	e.t.Helper()
	return e.ReloadWith("")
}

// ReloadWith is Reload with a body.
func (e *Exporter) ReloadWith(body string) (int, string) {
	e.t.Helper()
	return e.request(http.MethodPost, e.address, "/-/reload", strings.NewReader(body))
}

// verdict is what a scrape says of the server.
type verdict struct {
	state, reason string // reason is empty for a server that answers
}

var up = verdict{state: "accepting"}

// Expect scrapes and requires a verdict, counted exactly once.
func (e *Exporter) Expect(want verdict) Metrics {
	e.t.Helper()
	before := failures(e.last)
	m := e.Scrape()
	got := verdictOf(e.t, m, before)
	if got != want {
		e.t.Fatalf("got %+v, want %+v\n%s", got, want, e.Logged())
	}
	return m
}

// verdictOf reads the verdict off a scrape and requires that its parts agree.
func verdictOf(t *testing.T, m Metrics, before map[string]float64) verdict {
	t.Helper()
	var v verdict
	for series, value := range m {
		if state, ok := label(series, "pg_probe_state", "state"); ok && value == 1 {
			if v.state != "" {
				t.Fatalf("two states: %s and %s", v.state, state)
			}
			v.state = state
		}
	}
	for reason, count := range failures(m) {
		switch count - before[reason] {
		case 0:
		case 1:
			v.reason = reason
		default:
			t.Fatalf("%s was counted %v times", reason, count-before[reason])
		}
	}
	if want := v.state == "accepting"; (m["pg_up"] == 1) != want || (v.reason == "") != want {
		t.Fatalf("pg_up %v, state %s, reason %q do not agree", m["pg_up"], v.state, v.reason)
	}
	return v
}

func failures(m Metrics) map[string]float64 {
	counts := map[string]float64{}
	for series, value := range m {
		if reason, ok := label(series, "pg_probe_failures_total", "reason"); ok {
			counts[reason] = value
		}
	}
	return counts
}

// losses are the lost sessions by reason.
func (m Metrics) losses() map[string]float64 {
	counts := map[string]float64{}
	for series, value := range m {
		if reason, ok := label(series, "pg_session_losses_total", "reason"); ok && value > 0 {
			counts[reason] = value
		}
	}
	return counts
}

func expectLosses(t *testing.T, m Metrics, want map[string]float64) {
	t.Helper()
	expectEqual(t, "losses", want, m.losses())
}

var (
	refused = verdict{"no_response", "refused"}
	timeout = verdict{"no_response", "timeout"}
)

// Usage is what the exporter holds.
type usage struct{ goroutines, descriptors, sessions float64 }

// Usage scrapes some times and returns the least and the most: a scrape's own goroutines come and go.
func (e *Exporter) Usage() (least, most usage) {
	e.t.Helper()
	for i := range 5 {
		m := e.Scrape()
		now := usage{
			m["go_goroutines"], m["process_open_fds"],
			m[`pg_liveness_exporter_sessions{state="idle"}`] + m[`pg_liveness_exporter_sessions{state="in_use"}`],
		}
		if i == 0 {
			least, most = now, now
		}
		least = least.least(now)
		most.goroutines = max(most.goroutines, now.goroutines)
	}
	return least, most
}

func (u usage) least(v usage) usage {
	return usage{min(u.goroutines, v.goroutines), min(u.descriptors, v.descriptors), min(u.sessions, v.sessions)}
}

// Settle scrapes a healthy server and remembers what that takes.
func (e *Exporter) Settle() {
	e.t.Helper()
	e.Expect(up)
	// Goroutines are compared with the most at rest: how few of a scrape's own are seen is luck.
	least, most := e.Usage()
	e.quiet = usage{most.goroutines, least.descriptors, least.sessions}
}

// ExpectNothingLeft requires that, soon after a fault ended, the exporter holds no more than before it, and the server no
// more of its sessions than the kept one.
func (e *Exporter) ExpectNothingLeft(s *testservers.Postgres) {
	e.t.Helper()
	e.ExpectNoMoreUsed()
	eventually(e.t, "the server holds more sessions than the kept one", func() bool {
		rows, err := s.Query(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE usename = '"+role+"'")
		return err == nil && (rows[0] == "0" || rows[0] == "1")
	})
}

// ExpectNoMoreUsed requires that, soon, the exporter holds no more than when nothing was wrong.
func (e *Exporter) ExpectNoMoreUsed() {
	e.t.Helper()
	time.Sleep(time.Second)
	now, _ := e.Usage()
	for deadline := time.Now().Add(hanging); ; time.Sleep(100 * time.Millisecond) {
		again, _ := e.Usage()
		now = now.least(again) // what has leaked is there every time
		if now.goroutines <= e.quiet.goroutines && now.descriptors <= e.quiet.descriptors && now.sessions <= e.quiet.sessions {
			break
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("holds %+v, held %+v before the fault", now, e.quiet)
		}
	}
}

// Memory is a figure of the process, in KiB.
func (e *Exporter) Memory(what string) int {
	e.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.cmd.Process.Pid))
	check(e.t, err)
	_, after, _ := strings.Cut(string(status), what+":")
	value, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	kib, err := strconv.Atoi(value)
	check(e.t, err)
	return kib
}

// LoggedChanges are the verdicts that were logged, in their order: "up" or a reason.
func (e *Exporter) LoggedChanges() []string {
	var changes []string
	lines := bufio.NewScanner(strings.NewReader(e.Logged()))
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.Contains(line, `msg="Probe succeeded"`):
			changes = append(changes, "up")
		case strings.Contains(line, `msg="Probe failed"`):
			_, rest, _ := strings.Cut(line, " reason=")
			reason, _, _ := strings.Cut(rest, " ")
			changes = append(changes, reason)
		}
	}
	return changes
}

// ExpectLoggedChanges requires that each change of the verdict was logged once, without a secret or an address.
func (e *Exporter) ExpectLoggedChanges(s *testservers.Postgres, want ...string) {
	e.t.Helper()
	for deadline := time.Now().Add(hanging); !slices.Equal(e.LoggedChanges(), want) && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	expectEqual(e.t, "logged changes", want, e.LoggedChanges())
	for _, secret := range []string{password, ":" + strconv.Itoa(s.Port), role} {
		if strings.Contains(e.Logged(), secret) {
			e.t.Errorf("%q is in the log", secret)
		}
	}
}

// likeGolden requires that a real server's exposition has exactly the metrics of a golden file. Those that it may lack can be
// absent.
func likeGolden(t *testing.T, name, body string, lacks func(help string) bool) {
	t.Helper()
	want, got := helps(read(t, "collector/testdata/"+name+".prom"), "pg"), helps(body, "pg")
	maps.DeleteFunc(want, func(help string, _ bool) bool { return !got[help] && lacks(help) })
	maps.DeleteFunc(got, func(help string, _ bool) bool {
		return !want[help] && strings.Contains(help, "pg_liveness_exporter_")
	})
	expectEqual(t, "metrics of "+name, want, got)
}

// helps are the HELP lines of an exposition, each of which names a metric.
func helps(exposition, prefix string) map[string]bool {
	found := map[string]bool{}
	for line := range strings.Lines(exposition) {
		if strings.HasPrefix(line, "# HELP "+prefix) {
			found[strings.TrimSpace(line)] = true
		}
	}
	return found
}

// newStandby starts a standby of a server.
func newStandby(t *testing.T, primary *testservers.Postgres) *testservers.Postgres {
	t.Helper()
	standby, err := primary.Standby(t.Context())
	check(t, err)
	t.Cleanup(func() { check(t, standby.Remove()) })
	return standby
}

// startTool starts a program beside the exporter, and returns its output. SIGTERM ends it with the test, or SIGKILL if it has not
// ended 10 seconds later. Its output is logged if the test fails.
func startTool(t *testing.T, name, path string, arguments ...string) *testservers.Output {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, arguments...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = hanging
	output := &testservers.Output{}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", name, output.String())
		}
	})
	return output
}

// newServer starts a server with the role that the README recommends.
func newServer(t *testing.T, c testservers.PostgresConfig) *testservers.Postgres {
	t.Helper()
	c.Bin, c.Template = testenv.Bin(t), dataTemplate(t)
	s, err := testservers.NewPostgres(t.Context(), c)
	check(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("server log:\n%s", s.Log())
		}
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	execute(t, s, "CREATE DATABASE app", createRole)
	return s
}

var createRole = `CREATE ROLE ` + role + ` LOGIN PASSWORD '` + strings.ReplaceAll(password, `'`, `''`) + `' CONNECTION LIMIT 10;
GRANT pg_monitor TO ` + role

// trusting asks nobody for a password. Hundreds of logins at once, with the race detector on two cores, would measure how fast
// keys are derived.
const trusting = "host all all 127.0.0.1/32 trust"

// execute runs statements as the superuser, each by itself.
func execute(t *testing.T, s *testservers.Postgres, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if err := s.Exec(context.Background(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// inApp runs statements in the database app.
func inApp(t *testing.T, s *testservers.Postgres, sql string) {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), fmt.Sprintf("host=%s port=%d user=%s dbname=app", s.Dir, s.Port, testservers.Superuser))
	check(t, err)
	_, err = conn.Exec(t.Context(), sql).ReadAll()
	check(t, err)
	check(t, conn.Close(t.Context()))
}

// count is the number that a statement returns.
func count(t *testing.T, s *testservers.Postgres, sql string) int {
	t.Helper()
	values, err := s.Query(context.Background(), sql)
	check(t, err)
	n, err := strconv.Atoi(values[0])
	check(t, err)
	return n
}

// logins is how many sessions of the exporter's role a server has let in.
func logins(s *testservers.Postgres) int {
	return strings.Count(s.Log(), "connection authorized: user="+role)
}

// hold opens a session of the superuser's and runs a statement on it.
func hold(t *testing.T, s *testservers.Postgres, sql string) *pgconn.PgConn {
	t.Helper()
	conn, err := s.Connect(t.Context())
	check(t, err)
	_, err = conn.Exec(t.Context(), sql).ReadAll()
	check(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// freeze stops processes with SIGSTOP.
func freeze(t *testing.T, _ *testservers.Postgres, pids ...int) func() {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && !errors.Is(err, syscall.ESRCH) { // a session may have ended
			t.Fatal(err)
		}
	}
	thaw := func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT) // it may have ended
		}
	}
	t.Cleanup(thaw)
	return thaw
}

// children returns the PIDs of a server's processes, without the postmaster.
func children(t *testing.T, s *testservers.Postgres) []int {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.PID(), s.PID()))
	check(t, err)
	var pids []int
	for field := range strings.FieldsSeq(string(content)) {
		pid, err := strconv.Atoi(field)
		check(t, err)
		pids = append(pids, pid)
	}
	return pids
}

// keptAnswers requires that the kept session goes on answering and reports the figures.
func keptAnswers(t *testing.T, _ *testservers.Postgres, m Metrics) {
	t.Helper()
	if m["pg_kept_session_up"] != 1 || m["pg_connections_used"] == 0 {
		t.Errorf("pg_kept_session_up %v, pg_connections_used %v", m["pg_kept_session_up"], m["pg_connections_used"])
	}
}

// keptPID is the backend of the kept session, the only session of ours that stays.
func keptPID(t *testing.T, s *testservers.Postgres) int {
	t.Helper()
	pid := 0
	eventually(t, "no kept session", func() bool {
		rows, err := s.Query(context.Background(), "SELECT pid FROM pg_stat_activity WHERE usename = '"+role+"'")
		if err != nil || len(rows) != 1 {
			return false
		}
		pid, err = strconv.Atoi(rows[0])
		return err == nil
	})
	return pid
}

// keptSession are the process numbers of the role's sessions.
func keptSession(t *testing.T, s *testservers.Postgres) []string {
	t.Helper()
	pids, err := s.Query(context.Background(), "SELECT pid FROM pg_stat_activity WHERE usename = '"+role+"' AND state = 'idle' ORDER BY backend_start")
	check(t, err)
	return pids
}

// immediateShutdown is a loss that the server's version gives its name.
const immediateShutdown = "immediate shutdown"

// asTold is how losses look on an older server: 13 tells its sessions of an immediate shutdown as of a crash.
func asTold(major int, losses map[string]float64) map[string]float64 {
	n, ok := losses[immediateShutdown]
	switch {
	case !ok:
		return losses
	case major < 14:
		return map[string]float64{"crash": n}
	}
	return map[string]float64{"shutdown": n}
}

// newFakeServer starts a fake server that is closed when the test ends, and returns its port.
func newFakeServer(t *testing.T, handle func(net.Conn)) int {
	t.Helper()
	s, err := testservers.NewFakeServer(t.Context(), handle)
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	return s.Port
}

// silentServer takes connections and says nothing, and returns its port.
func silentServer(t *testing.T) int {
	t.Helper()
	return newFakeServer(t, testservers.Silent)
}

// newRedis starts a Redis that is removed when the test ends.
func newRedis(t *testing.T) *testservers.Redis {
	t.Helper()
	r, err := testservers.NewRedis(t.Context(), testenv.Tool(t, "REDIS_SERVER", "redis-server"))
	check(t, err)
	t.Cleanup(func() { check(t, r.Remove()) })
	return r
}

// newCertificate makes a certificate for 127.0.0.1 that signs itself, and its key, in PEM.
func newCertificate(t *testing.T, changes ...func(*x509.Certificate)) (certificate, key []byte) {
	t.Helper()
	certificate, key, err := testservers.NewCertificate(changes...)
	check(t, err)
	return certificate, key
}
