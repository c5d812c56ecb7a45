// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"pg_liveness_exporter/config"
)

const (
	// maxAdHoc is how many ad-hoc targets there may be. Any client of /probe can create them.
	maxAdHoc = 2048
	// adHocIdleTime is how long an ad-hoc target stays after it was last found. It is longer than any sensible scrape
	// interval, so that the counters of the target continue.
	adHocIdleTime = 15 * time.Minute
	// minAdHocTime is the minimum time that an ad-hoc target stays after it was last found, even if there are too many.
	minAdHocTime = time.Minute
	// retireGrace is how long a dropped target may take to close after its last probe.
	retireGrace = time.Second
)

// Errors of FindTarget. Their texts may be shown to the client.
var (
	errNoTarget    = errors.New("the parameter target is missing")
	errUnknown     = errors.New("there is no target with this name; to probe host:port, name a module")
	errOtherModule = errors.New("this target has another module, or none")

	// ErrTooManyTargets is the only error of FindTarget that is not the fault of the request.
	ErrTooManyTargets = errors.New("too many ad-hoc targets are in use")
)

// targets has the targets that are watched: the configured ones and the ad-hoc ones that were found recently.
type targets struct {
	// create returns a new target. keptPlaces is nil for a configured one.
	create func(t *config.Target, keptPlaces *semaphore.Weighted) *Target

	life     context.Context //nolint:containedctx // ends with close
	end      context.CancelFunc
	retiring sync.WaitGroup

	mu         sync.Mutex // protects what follows
	closed     bool
	file       *config.File
	configured []*watched // sorted by name
	adHoc      map[adHocKey]*watched
	// keptPlaces has, for each module, the places for the sessions that its ad-hoc targets keep.
	keptPlaces map[string]*semaphore.Weighted
}

// watched is a target with its settings.
type watched struct {
	*Target
	settings *config.Target
	used     time.Time   // when an ad-hoc target was last found
	expiry   *time.Timer // drops an ad-hoc target after adHocIdleTime
}

type adHocKey struct{ address, module string }

func newTargets(create func(*config.Target, *semaphore.Weighted) *Target) *targets {
	ts := &targets{
		create: create, file: &config.File{},
		adHoc: make(map[adHocKey]*watched), keptPlaces: make(map[string]*semaphore.Weighted),
	}
	ts.life, ts.end = context.WithCancel(context.Background())
	return ts
}

// apply replaces the configuration. Targets whose settings have not changed, except for their labels, keep their sessions
// and counters. Targets that are no longer in the file are closed in the background, after the probe under way has ended. All targets query
// again what their servers have refused.
func (ts *targets) apply(file *config.File) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.closed {
		return
	}
	ts.file = file
	var dropped []*watched
	ts.configured, dropped = reconcile(file.Targets, ts.configured,
		func(settings *config.Target) string { return settings.Name },
		func(w *watched) string { return w.settings.Name },
		func(w *watched, settings *config.Target) bool { return w.settings.SameProbes(settings) },
		func(settings *config.Target, _ *watched) *watched {
			return &watched{Target: ts.create(settings, nil), settings: settings}
		})
	for i, w := range ts.configured {
		w.settings = file.Targets[i]
		w.setLabels(w.settings.Labels)
		w.setHysteresis(file.Health.FailAfter, file.Health.PassAfter)
		w.prober.ForgetRefusals()
	}
	for _, w := range dropped {
		ts.retire(w)
	}
	for key, w := range ts.adHoc {
		if settings, err := file.AdHoc(key.address, key.module); err != nil || !w.settings.Equal(settings) {
			ts.dropLocked(key, w)
		} else {
			w.prober.ForgetRefusals()
		}
	}
}

// retire closes a target in the background, after the probe under way has ended. close does not wait for that probe.
func (ts *targets) retire(w *watched) {
	ts.retiring.Go(func() {
		w.finish(ts.life)
		ctx, cancel := context.WithTimeout(context.Background(), retireGrace)
		defer cancel()
		_ = w.Close(ctx) // ignored: whatever is left ends on its own
	})
}

// dropLocked removes an ad-hoc target and closes it in the background.
func (ts *targets) dropLocked(key adHocKey, w *watched) {
	delete(ts.adHoc, key)
	w.expiry.Stop()
	ts.retire(w)
}

// list returns the configured targets, sorted by name.
func (ts *targets) list() []*Target {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	all := make([]*Target, len(ts.configured))
	for i, w := range ts.configured {
		all[i] = w.Target
	}
	return all
}

// health returns the settings of the health endpoints.
func (ts *targets) health() config.Health {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.file.Health
}

// target returns the configured target with this name, or nil if there is none.
func (ts *targets) target(name string) *Target {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if w := ts.configuredLocked(name); w != nil {
		return w.Target
	}
	return nil
}

// configuredLocked returns the configured target with this name and its settings, or nil if there is none.
func (ts *targets) configuredLocked(name string) *watched {
	i, ok := slices.BinarySearchFunc(ts.configured, name, func(w *watched, name string) int {
		return strings.Compare(w.settings.Name, name)
	})
	if !ok {
		return nil
	}
	return ts.configured[i]
}

// find is Monitor.FindTarget.
func (ts *targets) find(name, module string) (*Target, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if name == "" {
		return nil, errNoTarget
	}
	w := ts.configuredLocked(name)
	switch {
	case w != nil && module != "" && module != w.settings.Module:
		return nil, errOtherModule
	case w != nil:
		return w.Target, nil
	case module == "", ts.closed:
		return nil, errUnknown
	}
	address, err := config.CanonicalAddress(name) // so that all spellings of an address have the same target
	if err != nil {
		return nil, err
	}
	return ts.findAdHocLocked(adHocKey{address, module})
}

// findAdHocLocked returns the ad-hoc target of key, which it creates if there is none.
func (ts *targets) findAdHocLocked(key adHocKey) (*Target, error) {
	w := ts.adHoc[key]
	if w == nil {
		settings, err := ts.file.AdHoc(key.address, key.module)
		if err != nil {
			return nil, err
		}
		if !ts.evictLocked() {
			return nil, ErrTooManyTargets
		}
		w = &watched{Target: ts.create(settings, ts.keptPlacesLocked(key.module)), settings: settings}
		w.expiry = time.AfterFunc(adHocIdleTime, func() { ts.expire(key, w) })
		ts.adHoc[key] = w
	}
	w.used = time.Now()
	w.expiry.Reset(adHocIdleTime)
	return w.Target, nil
}

// keptPlacesLocked returns the places for the sessions that the ad-hoc targets of a module keep.
func (ts *targets) keptPlacesLocked(module string) *semaphore.Weighted {
	places := ts.keptPlaces[module]
	if places == nil {
		places = semaphore.NewWeighted(maxAdHocKept)
		ts.keptPlaces[module] = places
	}
	return places
}

// expire drops an ad-hoc target unless it has been found in the meantime.
func (ts *targets) expire(key adHocKey, w *watched) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.adHoc[key] == w && time.Since(w.used) >= adHocIdleTime {
		ts.dropLocked(key, w)
	}
}

// evictLocked makes room for another ad-hoc target. If there are maxAdHoc, it drops the one that has been unused the
// longest, and before all others those whose names have never led to an address. It reports false if all others were found
// less than minAdHocTime ago.
func (ts *targets) evictLocked() bool {
	if len(ts.adHoc) < maxAdHoc {
		return true
	}
	var (
		oldest     *watched
		found      adHocKey
		unresolved bool
	)
	for key, w := range ts.adHoc {
		never := w.unresolved.Load()
		if oldest == nil || never && !unresolved || never == unresolved && w.used.Before(oldest.used) {
			found, oldest, unresolved = key, w, never
		}
	}
	if !unresolved && time.Since(oldest.used) < minAdHocTime {
		return false
	}
	ts.dropLocked(found, oldest)
	return true
}

// close closes all targets. If ctx ends first, it returns an error. Afterwards there are no targets.
func (ts *targets) close(ctx context.Context) error {
	ts.mu.Lock()
	ts.closed = true
	closing := ts.configured
	for _, w := range ts.adHoc {
		w.expiry.Stop()
		closing = append(closing, w)
	}
	ts.configured, ts.adHoc = nil, nil
	ts.mu.Unlock()
	ts.end()
	return closeAll(ctx, closing, &ts.retiring)
}
