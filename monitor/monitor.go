// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package monitor holds what is known of servers and checks between probes: the probe under way that concurrent callers share,
// the last results, counters and histograms. It starts probes between scrapes, runs the checks, and bounds how many probes are
// under way. It knows nothing of HTTP and of metric names: collector and health show what it holds.
package monitor

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials"
	"pg_liveness_exporter/probe"
)

// probeInterval is the time between the starts of two probes of one ProbeAll: otherwise they would begin by waiting for each
// other (see limiter).
const probeInterval = 2500 * time.Microsecond

// Monitor watches the targets and runs the checks of a configuration. All its methods may be called by any goroutine.
type Monitor struct {
	options Options
	targets *targets
	checks  *checks
	shared  atomic.Uint64 // probes with several callers
	limiter *limiter      // for probes of configured targets
	adHoc   *limiter      // for those of ad-hoc ones

	mu         sync.Mutex // protects what follows
	loaded     bool       // the last configuration could be loaded
	lastLoaded time.Time
}

// Options of a Monitor.
type Options struct {
	// MaxInFlight bounds the probes under way: of configured targets, and again of ad-hoc ones.
	MaxInFlight int
	// Keep reports whether the probers keep a session.
	Keep bool
	// NewProber makes the prober of a target. It reports events by the functions that it gets.
	NewProber func(target *config.Target, events Events) Prober
	// NewHistograms makes the histograms of a target, whose commits are probed if commits is set.
	NewHistograms func(commits bool) Histograms
	Logger        *slog.Logger
}

// New returns a monitor that watches nothing until ApplyConfig is called. Close must be called when it is not needed any more.
func New(options Options) *Monitor {
	m := &Monitor{options: options, limiter: newLimiter(options.MaxInFlight), adHoc: newLimiter(options.MaxInFlight)}
	m.targets = newTargets(m.newTarget)
	m.checks = &checks{target: m.targets.target, logger: options.Logger}
	return m
}

// NewProbers returns a function for Options.NewProber: its probers log in with the credentials of store, and count their
// connections in sessions.
func NewProbers(store *credentials.Store, sessions *probe.Sessions, keep bool) func(*config.Target, Events) Prober {
	return func(target *config.Target, events Events) Prober {
		return probe.New(target, store.For(target), probe.Options{
			Keep: keep, Sessions: sessions, OnSessionLost: events.OnSessionLost, OnCommit: events.OnCommit, Logger: events.Logger,
		})
	}
}

// newTarget starts to watch a target. Log lines do not name ad-hoc targets: their names are addresses.
func (m *Monitor) newTarget(t *config.Target, adHoc bool) *Target {
	logger, limiter := m.options.Logger, m.limiter
	switch {
	case adHoc:
		limiter = m.adHoc
		logger = logger.With("ad_hoc_module", t.Module)
	case t.Name != "":
		logger = logger.With("target", t.Name)
	}
	return newTarget(
		targetOptions{
			name: t.Name, kind: t.Kind, Probing: t.Probing, keep: m.options.Keep, logger: logger, shared: &m.shared, limiter: limiter,
			histograms: m.options.NewHistograms(t.Commit),
		},
		func(events Events) Prober { return m.options.NewProber(t, events) })
}

// ApplyConfig makes the monitor watch what file holds. What has not changed stays, with its sessions and counters.
func (m *Monitor) ApplyConfig(file *config.File) {
	m.targets.apply(file)
	m.checks.apply(file)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loaded, m.lastLoaded = true, time.Now()
}

// ReloadFailed records that a configuration could not be loaded. The one before stays.
func (m *Monitor) ReloadFailed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loaded = false
}

// LastReload reports whether the last configuration could be loaded, and when one last was.
func (m *Monitor) LastReload() (ok bool, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.loaded, m.lastLoaded
}

// Close closes all targets and checks, until ctx ends.
func (m *Monitor) Close(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error { return m.checks.close(ctx) })
	group.Go(func() error { return m.targets.close(ctx) })
	return group.Wait()
}

// Targets returns the configured targets, sorted by name.
func (m *Monitor) Targets() []*Target { return m.targets.list() }

// Target returns the configured target of a name, nil if there is none.
func (m *Monitor) Target(name string) *Target { return m.targets.target(name) }

// FindTarget returns the configured target of a name, or the ad-hoc one at an address, host:port, which it makes if the module
// allows that. The error is a plain sentence that repeats nothing of the request.
func (m *Monitor) FindTarget(name, module string) (*Target, error) {
	return m.targets.find(name, module)
}

// Checks returns the configured checks, sorted by name.
func (m *Monitor) Checks() []*Check { return m.checks.list() }

// Health returns the settings of the health endpoints.
func (m *Monitor) Health() config.Health { return m.targets.health() }

// SharedProbes returns how many probes had more than one caller.
func (m *Monitor) SharedProbes() uint64 { return m.shared.Load() }

// MaxTimeout returns the longest timeout of the configured targets, 0 if there are none.
func (m *Monitor) MaxTimeout() time.Duration {
	var longest time.Duration
	for _, t := range m.Targets() {
		longest = max(longest, t.Timeout())
	}
	return longest
}

// ProbeAll probes every configured target, side by side, and returns by deadline. A target that is not configured any more when
// its turn comes is left out. The error is ctx's cause: the caller has gone.
func (m *Monitor) ProbeAll(ctx context.Context, deadline time.Time) ([]Snapshot, error) {
	all := m.Targets()
	step := min(probeInterval, time.Until(deadline)/4/time.Duration(max(1, len(all))))
	found := make([]*Snapshot, len(all))
	var group errgroup.Group
	for i, t := range all {
		group.Go(func() error {
			if err := sleep(ctx, time.Duration(i)*step); err != nil {
				return err
			}
			s, err := m.probe(ctx, t, deadline)
			found[i] = s
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	snapshots := make([]Snapshot, 0, len(found))
	for _, s := range found {
		if s != nil {
			snapshots = append(snapshots, *s)
		}
	}
	return snapshots, nil
}

// probe probes a configured target, or the one that a reload has put in its place. It returns nil if there is none any more.
func (m *Monitor) probe(ctx context.Context, t *Target, deadline time.Time) (*Snapshot, error) {
	for t != nil {
		s, err := t.Probe(ctx, deadline)
		switch {
		case err == nil:
			return &s, nil
		case errors.Is(err, ErrClosed):
			t = m.Target(t.Name())
		default:
			return nil, err
		}
	}
	return nil, nil //nolint:nilnil // nothing was found, and nothing is wrong
}

// CheckResults returns the last results of those checks that have one, and whose target is wanted: its name, empty for a check
// without a target.
func (m *Monitor) CheckResults(wanted func(target string) bool) []CheckResult {
	var results []CheckResult
	for _, c := range m.Checks() {
		if !wanted(c.Target()) {
			continue
		}
		if r, ok := c.Latest(context.Background(), 0); ok {
			results = append(results, r)
		}
	}
	return results
}

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
