// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// applicationTimeout is how long the application waits for a login, and then for each of its two statements.
const applicationTimeout = 10 * time.Second

// The steps of the application.
const (
	stepLogin = "login"
	stepRead  = "read"
	stepWrite = "write"
)

// met is what a new connection of an application met.
type met struct {
	// Failed is the step that failed. It is empty if all succeeded.
	Failed string `json:"failed,omitempty"`
	// Error says why, without addresses.
	Error string `json:"error,omitempty"`
	// Seconds is how long the login and the read took together, and the write if that is what failed.
	Seconds float64 `json:"seconds"`
}

// works reports whether the application could do what it wants. Only a fault that is about writes asks for the write.
func (m met) works(writes bool) bool { return m.Failed == "" || m.Failed == stepWrite && !writes }

// String returns what happened in words.
func (m met) String() string {
	if m.Failed == "" {
		return "logs in, reads and writes"
	}
	return m.Failed + " fails: " + m.Error
}

// use opens a new session as the application, reads its table and commits a row to it.
func use(ctx context.Context, dsn string) met {
	begin := time.Now()
	fail := func(step string, err error) met { return met{step, describe(err), seconds(time.Since(begin))} }
	login, cancel := context.WithTimeout(ctx, applicationTimeout)
	defer cancel()
	conn, err := pgx.Connect(login, dsn)
	if err != nil {
		return fail(stepLogin, err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	read, cancel := context.WithTimeout(ctx, applicationTimeout)
	defer cancel()
	var rows int
	if err := conn.QueryRow(read, "SELECT count(*) FROM visit").Scan(&rows); err != nil {
		return fail(stepRead, err)
	}
	taken := seconds(time.Since(begin))
	write, cancel := context.WithTimeout(ctx, applicationTimeout)
	defer cancel()
	if _, err := conn.Exec(write, "INSERT INTO visit VALUES (repeat('x', 5000))"); err != nil {
		return fail(stepWrite, err)
	}
	return met{Seconds: taken}
}

// describe returns the cause of an error of the application, without what differs from run to run, such as addresses.
func describe(err error) string {
	var server *pgconn.PgError
	var certificate x509.CertificateInvalidError
	switch {
	case errors.As(err, &server):
		return server.Code + " " + regexp.MustCompile(`base/\d+/\d+`).ReplaceAllString(server.Message, "base/…")
	case errors.As(err, &certificate) && certificate.Reason == x509.Expired:
		return "the certificate has expired"
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return "no answer in 10 s"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "connection reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the server closed the connection"
	case strings.Contains(err.Error(), "invalid body length"):
		return "an answer that is no PostgreSQL protocol"
	}
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return regexp.MustCompile(`127\.0\.0\.1(:\d+)? ?(\(127\.0\.0\.1\): )?`).ReplaceAllString(err.Error(), "")
}

func isTimeout(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}

// seconds returns a duration in seconds, to the hundredth.
func seconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Millisecond)) / float64(time.Second)
}
