// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"debug/buildinfo"
	"debug/elf"
	"go/version"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pg_liveness_exporter/internal/testenv"
)

const (
	// mostBinary and mostImage are what the program and its image may weigh, on linux/amd64.
	mostBinary = 22 << 20
	mostImage  = 24 << 20
)

// runMake builds, and leaves the processor to the tests beside it, some of which have deadlines.
func runMake(t *testing.T, folder string, env []string, args ...string) {
	t.Helper()
	runIn(t, folder, building, env, "nice", append([]string{"-n", "10", "make"}, args...)...)
}

// workTree returns a commit of what is in the repository, with the changes that are not committed yet.
func workTree(t *testing.T) string {
	t.Helper()
	needClone(t)
	git := func(args ...string) string {
		return strings.TrimSpace(runIn(t, inRoot(t, ""), hanging, nil, "git", append([]string{"-c", "user.name=test", "-c", "user.email=test"}, args...)...))
	}
	if git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no") != "" {
		return git("stash", "create")
	}
	return git("rev-parse", "HEAD")
}

// cloneAt makes a clone of this repository with a branch at a commit, and nothing that only a developer's has.
func cloneAt(t *testing.T, commit, folder, branch string) {
	t.Helper()
	check(t, os.MkdirAll(folder, 0o755))
	runIn(t, folder, hanging, nil, "git", "init", "--quiet")
	runIn(t, folder, 6*hanging, nil, "git", "fetch", "--quiet", "--update-shallow", inRoot(t, ""), commit)
	runIn(t, folder, hanging, nil, "git", "checkout", "--quiet", "-B", branch, "FETCH_HEAD")
}

// TestBuild: what is shipped, from clones of a commit.
func TestBuild(t *testing.T) {
	t.Parallel()
	commit := workTree(t)
	for name, test := range map[string]func(*testing.T, string){
		"tarballs": tarballs, "without git": withoutGit, "promu check": promuChecks, "image": image,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, commit)
		})
	}
}

// builtBy returns the version of Go that a program was built with.
func builtBy(t *testing.T, file string) string {
	t.Helper()
	info, err := buildinfo.ReadFile(file)
	check(t, err)
	return info.GoVersion
}

// tarballs: two clones in two folders, of two branches, give the same tarballs, and `make build` makes what promu makes.
func tarballs(t *testing.T, commit string) {
	testenv.GoTool(t, "release", "promu")
	one, two := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "the other")
	cloneAt(t, commit, one, "main")
	cloneAt(t, commit, two, "other")
	var sums [2]string
	for i, clone := range []string{one, two} {
		runMake(t, clone, nil, "tarballs", "ARGS=linux/amd64 windows/amd64")
		content, err := os.ReadFile(filepath.Join(clone, ".tarballs", "sha256sums.txt"))
		check(t, err)
		sums[i] = string(content)
		runIn(t, filepath.Join(clone, ".tarballs"), hanging, nil, "sha256sum", "--check", "--strict", "sha256sums.txt")
	}
	if sums[0] != sums[1] || strings.Count(sums[0], "\n") != 3 {
		t.Errorf("checksums:\n%sand in another folder:\n%s", sums[0], sums[1])
	}

	name := "pg_liveness_exporter-" + strings.TrimSpace(read(t, "VERSION")) + ".linux-amd64"
	listing := strings.Fields(runIn(t, one, hanging, nil, "tar", "tf", filepath.Join(".tarballs", name+".tar.gz")))
	for _, file := range []string{"pg_liveness_exporter", "LICENSE", "NOTICE", "examples/alerts.yml", "examples/config.yml"} {
		if !slices.Contains(listing, name+"/"+file) {
			t.Errorf("%s is not in %s", file, listing)
		}
	}
	for _, file := range listing {
		if strings.HasSuffix(file, ".go") || strings.Contains(file, "_test.") {
			t.Errorf("%s is packed, and only tests need it", file)
		}
	}
	unpacked := t.TempDir()
	runIn(t, one, hanging, nil, "tar", "xf", filepath.Join(".tarballs", name+".tar.gz"), "-C", unpacked)
	linksWork(t, filepath.Join(unpacked, name))

	built := filepath.Join(one, ".build", "linux-amd64", "pg_liveness_exporter")
	if info, err := os.Stat(built); err != nil || info.Size() > mostBinary {
		t.Errorf("%v, more than %d bytes: %v", err, mostBinary, info)
	}
	isStaticAndStripped(t, built)
	want := toolchain(t)
	for _, file := range []string{built, filepath.Join(one, ".build", "windows-amd64", "pg_liveness_exporter.exe")} {
		if got := builtBy(t, file); got != want {
			t.Errorf("%s was built with %s, not %s", file, got, want)
		}
	}
	runIn(t, one, hanging, nil, "git", "checkout", "--quiet", "--detach") // as promu's own clone is
	runMake(t, one, []string{"GOOS=linux", "GOARCH=amd64", "GOTOOLCHAIN=" + want}, "build")
	if read(t, filepath.Join(one, "pg_liveness_exporter")) != read(t, built) {
		t.Error("make build and promu differ: are the flags in scripts/build those of .promu.yml?")
	}
}

// linksWork: the pages of a tarball link only to files that are in it, and otherwise have the text of the repository's pages.
func linksWork(t *testing.T, folder string) {
	t.Helper()
	pages, links := 0, 0
	check(t, filepath.WalkDir(folder, func(path string, _ os.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".md" {
			return err
		}
		pages++
		content := read(t, path)
		for _, link := range regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`).FindAllStringSubmatch(content, -1) {
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), link[1])); err != nil {
				t.Errorf("%s links to %s: %v", path, link[1], err)
			}
		}
		name, err := filepath.Rel(folder, path)
		check(t, err)
		if text := regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`); text.ReplaceAllString(content, "$1") != text.ReplaceAllString(read(t, name), "$1") {
			t.Errorf("%s is not the page of the repository, apart from links", name)
		}
		return nil
	}))
	if pages < 50 || links < 100 {
		t.Errorf("%d links on %d pages", links, pages)
	}
}

func isStaticAndStripped(t *testing.T, file string) {
	t.Helper()
	f, err := elf.Open(file)
	check(t, err)
	defer func() { _ = f.Close() }()
	for _, program := range f.Progs {
		if program.Type == elf.PT_INTERP || program.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is not static", file)
		}
	}
	for _, section := range f.Sections {
		if section.Name == ".symtab" || strings.HasPrefix(section.Name, ".debug") || strings.HasPrefix(section.Name, ".zdebug") {
			t.Errorf("%s is not stripped: it has %s", file, section.Name)
		}
	}
}

// withoutGit: what was downloaded and not cloned can be built too, and with no older Go.
func withoutGit(t *testing.T, commit string) {
	folder := t.TempDir()
	cloneAt(t, commit, folder, "main")
	check(t, os.RemoveAll(filepath.Join(folder, ".git")))
	runMake(t, folder, []string{"GIT_CEILING_DIRECTORIES=" + filepath.Dir(folder), "GOTOOLCHAIN=local"}, "build")
	if got, least := builtBy(t, filepath.Join(folder, "pg_liveness_exporter")), toolchain(t); version.Compare(got, least) < 0 {
		t.Errorf("make build built with %s, and go.mod wants %s", got, least)
	}
	says := runIn(t, folder, hanging, nil, "./pg_liveness_exporter", "--version")
	if release := strings.TrimSpace(read(t, "VERSION")); !strings.Contains(says, "version "+release+" ") {
		t.Errorf("--version says %q, not %s", says, release)
	}
}

// promuChecks: promu has nothing to say of the changelog, nor of the files' licence.
func promuChecks(t *testing.T, commit string) {
	promu := testenv.GoTool(t, "release", "promu")
	clone := filepath.Join(t.TempDir(), "pg_liveness_exporter")
	cloneAt(t, commit, clone, "main")
	runIn(t, clone, hanging, nil, "git", "remote", "add", "origin", clone)
	for _, what := range []string{"changelog", "licenses"} {
		if said := runIn(t, clone, hanging, nil, promu, "check", what); said != "" {
			t.Errorf("promu check %s:\n%s", what, said)
		}
	}
}
