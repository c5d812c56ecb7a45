// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// results is what a run of the comparison has found. The page is made from it.
type results struct {
	// Versions has the version of each program, by its name.
	Versions map[string]string `json:"versions"`
	// Interval is the time between two scrapes in seconds.
	Interval float64 `json:"interval"`
	// Faults has the result of each fault, by its name.
	Faults map[string]result `json:"faults"`
}

// result is what was found during one fault.
type result struct {
	// Met is what the application met, once for each scrape.
	Met []met `json:"met"`
	// After is what it met after the fault had ended.
	After met `json:"after"`
	// Observers has what each observer said, by its name.
	Observers map[string]observed `json:"observers"`
}

// observed is what one observer said and took.
type observed struct {
	// Said is what it said at each scrape during the fault.
	Said []said `json:"said"`
	// After is what it said after the fault had ended.
	After said `json:"after"`
	// Before and Most are the most that its sessions took of the server before and during the fault, and Left is what they
	// took when the fault had ended and it had been asked once more. All are nil if it does not log in.
	Before *usage `json:"before,omitempty"`
	Most   *usage `json:"most,omitempty"`
	Left   *usage `json:"left,omitempty"`
}

// last returns what the observer said last during the fault.
func (o observed) last() said { return o.Said[len(o.Said)-1] }

// settled returns the time in seconds from the beginning of the fault until the observer first said what it said last,
// without saying anything else in between.
func (o observed) settled() float64 {
	at := o.last().At
	for _, s := range slices.Backward(o.Said) {
		if s.Verdict != o.last().Verdict {
			break
		}
		at = s.At
	}
	return at
}

// met returns what the application met last during the fault.
func (r result) met() met { return r.Met[len(r.Met)-1] }

// The judgements of a verdict.
const (
	right  = "right"
	wrong  = "wrong"
	shown  = "shown"  // the verdict is up, and another metric shows what keeps applications from writing
	itself = "itself" // only the observer is refused, and it says that
	silent = "silent" // no answer
)

func judgements() []string { return []string{right, shown, itself, silent, wrong} }

// judge compares what an observer said with what the application met at the same time. writes is whether the fault is
// about writes.
func judge(s said, m met, writes bool) string {
	works := m.works(writes)
	switch s.Verdict {
	case noAnswer:
		return silent
	case up:
		if works {
			return right
		}
		if writes && m.Failed == stepWrite && slices.ContainsFunc(s.Shows, aboutWrites) {
			return shown
		}
		return wrong
	case misconfigured:
		if works {
			return itself
		}
		return right
	}
	if works {
		return wrong
	}
	return right
}

// aboutWrites reports whether a metric shows that applications cannot write.
func aboutWrites(metric string) bool {
	return slices.Contains([]string{
		"pg_commit_up 0", "pg_transaction_read_only 1", "pg_replication_is_replica 1", "pg_settings_default_transaction_read_only 1",
	}, metric)
}

// load reads results. If there is no file, they are empty.
func load(path string) (results, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return results{}, nil
	}
	if err != nil {
		return results{}, err
	}
	var r results
	if err := json.Unmarshal(content, &r); err != nil {
		return results{}, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

func (r results) save(path string) error {
	content, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(content, '\n'), 0o644) //nolint:gosec // it is committed
}

// differences compares a new result of a fault with a known one: what the application met last, and what each observer
// said last. Times, sessions and the metrics beside the verdict may differ. ours is whether the application or
// pg_liveness_exporter differs. What the others say can depend on how busy the machine is.
func differences(known, found result) (lines []string, ours bool) {
	differ := func(who, known, found string) {
		if known != found {
			lines = append(lines, fmt.Sprintf("%s: %s; the committed result is: %s", who, found, known))
			ours = ours || who == "application" || who == oursName
		}
	}
	differ("application", known.met().String(), found.met().String())
	for _, name := range observerNames() {
		differ(name, known.Observers[name].last().words(), found.Observers[name].last().words())
	}
	return lines, ours
}
