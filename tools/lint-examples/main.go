// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Lint-examples looks for mistakes in examples/ with what others wrote for that: Grafana's dashboard-linter, whose command
// cannot be had as a tool of a module but whose library can, and Compose's own loader.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/grafana/dashboard-linter/lint"
)

func main() {
	os.Exit(run(os.Args[1:]))
}

// run is the program. It returns the exit code.
func run(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: lint-examples FOLDER")
		return 2
	}
	for name, look := range map[string]func(string) error{"dashboard.json": lookAtDashboard, "compose.yml": lookAtCompose} {
		if err := look(filepath.Join(args[0], name)); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			return 1
		}
	}
	return 0
}

// lookAtDashboard prints what the linter finds beside the exceptions, which is an error.
func lookAtDashboard(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	d, err := lint.NewDashboard(content)
	if err != nil {
		return err
	}
	config := lint.NewConfigurationFile()
	if err := config.Load("exceptions.yml"); err != nil {
		return err
	}
	rules := lint.NewRuleSet()
	results, err := rules.Lint([]lint.Dashboard{d})
	if err != nil {
		return err
	}
	results.Configure(config)
	if results.MaximumSeverity() < lint.Warning {
		return nil
	}
	results.ReportByRule()
	return fmt.Errorf("it breaks the rules above")
}

// lookAtCompose holds the file to Compose's schema.
func lookAtCompose(path string) error {
	options, err := cli.NewProjectOptions([]string{path})
	if err != nil {
		return err
	}
	_, err = options.LoadProject(context.Background())
	return err
}
