// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"strings"
	"time"

	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// stateWords returns a state in plain words.
func stateWords(s probe.State) string {
	switch s {
	case probe.StateAccepting:
		return "accepting"
	case probe.StateRejecting:
		return "rejecting"
	case probe.StateNoResponse:
		return "no response"
	case probe.StateConnectionLimit:
		return "no connections left"
	case probe.StateMisconfigured:
		return "misconfigured"
	}
	return "no result yet"
}

// reasonWords returns a reason in plain words.
func reasonWords(r probe.Reason) string {
	words := map[probe.Reason]string{
		probe.ReasonResolve:            "the host name has no address",
		probe.ReasonRefused:            "connection refused",
		probe.ReasonUnreachable:        "host or network unreachable",
		probe.ReasonTimeout:            "timed out",
		probe.ReasonTLS:                "TLS failed",
		probe.ReasonAuth:               "login refused",
		probe.ReasonNoDatabase:         "no such database",
		probe.ReasonPermission:         "no permission to connect",
		probe.ReasonTooManyConnections: "too many connections",
		probe.ReasonReservedSlots:      "only reserved slots are left",
		probe.ReasonRoleLimit:          "connection limit of the exporter's role reached",
		probe.ReasonDatabaseLimit:      "connection limit of the database reached",
		probe.ReasonNotAccepting:       "starting, recovering or stopping",
		probe.ReasonTerminated:         "connection closed by the server",
		probe.ReasonResources:          "the server lacks memory, disk or files",
		probe.ReasonPooler:             "refused by the pooler",
		probe.ReasonProtocol:           "the reply is not PostgreSQL's protocol",
		probe.ReasonOther:              "another error",
	}
	return words[r]
}

// verdictWords returns a verdict in one line: "no response: timed out".
func verdictWords(v monitor.Verdict) string {
	if v.Reason == "" {
		return stateWords(v.State)
	}
	return stateWords(v.State) + ": " + reasonWords(v.Reason)
}

// duration returns a duration in at most two units: "3 min 12 s".
func duration(d time.Duration) string {
	d = d.Round(time.Second)
	days, hours, minutes, rest := d/(24*time.Hour), d/time.Hour%24, d/time.Minute%60, d/time.Second%60
	var parts []string
	for _, part := range []struct {
		count time.Duration
		unit  string
	}{{days, "d"}, {hours, "h"}, {minutes, "min"}, {rest, "s"}} {
		if part.count > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.count, part.unit))
		} else if len(parts) > 0 {
			break // 1 h and 5 s are "1 h"
		}
	}
	if len(parts) == 0 {
		return "0 s"
	}
	return strings.Join(parts[:min(2, len(parts))], " ")
}

// latency returns a duration with three digits: "1.23 ms".
func latency(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.3g ms", float64(d.Microseconds())/1000)
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%.3g s", d.Seconds())
}

// knownLatency returns a duration as a latency, "" if it is not known.
func knownLatency(d probe.Duration) string {
	if !d.Known {
		return ""
	}
	return latency(d.Value)
}

// seconds returns a number of seconds as a latency, "" if it is not known.
func seconds(n probe.Number) string {
	if !n.Known {
		return ""
	}
	return latency(time.Duration(n.Value * float64(time.Second)))
}

// count returns a number and the noun, in the singular or the plural.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
