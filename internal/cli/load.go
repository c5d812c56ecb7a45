// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"pg_liveness_exporter/check"
	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials"
)

// Loader returns a function that loads the configuration. Each call reads the file again, or the environment if there
// is no --config.file.
func (f *Flags) Loader(getenv func(string) string) func() (*config.File, error) {
	if f.ConfigFile == "" {
		return func() (*config.File, error) { return f.loadEnvironment(getenv) }
	}
	return func() (*config.File, error) {
		// pgconn reads the service file for every login if this variable is set, although it overrides none of its settings.
		if err := os.Unsetenv("PGSERVICE"); err != nil {
			return nil, err
		}
		verify := &config.Verifier{Environment: credentials.VerifyEnvironment}
		if f.ConfigCheck {
			verify.Login, verify.Check = credentials.VerifyLogin, func(c *config.Check) []error {
				return check.VerifyFiles(c, credentials.ForCheck(c))
			}
		}
		file, err := config.Load(f.ConfigFile, f.Probing, verify)
		if config.IsSystemError(err) {
			return nil, fmt.Errorf("--config.file: %w", err)
		}
		return file, err
	}
}

func (f *Flags) loadEnvironment(getenv func(string) string) (*config.File, error) {
	target, err := config.FromEnvironment(getenv, f.Probing)
	if err == nil {
		err = cmp.Or(emptyVariable(target.Login.Environment, getenv), credentials.VerifyEnvironment(target.Login.Environment))
	}
	if err != nil {
		return nil, err
	}
	return &config.File{Targets: []*config.Target{target}, Health: config.DefaultHealth()}, nil
}

// LogEnvironment logs which variables the target from the environment is taken from, if there is one, and which others change
// where the exporter connects. It logs no value.
func LogEnvironment(file *config.File, logger *slog.Logger) {
	for _, target := range file.Targets {
		e := target.Login.Environment
		if e == nil {
			continue
		}
		logger.Info("Using the target from the environment", "taken_from", e.Source)
		for _, variable := range credentials.MovingVariables(e) {
			logger.Warn("A variable of libpq changes where the exporter connects", "variable", variable, "taken_from", e.Source)
		}
		return // every target from the environment is the same server
	}
}

// emptyVariable returns an error if no variable names a server, and one that does so elsewhere is set and empty: what should
// have filled it is missing, and libpq's default server is not meant.
func emptyVariable(e *config.Environment, getenv func(string) string) error {
	names := func(variable string) bool { return getenv(variable) != "" }
	if e.Form != config.FormLibpq || slices.ContainsFunc([]string{"PGHOST", "PGHOSTADDR", "PGSERVICE"}, names) {
		return nil
	}
	for _, variable := range []string{"DATA_SOURCE_NAME", "DATA_SOURCE_URI", "DATABASE_URL", "POSTGRES_HOST", "PGHOST"} {
		if _, set := os.LookupEnv(variable); set {
			return fmt.Errorf("%s is empty, and no other variable names a server", variable)
		}
	}
	return nil
}

// Fingerprint returns a text that is another one once the content of --config.file has changed, whatever path leads to it, or
// once it can no longer be read. It is empty without such a file.
//
// The text depends on that file alone: passwords, certificates and whatever else the file names are read when they are used.
func (f *Flags) Fingerprint() string {
	if f.ConfigFile == "" {
		return ""
	}
	return config.Fingerprint(f.ConfigFile)
}
