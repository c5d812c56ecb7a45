// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"context"
	"errors"
	"sync"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials/cloud"
)

const (
	// fetchTimeout bounds one fetch: one run of a command, or asking a cloud.
	fetchTimeout = 10 * time.Second
	// fetchInterval is the least time between the beginnings of two fetches of the same, whether or not the first succeeded. A
	// command with a shorter TTL may run once in that time.
	fetchInterval = 10 * time.Second
	// refusedInterval is the time between two fetches because a server keeps refusing what the last one gave.
	refusedInterval = time.Minute
	// failedPatience is how long a login waits for a fetch if the one before it failed. By then the last error says more.
	failedPatience = 2 * time.Second
	// renewBefore is how long before its end a token is renewed. Metadata services have a new one five minutes before the end.
	renewBefore = 4 * time.Minute
)

// errExpired is returned while a token has ended and the next fetch may not begin yet.
var errExpired = errors.New("the token has expired, and there is no other one yet")

// fetcher is a way to fetch passwords.
type fetcher struct {
	// key identifies what is fetched: fetchers with the same key share it.
	key string
	// ttl is how long it is used. If it is 0, the end of the grant decides.
	ttl time.Duration
	// fetch fetches it anew. It has a time-out of its own.
	fetch func() (*cloud.Grant, error)
	// notYet is the error of a caller that could not wait for it.
	notYet error
}

// cache keeps what was fetched, for all targets that fetch the same. Its methods may be called by several goroutines at once.
type cache struct {
	mu      sync.Mutex        // protects what follows, and the entries. It is not held while something is fetched
	entries map[string]*entry // by the key of the fetcher
}

// entry is what one fetcher fetched.
type entry struct {
	running chan struct{} // closed when the fetch ends; nil if there is none under way
	grant   *cloud.Grant  // nil if there is none
	err     error         // of the last fetch
	began   time.Time     // when the last fetch began
	fetched time.Time     // when grant came
	ttl     time.Duration // of the fetcher
	renewed time.Time     // when the last fetch began that a server's refusal caused
}

func newCache() *cache { return &cache{entries: make(map[string]*entry)} }

// get returns the password of a server. If there is none, it fetches one, once for all callers, and waits for it until ctx ends;
// the fetch itself may go on. If the last fetch failed, it waits for failedPatience at most, and returns the error of the last one.
//
// A password is renewed shortly before its time is over, and is still used meanwhile, so that no probe waits. It is not used
// for a target whose server has refused it.
func (c *cache) get(ctx context.Context, f *fetcher, of cloud.Endpoint, refused config.Secret) (config.Secret, error) {
	e, running, hasFailed := c.begin(f, of, refused)
	if running != nil {
		var patience <-chan time.Time
		if hasFailed {
			patience = time.After(failedPatience)
		}
		select {
		case <-running:
		case <-patience:
		case <-ctx.Done():
			return "", f.notYet
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	password, err := e.password(of)
	if err == nil && password == refused && e.err != nil && running != nil {
		return "", e.err
	}
	return password, err
}

// begin returns the entry of a fetcher. If it is of no use yet, begin also returns a channel that is closed when the fetch
// ends, and whether the fetch before that failed.
func (c *cache) begin(
	f *fetcher, of cloud.Endpoint, refused config.Secret,
) (e *entry, running <-chan struct{}, hasFailed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e = c.entries[f.key]
	if e == nil {
		c.evictLocked()
		e = &entry{}
		c.entries[f.key] = e
	}
	e.ttl = f.ttl
	now := time.Now()
	password, err := e.password(of)
	isRefused := err == nil && refused != "" && password == refused
	renew := isRefused && e.isRenewable(now)
	if e.running == nil && e.mayFetch(now) && (renew || !e.isFresh(now)) {
		e.began = now
		if renew {
			e.renewed = now
		}
		e.running = make(chan struct{})
		go c.run(e, f)
	}
	if e.isUsable(now) && !isRefused {
		return e, nil, false
	}
	return e, e.running, e.err != nil && !e.isUsable(now)
}

// run fetches, and keeps the result. If the fetch fails, what is there stays until its time is over: the service that gives
// it may be away for a moment.
func (c *cache) run(e *entry, f *fetcher) {
	grant, err := f.fetch()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	e.err = err
	switch {
	case err == nil:
		e.grant, e.fetched = grant, now
	case !e.isUsable(now):
		e.grant = nil
	}
	close(e.running)
	e.running = nil
}

// mayChange reports whether get may return another password than a refused one: there is one, a fetch is under way, or one may
// begin.
func (c *cache) mayChange(f *fetcher, of cloud.Endpoint, refused config.Secret) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[f.key]
	if e == nil {
		return false
	}
	password, err := e.password(of)
	return e.running != nil || err == nil && password != refused || e.isRenewable(time.Now())
}

// evictLocked removes the entries whose time is over.
func (c *cache) evictLocked() {
	now := time.Now()
	for key, e := range c.entries {
		if e.running == nil && !e.isUsable(now) && e.mayFetch(now) {
			delete(c.entries, key)
		}
	}
}

// password returns the password of a server, or the reason why there is none.
func (e *entry) password(of cloud.Endpoint) (config.Secret, error) {
	switch {
	case e.isUsable(time.Now()):
		return e.grant.Password(of)
	case e.err != nil:
		return "", e.err
	}
	return "", errExpired
}

// lifetime returns for how long what was fetched is used, and after which part of this time it is renewed.
func (e *entry) lifetime() (usable, fresh time.Duration) {
	if e.ttl != 0 {
		return e.ttl + e.ttl/2, e.ttl
	}
	usable = e.grant.Expires.Sub(e.fetched)
	return usable, usable - min(renewBefore, usable/4)
}

func (e *entry) isUsable(now time.Time) bool {
	if e.grant == nil {
		return false
	}
	usable, _ := e.lifetime()
	return now.Sub(e.fetched) < usable
}

func (e *entry) isFresh(now time.Time) bool {
	if e.grant == nil {
		return false
	}
	_, fresh := e.lifetime()
	return now.Sub(e.fetched) < fresh
}

// mayFetch reports whether the last fetch began long enough ago.
func (e *entry) mayFetch(now time.Time) bool {
	interval := fetchInterval
	if e.ttl != 0 {
		interval = min(interval, e.ttl)
	}
	return now.Sub(e.began) >= interval
}

// isRenewable reports whether a password that a server refused may be fetched again. It may not if it was fetched just now, or if
// the last fetch for that reason began less than refusedInterval ago.
func (e *entry) isRenewable(now time.Time) bool {
	return e.mayFetch(now) && now.Sub(e.fetched) > fetchInterval && now.Sub(e.renewed) > refusedInterval
}
