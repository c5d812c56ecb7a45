// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pg_liveness_exporter/internal/testservers"
)

// demo runs the whole stack in the folder of the repository, and breaks it on demand.
type demo struct {
	exporter  string // path of the binary
	in        io.Reader
	out, errs io.Writer
}

// run runs the stack until ctx ends, and then returns nil.
func (d demo) run(ctx context.Context) (err error) {
	c, err := d.findPrograms(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(d.out, "Starting. This takes a few seconds.")
	s, err := testservers.NewStack(ctx, c)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer func() {
		fmt.Fprintln(d.out, "Stopping.")
		err = errors.Join(err, s.Close())
	}()
	faults := s.Faults()
	d.welcome(s)
	d.help(faults)
	var broken *testservers.Fault
	for lines := d.readLines(ctx); ; {
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.Failed():
			return err
		case line := <-lines:
			broken = d.handleKey(ctx, line, faults, broken)
		}
	}
}

// findPrograms returns the configuration of the stack. Alertmanager and Grafana are optional.
func (d demo) findPrograms(ctx context.Context) (testservers.StackConfig, error) {
	c := testservers.StackConfig{Exporter: d.exporter, Examples: "examples", KnownPorts: true, Notified: d.notified}
	var err error
	if c.Exporter, err = filepath.Abs(d.exporter); err != nil {
		return c, err
	}
	var missing, variables []string
	for _, p := range []struct {
		name string
		path *string
	}{
		{"prometheus", &c.Prometheus}, {"pgbouncer", &c.PgBouncer}, {"alertmanager", &c.Alertmanager},
	} {
		variable := strings.ToUpper(p.name)
		if *p.path = findProgram(p.name, os.Getenv(variable)); *p.path == "" && p.name != "alertmanager" {
			missing, variables = append(missing, p.name), append(variables, variable)
		}
	}
	if len(missing) > 0 {
		return c, fmt.Errorf("not found: %s. Install what is missing, or set %s to the path",
			strings.Join(missing, ", "), strings.Join(variables, " or "))
	}
	for _, folder := range []string{os.Getenv("GRAFANA"), "/usr/share/grafana"} {
		if _, err := os.Stat(filepath.Join(folder, "bin", "grafana")); err == nil && folder != "" {
			c.Grafana = folder
			break
		}
	}
	c.Postgres, err = findServer(ctx, d.errs)
	return c, err
}

// findProgram returns the path of a program, or "" if there is none. wanted is the path that the user has set, or "". The
// folder with Debian's PgBouncer is not on everybody's PATH.
func findProgram(name, wanted string) string {
	candidates := []string{wanted}
	if wanted == "" {
		candidates = []string{name, filepath.Join("/usr/sbin", name)}
	}
	for _, candidate := range candidates {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	return ""
}

// welcome prints the addresses of the programs and servers.
func (d demo) welcome(s *testservers.Stack) {
	fmt.Fprintln(d.out, "\nRunning, on the loopback interface only:")
	for _, program := range []struct{ name, address, page, missing string }{
		{"exporter", s.Exporter, "/metrics", ""},
		{"Prometheus", s.Prometheus, "/alerts", ""},
		{"Alertmanager", s.Alertmanager, "", "not found; set ALERTMANAGER to its path"},
		{"Grafana", s.Grafana, "/d/pg-liveness", "not found; set GRAFANA to the folder that holds its bin and public"},
	} {
		what := program.missing
		if program.address != "" {
			what = "http://" + program.address + program.page
		}
		fmt.Fprintf(d.out, "  %-14s%s\n", program.name, what)
	}
	fmt.Fprintf(d.out, "  %-14spsql -h %s -p %d -U postgres orders\n", "primary", s.Primary.Dir, s.Primary.Port)
	fmt.Fprintf(d.out, "  %-14spsql -h %s -p %d -U postgres orders\n", "standby", s.Standby.Dir, s.Standby.Port)
	fmt.Fprintf(d.out, "  %-14sPGPASSWORD=%s psql -h 127.0.0.1 -p %d -U %[2]s pgbouncer\n",
		"PgBouncer", testservers.Superuser, s.PgBouncer.Port)
	fmt.Fprintln(d.out, "Debian's Prometheus and Alertmanager have no web pages: use /api/v1/alerts and amtool alert.")
	fmt.Fprintln(d.out, "Prometheus scrapes and evaluates rules every 15 s, so graphs start after a minute.")
}

// help prints the keys.
func (d demo) help(faults []testservers.Fault) {
	fmt.Fprintln(d.out, "\nType a letter and Enter to break something, and the same letter to mend it.")
	fmt.Fprintln(d.out, "Another letter mends it first. Press Ctrl-C to stop.")
	for _, f := range faults {
		fmt.Fprintf(d.out, "  %s  %s\n", f.Key, f.Name)
	}
	fmt.Fprintln(d.out, "  ?  show this help")
}

// readLines returns a channel that receives each line of the input without surrounding spaces. It is never closed.
func (d demo) readLines(ctx context.Context) <-chan string {
	lines := make(chan string)
	go func() {
		for typed := bufio.NewScanner(d.in); typed.Scan(); {
			select {
			case lines <- strings.TrimSpace(typed.Text()):
			case <-ctx.Done():
				return
			}
		}
	}()
	return lines
}

// handleKey breaks or mends the fault whose key is line, after mending another one that is broken. It returns the fault
// that is broken afterwards, or nil. At most one is, so that what the alerts show has one cause.
func (d demo) handleKey(
	ctx context.Context, line string, faults []testservers.Fault, broken *testservers.Fault,
) *testservers.Fault {
	var wanted *testservers.Fault
	for i := range faults {
		if faults[i].Key == line {
			wanted = &faults[i]
		}
	}
	if wanted == nil {
		d.help(faults)
		return broken
	}
	if broken != nil {
		if err := broken.Mend(ctx); err != nil {
			d.print(fmt.Sprintf("could not mend, try again: %s: %v", broken.Name, err))
			return broken
		}
		d.print("mended: " + broken.Name)
		if broken == wanted {
			return nil
		}
	}
	if err := wanted.Break(ctx); err != nil {
		d.print(fmt.Sprintf("failed: %s: %v", wanted.Name, err))
		return nil
	}
	d.print("now: " + wanted.Name + promise(*wanted))
	if wanted.Mend == nil {
		return nil
	}
	return wanted
}

// promise describes what follows a fault, a line each.
func promise(f testservers.Fault) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n          %s", f.Seen)
	since := "the mend"
	if f.Mend == nil {
		since = "the key"
	}
	for _, n := range f.Notices {
		fmt.Fprintf(&b, "\n          Alertmanager sends %s (%s) within %s, and \"resolved\" within %s of %s.",
			n.Alert, n.Target, inMinutes(n.Firing), inMinutes(n.Resolved), since)
	}
	return b.String()
}

// inMinutes returns a time as 2 min or 2.5 min.
func inMinutes(d time.Duration) string { return strconv.FormatFloat(d.Minutes(), 'f', -1, 64) + " min" }

// notified prints a notification of Alertmanager. Several goroutines may call it.
func (d demo) notified(n testservers.Notification) {
	var b strings.Builder
	fmt.Fprintf(&b, "Alertmanager to %s:", n.Receiver)
	for _, a := range n.Alerts {
		fmt.Fprintf(&b, "\n          %s: %s", a.Status, a.Annotations["summary"])
	}
	d.print(b.String())
}

// print prints text with the time.
func (d demo) print(text string) {
	fmt.Fprintln(d.out, time.Now().Format("15:04:05"), "", text)
}
