// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials"
	"pg_liveness_exporter/probe"
)

// probeInterval is the time between the starts of two probes in ProbeAll. Without it, the probes would first wait for
// each other in the limiter.
const probeInterval = 2500 * time.Microsecond

// Monitor watches the targets and runs the checks of a configuration. Any goroutine may call its methods.
type Monitor struct {
	options     Options
	targets     *targets
	checks      *checks
	sharedCount atomic.Uint64 // number of probes with several callers
	limiter     *limiter      // for probes of configured targets
	adHoc       *limiter      // for probes of ad-hoc targets

	mu         sync.Mutex // protects what follows
	file       *config.File
	loaded     bool // whether the last configuration could be loaded
	lastLoaded time.Time
}

// Options has the parameters of New.
type Options struct {
	// MaxInFlight is how many configured targets may be probed at once. It is also how many ad-hoc targets may be
	// probed at once.
	MaxInFlight int
	// NewProber returns a new prober for a target. The prober calls the functions of events.
	NewProber func(target *config.Target, events Events) Prober
	// NewHistograms returns new histograms for a target. commits reports whether the target has the commit probe.
	NewHistograms func(commits bool) Histograms
	// Timelines reports whether to record a Timeline of each configured target.
	Timelines bool
	// OnOutOfDescriptors is called each time that a probe, a check or a statement fails for lack of file descriptors. Any
	// goroutine may call it. It may be nil.
	OnOutOfDescriptors func()
	Logger             *slog.Logger
}

// New returns a monitor. It watches nothing until ApplyConfig is called. The caller must close it.
func New(options Options) *Monitor {
	if options.OnOutOfDescriptors == nil {
		options.OnOutOfDescriptors = func() {}
	}
	m := &Monitor{options: options, limiter: newLimiter(options.MaxInFlight), adHoc: newLimiter(options.MaxInFlight)}
	m.targets = newTargets(m.newTarget)
	m.checks = &checks{
		target: m.targets.target, onOutOfDescriptors: options.OnOutOfDescriptors, logger: options.Logger,
	}
	return m
}

// NewProbers returns a function for Options.NewProber. Its probers log in with the credentials of store and count their
// connections in sessions.
func NewProbers(store *credentials.Store, sessions *probe.Sessions) func(*config.Target, Events) Prober {
	return func(target *config.Target, events Events) Prober {
		return probe.New(target, store.For(target), probe.Options{
			Sessions: sessions, OnSessionLost: events.OnSessionLost, OnCommit: events.OnCommit, Logger: events.Logger,
		})
	}
}

// newTarget returns a new target. keptPlaces is nil for a configured one. Its log lines have its name, except for ad-hoc targets,
// whose names are addresses.
func (m *Monitor) newTarget(t *config.Target, keptPlaces *semaphore.Weighted) *Target {
	logger, limiter := m.options.Logger, m.limiter
	switch {
	case keptPlaces != nil:
		limiter = m.adHoc
		logger = logger.With("ad_hoc_module", t.Module)
	case t.Name != "":
		logger = logger.With("target", t.Name)
	}
	return newTarget(
		targetOptions{
			name: t.Name, implied: t.Implied, module: t.Module, kind: t.Kind, Probing: t.Probing, logger: logger,
			sharedCount: &m.sharedCount, limiter: limiter, histograms: m.options.NewHistograms(t.Commit), keptPlaces: keptPlaces,
			timeline:           m.options.Timelines && keptPlaces == nil,
			onOutOfDescriptors: m.options.OnOutOfDescriptors,
		},
		func(events Events) Prober { return m.options.NewProber(t, events) })
}

// ApplyConfig replaces the configuration. Targets and checks that have not changed keep their sessions, counters and
// results.
func (m *Monitor) ApplyConfig(file *config.File) {
	m.targets.apply(file)
	m.checks.apply(file)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.file, m.loaded, m.lastLoaded = file, true, time.Now()
}

// Config returns the configuration that is in effect, or nil if there is none yet.
func (m *Monitor) Config() *config.File {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.file
}

// ReloadFailed records that a configuration could not be loaded. The previous one stays in effect.
func (m *Monitor) ReloadFailed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loaded = false
}

// LastReload reports whether the last configuration could be loaded, and returns when one was last loaded.
func (m *Monitor) LastReload() (ok bool, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.loaded, m.lastLoaded
}

// Close closes all targets and checks. If ctx ends first, it returns an error.
func (m *Monitor) Close(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error { return m.checks.close(ctx) })
	group.Go(func() error { return m.targets.close(ctx) })
	return group.Wait()
}

// Targets returns the configured targets, sorted by name.
func (m *Monitor) Targets() []*Target { return m.targets.list() }

// Target returns the configured target with this name, or nil if there is none.
func (m *Monitor) Target(name string) *Target { return m.targets.target(name) }

// FindTarget returns the configured target with this name. If there is none, name must be an address (host:port) that
// the module allows, and FindTarget returns the ad-hoc target at that address, which it creates if necessary. The text
// of an error may be shown to the client. It repeats no part of the arguments.
func (m *Monitor) FindTarget(name, module string) (*Target, error) {
	return m.targets.find(name, module)
}

// Checks returns the configured checks, sorted by name.
func (m *Monitor) Checks() []*Check { return m.checks.list() }

// Health returns the settings of the health endpoints.
func (m *Monitor) Health() config.Health { return m.targets.health() }

// SharedProbes returns the number of probes that had more than one caller.
func (m *Monitor) SharedProbes() uint64 { return m.sharedCount.Load() }

// MaxTimeout returns the longest timeout of the configured targets, or 0 if there are none.
func (m *Monitor) MaxTimeout() time.Duration {
	var longest time.Duration
	for _, t := range m.Targets() {
		longest = max(longest, t.Timeout())
	}
	return longest
}

// ProbeAll probes all configured targets in parallel and returns their snapshots by deadline. It waits for each target
// for at most the target's timeout (see Target.Probe). It leaves out a target that a reload removes before its probe
// starts. If ctx ends first, the error is ctx's cause.
//
// It starts no goroutine of its own, so that many calls at once cost little besides the probes, which they share.
func (m *Monitor) ProbeAll(ctx context.Context, deadline time.Time) ([]Snapshot, error) {
	all := m.Targets()
	start := time.Now()
	step := min(probeInterval, deadline.Sub(start)/4/time.Duration(max(1, len(all))))
	waits := make([]wait, 0, len(all))
	for i, t := range all {
		if err := sleep(ctx, time.Until(start.Add(time.Duration(i)*step))); err != nil {
			return nil, err
		}
		if w, ok := m.begin(t, deadline); ok {
			waits = append(waits, w)
		}
	}
	snapshots := make([]Snapshot, 0, len(waits))
	for i := range waits {
		s, err := waits[i].resultWithCommit(ctx)
		for errors.Is(err, ErrClosed) { // the monitor is being closed, or a reload did not wait for the probe
			w, ok := m.begin(waits[i].target, deadline)
			if !ok {
				break
			}
			s, err = w.resultWithCommit(ctx)
		}
		switch {
		case err == nil:
			snapshots = append(snapshots, s)
		case !errors.Is(err, ErrClosed):
			return nil, err
		}
	}
	return snapshots, nil
}

// begin starts a probe of a configured target, or of the target of the same name if a reload has replaced it. It reports
// false if a reload has removed it.
func (m *Monitor) begin(t *Target, deadline time.Time) (wait, bool) {
	for t != nil {
		if w, err := t.begin(deadline, false); err == nil {
			return w, true
		}
		t = m.Target(t.Name())
	}
	return wait{}, false
}

// CheckResults returns the last results of the checks for whose target wanted reports true. wanted gets the name of the
// target, which is empty for a check without a target. Checks that have no result yet are left out. The results are
// sorted by the names of the checks.
func (m *Monitor) CheckResults(wanted func(target string) bool) []CheckResult {
	var results []CheckResult
	for _, c := range m.Checks() {
		if !wanted(c.Target()) {
			continue
		}
		if r, ok := c.Latest(); ok {
			results = append(results, r)
		}
	}
	return results
}

// sleep waits for d. If ctx ends first, it returns ctx's cause.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
