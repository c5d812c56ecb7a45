// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"strings"
	"testing"
)

// TestCompletion: the program completes commands, flags and values, wherever they are.
func TestCompletion(t *testing.T) {
	const (
		commands   = "help serve check"
		checkFlags = "--config.file --format --help --livez --probe.timeout --style --wait"
		levels     = "debug info warn error"
	)
	for _, test := range []struct{ words, want string }{
		{"", commands},
		{"ch", "check"},
		{"--log.level=warn ch", "check"},
		{"--log.level warn --no-web.status s", "serve"},
		{"--config.file check ", commands}, // check is the name of a file
		{"help ", commands},
		{"help ch", "check"},
		{"--log.", "--log.format --log.level"},
		{"serve --probe.t", "--probe.timeout --probe.timeout-offset"},
		{"--no-web.st", "--no-web.status"},
		{"--log.level ", levels},
		{"serve --log.level ", levels},
		{"--log.level w", "warn"},
		{"--log.level=", "--log.level=" + strings.ReplaceAll(levels, " ", " --log.level=")},
		{"--log.level=w", "--log.level=warn"},
		{"--log.level=warn", "--log.level=warn"},
		{"check ", checkFlags},
		{"check --", checkFlags},
		{"check orders --s", "--style"},
		{"check --config.file x --format ", "text json"},
		{"--config.file x check --format=j", "--format=json"},
		{"check --log.l", ""}, // it has no effect there
		{"check --style p", "pg_isready"},
		{"--format ", commands}, // only check has it
		{"check ord", ""},
		{"--config.file ", ""},
		{"--config.file=x", ""},
		{"--probe.timeout 5", ""},
	} {
		t.Run(test.words, func(t *testing.T) {
			var out strings.Builder
			_, code, ended := Parse(append([]string{completionFlag}, strings.Split(test.words, " ")...), &out, io.Discard)
			if got := strings.Join(strings.Fields(out.String()), " "); got != test.want || code != 0 || !ended {
				t.Errorf("%q becomes %q, not %q; exit code %d", test.words, got, test.want, code)
			}
		})
	}
}
