// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testservers"
)

// setup is what a fault needs before it begins.
type setup struct {
	settings []string // of the server
	tls      bool     // all clients use sslmode=verify-full
	standby  bool     // all clients use a streaming standby of the server
	pooler   bool     // all clients use a PgBouncer in front of the server
	disk     string   // a folder of the data directory that has a small disk of its own
}

const (
	diskSize     = 96 // MiB
	startTimeout = time.Minute
	endTimeout   = time.Minute
)

// scene is a throwaway server with everything that uses it, for one fault.
type scene struct {
	server    *testservers.Postgres // that the clients use, perhaps through the pooler
	pooler    *testservers.PgBouncer
	access    access
	admin     *pgconn.PgConn // a session of the superuser on the server, opened before the fault
	observers map[string]*observer
	slots     testservers.SlotHolder
	expired   certificate // another that the clients trust
	ends      []func() error
}

type certificate struct{ certificate, key []byte }

// newScene starts everything and waits until it answers. The caller ends it. If newScene fails, it leaves no process.
func newScene(ctx context.Context, p programs, c setup) (*scene, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s := &scene{}
	if err := s.start(ctx, p, c); err != nil {
		return nil, errors.Join(err, s.end())
	}
	return s, nil
}

func (s *scene) start(ctx context.Context, p programs, c setup) error {
	config := testservers.PostgresConfig{Bin: p.postgres, Settings: c.settings}
	s.access = access{database: application, sslmode: "disable"}
	if c.tls {
		if err := s.addCertificates(&config); err != nil {
			return err
		}
	}
	server, err := testservers.NewPostgres(ctx, config)
	if err != nil {
		return err
	}
	s.ends = append(s.ends, server.Remove)
	s.server = server
	for _, sql := range append(createRoles(), createDatabase()...) {
		if err := server.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	if err := s.createTable(ctx); err != nil {
		return err
	}
	if c.disk != "" {
		if err := s.addDisk(ctx, c.disk); err != nil {
			return err
		}
	}
	if c.standby {
		if s.server, err = server.Standby(ctx); err != nil {
			return err
		}
		s.ends = append(s.ends, s.server.Remove)
	}
	s.access.port = s.server.Port
	if c.pooler {
		if err := s.addPooler(ctx, p.pgBouncer); err != nil {
			return err
		}
	}
	if s.admin, err = s.server.Connect(ctx); err != nil {
		return err
	}
	s.ends = append(s.ends, func() error {
		_ = s.admin.Conn().Close() // the server may have ended it
		return nil
	})
	if s.observers, err = startObservers(ctx, p, s.access); err != nil {
		return err
	}
	s.ends = append(s.ends, func() error { return endObservers(s.observers) })
	return nil
}

// end ends all processes and removes their folders.
func (s *scene) end() error {
	var err error
	for _, end := range slices.Backward(s.ends) {
		err = errors.Join(err, end())
	}
	return err
}

func createRoles() []string {
	statements := []string{
		fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", application, passwordOf(application)),
		"CREATE ROLE " + isReadyRole + " LOGIN",
		"CREATE ROLE filler LOGIN",
	}
	for _, role := range exporterRoles() {
		statements = append(statements, fmt.Sprintf(
			"CREATE ROLE %s LOGIN CONNECTION LIMIT 10 PASSWORD '%s'; GRANT pg_monitor TO %[1]s", role, passwordOf(role)))
	}
	return statements
}

func createDatabase() []string {
	return []string{"CREATE DATABASE " + application + " OWNER " + application}
}

// createTable creates the table of the application. No page has room for two of its rows.
func (s *scene) createTable(ctx context.Context) error {
	conn, err := pgconn.Connect(ctx, s.direct(application))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE TABLE visit (page text); ALTER TABLE visit ALTER page SET STORAGE PLAIN").ReadAll()
	return errors.Join(err, conn.Close(ctx))
}

// direct returns a connection string for a role that needs no password on the unix socket.
func (s *scene) direct(role string) string {
	return fmt.Sprintf("host='%s' port=%d user=%s dbname=%s sslmode=disable", s.server.Dir, s.server.Port, role, application)
}

// addCertificates gives the server a certificate. The clients trust that one and one that has expired.
func (s *scene) addCertificates(config *testservers.PostgresConfig) error {
	var err error
	if config.Certificate, config.Key, err = testservers.NewCertificate(); err != nil {
		return err
	}
	s.expired.certificate, s.expired.key, err = testservers.NewCertificate(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = c.NotBefore.AddDate(0, -1, 0), time.Now().Add(-time.Minute)
	})
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "compare-")
	if err != nil {
		return err
	}
	s.ends = append(s.ends, func() error { return os.RemoveAll(folder) })
	s.access.sslmode, s.access.root = "verify-full", filepath.Join(folder, "root.crt")
	return os.WriteFile(s.access.root, append(slices.Clone(config.Certificate), s.expired.certificate...), 0o600)
}

// addDisk moves a folder of the data directory to a disk of its own, in memory.
func (s *scene) addDisk(ctx context.Context, name string) error {
	if err := s.server.Stop(testservers.Fast); err != nil {
		return err
	}
	folder := s.data(name)
	before := folder + ".before"
	if err := errors.Join(os.Rename(folder, before), os.Mkdir(folder, 0o700), mountDisk(folder, diskSize)); err != nil {
		return err
	}
	s.ends = append(s.ends, func() error { return unmountDisk(folder) }) // before the server's folder is removed
	if err := run(ctx, "cp", "--archive", before+"/.", folder); err != nil {
		return err
	}
	return s.server.Start(ctx)
}

// data returns the path of a file of the data directory.
func (s *scene) data(name string) string { return filepath.Join(s.server.Dir, "data", name) }

// addPooler starts a PgBouncer in front of the server. postgres_exporter needs it to ignore a parameter.
func (s *scene) addPooler(ctx context.Context, bin string) error {
	var err error
	users := map[string]string{application: passwordOf(application)}
	for _, role := range exporterRoles() {
		users[role] = passwordOf(role)
	}
	s.pooler, err = testservers.NewPgBouncer(ctx, testservers.PgBouncerConfig{
		Bin:       bin,
		Databases: []string{fmt.Sprintf("%s = host=127.0.0.1 port=%d", application, s.server.Port)},
		Settings:  []string{"pool_mode = transaction", "ignore_startup_parameters = extra_float_digits", "server_login_retry = 1"},
		Users:     users,
	})
	if err != nil {
		return err
	}
	s.ends = append(s.ends, s.pooler.Remove)
	s.access.port = s.pooler.Port
	return nil
}

// exec runs a statement as the superuser, on the session that was opened before the fault or, if that has ended, on a
// new one.
func (s *scene) exec(ctx context.Context, sql string) error {
	if s.admin.IsClosed() {
		return s.server.Exec(ctx, sql)
	}
	_, err := s.admin.Exec(ctx, sql).ReadAll()
	if err != nil && s.admin.IsClosed() {
		return s.server.Exec(ctx, sql)
	}
	return err
}

// console runs a command on the console of the pooler.
func (s *scene) console(ctx context.Context, command string) error {
	conn, err := s.pooler.Console(ctx)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, command).ReadAll()
	return errors.Join(err, conn.Close(ctx))
}

// applicationDSN returns how the application connects.
func (s *scene) applicationDSN() string { return s.access.dsn(application) }

// look is one round: the application and all observers, at once.
type look struct {
	met  met
	said map[string]said
}

// look lets the application and all observers look at the server at once, and waits for all of them. since is the
// beginning of the fault.
func (s *scene) look(ctx context.Context, since time.Time) look {
	l := look{said: map[string]said{}}
	var mu sync.Mutex // guards l.said
	var all sync.WaitGroup
	all.Go(func() { l.met = use(ctx, s.applicationDSN()) })
	for name, o := range s.observers {
		all.Go(func() {
			begin := time.Now()
			asking, cancel := context.WithTimeout(ctx, scrapeTimeout)
			defer cancel()
			found := o.ask(asking)
			found.At, found.Seconds = seconds(time.Since(since)), seconds(time.Since(begin))
			mu.Lock()
			defer mu.Unlock()
			l.said[name] = found
		})
	}
	all.Wait()
	return l
}
