// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// warmUp is the number of scrapes of each kind before the measured ones.
	warmUp = 100
	// countedScrapes is the number of scrapes through the proxy.
	countedScrapes = 200
	// Memory is measured after one scrape, after manyScrapes, and with -long after maxScrapes.
	manyScrapes = 2000
	maxScrapes  = 20000
	// pause is the time between two scrapes. What a child does after its response then does not delay the next scrape.
	pause = 2 * time.Millisecond
	// settleTime is the time after which a child has finished everything that belongs to its last response.
	settleTime = 100 * time.Millisecond
)

// accept is the Accept header of Prometheus 3 without native histograms, and thus without protobuf.
const accept = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5," +
	"application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3," +
	"text/plain;version=0.0.4;q=0.2,*/*;q=0.1"

// client scrapes over persistent connections, as Prometheus does.
type client struct {
	http http.Client
	body bytes.Buffer
	text []byte // of the last response, decompressed
}

func newClient() *client {
	return &client{http: http.Client{Timeout: requestTimeout, Transport: &http.Transport{DisableCompression: true}}}
}

// scrape scrapes the child's URL. It returns the time until the whole response was read, and the size of its body as
// sent. It fails if the response does not show that the server is up, because its cost would not compare.
func (c *client) scrape(ctx context.Context, child *child, zip bool) (time.Duration, int, error) {
	return c.scrapeURL(ctx, child, child.url, zip)
}

// scrapeURL is scrape for another URL of the child.
func (c *client) scrapeURL(ctx context.Context, child *child, url string, zip bool) (time.Duration, int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, 0, err
	}
	request.Header.Set("Accept", accept)
	request.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "15")
	if zip {
		request.Header.Set("Accept-Encoding", "gzip")
	}
	start := time.Now()
	response, err := c.http.Do(request)
	if err != nil {
		return 0, 0, fmt.Errorf("%w\n%s", err, child.output())
	}
	c.body.Reset()
	_, err = c.body.ReadFrom(response.Body)
	took := time.Since(start)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return 0, 0, err
	}
	size := c.body.Len()
	text := c.body.Bytes()
	if response.Header.Get("Content-Encoding") == "gzip" {
		if text, err = unzip(&c.body); err != nil {
			return 0, 0, err
		}
	} else if zip {
		return 0, 0, errors.New("the response is not compressed")
	}
	c.text = text
	up := bytes.Contains(text, []byte("\npg_up")) && !bytes.Contains(text, []byte("\npg_up 0"))
	if response.StatusCode != http.StatusOK || !up {
		return 0, 0, fmt.Errorf("the response has status %s and no pg_up 1: %.200s\n%s",
			response.Status, text, child.output())
	}
	return took, size, nil
}

func unzip(r io.Reader) ([]byte, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// repeat scrapes the child n times without a pause.
func (c *client) repeat(ctx context.Context, child *child, n int) error {
	for range n {
		if _, _, err := c.scrape(ctx, child, true); err != nil {
			return err
		}
	}
	return nil
}

// count counts the messages that the exporter sends to the server, and the lines that it logs, in countedScrapes
// scrapes.
func (b *bench) count(ctx context.Context) (c counts, err error) {
	p, err := newProxy(ctx, b.port)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	exporter, err := b.start(ctx, kindExporter, p.port())
	if err != nil {
		return c, err
	}
	defer exporter.stop()
	client := newClient()
	if err := client.repeat(ctx, exporter, warmUp); err != nil {
		return c, err
	}
	before, lines := p.snapshot(), exporter.lineCount()
	if err := client.repeat(ctx, exporter, countedScrapes); err != nil {
		return c, err
	}
	time.Sleep(settleTime)
	c = p.snapshot()
	c.logLines = exporter.lineCount() - lines
	if c.statsSQL == "" {
		return c, errors.New("the exporter sent no query with " + statsMark + ": which statement reads the statistics?")
	}
	c.scrapes, c.connects, c.queries = countedScrapes, c.connects-before.connects, c.queries-before.queries
	return c, nil
}

// series is the measurements of one kind of scrape.
type series struct {
	kind kind
	zip  bool

	wall []time.Duration
	cpu  time.Duration // sum of all scrapes
	size int           // of the last response
}

// mean returns the mean CPU time of a scrape.
func (s *series) mean() time.Duration { return s.cpu / time.Duration(len(s.wall)) }

// quantile returns a quantile, from 0 to 1, of the wall times.
func (s *series) quantile(q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(s.wall))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

// times holds the series of every kind, without and with compression.
type times struct{ all []*series }

// of returns the series of a kind. There must be one.
func (t *times) of(k kind, zip bool) *series {
	return t.all[slices.IndexFunc(t.all, func(s *series) bool { return s.kind == k && s.zip == zip })]
}

// measureTimes starts a child of each kind and scrapes them in turns: warmUp rounds that do not count, then rounds.
func (b *bench) measureTimes(ctx context.Context, rounds int) (*times, error) {
	kinds := []kind{kindBaseline, kindTarget, kindExporter}
	if b.peer != "" {
		kinds = append(kinds, kindPeer)
	}
	meters := make(map[kind]*meter)
	for _, k := range kinds {
		child, err := b.start(ctx, k, b.port)
		if err != nil {
			return nil, err
		}
		defer child.stop()
		meters[k] = &meter{child: child}
	}
	client := newClient()
	var t times
	for round := range warmUp + rounds {
		if round == 0 || round == warmUp {
			t = times{}
			for _, zip := range []bool{false, true} {
				for _, k := range kinds {
					t.all = append(t.all, &series{kind: k, zip: zip})
				}
			}
		}
		for _, s := range t.all {
			m := meters[s.kind]
			if err := m.countFor(s); err != nil {
				return nil, err
			}
			took, size, err := client.scrape(ctx, m.child, s.zip)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.kind, err)
			}
			s.wall, s.size = append(s.wall, took), size
			time.Sleep(pause)
		}
	}
	time.Sleep(settleTime)
	for _, m := range meters {
		if err := m.countFor(nil); err != nil {
			return nil, err
		}
	}
	return &t, nil
}

// meter adds the CPU time of a child to the series of the scrape that has caused it.
type meter struct {
	child   *child
	current *series       // of the last scrape; nil before the first one
	at      time.Duration // CPU time of the child when current was set
}

// countFor adds the CPU time since the last call to the current series, and makes next the current one. It is called
// before a scrape, so that a scrape includes what the child does after its response.
func (m *meter) countFor(next *series) error {
	now, err := cpuTime(m.child.pid())
	if err != nil {
		return err
	}
	if m.current != nil {
		m.current.cpu += now - m.at
	}
	m.current, m.at = next, now
	return nil
}

// memory is the memory of two children after a number of scrapes.
type memory struct {
	scrapes            int
	exporter, baseline resident
}

// resident is the resident memory of a process in bytes: all of it, and the anonymous part, without the binary's pages.
type resident struct{ all, anonymous int }

// measureMemory starts new children and scrapes them, both at the same time and without pauses. It reads their memory
// before the first scrape, after the first one, after manyScrapes, and if long is true after maxScrapes.
func (b *bench) measureMemory(ctx context.Context, long bool) ([]memory, error) {
	at := []int{0, 1, manyScrapes}
	if long {
		at = append(at, maxScrapes)
	}
	taken := make([]memory, len(at))
	for i, n := range at {
		taken[i].scrapes = n
	}
	var (
		both sync.WaitGroup
		errs [2]error
	)
	both.Go(func() {
		errs[0] = b.measureGrowth(ctx, kindExporter, at, func(i int, r resident) { taken[i].exporter = r })
	})
	both.Go(func() {
		errs[1] = b.measureGrowth(ctx, kindBaseline, at, func(i int, r resident) { taken[i].baseline = r })
	})
	both.Wait()
	return taken, errors.Join(errs[:]...)
}

// measureGrowth starts a new child and calls report with its memory after at[i] scrapes, for each i.
func (b *bench) measureGrowth(ctx context.Context, k kind, at []int, report func(i int, r resident)) error {
	child, err := b.start(ctx, k, b.port)
	if err != nil {
		return err
	}
	defer child.stop()
	client, done := newClient(), 0
	for i, n := range at {
		if err := client.repeat(ctx, child, n-done); err != nil {
			return err
		}
		done = n
		time.Sleep(settleTime)
		r, err := residentMemory(child.pid())
		if err != nil {
			return err
		}
		report(i, r)
	}
	return nil
}
