// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

const (
	packageConfig   = "/etc/pg_liveness_exporter/config.yml"
	packageDefault  = "/etc/default/pg_liveness_exporter"
	packagePassword = "/etc/pg_liveness_exporter/password"
	packageUnit     = "/usr/lib/systemd/system/pg_liveness_exporter.service"
	// maintainer has what YAML reads as something else.
	maintainer  = `"Jo": Doe's #1 <jo@example.org>`
	enabledLink = "/etc/systemd/system/multi-user.target.wants/pg_liveness_exporter.service"
)

// TestPackages: the packages for Debian and RPM hold what they promise, can be installed, upgraded, removed and purged, and are
// the same however often they are built. They are those for this architecture, or those in the folder that PACKAGES names, as
// `make packages` writes it.
func TestPackages(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	old, upgrade := filepath.Join(folder, "old"), filepath.Join(folder, "upgrade")
	if built := os.Getenv("PACKAGES"); built != "" {
		if !filepath.IsAbs(built) {
			built = inRoot(t, built)
		}
		check(t, os.CopyFS(old, os.DirFS(built)))
	}
	buildPackages(t, old, upgrade)
	find := func(folder, suffix string) string {
		arch := map[string]string{".deb": runtime.GOARCH, ".rpm": map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]}[suffix]
		found, err := filepath.Glob(filepath.Join(folder, "*"+arch+suffix))
		if err != nil || len(found) != 1 {
			t.Fatalf("%q, %v", found, err)
		}
		return found[0]
	}
	runIn(t, old, hanging, nil, "sha256sum", "--check", "--strict", "--quiet", "sha256sums.txt")
	for name, test := range map[string]func(*testing.T){
		"lint":       func(t *testing.T) { lintPackages(t, old) },
		"content":    func(t *testing.T) { packageContent(t, find(old, ".deb"), find(old, ".rpm")) },
		"maintainer": func(t *testing.T) { packageMaintainer(t, find(upgrade, ".deb"), find(upgrade, ".rpm")) },
		"deb":        func(t *testing.T) { debLifecycle(t, find(old, ".deb"), find(upgrade, ".deb")) },
		"rpm":        func(t *testing.T) { rpmLifecycle(t, find(old, ".rpm"), find(upgrade, ".rpm")) },
		"systemd":    func(t *testing.T) { underSystemd(t, find(old, ".deb"), find(upgrade, ".deb")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// buildPackages builds the packages of the work tree into a folder, unless it exists, and those of a next version into another.
func buildPackages(t *testing.T, old, upgrade string) {
	t.Helper()
	testenv.GoTool(t, "release", "promu")
	testenv.GoTool(t, "nfpm", "nfpm")
	arch := runtime.GOARCH
	clone := filepath.Join(t.TempDir(), "clone")
	cloneAt(t, workTree(t), clone, "main")
	runMake(t, clone, nil, "tarballs", "ARGS=linux/"+arch)
	build := func(env ...string) string {
		runMake(t, clone, env, "packages", "ARGS="+arch)
		return read(t, filepath.Join(clone, ".packages", "sha256sums.txt"))
	}
	move := func(to string) { check(t, os.Rename(filepath.Join(clone, ".packages"), to)) }
	first := build()
	if second := build(); first != second || strings.Count(first, "\n") != 2 {
		t.Errorf("checksums:\n%sand once more:\n%s", first, second)
	}
	if _, err := os.Stat(old); err != nil {
		move(old)
	}
	check(t, os.WriteFile(filepath.Join(clone, "VERSION"), []byte("9.9.9\n"), 0o600))
	for _, file := range []string{"config.yml", "default"} {
		path := filepath.Join(clone, "packages", file)
		check(t, os.WriteFile(path, []byte(read(t, path)+"# new\n"), 0o600))
	}
	git := func(args ...string) string {
		return runIn(t, clone, hanging, nil, "git", append([]string{"-c", "user.name=test", "-c", "user.email=test"}, args...)...)
	}
	git("commit", "--quiet", "--all", "--message=next")
	check(t, os.WriteFile(filepath.Join(clone, ".build", "linux-"+arch, "commit"), []byte(git("rev-parse", "HEAD")), 0o600))
	build("MAINTAINER=" + maintainer)
	move(upgrade)
}

// lintPackages: lintian and rpmlint find nothing but what the overrides explain.
func lintPackages(t *testing.T, folder string) {
	lintian, rpmlint := testenv.Tool(t, "LINTIAN", "lintian"), testenv.Tool(t, "RPMLINT", "rpmlint")
	debs, err := filepath.Glob(filepath.Join(folder, "*.deb"))
	check(t, err)
	rpms, err := filepath.Glob(filepath.Join(folder, "*.rpm"))
	check(t, err)
	if len(debs) == 0 || len(debs) != len(rpms) {
		t.Fatalf("%q, %q", debs, rpms)
	}
	args := []string{"--fail-on", "error,warning", "--allow-root"}
	if out := runIn(t, "", building, nil, lintian, append(args, debs...)...); out != "" {
		t.Errorf("lintian:\n%s", out)
	}
	// rpmlint unpacks a package with cpio. The paths in it are absolute, so that cpio would write into the machine's folders.
	tr := newTree(t, folder)
	config, err := os.ReadFile(inRoot(t, "packages/rpmlint.toml"))
	check(t, err)
	tr.write("/root/rpmlint.toml", "644", string(config))
	for _, rpm := range rpms {
		out := tr.do(rpmlint, "--config", "/root/rpmlint.toml", filepath.Join("/mnt", filepath.Base(rpm)))
		if !strings.Contains(out, " 0 errors, 0 warnings") {
			t.Errorf("rpmlint:\n%s", out)
		}
	}
}

// packageContent: both packages hold the same files, with the right modes, and those of users are marked as configuration.
func packageContent(t *testing.T, deb, rpm string) {
	want := map[string]string{
		"/usr/bin/pg_liveness_exporter": "-rwxr-xr-x", packageUnit: "-rw-r--r--",
		strings.TrimSuffix(packageUnit, "service") + "socket": "-rw-r--r--", packageConfig: "-rw-r--r--", packageDefault: "-rw-r--r--",
		"/usr/share/man/man1/pg_liveness_exporter.1.gz":                  "-rw-r--r--",
		"/usr/share/bash-completion/completions/pg_liveness_exporter":    "-rw-r--r--",
		"/usr/share/fish/vendor_completions.d/pg_liveness_exporter.fish": "-rw-r--r--",
		"/usr/share/pg_liveness_exporter/alerts.yml":                     "-rw-r--r--",
		"/usr/share/pg_liveness_exporter/dashboard.json":                 "-rw-r--r--",
		"/usr/share/pg_liveness_exporter/runbooks/PostgresDown.md":       "-rw-r--r--",
		"/usr/share/doc/pg-liveness-exporter/examples/config.yml":        "-rw-r--r--",
		"/etc/pg_liveness_exporter":                                      "drwxr-xr-x",
	}
	listings := map[string]map[string]string{"deb": {}, "rpm": {}}
	for line := range strings.Lines(runIn(t, "", hanging, nil, testenv.Tool(t, "DPKG_DEB", "dpkg-deb"), "--contents", deb)) {
		f := strings.Fields(line) // -rw-r--r-- root/root 71 2026-11-29 09:21 ./etc/x
		listings["deb"][strings.TrimSuffix(strings.TrimPrefix(f[5], "."), "/")] = f[0]
		if f[1] != "root/root" && f[1] != "0/0" {
			t.Errorf("deb: an owner is not root: %s", line)
		}
	}
	rpmTool := testenv.Tool(t, "RPM", "rpm")
	const format = "[%{FILEMODES:perms} %{FILEUSERNAME} %{FILEGROUPNAME} %{FILENAMES}\n]"
	for line := range strings.Lines(runIn(t, "", hanging, nil, rpmTool, "-qp", "--queryformat", format, rpm)) {
		f := strings.Fields(line)
		listings["rpm"][f[3]] = f[0]
		if f[1] != "root" || f[2] != "root" {
			t.Errorf("rpm: an owner is not root: %s", line)
		}
	}
	for name, listing := range listings {
		for path, mode := range want {
			if listing[path] != mode {
				t.Errorf("%s: %s has mode %q, not %q", name, path, listing[path], mode)
			}
		}
		runbooks := 0
		for path := range listing {
			if strings.HasPrefix(path, "/usr/share/pg_liveness_exporter/runbooks/") {
				runbooks++
			}
			if strings.HasSuffix(path, "_test.yml") {
				t.Errorf("%s: %s is a test", name, path)
			}
		}
		if all := len(glob(t, "examples/runbooks/*.md")); runbooks != all {
			t.Errorf("%s: %d runbooks of %d", name, runbooks, all)
		}
	}
	if listings["deb"]["/usr/share/zsh/vendor-completions/_pg_liveness_exporter"] == "" || listings["rpm"]["/usr/share/zsh/site-functions/_pg_liveness_exporter"] == "" {
		t.Error("no completion for zsh")
	}
	configs := []string{packageDefault, packageConfig}
	conffiles := strings.Fields(runIn(t, "", hanging, nil, "dpkg-deb", "--info", deb, "conffiles"))
	slices.Sort(conffiles)
	expectEqual(t, "conffiles", configs, conffiles)
	expectEqual(t, "configuration files", configs, strings.Fields(runIn(t, "", hanging, nil, rpmTool, "-qpc", rpm)))
	for query, part := range map[string]string{
		"%{NAME}-%{VERSION}-%{RELEASE} %{LICENSE}": "pg-liveness-exporter-" + strings.TrimSpace(read(t, "VERSION")) + "-1 Apache-2.0",
		"%{BUILDHOST}": "reproducible", "[%{FILENAMES} %{FILEFLAGS:fflags}\n]": packageConfig + " cn", // config, noreplace
	} {
		if got := runIn(t, "", hanging, nil, rpmTool, "-qp", "--queryformat", query, rpm); !strings.Contains(got, part) {
			t.Errorf("%s is %s, without %q", query, got, part)
		}
	}
	if out := runIn(t, "", hanging, nil, rpmTool, "--checksig", "--nosignature", rpm); !strings.Contains(out, "digests OK") {
		t.Error(out)
	}
	unpacked := t.TempDir()
	runIn(t, "", hanging, nil, "dpkg-deb", "--extract", deb, unpacked)
	packedManPage(t, filepath.Join(unpacked, "usr/share/man/man1/pg_liveness_exporter.1.gz"))
}

// packageMaintainer: both packages have the name and address of MAINTAINER as they are, also in the changelogs.
func packageMaintainer(t *testing.T, deb, rpm string) {
	const changelog = "./usr/share/doc/pg-liveness-exporter/changelog.Debian.gz"
	tar := fmt.Sprintf("dpkg-deb --fsys-tarfile '%s' | tar -xO %s | gunzip", deb, changelog)
	for what, got := range map[string]string{
		"deb":             runIn(t, "", hanging, nil, testenv.Tool(t, "DPKG_DEB", "dpkg-deb"), "--field", deb, "Maintainer"),
		"deb's changelog": runIn(t, "", hanging, nil, "sh", "-c", tar),
		"rpm":             runIn(t, "", hanging, nil, testenv.Tool(t, "RPM", "rpm"), "-qp", "--queryformat", "%{PACKAGER}", rpm),
		"rpm's changelog": runIn(t, "", hanging, nil, "rpm", "-qp", "--queryformat", "[%{CHANGELOGNAME}\n]", rpm),
	} {
		if !strings.Contains(got, maintainer) {
			t.Errorf("%s: no %s in %s", what, maintainer, got)
		}
	}
}

// packedManPage: the page has a date, and nothing that man and mandoc warn of.
func packedManPage(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	defer func() { _ = f.Close() }()
	unzipped, err := gzip.NewReader(f)
	check(t, err)
	page, err := io.ReadAll(unzipped)
	check(t, err)
	lintManPage(t, string(page))
	if !strings.Contains(string(page), `EXPORTER 1 "20`) {
		t.Errorf("the manual page has no date: %.80s", page)
	}
}

// onTerminal runs a shell on a terminal of its own, types a line and Tab there, and prints what the line becomes. Its arguments
// are the file for the line, the line, what makes the shell write it there at Ctrl-X, and the shell.
const onTerminal = `zmodload zsh/zpty
out=$1 typed=$2 setup=$3; shift 3
export OUT=$out
zpty shell "${(q)@}"
zpty -w shell "$setup; echo REA''DY"
zpty -r -m shell said '*READY*'
zpty -w -n shell "$typed"$'\t\x18'
while [[ ! -s $out ]]; do
  zpty -r -t shell more && said+=$more
  sleep 0.02
  (( ++n < 1000 )) || { print -r -- $said; exit 1 }
done
print -r -- "$(<$out)|"`

// TestCompletions: bash, zsh and fish complete commands, flags and their values.
func TestCompletions(t *testing.T) {
	t.Parallel()
	zsh := testenv.Tool(t, "ZSH", "zsh")
	shells := map[string]struct {
		setup   string
		command []string
	}{
		"bash": {
			`. "$SCRIPTS/completion.bash"; finish() { printf %s "$READLINE_LINE" >"$OUT"; }; bind -x '"\C-x": finish'`,
			[]string{"bash", "--norc", "--noprofile", "-i"},
		},
		"zsh": {
			`fpath=($HOME $fpath); autoload -U compinit; compinit -u; finish() { print -rn -- $BUFFER >$OUT }; zle -N finish; ` +
				`bindkey -r ^X; bindkey ^X finish`,
			[]string{zsh, "-f", "-i"},
		},
		"fish": {
			`source $SCRIPTS/completion.fish; bind \cx 'commandline >$OUT'`,
			[]string{testenv.Tool(t, "FISH", "fish"), "--private", "--no-config"},
		},
	}
	home := t.TempDir()
	check(t, os.Symlink(program(t), filepath.Join(home, "pg_liveness_exporter")))
	check(t, os.Symlink(inRoot(t, "packages/completion.zsh"), filepath.Join(home, "_pg_liveness_exporter")))
	check(t, os.WriteFile(filepath.Join(home, "settings.yml"), nil, 0o600))
	env := []string{"PATH=" + home + ":" + os.Getenv("PATH"), "HOME=" + home, "SCRIPTS=" + inRoot(t, "packages"), "TERM=dumb"}
	for name, shell := range shells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, test := range []struct{ typed, want string }{
				{"ch", "check "},
				{"--log.level=debug ch", "--log.level=debug check "},
				{"--probe.timeout-", "--probe.timeout-offset "},
				{"--log.level w", "--log.level warn "},
				{"--log.level=w", "--log.level=warn "},
				{"check --f", "check --format "},
				{"check orders --style d", "check orders --style docker "},
				{"check --format=j", "check --format=json "},
				{"help ch", "help check "},
				{"--config.file sett", "--config.file settings.yml "},
				{"--config.file=sett", "--config.file=settings.yml "},
			} {
				out := filepath.Join(t.TempDir(), "line")
				args := append([]string{"-f", "-c", onTerminal, zsh, out, "pg_liveness_exporter " + test.typed, shell.setup}, shell.command...)
				got := strings.TrimSuffix(runIn(t, home, building, env, zsh, args...), "|\n")
				if want := "pg_liveness_exporter " + test.want; got != want {
					t.Errorf("%q becomes %q, not %q", test.typed, got, want)
				}
			}
		})
	}
}

// tree is a copy of this machine's file system that is changed in memory alone, in which packages can be installed. Its network
// is the machine's.
type tree struct {
	t *testing.T
	// enter is the command before one that runs in the tree.
	enter []string
}

// newTree returns a tree in which /mnt is a folder of the machine, and systemd does not run. It goes with the test.
func newTree(t *testing.T, folder string) *tree {
	t.Helper()
	testenv.Need(t, os.Geteuid() == 0, "root, for an overlay of the file system", "make test, as root")
	top := t.TempDir()
	const script = `cd "$1"
mount -t tmpfs tmpfs . && cd "$1" && mkdir upper work tree
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay tree
for folder in dev proc; do mount --bind /$folder tree/$folder; done
for folder in run tmp; do mount -t tmpfs tmpfs tree/$folder; done
mount --bind "$2" tree/mnt
echo mounted
exec sleep 1000`
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, testenv.Tool(t, "UNSHARE", "unshare"), "--mount", "--propagation", "private", "sh", "-euc", script, "sh", top, folder)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed, and its mounts end with it
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		cancel()
		_ = cmd.Wait()
		testenv.Need(t, false, "an overlay of the file system ("+errs.String()+line+")", "a kernel with overlayfs")
	}
	tr := &tree{t, []string{
		"nsenter", "--target", strconv.Itoa(cmd.Process.Pid), "--mount", "--", "chroot", filepath.Join(top, "tree"),
	}}
	tr.do("rm", "-f", "/usr/sbin/policy-rc.d") // of containers: it forbids to start services
	return tr
}

// run runs a program in the tree and returns what it wrote.
func (tr *tree) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(tr.t.Context(), 6*hanging)
	defer cancel()
	cmd := exec.CommandContext(ctx, tr.enter[0], append(slices.Clone(tr.enter[1:]), args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
	cmd.WaitDelay = hanging
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%q: %w\n%s", args, err, out)
	}
	return string(out), err
}

// do is run for what must succeed.
func (tr *tree) do(args ...string) string {
	tr.t.Helper()
	out, err := tr.run(args...)
	check(tr.t, err)
	return out
}

// write writes a file in the tree.
func (tr *tree) write(path, mode, content string) {
	tr.t.Helper()
	tr.do("sh", "-c", `mkdir -p "${1%/*}" && printf %s "$2" >"$1" && chmod "$3" "$1"`, "sh", path, content, mode)
}

// expectFiles fails the test unless each of the files is there, or none.
func (tr *tree) expectFiles(there bool, paths ...string) {
	tr.t.Helper()
	for _, path := range paths {
		if _, err := tr.run("test", "-e", path, "-o", "-L", path); (err == nil) != there {
			tr.t.Errorf("%s exists: %t, want %t", path, err == nil, there)
		}
	}
}

// startSystemd puts a systemctl into the tree that notes how it was called, for scripts to find a systemd that runs. It returns
// a function that returns the notes since the last call.
func (tr *tree) startSystemd() func() string {
	tr.t.Helper()
	tr.do("mkdir", "-p", "/run/systemd/system")
	tr.do("mv", "/usr/bin/systemctl", "/usr/bin/systemctl.real")
	tr.write("/usr/bin/systemctl", "755", `#!/bin/sh
echo "$*" >>/run/systemctl.calls
case " $* " in
*" is-enabled "*) echo enabled ;;
*" preset "*) exec systemctl.real --root=/ "$@" ;; # needs no systemd that runs
esac
`)
	return func() string {
		tr.t.Helper()
		notes := tr.do("sh", "-c", "touch /run/systemctl.calls && cat /run/systemctl.calls && rm /run/systemctl.calls")
		return strings.ReplaceAll(notes, "\n", "; ")
	}
}

// configure edits the configuration for a server on a port.
func (tr *tree) configure(port int) {
	tr.t.Helper()
	tr.do("sed", "-i", "-e", "s/user: liveness/user: "+role+"/",
		"-e", fmt.Sprintf("s/local: {host: localhost}/local: {host: 127.0.0.1, port: %d}/", port), packageConfig)
}

// probe: the installed program probes a server with the installed configuration.
func (tr *tree) probe() {
	tr.t.Helper()
	tr.configure(newServer(tr.t, testservers.PostgresConfig{}).Port)
	tr.write("/run/credentials/pg_liveness_exporter.service/password", "400", password+"\n") // as systemd does
	if out := tr.do("pg_liveness_exporter", "check", "--config.file="+packageConfig); !strings.HasPrefix(out, "accepting") {
		tr.t.Errorf("check of the installed program: %s", out)
	}
}

// debLifecycle installs a package, upgrades, removes and purges it, without a systemd and with one.
func debLifecycle(t *testing.T, old, upgrade string) {
	testenv.Tool(t, "DPKG", "dpkg")
	testenv.Tool(t, "DEB_SYSTEMD_HELPER", "deb-systemd-helper")
	folder := t.TempDir()
	check(t, os.Link(old, filepath.Join(folder, "old.deb")))
	check(t, os.Link(upgrade, filepath.Join(folder, "upgrade.deb")))
	tr := newTree(t, folder)
	dpkg := func(args ...string) string {
		t.Helper()
		return tr.do(append([]string{"dpkg", "--force-confold"}, args...)...)
	}
	install := func(name string) string { t.Helper(); return dpkg("--install", "/mnt/"+name+".deb") }
	expectVersion := func(want string) {
		t.Helper()
		if got := tr.do("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", "pg-liveness-exporter"); got != want {
			t.Errorf("dpkg has %q, not %q", got, want)
		}
	}

	if out := install("old"); !strings.Contains(out, "does not start yet: "+packageConfig+" says how") {
		t.Errorf("it does not say how to configure it:\n%s", out)
	}
	release := strings.TrimSpace(read(t, "VERSION"))
	expectVersion("installed " + release + "-1")
	tr.expectFiles(true, enabledLink, packageConfig)
	tr.expectFiles(false, packagePassword, "/etc/systemd/system/sockets.target.wants/pg_liveness_exporter.socket")
	if out := tr.do("pg_liveness_exporter", "--version"); !strings.Contains(out, "version "+release) {
		t.Error(out)
	}
	tr.do("dpkg", "--verify", "pg-liveness-exporter")
	// Any user can read the configuration.
	tr.do("chroot", "--userspec=65534:65534", "/", "pg_liveness_exporter", "--config.file="+packageConfig, "--config.check")
	if out := tr.do("man", "-w", "pg_liveness_exporter"); !strings.Contains(out, "/usr/share/man/man1/") {
		t.Errorf("man finds %s", out)
	}

	tr.probe() // which edits the configuration
	tr.write(packagePassword, "600", "secret\n")
	edited := tr.do("cat", packageConfig)
	if out := install("upgrade"); strings.Contains(out, "does not start yet") {
		t.Errorf("it is configured:\n%s", out)
	}
	expectVersion("installed 9.9.9-1")
	if got := tr.do("cat", packageConfig); got != edited {
		t.Errorf("the upgrade has changed the configuration:\n%s", got)
	}
	if got := tr.do("cat", packageDefault); !strings.Contains(got, "# new") { // it was not edited
		t.Errorf("the upgrade has kept an old file:\n%s", got)
	}
	tr.expectFiles(true, packageConfig+".dpkg-dist", packagePassword, enabledLink)

	dpkg("--remove", "pg-liveness-exporter")
	tr.expectFiles(false, "/usr/bin/pg_liveness_exporter", packageUnit, "/usr/share/pg_liveness_exporter")
	tr.expectFiles(true, packageConfig, packageDefault, packagePassword)
	dpkg("--purge", "pg-liveness-exporter")
	left := []string{"/etc/pg_liveness_exporter", packageDefault, enabledLink, "/var/lib/systemd/deb-systemd-helper-enabled/pg_liveness_exporter.service.dsh-also"}
	tr.expectFiles(false, left...)

	const service, socket = "pg_liveness_exporter.service", "pg_liveness_exporter.socket"
	called := tr.startSystemd()
	expectCalls := func(when string, want ...string) {
		t.Helper()
		calls := called()
		for _, call := range append(want, "daemon-reload;") {
			if !strings.Contains(calls, call) {
				t.Errorf("%s: no %q among %q", when, call, calls)
			}
		}
		if len(want) == 0 && strings.Contains(calls, "start") {
			t.Errorf("%s: %q", when, calls)
		}
	}
	install("old")
	expectCalls("installation", " restart "+service)
	tr.do("rm", enabledLink) // as systemctl disable does
	install("upgrade")
	expectCalls("upgrade", " restart "+service)
	tr.expectFiles(false, enabledLink) // the user has disabled it
	dpkg("--remove", "pg-liveness-exporter")
	expectCalls("removal", "stop "+socket+" "+service)
	dpkg("--purge", "pg-liveness-exporter")
	expectCalls("purge")
	tr.write("/etc/pg_liveness_exporter/own.pem", "600", "x")
	install("old")
	dpkg("--purge", "pg-liveness-exporter")
	tr.expectFiles(true, "/etc/pg_liveness_exporter/own.pem") // a file that the package knows nothing of
}

// rpmLifecycle installs a package, upgrades and removes it, without a systemd and with one.
func rpmLifecycle(t *testing.T, old, upgrade string) {
	testenv.Tool(t, "RPM", "rpm")
	folder := t.TempDir()
	check(t, os.Link(old, filepath.Join(folder, "old.rpm")))
	check(t, os.Link(upgrade, filepath.Join(folder, "upgrade.rpm")))
	tr := newTree(t, folder)
	rpm := func(args ...string) {
		t.Helper()
		// The machine is a Debian, whose packages RPM does not know.
		tr.do(append([]string{"rpm", "--nodeps", "--force-debian"}, args...)...)
	}
	rpm("--install", "/mnt/old.rpm")
	tr.do("rpm", "--verify", "--nodeps", "pg-liveness-exporter")
	tr.probe()
	edited := tr.do("cat", packageConfig)
	rpm("--upgrade", "/mnt/upgrade.rpm")
	if got := tr.do("rpm", "--query", "pg-liveness-exporter"); !strings.HasPrefix(got, "pg-liveness-exporter-9.9.9-1.") {
		t.Errorf("rpm has %s", got)
	}
	if got := tr.do("cat", packageConfig); got != edited {
		t.Errorf("the upgrade has changed the configuration:\n%s", got)
	}
	tr.expectFiles(true, packageConfig+".rpmnew")
	rpm("--erase", "pg-liveness-exporter")
	tr.expectFiles(false, "/usr/bin/pg_liveness_exporter", packageUnit, packageConfig, enabledLink)
	tr.expectFiles(true, packageConfig+".rpmsave")

	called := tr.startSystemd()
	for _, step := range []struct{ name, arg, want string }{
		{"--install", "/mnt/old.rpm", "--no-reload preset pg_liveness_exporter.service; daemon-reload; "},
		{"--upgrade", "/mnt/upgrade.rpm", "daemon-reload; daemon-reload; try-restart pg_liveness_exporter.service; "},
		{"--erase", "pg-liveness-exporter", "--no-reload disable pg_liveness_exporter.socket pg_liveness_exporter.service; " +
			"stop pg_liveness_exporter.socket pg_liveness_exporter.service; daemon-reload; "},
	} {
		rpm(step.name, step.arg)
		expectEqual(t, step.name, step.want, called())
	}
}

// bootTree is newTree with a systemd that runs in namespaces of its own, except that of the network, and in a cgroup of its own.
// It starts nothing but what the test tells it to.
func bootTree(t *testing.T, folder string) *tree {
	t.Helper()
	if os.Getenv("BOOT_SYSTEMD") != "1" {
		t.Skip("BOOT_SYSTEMD=1 starts a systemd, in a cgroup of its own")
	}
	testenv.Need(t, os.Geteuid() == 0, "root, to start a systemd", "make test, as root")
	top := t.TempDir()
	group := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(group); err != nil {
		group = "/sys/fs/cgroup"
	}
	group = filepath.Join(group, fmt.Sprintf("packages-%d", os.Getpid()))
	check(t, os.Mkdir(group, 0o755))
	t.Cleanup(func() {
		eventually(t, group+" still has processes", func() bool {
			return exec.CommandContext(context.Background(), "find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").Run() == nil
		})
	})
	const outside = `echo $$ >"$3/cgroup.procs"
exec unshare --mount --pid --fork --kill-child --cgroup --uts --ipc --propagation private sh -euc "$4" sh "$1" "$2"`
	const inside = `cd "$1"
mount -t tmpfs tmpfs . && cd "$1" && mkdir upper work tree
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay tree
cd tree
rm -f etc/fstab
rm -rf etc/systemd/system/*.wants lib/systemd/system/*.wants run/systemd
mount -t proc proc proc && mount --bind proc/sys proc/sys && mount -o remount,ro,bind proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for folder in dev run tmp; do mount -t tmpfs tmpfs $folder; done
mkdir dev/pts dev/shm old
mount -t devpts devpts dev/pts && mount -t tmpfs tmpfs dev/shm
for device in null zero full random urandom tty ptmx; do cp -a /dev/$device dev; done
mount --bind "$2" mnt
pivot_root . old
cd /
umount -l old
mount --make-rshared /
exec env -i container=oci PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target --log-target=console --show-status=0`
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "sh", "-euc", outside, "sh", top, folder, group, inside)
	said := &testservers.Output{}
	cmd.Stdout, cmd.Stderr = said, said
	check(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed, and its child with it
		if t.Failed() {
			t.Logf("systemd:\n%s", said)
		}
	})
	tr := &tree{t: t}
	eventually(t, "systemd does not run", func() bool {
		init, err := exec.CommandContext(t.Context(), "pgrep", "--parent", strconv.Itoa(cmd.Process.Pid)).Output()
		if err != nil {
			return false
		}
		tr.enter = []string{
			"nsenter", "--target", strings.TrimSpace(string(init)), "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--wd", "--",
		}
		out, _ := tr.run("systemctl", "is-system-running")
		return strings.HasPrefix(out, "running") || strings.HasPrefix(out, "degraded")
	})
	tr.do("rm", "-f", "/usr/sbin/policy-rc.d")
	return tr
}

// underSystemd: a real systemd starts the service of the package once it is configured, and not before; an upgrade restarts it,
// and removal stops it.
func underSystemd(t *testing.T, old, upgrade string) {
	folder := t.TempDir()
	check(t, os.Link(old, filepath.Join(folder, "old.deb")))
	check(t, os.Link(upgrade, filepath.Join(folder, "upgrade.deb")))
	tr := bootTree(t, folder)
	const service = "pg_liveness_exporter.service"
	show := func(property string) string {
		t.Helper()
		return strings.TrimSpace(tr.do("systemctl", "show", "--value", "--property="+property, service))
	}
	tr.do("dpkg", "--install", "/mnt/old.deb")
	if state, condition := show("ActiveState"), show("ConditionResult"); state != "inactive" || condition != "no" {
		t.Errorf("before it is configured: %s, condition %s", state, condition)
	}

	s := newServer(t, testservers.PostgresConfig{})
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	e := &Exporter{t: t, address: l.Addr().String(), log: &testservers.Output{}}
	check(t, l.Close())
	tr.configure(s.Port)
	tr.write(packagePassword, "600", password+"\n")
	tr.write(packageDefault, "644", "ARGS=--web.listen-address="+e.address+"\n")
	expectUp := func(when string) {
		t.Helper()
		eventually(t, when+": pg_up is not 1", func() bool {
			_, body, err := e.Get(t.Context(), "/metrics", scrapeTimeout)
			return err == nil && parseMetrics(t, body)[`pg_up{target="local"}`] == 1
		})
	}
	tr.do("systemctl", "restart", service)
	expectUp("started")
	first := show("MainPID")
	if uid := strings.TrimSpace(tr.do("stat", "--format=%u", "/proc/"+first)); uid == "0" {
		t.Error("it runs as root")
	}
	tr.do("systemctl", "reload", service)
	expectUp("reloaded")
	if pid := show("MainPID"); pid != first {
		t.Errorf("process %s, %s before it was told to reload", pid, first)
	}
	tr.do("dpkg", "--force-confold", "--install", "/mnt/upgrade.deb")
	expectUp("upgraded")
	if pid := show("MainPID"); pid == first || pid == "0" {
		t.Errorf("process %s, and %s before the upgrade", pid, first)
	}
	tr.do("dpkg", "--remove", "pg-liveness-exporter")
	if state, load := show("ActiveState"), show("LoadState"); state != "inactive" || load != "not-found" {
		t.Errorf("after the removal: %s, %s", state, load)
	}
	tr.do("dpkg", "--purge", "pg-liveness-exporter")
	tr.expectFiles(false, "/etc/pg_liveness_exporter", enabledLink)
}
