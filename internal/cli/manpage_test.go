// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import "testing"

// TestRoff: no character of a help text means anything to roff, and each sentence has a line of its own.
func TestRoff(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"It is --on.", `It is \-\-on.`},
		{`a\b 'c' ` + "`d`", `a\eb \(aqc\(aq \(gad\(ga`},
		{".TH is text", `\&.TH is text`},
		{"One. Two: Three. /four, such as e.g. five", "One.\nTwo:\nThree.\n/four, such as e.g. five"},
		{"Some… more. .Five", "Some… more. .Five"},
	} {
		if got := paragraph(test.text); got != test.want {
			t.Errorf("%q is %q, not %q", test.text, got, test.want)
		}
	}
}

func TestManDate(t *testing.T) {
	for built, want := range map[string]string{"20261129-08:00:00": "2026-11-29", "": "", "today": ""} {
		if got := manDate(built); got != want {
			t.Errorf("%q is %q, not %q", built, got, want)
		}
	}
}
