// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Compare lets faults befall a throwaway PostgreSQL server and notes, for each, what a new connection of an application
// met, and what pg_liveness_exporter, postgres_exporter, blackbox_exporter and pg_isready said. It writes
// docs/comparison.md. scripts/compare runs it, as root on Linux: it works in a network and a mount namespace of its own.
//
//	make compare                             # all faults; takes about ten minutes
//	make compare ARGS='-faults ^postmaster'  # some faults; the committed results of the others stay
//	make compare ARGS=-check                 # fails if our verdicts are not those of the committed results; writes nothing
//	make compare ARGS=-page                  # only writes the page from the committed results
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"pg_liveness_exporter/internal/testservers"
)

// settleTime is how long everything runs after the end of a fault, until it is looked at again.
const settleTime = 3 * time.Second

func main() {
	c := comparison{}
	faults := flag.String("faults", "", "let only faults happen whose names match this `regexp`")
	flag.DurationVar(&c.interval, "interval", 10*time.Second, "scrape at this interval")
	flag.IntVar(&c.rounds, "rounds", 3, "scrape so many times during a fault")
	parallel := flag.Int("parallel", 3, "let so many faults happen at once, each on a server of its own")
	onlyPage := flag.Bool("page", false, "only write the page from the results")
	checkOnly := flag.Bool("check", false, "compare verdicts with the results, and write nothing")
	resultsPath := flag.String("results", "internal/cmd/compare/results.json", "read and write results in this `file`")
	pagePath := flag.String("out", "docs/comparison.md", "write the page to this `file`")
	flag.Parse()
	err := func() error {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		known, err := load(*resultsPath)
		if err != nil {
			return err
		}
		if *onlyPage {
			return writePage(*pagePath, known)
		}
		if err := enterNamespaces(ctx); err != nil {
			return err
		}
		pattern, err := regexp.Compile(*faults)
		if err != nil {
			return err
		}
		if err := c.find(ctx); err != nil {
			return err
		}
		found, err := c.run(ctx, pattern, *parallel)
		if err != nil {
			return err
		}
		if *checkOnly {
			return compareVerdicts(known, found)
		}
		if *faults != "" {
			if found, err = merge(known, found); err != nil {
				return err
			}
		}
		return errors.Join(found.save(*resultsPath), writePage(*pagePath, found))
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func writePage(path string, r results) error {
	content, err := page(r)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644) //nolint:gosec // it is committed
}

// merge adds new results to known ones.
func merge(known, found results) (results, error) {
	if len(known.Faults) > 0 && !maps.Equal(known.Versions, found.Versions) {
		return results{}, fmt.Errorf("the results are from other versions: %v, not %v; run all faults", known.Versions, found.Versions)
	}
	all := maps.Clone(known.Faults)
	if all == nil {
		all = map[string]result{}
	}
	maps.Copy(all, found.Faults)
	found.Faults = all
	return found, nil
}

// compareVerdicts prints how new results differ from known ones. It returns an error if what the application met or
// pg_liveness_exporter said does.
func compareVerdicts(known, found results) error {
	different := 0
	for _, name := range slices.Sorted(maps.Keys(found.Faults)) {
		before, ok := known.Faults[name]
		if !ok {
			fmt.Printf("%s: has no committed result\n", name)
			different++
			continue
		}
		lines, ours := differences(before, found.Faults[name])
		if len(lines) == 0 {
			fmt.Printf("%s: as in the committed results\n", name)
			continue
		}
		if ours {
			different++
		}
		fmt.Printf("%s:\n  %s\n", name, strings.Join(lines, "\n  "))
	}
	if different > 0 {
		return fmt.Errorf("%d of %d faults are not as in the committed results", different, len(found.Faults))
	}
	return nil
}

// comparison is one run of the program.
type comparison struct {
	programs programs
	versions map[string]string
	interval time.Duration // between scrapes
	rounds   int           // of scrapes during a fault
}

// find finds the programs and their versions. The environment variables that name them are those of the tests;
// EXPORTER names the exporter.
func (c *comparison) find(ctx context.Context) error {
	bin, err := testservers.FindPostgres()
	if err != nil {
		return err
	}
	c.programs.postgres = bin
	c.versions = map[string]string{}
	if c.versions["PostgreSQL"], err = version(ctx, filepath.Join(bin, "postgres")); err != nil {
		return err
	}
	var missing []error
	for _, p := range []struct {
		path               *string
		variable, fallback string
	}{
		{&c.programs.ours, "EXPORTER", oursName},
		{&c.programs.postgresExporter, "POSTGRES_EXPORTER", theirsName},
		{&c.programs.blackbox, "BLACKBOX_EXPORTER", blackboxName},
		{&c.programs.isReady, "PG_ISREADY", filepath.Join(bin, isReadyName)},
		{&c.programs.pgBouncer, "PGBOUNCER_NEWER", "pgbouncer"},
	} {
		path := os.Getenv(p.variable)
		if path == "" {
			path = p.fallback
		}
		if path, err = exec.LookPath(path); err == nil {
			*p.path, err = filepath.Abs(path)
		}
		if err == nil {
			c.versions[filepath.Base(p.fallback)], err = version(ctx, *p.path)
		}
		missing = append(missing, err)
	}
	return errors.Join(missing...)
}

// version returns the version that a program prints.
func version(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", path, err)
	}
	found := regexp.MustCompile(`\d+(\.\d+)+`).FindString(string(out))
	if found == "" {
		return "", fmt.Errorf("%s --version prints no version: %s", path, out)
	}
	return found, nil
}

// run lets the faults happen whose names match, some at once.
func (c *comparison) run(ctx context.Context, pattern *regexp.Regexp, parallel int) (results, error) {
	found := results{Versions: c.versions, Interval: c.interval.Seconds(), Faults: map[string]result{}}
	var mu sync.Mutex // guards found.Faults and failed
	var failed error
	var group errgroup.Group
	group.SetLimit(parallel)
	for _, f := range catalogue() {
		if !pattern.MatchString(f.name) {
			continue
		}
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			begin := time.Now()
			r, err := c.observe(ctx, f)
			mu.Lock()
			defer mu.Unlock()
			if err != nil { // the others go on
				err = fmt.Errorf("%s: %w", f.name, err)
				fmt.Fprintln(os.Stderr, err)
				failed = errors.Join(failed, err)
				return nil
			}
			fmt.Fprintf(os.Stderr, "%s: %s (%.0f s)\n", f.name, r.met(), time.Since(begin).Seconds())
			found.Faults[f.name] = r
			return nil
		})
	}
	if err := errors.Join(group.Wait(), failed); err != nil {
		return results{}, err
	}
	if len(found.Faults) == 0 {
		return results{}, errors.New("no fault has such a name")
	}
	return found, nil
}

// observe lets one fault happen on a new server.
func (c *comparison) observe(ctx context.Context, f fault) (_ result, err error) {
	s, err := newScene(ctx, c.programs, f.setup)
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	before, err := s.settle(ctx)
	if err != nil {
		return result{}, err
	}

	sampling, stop := context.WithCancel(ctx)
	var most map[string]usage
	var sampler sync.WaitGroup
	beginning, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	end, err := f.begin(beginning, s)
	if end != nil {
		defer func() { // also if what follows fails, since a stopped process delays the end of the scene
			if end != nil {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
				defer cancel()
				err = errors.Join(err, end(ctx))
			}
		}()
	}
	if err != nil {
		stop()
		return result{}, fmt.Errorf("begin: %w", err)
	}
	since := time.Now()
	sampler.Go(func() { most = sample(sampling, s.server.PID) })
	interval := c.interval
	if f.interval != 0 {
		interval = f.interval
	}
	var looks []look
	for i := range c.rounds {
		if err = pause(ctx, time.Until(since.Add(time.Duration(i)*interval))); err != nil {
			break
		}
		looks = append(looks, s.look(ctx, since))
	}
	stop()
	sampler.Wait()
	if err != nil {
		return result{}, err
	}

	ending, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	if end != nil {
		err, end = end(ending), nil
		if err != nil {
			return result{}, fmt.Errorf("end: %w", err)
		}
	}
	if err := pause(ctx, settleTime); err != nil {
		return result{}, err
	}
	after := s.look(ctx, since)
	if err := pause(ctx, settleTime); err != nil {
		return result{}, err
	}
	left := usageByRole(s.server.PID())

	r := result{After: after.met, Observers: map[string]observed{}}
	for _, l := range looks {
		r.Met = append(r.Met, l.met)
	}
	for name, o := range s.observers {
		seen := observed{After: after.said[name]}
		for _, l := range looks {
			seen.Said = append(seen.Said, l.said[name])
		}
		if o.role != "" {
			b, m, l := before[o.role], most[o.role], left[o.role]
			seen.Before, seen.Most, seen.Left = &b, &m, &l
		}
		r.Observers[name] = seen
	}
	return r, nil
}

// settle lets everybody look at the healthy server twice, and returns what the roles took of the server meanwhile. It
// returns an error unless all find it up.
func (s *scene) settle(ctx context.Context) (map[string]usage, error) {
	sampling, stop := context.WithCancel(ctx)
	var most map[string]usage
	var sampler sync.WaitGroup
	sampler.Go(func() { most = sample(sampling, s.server.PID) })
	begin := time.Now()
	first := s.look(ctx, begin)
	err := pause(ctx, time.Second)
	second := s.look(ctx, begin)
	stop()
	sampler.Wait()
	for _, l := range []look{first, second} {
		if !l.met.works(false) {
			err = errors.Join(err, fmt.Errorf("before the fault, the application finds: %s", l.met))
		}
		for name, said := range l.said {
			if said.Verdict != up {
				err = errors.Join(err, fmt.Errorf("before the fault, %s says: %s", name, said.words()))
			}
		}
	}
	return most, err
}
