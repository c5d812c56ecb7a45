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

// startSampling makes the target be probed every interval until it is closed. The delay before the first probe depends on the
// target's name. The probes of many targets are therefore spread over the interval, in the same way after each restart.
func (t *Target) startSampling() {
	t.mu.Lock()
	defer t.mu.Unlock()
	delay := spread(t.options.name, t.options.Interval)
	t.nextSample = time.Now().Add(delay)
	t.sampler = time.AfterFunc(delay, t.sample)
}

// sample starts the sampler's probe, or joins the one under way.
func (t *Target) sample() {
	_, _ = t.begin(time.Now().Add(t.options.Timeout), true) // the error is that the target was closed
}

// scheduleSampleLocked sets when the sampler probes next, after its probe has ended with the result r. Between two probes the
// sampler is a timer without a goroutine.
func (t *Target) scheduleSampleLocked(r *probe.Result) {
	if t.closed {
		return
	}
	now := time.Now()
	if locksOut(r.Failure) || t.options.keptPlaces != nil && t.unresolved.Load() {
		t.nextSample = t.nextSample.Add(authPause)
	}
	for !t.nextSample.After(now) { // missed probes are skipped
		t.nextSample = t.nextSample.Add(t.options.Interval)
	}
	t.sampler.Reset(t.nextSample.Sub(now))
}

// spread returns a duration from 0 to interval that depends on the name alone.
func spread(name string, interval time.Duration) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return time.Duration(h.Sum64()>>1) % interval
}
