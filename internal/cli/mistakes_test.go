// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"strings"
	"testing"
)

// TestMistakes tests the exit code and the message of command lines that cannot be used: that of the command check is never 2,
// and the style is that of the flag, wherever the mistake is. No message has a value.
func TestMistakes(t *testing.T) {
	t.Parallel()
	const unexpected = "unexpected argument: servers are named in the environment or in a --config.file"
	for _, test := range []struct {
		line string // hunter2 is the secret
		code int
		want string
	}{
		{"hunter2", 2, unexpected},
		{"serve hunter2", 2, unexpected},
		{"--hunter2", 2, "an argument cannot be used"},
		{"--probe.timeout=hunter2", 2, "--probe.timeout must be a duration, such as 5s"},
		{"--config.file=h --probe.timeout hunter2", 2, "--probe.timeout must be a duration, such as 5s"},
		{"--config.file=e --probe.max-in-flight=hunter2", 2, "--probe.max-in-flight must be a whole number"},
		{"--config.file=check --nonsense", 2, "unknown long flag '--nonsense'"},
		{"--config.file check --nonsense --style=docker", 2, "unknown long flag '--nonsense'"},
		{"--web.telemetry-path=/health", 2, "--web.telemetry-path is the path of another endpoint"},
		{"--web.telemetry-path=/config", 2, "--web.telemetry-path is the path of another endpoint"},
		{"check --style=hunter2", 3, "--style must be one of pg_isready,docker"},
		{"check --format=docker --style=pg_isready", 3, "--format must be one of text,json"},
		{"check --style=docker --style=pg_isready --wait=hunter2", 3, "--wait must be a duration, such as 5s"},
		{"check --style=pg_isready --style=docker --wait=hunter2", 1, "--wait must be a duration, such as 5s"},
		{"check name --style docker --wait=hunter2", 1, "--wait must be a duration, such as 5s"},
		{"check name hunter2 --style=docker", 1, unexpected},
		{"check --nonsense --style=docker", 1, "unknown long flag '--nonsense'"},
		{"check --nonsense=hunter2 --style docker", 1, "unknown long flag '--nonsense'"},
		{"check --style=docker --nonsense", 1, "unknown long flag '--nonsense'"},
		{"--nonsense check --style=docker", 1, "unknown long flag '--nonsense'"},
		{"--nonsense --more check", 3, "unknown long flag '--nonsense'"},
		{"check -x --style=docker", 1, "unknown short flag '-x'"},
		{"check --wait --style=docker", 1, "expected argument for flag '--wait'"},
		{"check --style=docker --wait", 1, "expected argument for flag '--wait'"},
		{"check --probe.timeout=1h --style=docker", 1, "--probe.timeout is 1h, but must be from 100ms to 1m"},
		{"check @/nonexistent/hunter2 --style=docker", 1, "an argument cannot be used"},
	} {
		t.Run(test.line, func(t *testing.T) {
			t.Parallel()
			var out, errs bytes.Buffer
			_, code, ended := Parse(strings.Fields(test.line), &out, &errs)
			if want := "pg_liveness_exporter: error: " + test.want + ", try --help\n"; code != test.code || !ended || errs.String() != want || out.Len() > 0 {
				t.Errorf("code %d, want %d\ngot  %swant %s%s", code, test.code, errs.String(), want, out.String())
			}
		})
	}
}
