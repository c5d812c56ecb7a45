// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"go/version"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pg_liveness_exporter/internal/testenv"
)

// What a tracked file may weigh.
const (
	mostTracked = 1 << 20
	mostPicture = 512 << 10
)

// magics are what programs and archives begin with.
var magics = []struct{ magic, what string }{
	{"\x7fELF", "a program (ELF)"},
	{"MZ", "a program (Windows)"},
	{"\xfe\xed\xfa\xce", "a program (Mach-O)"},
	{"\xfe\xed\xfa\xcf", "a program (Mach-O)"},
	{"\xce\xfa\xed\xfe", "a program (Mach-O)"},
	{"\xcf\xfa\xed\xfe", "a program (Mach-O)"},
	{"\xca\xfe\xba\xbe", "a program (Mach-O or Java)"},
	{"\x00asm", "a program (WebAssembly)"},
	{"!<arch>\n", "an archive (ar)"},
	{"PK\x03\x04", "an archive (zip)"},
	{"\x1f\x8b", "an archive (gzip)"},
	{"BZh", "an archive (bzip2)"},
	{"\xfd7zXZ\x00", "an archive (xz)"},
	{"\x28\xb5\x2f\xfd", "an archive (zstd)"},
	{"7z\xbc\xaf\x27\x1c", "an archive (7z)"},
	{"\xed\xab\xee\xdb", "an archive (rpm)"},
}

// tracked returns the files that git keeps in a folder.
func tracked(t *testing.T, folder string) []string {
	t.Helper()
	return strings.Split(strings.TrimSuffix(runIn(t, folder, hanging, nil, "git", "ls-files", "-z"), "\x00"), "\x00")
}

// unwelcome says why a file has no place in the repository, or nothing.
func unwelcome(t *testing.T, file string) string {
	t.Helper()
	info, err := os.Lstat(file)
	if os.IsNotExist(err) { // about to be removed
		return ""
	}
	check(t, err)
	if !info.Mode().IsRegular() {
		return ""
	}
	f, err := os.Open(file)
	check(t, err)
	defer func() { _ = f.Close() }()
	head := make([]byte, 512)
	n, _ := f.Read(head) // nothing of an empty one
	head = head[:n]

	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.what
		}
	}
	if len(head) > 262 && string(head[257:262]) == "ustar" {
		return "an archive (tar)"
	}
	most := int64(mostTracked)
	if strings.HasPrefix(http.DetectContentType(head), "image/") {
		most = mostPicture
	}
	if info.Size() > most {
		return fmt.Sprintf("%d bytes, more than %d", info.Size(), most)
	}
	return ""
}

// TestTracked: git keeps no program, no archive and nothing large.
func TestTracked(t *testing.T) {
	t.Parallel()
	needClone(t)
	root := inRoot(t, "")
	files := tracked(t, root)
	testenv.Need(t, slices.Contains(files, "go.mod"), "a git clone of its own", "git clone")
	for _, file := range files {
		if why := unwelcome(t, filepath.Join(root, file)); why != "" {
			t.Errorf("%s: %s. Does it belong into .gitignore?", file, why)
		}
	}
}

// TestTrackedSees: what TestTracked looks for is found, whatever it is named.
func TestTrackedSees(t *testing.T) {
	t.Parallel()
	needClone(t)
	folder := t.TempDir()
	runIn(t, folder, hanging, nil, "git", "init", "--quiet")
	const png = "\x89PNG\r\n\x1a\n"
	bad := map[string]string{
		"large.txt": strings.Repeat("x", mostTracked+1),
		"large.png": png + strings.Repeat("x", mostPicture),
		"tar":       strings.Repeat("x", 257) + "ustar" + strings.Repeat("x", 300),
	}
	for i, m := range magics {
		bad[fmt.Sprintf("names\nwith\tall %d.md", i)] = m.magic + "rest"
	}
	good := map[string]string{
		"empty": "", "script": "#!/bin/sh\n", "picture.png": png, "large": strings.Repeat("x", mostTracked),
		"largest.png": png + strings.Repeat("x", mostPicture-len(png)),
	}
	for _, files := range []map[string]string{bad, good} {
		for name, content := range files {
			check(t, os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600))
		}
	}
	runIn(t, folder, hanging, nil, "git", "add", ".")

	files := tracked(t, folder)
	if len(files) != len(bad)+len(good) {
		t.Errorf("%d files are tracked, not %d", len(files), len(bad)+len(good))
	}
	for _, name := range files {
		_, isBad := bad[name]
		if why := unwelcome(t, filepath.Join(folder, name)); (why != "") != isBad {
			t.Errorf("%q: %q", name, why)
		}
	}
}

// TestNeedGo: the scripts take no Go that is older than go.mod's toolchain, and leave a newer one as it is.
func TestNeedGo(t *testing.T) {
	t.Parallel()
	const older, newer = "go1.26.2", "go1.99.1"
	least := toolchain(t)
	for _, c := range []struct{ set, here, want string }{
		{"local", older, "auto " + least}, // fetched
		{"local", newer, "auto " + newer},
		{"auto", older, "auto " + least},
		{newer, older, newer + " " + newer},
		{older, newer, ""},
		{"path", older, ""},
	} {
		// A function stands for go, which by itself decides between the one that is here and go.mod's.
		auto := c.here
		if version.Compare(auto, least) < 0 {
			auto = least
		}
		script := fmt.Sprintf(`go() {
	case $1,$GOTOOLCHAIN in
	env,*) echo "$GOTOOLCHAIN" ;;
	version,local | version,path) echo "go version %s linux/amd64" ;;
	version,auto) echo "go version %s linux/amd64" ;;
	version,*) echo "go version $GOTOOLCHAIN linux/amd64" ;;
	esac
}
. scripts/require-go
echo "$GOTOOLCHAIN $found"`, c.here, auto)
		cmd := exec.CommandContext(t.Context(), "sh", "-euc", script)
		cmd.Dir, cmd.Env = inRoot(t, ""), append(os.Environ(), "GOTOOLCHAIN="+c.set)
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		refused := err != nil && strings.HasPrefix(errs.String(), "this needs "+least+" or newer") && strings.Count(errs.String(), "\n") == 1
		if got := strings.TrimSpace(string(out)); got != c.want || refused != (c.want == "") {
			t.Errorf("GOTOOLCHAIN=%s and %s: %q, %v, not %q\n%s", c.set, c.here, got, err, c.want, &errs)
		}
	}
}

// TestNotice: the licences of what is linked in travel with the program.
func TestNotice(t *testing.T) {
	t.Parallel()
	if runIn(t, inRoot(t, ""), building, nil, "scripts/generate-notice") != read(t, "NOTICE") {
		t.Error("the dependencies or their licences are others now: scripts/generate-notice >NOTICE")
	}
}

// TestActionsArePinned: every action of a workflow is one commit, which nobody can move, with its version beside it.
func TestActionsArePinned(t *testing.T) {
	found := 0
	for _, file := range glob(t, ".github/workflows/*") {
		for _, uses := range regexp.MustCompile(`(?m)^\s*(?:- )?uses: (.*)$`).FindAllStringSubmatch(read(t, file), -1) {
			if strings.HasPrefix(uses[1], "./") {
				continue
			}
			found++
			if !regexp.MustCompile(`^[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`).MatchString(uses[1]) {
				t.Errorf("%s: %s", file, uses[1])
			}
		}
	}
	if found < 15 {
		t.Errorf("only %d actions", found)
	}
}

// TestWorkflows: actionlint finds nothing in what GitHub is to run.
func TestWorkflows(t *testing.T) {
	t.Parallel()
	runIn(t, inRoot(t, ""), 3*hanging, nil, testenv.GoTool(t, "release", "actionlint"), glob(t, ".github/workflows/*")...)
}

// TestMakeHelp: `make help` has a line for each target of the Makefile, with the descriptions below each other.
func TestMakeHelp(t *testing.T) {
	t.Parallel()
	_, phony, _ := strings.Cut(read(t, "Makefile"), "\n.PHONY: ")
	phony, _, _ = strings.Cut(phony, "\n")
	var targets []string
	for line := range strings.Lines(runIn(t, inRoot(t, ""), hanging, nil, "make", "--no-print-directory", "help")) {
		fields := strings.Fields(line)
		targets = append(targets, fields[0])
		if column := strings.Index(line, " "+fields[1]) + 1; column != 12 || len(line) > 110 {
			t.Errorf("column %d, %d characters: %s", column, len(line), line)
		}
	}
	expectEqual(t, "targets", strings.Fields(phony), targets)
}

// TestDescription: the program is described by one sentence, wherever people find it.
func TestDescription(t *testing.T) {
	const sentence = "Prometheus exporter that reports whether PostgreSQL servers are alive"
	for file, where := range map[string]string{
		"README.md":                                     `(?m)\A# pg_liveness_exporter\n\nA (.*?)\. `,
		"Dockerfile":                                    `image\.description="(.*?)"`,
		"charts/pg-liveness-exporter/Chart.yaml":        `(?m)^description: (.*)$`,
		"packages/nfpm.yaml":                            `(?m)^description: \|\n  (.*)$`,
		"packages/pg_liveness_exporter.service":         `(?m)^Description=(.*)$`,
		"examples/systemd/pg_liveness_exporter.service": `(?m)^Description=(.*)$`,
		"internal/cli/manpage.tmpl":                     `(?m)^pg_liveness_exporter \\- (.*)$`,
	} {
		if found := regexp.MustCompile(where).FindStringSubmatch(read(t, file)); found == nil || found[1] != sentence {
			t.Errorf("%s has %q, not %q", file, found, sentence)
		}
	}
	if !strings.Contains(read(t, "packages/nfpm.yaml"), "summary: "+sentence+"\n") {
		t.Error("the summary for RPM is another one")
	}
}
