// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"testing"
)

// TestParseURLs tests that the URL and the prefix are as in Prometheus, and that an error repeats neither.
func TestParseURLs(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ external, prefix, wantURL, wantPrefix string }{
		{"", "", "", ""},
		{"", "/", "", ""},
		{"", "pg", "/pg", "/pg"},
		{"", "//pg/x/", "/pg/x", "/pg/x"},
		{"https://example.org", "", "https://example.org", ""},
		{"https://example.org/", "", "https://example.org", ""},
		{"https://example.org:8443/pg/", "", "https://example.org:8443/pg", "/pg"},
		{"https://example.org/pg", "/", "https://example.org/pg", ""},
		{"http://[::1]:9/pg", "/other", "http://[::1]:9/pg", "/other"},
		{"/pg/", "", "/pg", "/pg"},
	} {
		u, prefix, err := urlFlags{test.external, test.prefix}.parse()
		if err != nil || u.String() != test.wantURL || prefix != test.wantPrefix {
			t.Errorf("%q and %q: got %v, %q, %v", test.external, test.prefix, u, prefix, err)
		}
	}
	for _, wrong := range []string{
		"example.org", "example.org:80/pg", "ftp://hunter2", "//example.org/pg", "https://u:hunter2@example.org/", "https://example.org/?x=hunter2",
		"https://example.org/#x", "https:///pg", "https://example.org:port/", "https://example.org/a b", "https://example.org/%2e%2e",
		"https://example.org/../x", "'https://example.org'", "https://example.org/{x}", "postgres://u:hunter2@h/db", "mailto:x", "https://example.org/a//b",
	} {
		if _, _, err := (urlFlags{wrong, ""}).parse(); err == nil || !strings.HasPrefix(err.Error(), "--web.external-url is neither") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	for _, wrong := range []string{"/a b", "/{x}", "/a/../b", "https://example.org", "/a?b", "/%41", "\"x"} {
		if _, _, err := (urlFlags{"", wrong}).parse(); err == nil || err.Error() != "--web.route-prefix is not a path such as /pg" {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}
