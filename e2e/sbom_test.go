// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"pg_liveness_exporter/internal/testenv"
)

// TestSBOM: the bill of materials of a tarball has the modules that are in its program, with their versions, and no other.
func TestSBOM(t *testing.T) {
	t.Parallel()
	testenv.GoTool(t, "sbom", "cyclonedx-gomod")
	program := plainProgram(t)
	dir := t.TempDir()
	const name = "pg_liveness_exporter-1.2.3.linux-amd64"
	content, err := os.ReadFile(program)
	check(t, err)
	check(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	check(t, os.WriteFile(filepath.Join(dir, name, "pg_liveness_exporter"), content, 0o755))
	tarball := filepath.Join(dir, name+".tar.gz")
	runIn(t, dir, hanging, nil, "tar", "-czf", tarball, name)
	check(t, os.RemoveAll(filepath.Join(dir, name)))
	check(t, os.WriteFile(filepath.Join(dir, "other.zip"), nil, 0o600)) // such as the archive for Windows

	build := func() string {
		runIn(t, inRoot(t, ""), 6*hanging, nil, "scripts/build-sbom", tarball)
		written, err := os.ReadFile(filepath.Join(dir, name+".cdx.json"))
		check(t, err)
		return string(written)
	}
	written := build()
	var sbom struct {
		BOMFormat, SpecVersion string
		Metadata               struct {
			Component  struct{ Name, Version string }
			Properties []struct{ Name, Value string }
		}
		Components []struct{ Name, Version string }
	}
	check(t, json.Unmarshal([]byte(written), &sbom))
	if sbom.BOMFormat != "CycloneDX" || sbom.Metadata.Component.Name != "pg_liveness_exporter" || sbom.Metadata.Component.Version != "v1.2.3" {
		t.Errorf("it is about %+v", sbom.Metadata.Component)
	}
	sum := sha256.Sum256(content)
	hashes := map[string]string{}
	for _, property := range sbom.Metadata.Properties {
		hashes[property.Name] = property.Value
	}
	expectEqual(t, "the program's checksum", hex.EncodeToString(sum[:]), hashes["cdx:gomod:binary:hash:SHA-256"])

	info, err := buildinfo.ReadFile(program)
	check(t, err)
	want := map[string]string{"std": info.GoVersion}
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		want[module.Path] = module.Version
	}
	got := map[string]string{}
	for _, component := range sbom.Components {
		got[component.Name] = component.Version
	}
	expectEqual(t, "components", want, got)
	expectEqual(t, "the second time", written, build())

	sums := runIn(t, dir, hanging, nil, "sha256sum", "--check", "--strict", "sha256sums.txt")
	expectEqual(t, "checksums", "other.zip: OK\n"+name+".cdx.json: OK\n"+name+".tar.gz: OK\n", sums)
}
