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
	"strings"
	"time"

	"pg_liveness_exporter/internal/testservers"
)

// demo runs the whole stack, from the folder of the repository, and breaks things on demand.
type demo struct {
	exporter  string // its binary
	in        io.Reader
	out, errs io.Writer
}

// run runs the stack until ctx ends, which is no error.
func (d demo) run(ctx context.Context) (err error) {
	c, err := d.find(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(d.out, "Starting; this takes some seconds.")
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
	for lines := d.lines(ctx); ; {
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.Failed():
			return err
		case line := <-lines:
			broken = d.obey(ctx, line, faults, broken)
		}
	}
}

// find finds the programs. Without Alertmanager or Grafana it goes on.
func (d demo) find(ctx context.Context) (testservers.StackConfig, error) {
	c := testservers.StackConfig{Exporter: d.exporter, Examples: "examples", KnownPorts: true, Notified: d.notified}
	var err error
	if c.Exporter, err = filepath.Abs(d.exporter); err != nil {
		return c, err
	}
	for name, program := range map[string]*string{
		"prometheus": &c.Prometheus, "pgbouncer": &c.PgBouncer, "alertmanager": &c.Alertmanager,
	} {
		variable := strings.ToUpper(name)
		wanted := os.Getenv(variable)
		if wanted == "" {
			wanted = name
		}
		*program, err = exec.LookPath(wanted)
		if err != nil && name != "alertmanager" {
			return c, fmt.Errorf("%s is not here: install it, or say with %s=/path/of/it where it is", name, variable)
		}
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

func (d demo) welcome(s *testservers.Stack) {
	fmt.Fprintln(d.out, "\nRunning, on this machine alone:")
	for _, program := range []struct{ name, address, page, missing string }{
		{"exporter", s.Exporter, "/metrics", ""},
		{"Prometheus", s.Prometheus, "/alerts", ""},
		{"Alertmanager", s.Alertmanager, "", "is not here; ALERTMANAGER=/path/of/it says where it is"},
		{"Grafana", s.Grafana, "/d/pg-liveness", "is not here; GRAFANA=/its/folder (with bin and public) says where it is"},
	} {
		what := program.missing
		if program.address != "" {
			what = "http://" + program.address + program.page
		}
		fmt.Fprintf(d.out, "  %-14s%s\n", program.name, what)
	}
	fmt.Fprintf(d.out, "  %-14spsql -h %s -p %d -U postgres orders\n", "primary", s.Primary.Dir, s.Primary.Port)
	fmt.Fprintf(d.out, "  %-14spsql -h %s -p %d -U postgres orders\n", "standby", s.Standby.Dir, s.Standby.Port)
	fmt.Fprintf(d.out, "  %-14sPGPASSWORD=%s psql -h 127.0.0.1 -p %d -U %[2]s pgbouncer\n", "PgBouncer", testservers.Superuser, s.PgBouncer.Port)
	fmt.Fprintln(d.out, "Debian's Prometheus and Alertmanager have no pages; /api/v1/alerts and amtool alert say what fires.")
	fmt.Fprintln(d.out, "Scrapes and rules are as shipped, 15 s apart: graphs begin after a minute.")
}

func (d demo) help(faults []testservers.Fault) {
	fmt.Fprintln(d.out, "\nA letter and Enter break something, the same again mends it; another one mends it first. Ctrl-C stops it all.")
	for _, f := range faults {
		fmt.Fprintf(d.out, "  %s  %s\n", f.Key, f.Name)
	}
	fmt.Fprintln(d.out, "  ?  show this")
}

// lines are what is typed. Where nobody can type, none comes.
func (d demo) lines(ctx context.Context) <-chan string {
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

// obey does what a line says. It returns what is broken from then on: one thing at a time, so that what is seen is its
// doing.
func (d demo) obey(ctx context.Context, line string, faults []testservers.Fault, broken *testservers.Fault) *testservers.Fault {
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
			d.say(fmt.Sprintf("%s cannot be mended, try again: %v", broken.Name, err))
			return broken
		}
		d.say("mended: " + broken.Name)
		if broken == wanted {
			return nil
		}
	}
	if err := wanted.Break(ctx); err != nil {
		d.say(fmt.Sprintf("%s: this did not work: %v", wanted.Name, err))
		return nil
	}
	d.say("now: " + wanted.Name + "\n          " + wanted.Seen)
	if wanted.Mend == nil {
		return nil
	}
	return wanted
}

// notified shows what Alertmanager would have sent.
func (d demo) notified(n testservers.Notification) {
	var b strings.Builder
	fmt.Fprintf(&b, "Alertmanager to %s:", n.Receiver)
	for _, a := range n.Alerts {
		fmt.Fprintf(&b, "\n          %s: %s", a.Status, a.Annotations["summary"])
	}
	d.say(b.String())
}

func (d demo) say(what string) {
	fmt.Fprintln(d.out, time.Now().Format("15:04:05"), "", what)
}
