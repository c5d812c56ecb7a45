// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pg_liveness_exporter/internal/testservers"
)

// apiServer is an API server of Kubernetes that knows the kinds of the Prometheus operator. It stores objects and starts nothing:
// there is no controller and no kubelet.
type apiServer struct {
	t       *testing.T
	kubectl string
	env     []string
}

// namespaceYAML is a namespace where Kubernetes warns of pods that do not meet the Pod Security Standard "restricted", also of
// those that a Deployment or a StatefulSet would make.
const namespaceYAML = `{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {pod-security.kubernetes.io/warn: restricted}}}`

func newAPIServer(t *testing.T) *apiServer {
	t.Helper()
	etcd, programs := os.Getenv("ETCD"), os.Getenv("KUBERNETES")
	if etcd == "" || programs == "" {
		t.Skip("its programs take minutes to build, and it needs KUBERNETES and ETCD: .ci/nightly, as root on Debian")
	}
	kubectl := filepath.Join(programs, "kubectl")
	store, err := testservers.NewEtcd(t.Context(), etcd)
	check(t, err)
	t.Cleanup(func() { check(t, store.Remove()) })

	folder, port := t.TempDir(), freePort(t)
	write := func(name, content string) string {
		path := filepath.Join(folder, name)
		check(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	signing := write("key.pem", string(pem.EncodeToMemory(&pem.Block{
		Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key),
	})))
	startTool(t, "the API server", filepath.Join(programs, "kube-apiserver"), fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", store.Port),
		"--bind-address=127.0.0.1", "--advertise-address=192.0.2.1", "--secure-port="+port, "--cert-dir="+filepath.Join(folder, "pki"),
		"--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC",
		"--token-auth-file="+write("tokens", `secret,admin,admin,"system:masters"`),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+signing, "--service-account-signing-key-file="+signing)
	a := &apiServer{t, kubectl, []string{
		"NO_PROXY=127.0.0.1", "HOME=" + folder,
		"KUBECONFIG=" + write("kubeconfig", fmt.Sprintf(`
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:%s", insecure-skip-tls-verify: true}}]
users: [{name: test, user: {token: secret}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
`, port)),
	}}
	for deadline := time.Now().Add(6 * hanging); ; time.Sleep(100 * time.Millisecond) {
		said, err := a.run("", kubectl, "get", "--raw=/readyz")
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the API server does not start: %v\n%s", err, said)
		}
	}
	a.do("", kubectl, "apply", "--server-side", "--filename", filepath.Join(module(t, operator), "example", "prometheus-operator-crd"))
	a.do("", kubectl, "wait", "crd", "--all", "--for=condition=Established")
	return a
}

// run runs a client of the API server, and returns all that it wrote.
func (a *apiServer) run(input, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(a.t.Context(), 6*hanging)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Stdin, cmd.WaitDelay = append(os.Environ(), a.env...), strings.NewReader(input), hanging
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// do is run for what must succeed without a warning.
func (a *apiServer) do(input, name string, args ...string) string {
	a.t.Helper()
	said, err := a.run(input, name, args...)
	if err != nil || regexp.MustCompile(`(?i)\bwarn`).MatchString(said) {
		a.t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, said)
	}
	return said
}

// TestChartInstalls: a real API server takes what the chart makes. Each set of values can follow each other one, an earlier one can
// come back, and nothing is left after the chart is gone.
func TestChartInstalls(t *testing.T) {
	t.Parallel()
	a, helm := newAPIServer(t), helm(t)
	a.do(fmt.Sprintf(namespaceYAML, "databases"), a.kubectl, "create", "--filename=-")
	for _, name := range []string{"default", "everything", "default", "sharded", "everything", "sharded", "default"} {
		said := a.do("", helm, "upgrade", "--install", "pg", inRoot(t, chart), "--namespace=databases",
			"--values", inRoot(t, chart+"/ci/"+name+"-values.yaml"))
		if !strings.Contains(said, "STATUS: deployed") {
			t.Errorf("%s: %s", name, said)
		}
	}
	a.do("", helm, "rollback", "pg", "2", "--namespace=databases")
	of := []string{"get", "--namespace=databases", "--selector=app.kubernetes.io/instance=pg", "--output=name"}
	kinds := "deployments,statefulsets,services,serviceaccounts,secrets,configmaps,networkpolicies,poddisruptionbudgets," +
		"servicemonitors,scrapeconfigs,probes,prometheusrules"
	objects := strings.Fields(a.do("", a.kubectl, append(of, kinds)...))
	if len(objects) != 10 || strings.Contains(fmt.Sprint(objects), "statefulset") {
		t.Errorf("after the rollback, there are %v", objects)
	}
	a.do("", helm, "uninstall", "pg", "--namespace=databases")
	if left := strings.Fields(a.do("", a.kubectl, append(of, kinds)...)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestExamplesApply: a real API server takes each folder of examples/kubernetes, also over what the others have made. Before and
// after sharded, the test deletes what the README says.
func TestExamplesApply(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t)
	a.do("", a.kubectl, "label", "namespace", "default", "pod-security.kubernetes.io/warn=restricted")
	folders := slices.DeleteFunc(kubernetesFolders(t), func(name string) bool { return name == "sharded" })
	apply := func(names ...string) {
		for _, name := range names {
			a.do("", a.kubectl, "apply", "--kustomize", inRoot(t, "examples/kubernetes/"+name))
		}
	}
	deletions := regexp.MustCompile(`(?m)^kubectl -n pg-liveness (delete .*)$`).FindAllStringSubmatch(read(t, "examples/kubernetes/README.md"), -1)
	if len(folders) < 5 || len(deletions) != 2 {
		t.Fatalf("folders %v, deletions %q", folders, deletions)
	}
	remove := func(deletion []string) {
		a.do("", a.kubectl, append(strings.Fields(deletion[1]), "--namespace=pg-liveness")...)
	}
	apply(folders...)
	apply(folders...)
	remove(deletions[0])
	apply("sharded")
	remove(deletions[1])
	apply(folders...)
}
