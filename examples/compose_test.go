// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package examples_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestCompose: what compose.yml takes from this folder is there, and fits together. That it keeps to Compose's schema is
// for `make lint` to say.
func TestCompose(t *testing.T) {
	var file struct {
		Services map[string]struct {
			Image   string
			Volumes []string
		}
		Secrets map[string]struct{ File string }
	}
	if err := yaml.Unmarshal(read(t, "compose.yml"), &file); err != nil {
		t.Fatal(err)
	}
	var sources []string
	for name, service := range file.Services {
		// A tag that says which version: what was tried goes on being what runs.
		if service.Image != "" && !regexp.MustCompile(`^[a-z/]+:v?[0-9]+\.[0-9.]+$`).MatchString(service.Image) {
			t.Errorf("%s: the image %s has no version", name, service.Image)
		}
		for _, volume := range service.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			sources = append(sources, source)
		}
	}
	for _, secret := range file.Secrets {
		sources = append(sources, secret.File)
	}
	if len(sources) < 10 {
		t.Errorf("only %q are mounted", sources)
	}
	for _, source := range sources {
		if _, err := os.Stat(source); err != nil || !strings.HasPrefix(source, "./") {
			t.Errorf("%s is mounted: %v", source, err)
		}
	}
	f, err := parse(t, "exporter.yml", string(read(t, "compose/exporter.yml")))
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, target := range f.Targets {
		targets = append(targets, target.Name)
	}
	if got, want := strings.Join(targets, " "), "pool primary standby"; got != want {
		t.Errorf("its targets are %s, those of make demo %s", got, want)
	}
	password := strings.TrimSpace(string(read(t, "compose/password")))
	if users := string(read(t, "compose/userlist.txt")); strings.Count(users, `" "`+password+`"`) != 2 {
		t.Errorf("PgBouncer's users have other passwords than the servers': %s", users)
	}
}
