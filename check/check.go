// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package check runs the checks of what an application needs besides a server that accepts sessions: the result of a
// statement, Redis, Celery workers, HTTP, TCP. A run does I/O and returns a Result. The package does not know how results are
// shown.
package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/neterr"
)

// Status is the status of a check. A greater status is worse.
type Status int

// The statuses.
const (
	Pass Status = iota
	Warn
	Fail
)

// String returns the default name of the status. config.Health.StatusNames may set other names for /health.
func (s Status) String() string { return [...]string{"pass", "warn", "fail"}[s] }

// Result is what one run of a check found. It does not change after Run has returned it.
type Result struct {
	Status Status
	// Output is the reason for a status other than Pass, otherwise empty. It may be shown to everybody: it contains no
	// address, no user name and no text from a dependency, except error codes.
	Output string
	// Value is the number that the run found: the number that a statement returned, the length of a key, or how many
	// workers replied. HasValue reports whether there is one.
	Value    float64
	HasValue bool
	// At is when the run ended, and Took its duration.
	At   time.Time
	Took time.Duration
	// OutOfDescriptors reports whether the run failed because this process or its machine had no file descriptor left.
	OutOfDescriptors bool
}

// PublicError is an error whose text may be shown to everybody.
type PublicError string

func (e PublicError) Error() string { return string(e) }

// Query runs one statement on the check's target, in a read-only transaction, and returns its result. It returns soon
// after ctx ends. If the statement fails, the error is a PublicError.
type Query func(ctx context.Context, sql string) (Scalar, error)

// Scalar is the result of a statement that should return one value. It has the fields of probe.Scalar, so that one can
// be converted to the other.
type Scalar struct {
	// Columns and Rows are how many the statement returned. 2 rows stand for 2 or more.
	Columns, Rows int
	// Text is the first column of the first row in PostgreSQL's text format. It is empty if Null is set or if there is
	// no such value.
	Text string
	Null bool
	// Bool reports whether the column has the type boolean, and Number whether it has one of PostgreSQL's numeric
	// types.
	Bool, Number bool
}

// Source returns the location of a dependency and its secrets. Each call reads them again if they are in files. The texts
// of its errors may be shown to everybody.
type Source interface {
	// Location returns a valid URL, or host:port for the kind tcp.
	Location() (config.Secret, error)
	// Read returns a text, which is empty if none is set.
	Read(c config.Content) (config.Secret, error)
}

// runner runs the checks of one kind. Each kind has a file of its own.
type runner interface {
	// run returns the number to compare with the limits, or an unknown number if the check has none. An error means
	// that the check fails. run returns soon after ctx ends. ctx has a deadline.
	run(ctx context.Context) (number, error)
}

// number is a number that may be unknown.
type number struct {
	value float64
	known bool
	// words says what was found, such as "2 workers answered". It is empty if there is nothing to say but the number.
	words string
}

func known(value float64) number { return number{value: value, known: true} }

// newRunner returns the runner of a check's kind. It panics if the kind is unknown, which config rules out.
func newRunner(c *config.Check, source Source, query Query) runner {
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
		return &tcp{d}
	}
	panic(fmt.Sprintf("unknown kind of check: %v", c.Kind))
}

// Checker runs one check. Its methods must be called by one goroutine at a time.
type Checker struct {
	settings *config.Check
	runner   runner
}

// New returns a checker. SQL needs query and no source. All other kinds need source and no query.
func New(settings *config.Check, source Source, query Query) *Checker {
	return &Checker{settings, newRunner(settings, source, query)}
}

// Run runs the check once and returns what it found. It returns soon after ctx ends or settings.Timeout has passed.
func (c *Checker) Run(ctx context.Context) Result {
	ctx, cancel := context.WithTimeout(ctx, c.settings.Timeout)
	defer cancel()
	start := time.Now()
	found, err := c.runner.run(ctx)
	r := Result{Value: found.value, HasValue: found.known, At: time.Now(), Took: time.Since(start)}
	if err != nil {
		r.Status, r.Output, r.OutOfDescriptors = Fail, describe(err), neterr.OutOfDescriptors(err)
		return r
	}
	if found.known {
		r.Status, r.Output = compare(found, &c.settings.Limits)
	}
	return r
}

// compare compares a number with limits, and returns the status and the output of a Result.
func compare(found number, l *config.Limits) (Status, string) {
	value := found.value
	say := func(plainly, inWords string, limit *float64) string {
		verb := "are"
		if *limit == 1 {
			verb = "is"
		}
		if found.words == "" {
			return fmt.Sprintf("%s is %s %s", plain(value), plainly, plain(*limit))
		}
		return fmt.Sprintf("%s, at %s %s %s expected", found.words, inWords, plain(*limit), verb)
	}
	above := func(limit *float64) string { return say("above", "most", limit) }
	below := func(limit *float64) string { return say("below", "least", limit) }
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

// plain formats a number without an exponent.
func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// describe returns a text for err that may be shown to everybody.
func describe(err error) string {
	var (
		public    PublicError
		tlsErr    *tls.CertificateVerificationError
		unknownCA x509.UnknownAuthorityError
		notTLS    tls.RecordHeaderError
		otherHost x509.HostnameError
		invalid   x509.CertificateInvalidError
		opErr     *net.OpError
	)
	switch {
	case errors.As(err, &public):
		return public.Error()
	case errors.As(err, &opErr) && (opErr.Op == "proxyconnect" || opErr.Op == "socks connect"): // as net/http names them
		return "its proxy: " + describe(opErr.Err)
	case errors.As(err, &otherHost):
		return "its certificate is for another host"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired or is not valid yet"
	case errors.As(err, &tlsErr), errors.As(err, &unknownCA):
		return "its certificate is not trusted"
	case errors.As(err, &notTLS), errors.As(err, &opErr) && opErr.Op == "remote error": // an alert (crypto/tls/conn.go)
		return "the TLS handshake failed"
	case errors.Is(err, fs.ErrNotExist):
		return "there is no socket"
	case neterr.Refused(err):
		return "connection refused"
	case neterr.Unreachable(err):
		return "the host cannot be reached"
	case neterr.Exhausted(err):
		return "this exporter has no descriptors or ports left"
	case neterr.Unresolved(err):
		return "its name has no address"
	case neterr.Forbidden(err):
		return "this exporter may not connect"
	case neterr.TimedOut(err):
		return "no answer in time"
	case neterr.Ended(err):
		return "the connection broke off"
	}
	return "unexpected response"
}

// dial connects to an address. ctx bounds it: it uses Go's own resolver, which returns as soon as ctx ends.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := newDialer()
	return d.DialContext(ctx, network, address)
}

func newDialer() *net.Dialer { return &net.Dialer{Resolver: &net.Resolver{PreferGo: true}} }

// dependency is the part that all runners except the one for SQL share.
type dependency struct {
	*config.Check
	source Source
}

// read returns a text, which is empty if none is set.
func (d dependency) read(c config.Content) (string, error) {
	text, err := d.source.Read(c)
	if err != nil {
		return "", errors.Join(PublicError(err.Error()), err)
	}
	return string(text), nil
}

// location returns the location of the dependency: a URL, or host:port for the kind tcp.
func (d dependency) location() (config.Secret, error) {
	text, err := d.source.Location()
	if err != nil {
		return "", errors.Join(PublicError(err.Error()), err)
	}
	return text, nil
}
