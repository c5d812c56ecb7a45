// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// keepWindow is the time in which an ad-hoc target must be probed three times before it keeps a session. Prometheus
	// scrapes more often than that: its series become stale after five minutes.
	keepWindow = 5 * time.Minute
	// maxAdHocKept is how many ad-hoc targets of a module keep a session. All of them may be names of one server.
	maxAdHocKept = 32
)

// keeper decides whether an ad-hoc target keeps a session. The target begins to with its third probe within keepWindow,
// if one of the module's places is free. It gives the place back once its next probe would not be the third within
// keepWindow, or if no probe succeeds with it. Any goroutine may call its methods. A nil *keeper does nothing.
type keeper struct {
	places *semaphore.Weighted // of the module
	set    func(keep bool)     // must not block

	mu               sync.Mutex // protects what follows
	closed           bool
	beforeLast, last time.Time // when the last two probes began
	holds            bool      // it has a place
	opened           bool      // a probe has succeeded since
	lapse            *time.Timer
}

func newKeeper(places *semaphore.Weighted, set func(keep bool)) *keeper {
	k := &keeper{places: places, set: set}
	k.lapse = time.AfterFunc(keepWindow, k.lapsed)
	return k
}

// begin is called when a probe begins.
func (k *keeper) begin() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	frequent := now.Sub(k.beforeLast) <= keepWindow
	k.beforeLast, k.last = k.last, now
	switch {
	case k.closed:
	case k.holds && !frequent:
		k.giveBackLocked()
	case k.holds, frequent && k.places.TryAcquire(1):
		k.lapse.Reset(keepWindow - now.Sub(k.beforeLast))
		if !k.holds {
			k.holds, k.opened = true, false
			k.set(true)
		}
	}
}

// end is called when a probe has ended. up reports whether it succeeded.
func (k *keeper) end(up bool) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.opened = k.opened || up
	if k.holds && !k.opened {
		k.giveBackLocked()
	}
}

// lapsed is called when the next probe may come too late.
func (k *keeper) lapsed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.holds && time.Since(k.beforeLast) >= keepWindow {
		k.giveBackLocked()
	}
}

// giveBackLocked ends the kept session and gives the place back.
func (k *keeper) giveBackLocked() {
	k.holds = false
	k.lapse.Stop()
	k.set(false)
	k.places.Release(1)
}

// keeps reports whether the target keeps a session.
func (k *keeper) keeps() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.holds
}

// close gives the place back. From then on, the target gets none.
func (k *keeper) close() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	if k.holds {
		k.giveBackLocked()
	}
	k.lapse.Stop()
}
