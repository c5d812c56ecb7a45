// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"pg_liveness_exporter/config"
)

const (
	// mostAdHoc bounds the ad-hoc targets, which anybody can make who reaches /probe.
	mostAdHoc = 2048
	// adHocIdle is how long an ad-hoc target stays without being asked for: longer than any sensible scrape interval, so
	// that its counters go on.
	adHocIdle = 15 * time.Minute
	// adHocLeast is how long it stays at least, however many others want its place.
	adHocLeast = time.Minute
	// retireGrace is what a target that is dropped gets beyond its probe under way.
	retireGrace = time.Second
)

// Errors of Find. Their texts are plain sentences for whoever asked.
var (
	errNoTarget    = errors.New("the parameter target is missing")
	errUnknown     = errors.New("there is no target of this name; to probe host:port, name a module")
	errOtherModule = errors.New("this target has another module, or none")
	errFull        = errors.New("too many ad-hoc targets are in use")
)

// Targets are the targets that are watched now: those of the configuration, and ad-hoc ones that were asked for lately.
type Targets struct {
	// make makes a target that is watched from then on.
	make func(t *config.Target, adHoc bool) *Target

	retiring sync.WaitGroup

	mu         sync.Mutex // protects what follows
	closed     bool
	file       *config.File
	configured []*watched // sorted by name
	adHoc      map[adHocKey]*watched
}

// watched is a target with the settings that it was made from.
type watched struct {
	*Target
	settings *config.Target
	used     time.Time   // of an ad-hoc target: when it was last asked for
	expiry   *time.Timer // likewise: drops it when it has not been for a while
}

type adHocKey struct{ address, module string }

func newTargets(create func(t *config.Target, adHoc bool) *Target) *Targets {
	return &Targets{make: create, file: &config.File{}, adHoc: make(map[adHocKey]*watched)}
}

// Apply replaces the configuration. Targets whose settings are the same stay as they are, with their sessions and all
// that was counted; others are made, and those that are not in it any more are dropped: a probe under way ends first.
func (ts *Targets) Apply(file *config.File) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.closed {
		return
	}
	before := make(map[string]*watched, len(ts.configured))
	for _, w := range ts.configured {
		before[w.settings.Name] = w
	}
	ts.file = file
	ts.configured = make([]*watched, 0, len(file.Targets))
	for _, settings := range file.Targets {
		w := before[settings.Name]
		if w == nil || !w.settings.Equal(settings) {
			w = &watched{Target: ts.make(settings, false), settings: settings}
		} else {
			delete(before, settings.Name)
		}
		w.judge(file.Health.FailAfter, file.Health.PassAfter)
		ts.configured = append(ts.configured, w)
	}
	for _, w := range before {
		ts.retire(w)
	}
	for key, w := range ts.adHoc {
		if settings, err := file.AdHoc(key.address, key.module); err != nil || !w.settings.Equal(settings) {
			ts.drop(key, w)
		}
	}
}

// retire closes a target behind the caller's back. The caller holds ts.mu.
func (ts *Targets) retire(w *watched) {
	ts.retiring.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), w.options.Timeout+retireGrace)
		defer cancel()
		_ = w.Close(ctx) // what has not ended by then does so by itself
	})
}

// drop forgets an ad-hoc target. The caller holds ts.mu.
func (ts *Targets) drop(key adHocKey, w *watched) {
	delete(ts.adHoc, key)
	w.expiry.Stop()
	ts.retire(w)
}

// All returns the configured targets, sorted by name.
func (ts *Targets) All() []*Target {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	all := make([]*Target, len(ts.configured))
	for i, w := range ts.configured {
		all[i] = w.Target
	}
	return all
}

// Health is how the health endpoints answer.
func (ts *Targets) Health() config.Health {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.file.Health
}

// Len is the number of configured targets.
func (ts *Targets) Len() int {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return len(ts.configured)
}

// Configured returns the configured target of this name, nil if there is none.
func (ts *Targets) Configured(name string) *Target {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if w := ts.configuredAs(name); w != nil {
		return w.Target
	}
	return nil
}

// configuredAs is Configured for a caller who holds ts.mu.
func (ts *Targets) configuredAs(name string) *watched {
	i, ok := slices.BinarySearchFunc(ts.configured, name, func(w *watched, name string) int {
		return strings.Compare(w.settings.Name, name)
	})
	if !ok {
		return nil
	}
	return ts.configured[i]
}

// Find returns the configured target of this name, or the ad-hoc one at this address, host:port, which it makes where
// the module allows that. The error is a plain sentence that repeats nothing.
func (ts *Targets) Find(name, module string) (*Target, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if name == "" {
		return nil, errNoTarget
	}
	w := ts.configuredAs(name)
	switch {
	case w != nil && module != "" && module != w.settings.Module:
		return nil, errOtherModule
	case w != nil:
		return w.Target, nil
	case module == "", ts.closed:
		return nil, errUnknown
	}
	address, err := config.CanonicalAddress(name) // or one server would have a target for each way to write it
	if err != nil {
		return nil, err
	}
	return ts.findAdHoc(adHocKey{address, module})
}

func (ts *Targets) findAdHoc(key adHocKey) (*Target, error) {
	w := ts.adHoc[key]
	if w == nil {
		settings, err := ts.file.AdHoc(key.address, key.module)
		if err != nil {
			return nil, err
		}
		if !ts.makeRoom() {
			return nil, errFull
		}
		w = &watched{Target: ts.make(settings, true), settings: settings}
		w.expiry = time.AfterFunc(adHocIdle, func() { ts.expire(key, w) })
		ts.adHoc[key] = w
	}
	w.used = time.Now()
	w.expiry.Reset(adHocIdle)
	return w.Target, nil
}

// expire drops an ad-hoc target that was not asked for meanwhile.
func (ts *Targets) expire(key adHocKey, w *watched) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.adHoc[key] == w && time.Since(w.used) >= adHocIdle {
		ts.drop(key, w)
	}
}

// makeRoom drops the ad-hoc target that was not asked for the longest, where there are too many. It reports false when
// all are in use.
func (ts *Targets) makeRoom() bool {
	if len(ts.adHoc) < mostAdHoc {
		return true
	}
	var (
		oldest *watched
		found  adHocKey
	)
	for key, w := range ts.adHoc {
		if oldest == nil || w.used.Before(oldest.used) {
			found, oldest = key, w
		}
	}
	if time.Since(oldest.used) < adHocLeast {
		return false
	}
	ts.drop(found, oldest)
	return true
}

// Close closes all targets, until ctx ends. There are none from then on.
func (ts *Targets) Close(ctx context.Context) error {
	ts.mu.Lock()
	ts.closed = true
	var closing []func() error
	for _, w := range ts.configured {
		closing = append(closing, func() error { return w.Close(ctx) })
	}
	for _, w := range ts.adHoc {
		w.expiry.Stop()
		closing = append(closing, func() error { return w.Close(ctx) })
	}
	ts.configured, ts.adHoc = nil, nil
	ts.mu.Unlock()
	retired := make(chan struct{})
	go func() {
		ts.retiring.Wait()
		close(retired)
	}()
	err := sideBySide(closing)
	select {
	case <-retired:
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err())
	}
	return err
}
