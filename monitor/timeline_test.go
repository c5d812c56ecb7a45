// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"testing"
	"time"
	"unsafe"

	"pg_liveness_exporter/probe"
)

// begin is the start of a minute.
func begin() time.Time { return time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC) }

// recorder records probes as a target does.
type recorder struct {
	*timeline
	before  *probe.Result
	changed time.Time
}

// add records a probe. reason is empty if it succeeds.
func (r *recorder) add(at, took time.Duration, state probe.State, reason probe.Reason) {
	result := &probe.Result{Start: begin().Add(at), Duration: took}
	if reason != "" {
		result.Failure = &probe.Failure{State: state, Reason: reason}
	}
	r.record(r.before, r.changed, result)
	if !sameVerdict(r.before, result) {
		r.changed = result.Start
	}
	r.before = result
}

func (r *recorder) up(at, took time.Duration) { r.add(at, took, "", "") }

func (r *recorder) silent(at time.Duration) {
	r.add(at, 2*time.Second, probe.StateNoResponse, probe.ReasonTimeout)
}

// TestMarks tests that each probe has a mark, that fast ones share one for 15 s, which shows the worst, and that the last
// 100 marks are kept.
func TestMarks(t *testing.T) {
	t.Parallel()
	slow := &recorder{timeline: newTimeline()}
	for i := range 130 {
		slow.up(time.Duration(i)*5*time.Second, time.Duration(i)*time.Millisecond)
	}
	marks := slow.read(begin()).Marks
	if len(marks) != maxMarks || marks[0].Took.Round(time.Millisecond) != 30*time.Millisecond ||
		!marks[99].At.Equal(begin().Add(129*5*time.Second)) {
		t.Errorf("%d marks, from %v to %v", len(marks), marks[0], marks[len(marks)-1])
	}

	fast := &recorder{timeline: newTimeline()}
	for i := range 30 {
		switch i {
		case 4:
			fast.add(4*time.Second, time.Millisecond, probe.StateRejecting, probe.ReasonNotAccepting)
		case 5:
			fast.silent(5 * time.Second)
		case 20:
			fast.up(20*time.Second, time.Second)
		default:
			fast.up(time.Duration(i)*time.Second, time.Millisecond)
		}
	}
	marks = fast.read(begin()).Marks
	if len(marks) != 2 || marks[0].Verdict != (Verdict{probe.StateNoResponse, probe.ReasonTimeout}) ||
		!marks[0].At.Equal(begin().Add(5*time.Second)) || marks[1].Took != time.Second {
		t.Errorf("marks %v", marks)
	}
}

// TestMinutes tests the summary of a minute, and that only the last hour is shown.
func TestMinutes(t *testing.T) {
	t.Parallel()
	r := &recorder{timeline: newTimeline()}
	for i := range 3 {
		r.up(time.Duration(i)*10*time.Second, time.Duration(3-i)*time.Second)
	}
	r.silent(40 * time.Second)
	r.up(50*time.Second, 10*time.Second)
	for i := 2; i < 80; i++ {
		r.up(time.Duration(i)*time.Minute, time.Second)
	}
	early := *r.minutes.newest()
	if early.probes != 1 {
		t.Errorf("the last minute has %d probes", early.probes)
	}
	if minutes := r.read(begin().Add(79 * time.Minute)).Minutes; len(minutes) != maxMinutes {
		t.Errorf("%d minutes", len(minutes))
	}
	if minutes := r.read(begin().Add(130 * time.Minute)).Minutes; len(minutes) != 10 {
		t.Errorf("%d minutes half an hour after the last probe", len(minutes))
	}
	first := &recorder{timeline: newTimeline()}
	first.up(0, time.Second)
	first.up(10*time.Second, 3*time.Second)
	first.silent(20 * time.Second)
	first.up(30*time.Second, 2*time.Second)
	want := Minute{begin().Local(), 4, 1, 2 * time.Second, 3 * time.Second, Verdict{probe.StateNoResponse, probe.ReasonTimeout}}
	if got := first.read(begin()).Minutes; len(got) != 1 || got[0] != want {
		t.Errorf("%v, want %v", got, want)
	}
	many := &recorder{timeline: newTimeline()}
	for i := range 1000 {
		many.up(time.Duration(i)*50*time.Millisecond, time.Second)
	}
	if got := many.read(begin()).Minutes[0]; got.Probes != 1000 || got.Median != time.Second {
		t.Errorf("%v", got)
	}
}

// TestChanges tests that changes of the state and of the reason are recorded with how long the former verdict lasted.
func TestChanges(t *testing.T) {
	t.Parallel()
	r := &recorder{timeline: newTimeline()}
	r.up(0, time.Second)
	r.up(10*time.Second, time.Second)
	r.silent(20 * time.Second)
	r.add(25*time.Second, 0, probe.StateNoResponse, probe.ReasonRefused)
	r.add(30*time.Second, 0, probe.StateNoResponse, probe.ReasonRefused)
	r.up(40*time.Second, time.Second)
	up, silent := Verdict{State: probe.StateAccepting}, Verdict{probe.StateNoResponse, probe.ReasonTimeout}
	refused := Verdict{probe.StateNoResponse, probe.ReasonRefused}
	at := func(s int) time.Time { return begin().Add(time.Duration(s) * time.Second).Local() }
	want := []Change{
		{at(0), Verdict{}, up, 0},
		{at(20), up, silent, 20 * time.Second},
		{at(25), silent, refused, 5 * time.Second},
		{at(40), refused, up, 15 * time.Second},
	}
	got := r.read(begin()).Changes
	if len(got) != len(want) {
		t.Fatalf("%v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("change %d is %v, want %v", i, got[i], want[i])
		}
	}
	for i := range 200 {
		if i%2 == 0 {
			r.silent(time.Duration(i) * time.Minute)
		} else {
			r.up(time.Duration(i)*time.Minute, time.Second)
		}
	}
	if n := len(r.read(begin()).Changes); n != maxChanges {
		t.Errorf("%d changes are kept", n)
	}
}

// TestVerdicts tests that every verdict survives its compact form.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	for _, state := range append(probe.States(), "") {
		for _, reason := range append(probe.Reasons(), "") {
			if v := (Verdict{state, reason}); compact(v).expand() != v {
				t.Errorf("%v became %v", v, compact(v).expand())
			}
		}
	}
}

// TestTimelineSize tests that a timeline takes at most 6 KiB and does not grow.
func TestTimelineSize(t *testing.T) {
	t.Parallel()
	r := &recorder{timeline: newTimeline()}
	size := func() uintptr {
		return unsafe.Sizeof(*r.timeline) +
			uintptr(cap(r.marks.values))*unsafe.Sizeof(compactMark{}) + uintptr(cap(r.minutes.values))*unsafe.Sizeof(compactMinute{}) +
			uintptr(cap(r.changes.values))*unsafe.Sizeof(compactChange{}) + uintptr(cap(r.samples))*unsafe.Sizeof(float32(0))
	}
	empty := size()
	for i := range 10_000 {
		if i%3 == 0 {
			r.silent(time.Duration(i) * time.Second)
		} else {
			r.up(time.Duration(i)*time.Second, time.Second)
		}
	}
	if full := size(); full != empty || full > 6<<10 {
		t.Errorf("%d bytes, %d when it was empty", full, empty)
	}
	var none *timeline
	none.record(nil, time.Time{}, &probe.Result{})
	if got := none.read(begin()); got.Marks != nil || got.Minutes != nil || got.Changes != nil {
		t.Errorf("a timeline that is off has %v", got)
	}
}
