// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"hash/fnv"
	"time"

	"pg_liveness_exporter/probe"
)

// authPause is how long only scrapes probe a server that has refused the exporter's credentials, since some servers lock a role out
// after a number of failed logins. The same holds for an ad-hoc target whose name has never had an address: anyone who
// reaches /probe can make up such names.
const authPause = time.Minute

// locksOut reports whether a failure may count towards a lockout by the server. A password that could not be read does
// not: nothing was sent to the server.
func locksOut(f *probe.Failure) bool {
	return f != nil && f.Reason == probe.ReasonAuth && f.SQLState != ""
}

// sample probes the target every interval until the target is closed. The delay before the first probe depends on the
// target's name. The probes of many targets are therefore spread over the interval, in the same way after each restart.
func (t *Target) sample() {
	interval := t.options.Interval
	next := time.Now().Add(spread(t.options.name, interval))
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-t.life.Done():
			return
		}
		w, err := t.begin(time.Now().Add(t.options.Timeout), true)
		if err != nil {
			return // the target was closed
		}
		s, err := w.result(t.life)
		if err != nil {
			return
		}
		now := time.Now()
		if locksOut(s.Result.Failure) || t.options.keptPlaces != nil && t.unresolved.Load() {
			next = next.Add(authPause)
		}
		for !next.After(now) { // missed probes are skipped
			next = next.Add(interval)
		}
		timer.Reset(next.Sub(now))
	}
}

// spread returns a duration from 0 to interval that depends on the name alone.
func spread(name string, interval time.Duration) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return time.Duration(h.Sum64()>>1) % interval
}
