// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// cluster is a Patroni cluster of two members. The exporter has a target for each, of the same name.
type cluster struct {
	t        *testing.T
	etcd     *testservers.Etcd
	members  map[string]*testservers.Patroni
	exporter *Exporter
}

// roles maps each member to the role paths with status 200: "primary", "replica", "both" or "none".
type roles map[string]string

// TestPatroni compares /primary and /replica of the exporter with the paths of the same names of Patroni's REST API.
func TestPatroni(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.expectSteady("a", "b")
	for _, step := range []struct {
		name string
		run  func(c *cluster)
	}{
		{"switchover", func(c *cluster) {
			c.send(http.MethodPost, "a", "/switchover", `{"leader": "a", "candidate": "b"}`)
			c.expectSteady("b", "a")
		}},
		{"the primary is killed with its Patroni", func(c *cluster) {
			check(c.t, errors.Join(c.members["b"].Kill(), c.members["b"].KillPostgres()))
			want := roles{"a": "primary", "b": "none"}
			c.expect(want, want)
			check(c.t, c.members["b"].Start(c.t.Context()))
			c.expectSteady("a", "b")
		}},
		{"the primary is killed in a pause", func(c *cluster) {
			c.send(http.MethodPatch, "a", "/config", `{"pause": true}`)
			c.eventually("no pause", func() bool { return c.isPaused("a") && c.isPaused("b") })
			check(c.t, c.members["a"].KillPostgres())
			want := roles{"a": "none", "b": "replica"} // nothing is promoted
			c.expect(want, want)
			c.send(http.MethodPatch, "a", "/config", `{"pause": null}`)
			c.expectSteady(c.newPrimary())
		}},
		{"etcd hangs", func(c *cluster) {
			check(c.t, c.etcd.Signal(syscall.SIGSTOP))
			want := roles{"a": "replica", "b": "replica"} // a primary is demoted if its lock cannot be renewed
			c.expect(want, want)
			check(c.t, c.etcd.Signal(syscall.SIGCONT))
			c.expectSteady(c.newPrimary())
		}},
		{"the Patroni of the primary hangs", func(c *cluster) {
			primary, replica := c.newPrimary()
			check(c.t, c.members[primary].Signal(syscall.SIGSTOP))
			// The replica is promoted when the lock has expired. Nothing stops the old primary, so there are two.
			c.expect(roles{replica: "primary"}, roles{primary: "primary", replica: "primary"})
			check(c.t, c.members[primary].Signal(syscall.SIGCONT))
			c.expectSteady(replica, primary)
		}},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(c.in(t)) }) {
			return // the next step needs a cluster in order
		}
	}
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	patroni, etcd := os.Getenv("PATRONI"), os.Getenv("ETCD")
	if patroni == "" || etcd == "" {
		t.Skip("takes minutes, and needs PATRONI and ETCD: .ci/nightly, as root on Debian")
	}
	bin := testenv.Bin(t)
	_, err := os.Stat(filepath.Join(bin, "pg_rewind"))
	testenv.Need(t, err == nil, "pg_rewind", "apt-get install postgresql")

	c := &cluster{t: t, members: map[string]*testservers.Patroni{}}
	c.etcd, err = testservers.NewEtcd(t.Context(), etcd)
	check(t, err)
	t.Cleanup(func() { check(t, c.etcd.Remove()) })
	for _, name := range []string{"a", "b"} {
		member, err := testservers.NewPatroni(t.Context(), testservers.PatroniConfig{
			Bin: patroni, Name: name, Etcd: c.etcd.Port, PostgresBin: bin,
		})
		check(t, err)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s:\n%s", name, member.Log())
			}
			check(t, member.Remove())
		})
		c.members[name] = member
		c.eventually("the member has no role", func() bool { return c.byPatroni(name)[name] != "none" })
	}
	conn, err := pgconn.Connect(t.Context(), fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=postgres sslmode=disable",
		c.members["a"].Port, testservers.Superuser))
	check(t, err)
	_, err = conn.Exec(t.Context(), createRole).ReadAll()
	check(t, errors.Join(err, conn.Close(t.Context())))
	c.exporter, _ = startWithFile(t, fmt.Sprintf(`
health: {max_age: 500ms}
targets:
  a: {host: 127.0.0.1, port: %[2]d, %[1]s}
  b: {host: 127.0.0.1, port: %[3]d, %[1]s}
`, login(), c.members["a"].Port, c.members["b"].Port))
	return c
}

// in returns the cluster for a subtest.
func (c *cluster) in(t *testing.T) *cluster {
	return &cluster{t: t, etcd: c.etcd, members: c.members, exporter: c.exporter.In(t)}
}

// eventually is like the function of that name, but waits long enough for a lock to expire and a server to start.
func (c *cluster) eventually(what string, happened func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(9 * hanging); !happened(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatal(what)
		}
	}
}

// expect waits until members have the first roles according to their Patroni. It then requires that all have the second
// ones according to the exporter, and that both stay so.
func (c *cluster) expect(patroni, exporter roles) {
	c.t.Helper()
	names := slices.Sorted(maps.Keys(patroni))
	c.eventually(fmt.Sprintf("Patroni never says %v", patroni), func() bool { return maps.Equal(patroni, c.byPatroni(names...)) })
	eventually(c.t, fmt.Sprintf("the exporter does not say %v", exporter), func() bool { return maps.Equal(exporter, c.byExporter()) })
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end) && !c.t.Failed(); time.Sleep(100 * time.Millisecond) {
		expectEqual(c.t, "roles according to Patroni", patroni, c.byPatroni(names...))
		expectEqual(c.t, "roles according to the exporter", exporter, c.byExporter())
	}
}

// expectSteady waits until one member streams from the other, and then requires that Patroni and the exporter say so. A
// former primary can be a replica for a moment before Patroni rewinds it.
func (c *cluster) expectSteady(primary, replica string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s does not stream from %s", replica, primary), func() bool {
		var status struct {
			Members []struct {
				Name, Role, State string
				Timeline          int
			}
		}
		_, body := c.request(http.MethodGet, primary, "/cluster", "")
		if err := json.Unmarshal([]byte(body), &status); err != nil || len(status.Members) != len(c.members) {
			return false
		}
		for _, member := range status.Members {
			wantedRole, wantedState := "leader", "running"
			if member.Name == replica {
				wantedRole, wantedState = "replica", "streaming"
			}
			if member.Role != wantedRole || member.State != wantedState || member.Timeline != status.Members[0].Timeline {
				return false
			}
		}
		return true
	})
	want := roles{primary: "primary", replica: "replica"}
	c.expect(want, want)
}

// newPrimary waits until Patroni calls one member the primary, and returns it and the other one.
func (c *cluster) newPrimary() (primary, replica string) {
	c.t.Helper()
	c.eventually("there is no primary", func() bool {
		switch found := c.byPatroni("a", "b"); {
		case found["a"] == "primary" && found["b"] != "primary":
			primary, replica = "a", "b"
		case found["b"] == "primary" && found["a"] != "primary":
			primary, replica = "b", "a"
		}
		return primary != ""
	})
	return primary, replica
}

// byPatroni returns the roles that members have according to their Patroni.
func (c *cluster) byPatroni(names ...string) roles {
	found := roles{}
	for _, name := range names {
		found[name] = roleOf(func(role string) bool {
			code, _ := c.request(http.MethodGet, name, "/"+role, "")
			return code == http.StatusOK
		})
	}
	return found
}

// isPaused reports whether a member's Patroni has noticed that the cluster is paused.
func (c *cluster) isPaused(name string) bool {
	var status struct{ Pause bool }
	_, body := c.request(http.MethodGet, name, "/patroni", "")
	return json.Unmarshal([]byte(body), &status) == nil && status.Pause
}

// send sends a request to a member's Patroni, which must accept it.
func (c *cluster) send(method, name, path, body string) {
	c.t.Helper()
	if code, answer := c.request(method, name, path, body); code != http.StatusOK {
		c.t.Fatalf("%s %s: %d %s", method, path, code, answer)
	}
}

// request sends a request to a member's Patroni and returns the status and the body. The status is 0 if there is none.
func (c *cluster) request(method, name, path, body string) (int, string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*hanging) // a switchover takes seconds
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+c.members[name].API+path, strings.NewReader(body))
	check(c.t, err)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	answer, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(answer)
}

// byExporter returns the roles that all members have according to the exporter.
func (c *cluster) byExporter() roles {
	found := roles{}
	for name := range c.members {
		found[name] = roleOf(func(role string) bool {
			code, _ := c.exporter.Health("/" + role + "/" + name)
			return code == http.StatusOK
		})
	}
	return found
}

// roleOf returns a value of roles.
func roleOf(has func(role string) bool) string {
	switch primary, replica := has("primary"), has("replica"); {
	case primary && replica:
		return "both"
	case primary:
		return "primary"
	case replica:
		return "replica"
	}
	return "none"
}
