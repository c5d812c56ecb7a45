// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"pg_liveness_exporter/internal/testenv"
)

func TestAmtool(t *testing.T) {
	t.Parallel()
	tool := testenv.Tool(t, "AMTOOL", "amtool")
	amtool := func(args ...string) string {
		t.Helper()
		var stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), tool, args...)
		cmd.Dir, cmd.Stderr = inRoot(t, "examples"), &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("amtool %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.Bytes())
		}
		return strings.TrimSpace(string(out))
	}
	amtool("check-config", "alertmanager.yml")
	severities := map[string]string{"critical": "pagerduty", "warning": "slack", "info": "email"}
	for severity, receiver := range severities {
		if got := amtool("config", "routes", "test", "--config.file=alertmanager.yml", "severity="+severity); got != receiver {
			t.Errorf("%s goes to %s, want %s", severity, got, receiver)
		}
	}
	for _, r := range readRules(t).all() {
		if r.Alert != "" && severities[r.Labels["severity"]] == "" {
			t.Errorf("%s has the severity %q, which has no route", r.Alert, r.Labels["severity"])
		}
	}
}

// TestAlertNames: every alert that alertmanager.yml names is there.
func TestAlertNames(t *testing.T) {
	names := alertNames(t)
	for _, r := range inhibitRules(t) {
		for _, m := range append(r.Source, r.Target...) {
			if label, value, _ := strings.Cut(m, `="`); label == "alertname" {
				if value = strings.TrimSuffix(value, `"`); !slices.Contains(names, value) {
					t.Errorf("no alert is called %s", value)
				}
			}
		}
	}
}

// TestInhibition gives alerts to a real Alertmanager and looks which are held back.
func TestInhibition(t *testing.T) {
	t.Parallel()
	const here = "job=pg,instance=e:10432,target=orders"
	am := startAlertmanager(t)
	for i, test := range []struct {
		name string
		// Alerts are a name and labels. What sounds is proven by something else that is held back by then.
		sounding, held []string
	}{
		{
			"an exporter that is down",
			[]string{"PgLivenessExporterDown,job=pg,instance=e:10432", "PgLivenessTargetAbsent,job=pg,instance=f:10432,target=orders", "PgLivenessTargetAbsent,job=ph,instance=e:10432,target=orders"},
			[]string{"PgLivenessTargetAbsent," + here, "PgLivenessAbsent"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			// Alerts of the cases before have ended, and those of this one are told from them by their job.
			job := fmt.Sprintf("job=%d-", i)
			mine := func(alerts []string) (all []string) {
				for _, a := range alerts {
					all = append(all, strings.Replace(a, "job=", job, 1))
				}
				slices.Sort(all)
				return all
			}
			sounding, held := mine(test.sounding), mine(test.held)
			am.post(t, slices.Concat(sounding, held), time.Now().Add(time.Hour))
			defer am.post(t, slices.Concat(sounding, held), time.Now())
			const limit = 10 * time.Second
			var got map[bool][]string
			for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
				if got = am.inhibited(t); slices.Equal(got[false], normal(sounding)) && slices.Equal(got[true], normal(held)) {
					return
				}
			}
			expectEqual(t, "sounding alerts", normal(sounding), got[false])
			expectEqual(t, "alerts held back", normal(held), got[true])
		})
	}
}

// normal puts the labels of each alert, and the alerts, in order.
func normal(alerts []string) []string {
	all := make([]string, 0, len(alerts))
	for _, a := range alerts {
		name, labels, _ := strings.Cut(a, ",")
		parts := []string{"alertname=" + name}
		if labels != "" {
			parts = append(parts, strings.Split(labels, ",")...)
		}
		slices.Sort(parts)
		all = append(all, strings.Join(parts, ","))
	}
	slices.Sort(all)
	return all
}

func alertNames(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, r := range readRules(t).all() {
		if r.Alert != "" {
			names = append(names, r.Alert)
		}
	}
	return names
}

type inhibitRule struct {
	Source []string `yaml:"source_matchers"`
	Target []string `yaml:"target_matchers"`
}

func inhibitRules(t *testing.T) []inhibitRule {
	t.Helper()
	var f struct {
		Rules []inhibitRule `yaml:"inhibit_rules"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "examples/alertmanager.yml")), &f); err != nil || len(f.Rules) == 0 {
		t.Fatalf("%d rules, %v", len(f.Rules), err)
	}
	return f.Rules
}

// alertmanager is a real one with the routes and the inhibition of alertmanager.yml, that notifies nobody.
type alertmanager struct{ url string }

func startAlertmanager(t *testing.T) *alertmanager {
	t.Helper()
	program := testenv.Tool(t, "ALERTMANAGER", "alertmanager")
	var f map[string]any
	if err := yaml.Unmarshal([]byte(read(t, "examples/alertmanager.yml")), &f); err != nil {
		t.Fatal(err)
	}
	for i, r := range f["receivers"].([]any) {
		f["receivers"].([]any)[i] = map[string]any{"name": r.(map[string]any)["name"]}
	}
	content, err := yaml.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "alertmanager.yml")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	address := "127.0.0.1:" + freePort(t)
	log := startTool(t, "Alertmanager", program, "--config.file="+file, "--storage.path="+dir, "--web.listen-address="+address, "--cluster.listen-address=")
	am := &alertmanager{"http://" + address}
	const limit = 30 * time.Second
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if _, err := am.do(t, http.MethodGet, "/-/ready", nil); err == nil {
			return am
		}
		if time.Now().After(deadline) {
			t.Fatalf("Alertmanager did not start:\n%s", log.String())
		}
	}
}

func (am *alertmanager) do(t *testing.T, method, path string, body []byte) ([]byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, am.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, content)
	}
	return content, err
}

// post says that these alerts fire until then.
func (am *alertmanager) post(t *testing.T, alerts []string, until time.Time) {
	t.Helper()
	type alert struct {
		Labels   map[string]string `json:"labels"`
		StartsAt time.Time         `json:"startsAt"`
		EndsAt   time.Time         `json:"endsAt"`
	}
	all := make([]alert, 0, len(alerts))
	for _, a := range normal(alerts) {
		labels := map[string]string{}
		for part := range strings.SplitSeq(a, ",") {
			name, value, _ := strings.Cut(part, "=")
			labels[name] = value
		}
		all = append(all, alert{labels, time.Now().Add(-time.Minute), until})
	}
	body, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := am.do(t, http.MethodPost, "/api/v2/alerts", body); err != nil {
		t.Fatal(err)
	}
}

// inhibited returns the alerts that fire, by whether they are held back.
func (am *alertmanager) inhibited(t *testing.T) map[bool][]string {
	t.Helper()
	content, err := am.do(t, http.MethodGet, "/api/v2/alerts", nil)
	if err != nil {
		t.Fatal(err)
	}
	var alerts []struct {
		Labels map[string]string
		Status struct{ InhibitedBy []string }
	}
	if err := json.Unmarshal(content, &alerts); err != nil {
		t.Fatal(err)
	}
	all := map[bool][]string{}
	for _, a := range alerts {
		parts := make([]string, 0, len(a.Labels))
		for name, value := range a.Labels {
			parts = append(parts, name+"="+value)
		}
		slices.Sort(parts)
		held := len(a.Status.InhibitedBy) > 0
		all[held] = append(all[held], strings.Join(parts, ","))
	}
	slices.Sort(all[false])
	slices.Sort(all[true])
	return all
}
