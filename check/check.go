// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package check asks one dependency beside the servers: SQL with limits, Redis, Celery's workers, HTTP, TCP. Asking does
// I/O and returns a value, an Outcome; nothing here knows how it is shown.
package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/neterr"
)

// Status is pass, warn or fail; the greater one wins.
type Status int

// The statuses.
const (
	Pass Status = iota
	Warn
	Fail
)

// String is the status in the words of Config.Health unless it has others.
func (s Status) String() string { return [...]string{"pass", "warn", "fail"}[s] }

// Outcome is what was found. It does not change once it was returned.
type Outcome struct {
	Status Status
	// Output says why it did not pass, or not quite, in words of ours and codes of the server's: no address, user, value or
	// text of anybody else's is in it.
	Output string
	// Value is the number that was found, Measured whether there is one: what a statement returned, a length, workers.
	Value    float64
	Measured bool
	// At is when it was found, and Took how long that took.
	At   time.Time
	Took time.Duration
}

// Problem is an error whose text may be shown to everybody.
type Problem string

func (p Problem) Error() string { return string(p) }

// Query runs one statement on a check's target, in a read-only transaction, and returns what it returned. A statement that
// fails gives a Problem.
type Query func(ctx context.Context, sql string) (Scalar, error)

// Scalar is what a statement returned, of which a check wants one value. It has the fields of probe.Scalar, so that one
// converts to the other.
type Scalar struct {
	// Columns and Rows are how many the statement returned; 2 rows stand for several.
	Columns, Rows int
	// Text is the first column of the first row as the server writes it, empty if Null is set or there is none.
	Text string
	Null bool
	// Bool and Number report whether the column has type boolean, and one of PostgreSQL's numeric types.
	Bool, Number bool
}

// Source reads where a dependency is and which certificates to trust. They may be in files, which it reads at each call.
// The texts of its errors may be shown to everybody.
type Source interface {
	// Location returns a URL, or host:port for the kind tcp.
	Location() (config.Secret, error)
	// RootCertificates returns certificates in PEM, nil for the system's.
	RootCertificates() ([]byte, error)
}

// asker is what differs between the kinds of dependencies. Each is a file of its own.
type asker interface {
	// ask returns a number to be held against the limits; Measured says whether there is one. An error is a failure. It
	// returns soon after the end of ctx.
	ask(ctx context.Context) (number, error)
}

// number is a value that may be missing.
type number struct {
	value    float64
	measured bool
}

func measured(value float64) number { return number{value, true} }

// newAsker is the one place that knows all kinds.
func newAsker(c *config.Check, source Source, query Query) asker {
	d := dependency{c, source}
	switch c.Kind {
	case config.CheckSQL:
		return &sql{c, query}
	case config.CheckRedis:
		return &redis{d}
	case config.CheckCelery:
		return newCelery(d)
	case config.CheckHTTP:
		return &web{d}
	case config.CheckTCP:
	}
	return &tcp{d}
}

// Checker runs the check of one dependency.
type Checker struct {
	settings *config.Check
	asker    asker
}

// New returns a checker. source is needed for all kinds but SQL, and query for SQL alone.
func New(settings *config.Check, source Source, query Query) *Checker {
	return &Checker{settings, newAsker(settings, source, query)}
}

// Run runs the check once, within the timeout of its settings or until ctx ends, and returns what it found.
func (c *Checker) Run(ctx context.Context) Outcome {
	ctx, cancel := context.WithTimeout(ctx, c.settings.Timeout)
	defer cancel()
	start := time.Now()
	found, err := c.asker.ask(ctx)
	o := Outcome{Value: found.value, Measured: found.measured, At: time.Now(), Took: time.Since(start)}
	if err != nil {
		o.Status, o.Output = Fail, describe(err)
		return o
	}
	if found.measured {
		o.Status, o.Output = judge(&c.settings.Limits, found.value)
	}
	return o
}

// judge holds a number against limits.
func judge(l *config.Limits, value float64) (Status, string) {
	above := func(limit *float64) string { return fmt.Sprintf("%s is above %s", plain(value), plain(*limit)) }
	below := func(limit *float64) string { return fmt.Sprintf("%s is below %s", plain(value), plain(*limit)) }
	switch {
	case l.FailAbove != nil && value > *l.FailAbove:
		return Fail, above(l.FailAbove)
	case l.FailBelow != nil && value < *l.FailBelow:
		return Fail, below(l.FailBelow)
	case l.WarnAbove != nil && value > *l.WarnAbove:
		return Warn, above(l.WarnAbove)
	case l.WarnBelow != nil && value < *l.WarnBelow:
		return Warn, below(l.WarnBelow)
	}
	return Pass, ""
}

func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// describe says what an error is, in words that may be shown to everybody.
func describe(err error) string {
	var (
		problem   Problem
		tlsErr    *tls.CertificateVerificationError
		unknownCA x509.UnknownAuthorityError
		notTLS    tls.RecordHeaderError
		opErr     *net.OpError
	)
	switch {
	case errors.As(err, &problem):
		return problem.Error()
	case errors.As(err, &tlsErr), errors.As(err, &unknownCA):
		return "its certificate is not trusted"
	case errors.As(err, &notTLS), errors.As(err, &opErr) && opErr.Op == "remote error": // an alert (crypto/tls/conn.go)
		return "no TLS with it"
	case neterr.Unresolved(err):
		return "its name has no address"
	case neterr.Refused(err):
		return "refused"
	case neterr.Unreachable(err):
		return "unreachable"
	case neterr.Exhausted(err):
		return "this exporter has no descriptors or ports left"
	case neterr.Forbidden(err):
		return "this exporter may not connect"
	case neterr.TimedOut(err):
		return "no answer in time"
	case neterr.Ended(err):
		return "the connection broke off"
	}
	return "its answer makes no sense"
}

// dial connects to an address. The name is looked up by Go's own resolver, which gives up when it is told to.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Resolver: &net.Resolver{PreferGo: true}}
	return d.DialContext(ctx, network, address)
}

// dependency is what a check is about, for all kinds but SQL.
type dependency struct {
	*config.Check
	source Source
}

// roots returns the certificates to trust, nil for the system's.
func (d dependency) roots() (*x509.CertPool, error) {
	content, err := d.source.RootCertificates()
	if err != nil {
		return nil, Problem(err.Error())
	}
	if content == nil {
		return nil, nil //nolint:nilnil // crypto/tls takes the system's then
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, Problem("sslrootcert holds no certificate")
	}
	return pool, nil
}

// url returns where the dependency is. For the kind tcp it has a host and a port alone.
func (d dependency) url() (*url.URL, error) {
	text, err := d.source.Location()
	if err != nil {
		return nil, Problem(err.Error())
	}
	if d.Kind == config.CheckTCP {
		return &url.URL{Host: string(text)}, nil
	}
	u, err := url.Parse(string(text))
	if err != nil { // it was valid when it was read
		return nil, Problem("its URL cannot be used")
	}
	return u, nil
}

// database is the number that a URL of Redis names, 0 where it names none.
func database(u *url.URL) int {
	n, _ := strconv.Atoi(strings.Trim(u.Path, "/")) // config sees to it that it is a number or nothing
	return n
}
