// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"os"
	"strings"
	"testing"
)

// TestStackFaults tests that each fault has its own key and that every alert it promises exists.
func TestStackFaults(t *testing.T) {
	rules, err := os.ReadFile("../../examples/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for _, f := range new(Stack).Faults() {
		if len(f.Key) != 1 || keys[f.Key] || f.Name == "" || f.Break == nil {
			t.Errorf("%q is not a key, or has no name or no Break", f.Key)
		}
		keys[f.Key] = true
		if len(f.Notices) == 0 {
			t.Errorf("%s: no alert is promised", f.Name)
		}
		for _, n := range f.Notices {
			if !strings.Contains(string(rules), "- alert: "+n.Alert+"\n") {
				t.Errorf("%s: no such alert: %s", f.Name, n.Alert)
			}
		}
	}
}

// TestWithWebhook: all receivers are replaced; routes and inhibitions stay.
func TestWithWebhook(t *testing.T) {
	got, err := withWebhook([]byte(`
global: {smtp_from: a@example.org}
route: {receiver: mail, routes: [{matchers: ['severity="critical"'], receiver: pager}]}
receivers:
  - {name: mail, email_configs: [{to: b@example.org}]}
  - {name: pager, pagerduty_configs: [{routing_key: placeholder}]}
inhibit_rules: [{equal: [job]}]
`), "http://hook")
	if err != nil {
		t.Fatal(err)
	}
	placeholders := strings.Contains(got, "example.org") || strings.Contains(got, "placeholder")
	if placeholders || strings.Count(got, "url: http://hook") != 2 {
		t.Errorf("the receivers are not replaced:\n%s", got)
	}
	for _, kept := range []string{"name: mail", "name: pager", `severity="critical"`, "inhibit_rules:", "- job"} {
		if !strings.Contains(got, kept) {
			t.Errorf("%s is missing:\n%s", kept, got)
		}
	}
}
