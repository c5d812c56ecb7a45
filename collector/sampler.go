// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"hash/fnv"
	"time"

	"pg_liveness_exporter/probe"
)

// authPause is how long a server is left alone that refused our credentials, but for those who scrape: some lock a role out
// after a number of failures.
const authPause = time.Minute

// locksOut says whether a failure is one that a server counts against us. A password that could not be read is none: the
// next try may have it.
func locksOut(f *probe.Failure) bool {
	return f != nil && f.Reason == probe.ReasonAuth && f.SQLState != ""
}

// sample probes every interval until the target is closed. The first probe comes at a moment of the interval that
// depends on the target's name, so that the probes of many targets are spread over it, and again the same after a restart.
func (t *Target) sample() {
	interval := t.options.Interval
	next := time.Now().Add(spread(t.options.Name, interval))
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-t.life.Done():
			return
		}
		s, err := t.wait(t.life, time.Now().Add(t.options.Timeout), true)
		if err != nil {
			return // it was closed
		}
		now := time.Now()
		if locksOut(s.Result.Failure) {
			next = next.Add(authPause)
		}
		for !next.After(now) { // what was missed is not made up for
			next = next.Add(interval)
		}
		timer.Reset(next.Sub(now))
	}
}

// spread returns a time from 0 to interval that is always the same for a name.
func spread(name string, interval time.Duration) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return time.Duration(h.Sum64()>>1) % interval
}
