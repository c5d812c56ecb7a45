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
	// warmUp scrapes of each kind are not measured.
	warmUp = 100
	// counted scrapes go through the proxy.
	counted = 200
	// Memory is read after the first scrape, after manyScrapes, and with -long after maxScrapes.
	manyScrapes = 2000
	maxScrapes  = 20000
	// turn is the pause between two scrapes, for what a child does behind its answer not to disturb the next one.
	turn = 2 * time.Millisecond
	// settle is long enough for everything a scrape leaves behind to have ended.
	settle = 100 * time.Millisecond
)

// What Prometheus 3 sends, where native histograms, and with them protobuf, are not switched on.
const accept = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5," +
	"application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3," +
	"text/plain;version=0.0.4;q=0.2,*/*;q=0.1"

// client scrapes over connections that it keeps, as Prometheus does.
type client struct {
	http http.Client
	body bytes.Buffer
	text []byte // of the last answer, unpacked
}

func newClient() *client {
	return &client{http: http.Client{Timeout: askLimit, Transport: &http.Transport{DisableCompression: true}}}
}

// scrape returns how long it took until the whole answer was there, and its size. An answer that does not say that the
// server is up is an error: nothing of it would compare.
func (c *client) scrape(ctx context.Context, child *child, zip bool) (time.Duration, int, error) {
	return c.scrapeURL(ctx, child, child.url, zip)
}

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
		return 0, 0, errors.New("the answer is not compressed")
	}
	c.text = text
	if response.StatusCode != http.StatusOK || !bytes.Contains(text, []byte("\npg_up")) || bytes.Contains(text, []byte("\npg_up 0")) {
		return 0, 0, fmt.Errorf("the answer, %s, does not say pg_up 1: %.200s\n%s", response.Status, text, child.output())
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

// repeat scrapes n times without a pause.
func (c *client) repeat(ctx context.Context, child *child, n int) error {
	for range n {
		if _, _, err := c.scrape(ctx, child, true); err != nil {
			return err
		}
	}
	return nil
}

// count counts what a scrape of the real binary sends to the server and writes to its log.
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
	before, lines := p.read(), exporter.written()
	if err := client.repeat(ctx, exporter, counted); err != nil {
		return c, err
	}
	time.Sleep(settle)
	c = p.read()
	c.logLines = exporter.written() - lines
	if c.figuresSQL == "" {
		return c, errors.New("no query was seen that reads " + figuresMark + ": what does the exporter ask for its figures?")
	}
	c.scrapes, c.connects, c.queries = counted, c.connects-before.connects, c.queries-before.queries
	return c, nil
}

// lane is one kind of scrape, and what it took.
type lane struct {
	kind kind
	zip  bool

	wall []time.Duration
	cpu  time.Duration // of all scrapes together
	size int           // of the last answer
}

// mean is the CPU time of one scrape.
func (l *lane) mean() time.Duration { return l.cpu / time.Duration(len(l.wall)) }

// quantile is of the wall times.
func (l *lane) quantile(q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(l.wall))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

// times are all lanes.
type times struct{ lanes []*lane }

func (t *times) lane(k kind, zip bool) *lane {
	return t.lanes[slices.IndexFunc(t.lanes, func(l *lane) bool { return l.kind == k && l.zip == zip })]
}

// times scrapes all lanes in turns.
func (b *bench) times(ctx context.Context, rounds int) (*times, error) {
	kinds := []kind{kindBaseline, kindTarget, kindExporter}
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
					t.lanes = append(t.lanes, &lane{kind: k, zip: zip})
				}
			}
		}
		for _, l := range t.lanes {
			m := meters[l.kind]
			if err := m.charge(l); err != nil {
				return nil, err
			}
			took, size, err := client.scrape(ctx, m.child, l.zip)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", l.kind, err)
			}
			l.wall, l.size = append(l.wall, took), size
			time.Sleep(turn)
		}
	}
	time.Sleep(settle)
	for _, m := range meters {
		if err := m.charge(nil); err != nil {
			return nil, err
		}
	}
	return &t, nil
}

// meter charges the CPU time of a child to lanes.
type meter struct {
	child *child
	lane  *lane // that is charged for what the child does now
	at    time.Duration
}

// charge makes next pay from here on, and lane for what the child did up to now: what it does behind its answer is part
// of the scrape.
func (m *meter) charge(next *lane) error {
	now, err := cpuTime(m.child.pid())
	if err != nil {
		return err
	}
	if m.lane != nil {
		m.lane.cpu += now - m.at
	}
	m.lane, m.at = next, now
	return nil
}

// memory is what a child holds, in bytes, after some scrapes.
type memory struct {
	scrapes            int
	exporter, baseline resident
}

// resident is a process's memory that is in RAM: all of it, and what is its own alone (not the binary's pages).
type resident struct{ all, anonymous int }

// memory scrapes new children, both at once, as fast as they answer, and reads their memory on the way.
func (b *bench) memory(ctx context.Context, long bool) ([]memory, error) {
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
		errs[0] = b.grow(ctx, kindExporter, at, func(i int, r resident) { taken[i].exporter = r })
	})
	both.Go(func() {
		errs[1] = b.grow(ctx, kindBaseline, at, func(i int, r resident) { taken[i].baseline = r })
	})
	both.Wait()
	return taken, errors.Join(errs[:]...)
}

// grow tells what a new child holds after each of these numbers of scrapes.
func (b *bench) grow(ctx context.Context, k kind, at []int, tell func(i int, r resident)) error {
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
		time.Sleep(settle)
		r, err := residentMemory(child.pid())
		if err != nil {
			return err
		}
		tell(i, r)
	}
	return nil
}
