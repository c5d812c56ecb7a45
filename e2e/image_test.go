// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// starting is the most one command of podman or buildah may take.
const starting = time.Minute

// containers runs podman with a storage that goes with the test, so that no image and no container is left behind.
type containers struct {
	t   *testing.T
	env []string
}

func newContainers(t *testing.T) *containers {
	t.Helper()
	testenv.Need(t, os.Geteuid() == 0, "root, for containers", "make test, as root")
	for _, tool := range []string{"podman", "buildah", "runc"} {
		_, err := exec.LookPath(tool)
		testenv.Need(t, err == nil, tool, "make test, as root")
	}
	folder := t.TempDir()
	storage := filepath.Join(folder, "storage.conf")
	check(t, os.WriteFile(storage, fmt.Appendf(nil, "[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n",
		filepath.Join(folder, "graph"), filepath.Join(folder, "run")), 0o600))
	// chroot, since a machine may not let us make namespaces; the container of the program itself is a real one.
	c := &containers{t, []string{"CONTAINERS_STORAGE_CONF=" + storage, "BUILDAH_ISOLATION=chroot"}}
	t.Cleanup(func() {
		for _, args := range [][]string{{"rm", "--all", "--force", "--time", "1"}, {"rmi", "--all", "--force"}} {
			if _, err := c.run(args...); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

// run runs podman, where systemd may be missing, and returns what it wrote.
func (c *containers) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), starting) // also after the test
	defer cancel()
	cmd := exec.CommandContext(ctx, "podman", append([]string{
		"--cgroup-manager", "cgroupfs", "--runtime", "runc", "--events-backend", "none",
	}, args...)...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.WaitDelay = hanging
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("podman %s: %w\n%s%s", strings.Join(args, " "), err, out, &errs)
	}
	return string(out), err
}

// do is run for what must succeed.
func (c *containers) do(args ...string) string {
	c.t.Helper()
	out, err := c.run(args...)
	check(c.t, err)
	return out
}

// inspect returns what podman knows of an image or a container.
func inspect[T any](c *containers, kind, name string) T {
	c.t.Helper()
	var all []T
	out := c.do(kind, "inspect", name)
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		c.t.Fatalf("%v: %s", err, out)
	}
	return all[0]
}

// image: the image that the Dockerfile makes runs without a single privilege, and asks a server with verified TLS.
func image(t *testing.T, commit string) {
	testenv.GoTool(t, "release", "promu")
	c := newContainers(t)
	clone := t.TempDir()
	cloneAt(t, commit, clone, "main")
	runMake(t, clone, nil, "tarballs", "ARGS=linux/"+runtime.GOARCH)
	layers := map[string]bool{}
	for range 2 {
		runMake(t, clone, c.env, "image", "ARGS="+runtime.GOARCH+" exporter")
		layers[c.inspectImage("exporter", commit)] = true
	}
	if len(layers) != 1 {
		t.Errorf("two builds have different layers: %v", layers)
	}

	certificate, key := newCertificate(t)
	s := newServer(t, testservers.PostgresConfig{Certificate: certificate, Key: key, HBA: "hostssl all all all scram-sha-256"})
	secrets := t.TempDir()
	check(t, os.Chmod(secrets, 0o755))
	check(t, os.WriteFile(filepath.Join(secrets, "root.crt"), certificate, 0o644))
	check(t, os.WriteFile(filepath.Join(secrets, "password"), []byte(password+"\n"), 0o644))
	hardened := func(settings string, more ...string) []string {
		return append([]string{
			"--network", "host", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
			"--ulimit", "nofile=20000:20000", "--ulimit", "nproc=1000:1000", "--volume", secrets + ":/run/secrets:ro",
			"--env", fmt.Sprintf("DATA_SOURCE_URI=127.0.0.1:%d/postgres?sslmode=verify-full&%s", s.Port, settings),
			"--env", "DATA_SOURCE_USER=" + role, "--env", "DATA_SOURCE_PASS_FILE=/run/secrets/password",
		}, more...)
	}

	// The roots of public CAs that the program brings do not know the server's; where the operator mounts some, those count.
	once := func(more ...string) (string, error) {
		args := append([]string{"run", "--rm"}, hardened("sslrootcert=system", more...)...)
		return c.run(append(args, "exporter", "check")...)
	}
	if said, err := once(); err == nil || !strings.Contains(said, "misconfigured: tls") {
		t.Errorf("a certificate that no public CA signed: %v %s", err, said)
	}
	_, err := once("--volume", secrets+"/root.crt:/etc/ssl/certs/ca-certificates.crt:ro")
	check(t, err)

	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	e := &Exporter{t: t, address: l.Addr().String(), log: &testservers.Output{}}
	check(t, l.Close())
	c.do(append(append([]string{"run", "--detach", "--name", "exporter"}, hardened("sslrootcert=/run/secrets/root.crt")...),
		"exporter", "--web.listen-address="+e.address)...)
	eventually(t, "pg_up is not 1", func() bool {
		_, body, err := e.Get(t.Context(), "/metrics", scrapeTimeout)
		return err == nil && parseMetrics(t, body)["pg_up"] == 1
	})
	c.inspectContainer("exporter")
	if said, err := c.run("exec", "exporter", "/bin/sh", "-c", "true"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("there is a shell: %v %s", err, said)
	}
	c.do("stop", "--time", "30", "exporter")
	if code := strings.TrimSpace(c.do("wait", "exporter")); code != "0" {
		t.Errorf("it stopped with %s\n%s", code, c.do("logs", "exporter"))
	}
	c.healthChecks()
}

// healthChecks: the health check of the image asks the exporter and not the database, which is away here. It fails if the
// exporter does not respond where it asks, and can then be replaced.
func (c *containers) healthChecks() {
	c.t.Helper()
	const elsewhere = "--web.listen-address=127.0.0.1:10433"
	healthCmd := `--health-cmd=["/bin/pg_liveness_exporter","check","--style=docker","--livez=http://127.0.0.1:10433/livez"]`
	for _, test := range []struct {
		name, health string
		options      []string
		args         []string
	}{
		{"own", "healthy", nil, nil},
		{"elsewhere", "unhealthy", []string{"--health-retries=1"}, []string{elsewhere}},
		{"replaced", "healthy", []string{healthCmd}, []string{elsewhere}},
	} {
		args := append([]string{
			"run", "--detach", "--name", test.name, "--network", "none", "--read-only", "--cap-drop", "ALL",
			"--ulimit", "nofile=20000:20000", "--ulimit", "nproc=1000:1000",
			"--env", "DATA_SOURCE_URI=127.0.0.1:1/postgres", "--env", "DATA_SOURCE_USER=" + role,
		}, test.options...)
		c.do(append(append(args, "exporter"), test.args...)...)
		port := "10432"
		if test.args != nil {
			port = "10433"
		}
		eventually(c.t, test.name+" does not listen", func() bool {
			_, err := c.run("exec", test.name, "/bin/pg_liveness_exporter", "check", "--livez=http://127.0.0.1:"+port+"/livez")
			return err == nil
		})
		said, err := c.run("healthcheck", "run", test.name)
		if (err == nil) != (test.health == "healthy") {
			c.t.Errorf("%s: %v %s", test.name, err, said)
		}
		type container struct {
			State struct{ Health struct{ Status string } }
		}
		if i := inspect[container](c, "container", test.name); i.State.Health.Status != test.health {
			c.t.Errorf("%s is %q, not %s", test.name, i.State.Health.Status, test.health)
		}
	}
}

// inspectImage holds an image to what the Dockerfile promises, and returns its layers.
func (c *containers) inspectImage(name, commit string) string {
	c.t.Helper()
	type image struct {
		Size   int64
		RootFS struct{ Layers []string }
		Config struct {
			User         string
			ExposedPorts map[string]any
			Labels       map[string]string
		}
		Healthcheck struct{ Test []string }
	}
	i := inspect[image](c, "image", name)
	if i.Size > mostImage {
		c.t.Errorf("the image has %d bytes, more than %d", i.Size, mostImage)
	}
	if _, ok := i.Config.ExposedPorts["10432/tcp"]; !ok || i.Config.User != "65534:65534" {
		c.t.Errorf("ports %v, user %q", i.Config.ExposedPorts, i.Config.User)
	}
	if got := strings.Join(i.Healthcheck.Test, " "); got != "CMD /bin/pg_liveness_exporter check --style=docker --livez=http://127.0.0.1:10432/livez" {
		c.t.Errorf("the health check is %q", got)
	}
	const label = "org.opencontainers.image."
	version := strings.TrimSpace(read(c.t, "VERSION"))
	if i.Config.Labels[label+"version"] != version || i.Config.Labels[label+"revision"] != commit {
		c.t.Errorf("labels %v, not of version %s, commit %s", i.Config.Labels, version, commit)
	}
	for _, name := range []string{"title", "description", "licenses", "vendor"} {
		if i.Config.Labels[label+name] == "" {
			c.t.Errorf("no label %s among %v", label+name, i.Config.Labels)
		}
	}
	if _, err := time.Parse(time.RFC3339, i.Config.Labels[label+"created"]); err != nil {
		c.t.Error(err)
	}
	return strings.Join(i.RootFS.Layers, " ")
}

// inspectContainer looks at the running process, as the kernel sees it.
func (c *containers) inspectContainer(name string) {
	c.t.Helper()
	type container struct{ State struct{ Pid int } }
	i := inspect[container](c, "container", name)
	status := read(c.t, fmt.Sprintf("/proc/%d/status", i.State.Pid))
	for _, want := range []string{
		"Uid:\t65534\t65534\t65534\t65534\n", "Gid:\t65534\t65534\t65534\t65534\n", "NoNewPrivs:\t1\n",
		"CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n",
	} {
		if !strings.Contains(status, want) {
			c.t.Errorf("no %q in\n%s", want, status)
		}
	}
	for mount := range strings.Lines(read(c.t, fmt.Sprintf("/proc/%d/mountinfo", i.State.Pid))) {
		if fields := strings.Fields(mount); fields[4] == "/" && !strings.HasPrefix(fields[5], "ro") {
			c.t.Errorf("the root can be written: %s", mount)
		}
	}
}
