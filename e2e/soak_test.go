// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"flag"
	"testing"

	"pg_liveness_exporter/internal/testservers"
)

var soak = flag.Int("soak", 150, "how many times TestSoak scrapes")

// TestSoak scrapes one server many times. In every 50 scrapes, one of the faults of TestFaults befalls it for two. Each
// scrape has the right verdict, and in the end the exporter holds no more than in the beginning. `make soak` scrapes 5,000
// times.
func TestSoak(t *testing.T) {
	t.Parallel()
	const (
		every   = 50
		allowed = 16 << 10 // KiB, which is 3 KiB for each of 5,000 scrapes
	)
	s := newServer(t, testservers.PostgresConfig{})
	e := startProgram(t, []string{plainProgram(t)}, environment(s.Port, "app"))
	e.Settle()
	var possible []fault
	for _, f := range faults() {
		if f.settings == nil {
			possible = append(possible, f)
		}
	}
	memory := 0
	for i := range *soak {
		if i%every != every/2 {
			e.Expect(up)
			continue
		}
		n := i / every
		f := possible[n%len(possible)]
		t.Run(f.name, func(t *testing.T) {
			in := e.In(t)
			end := f.begin(t, s)
			for range 2 {
				in.Expect(f.want)
			}
			end()
			in.Expect(up)
			in.ExpectNothingLeft(s)
			e.last = in.last
		})
		if t.Failed() {
			return
		}
		if n < len(possible) { // each fault has befallen it once, or will
			memory = max(memory, e.Memory("VmRSS"))
		}
	}
	if now := e.Memory("VmRSS"); now > memory+allowed {
		t.Errorf("after %d scrapes it takes %d KiB of memory, and took %d before", *soak, now, memory)
	}
}
