// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"cmp"
	"slices"
	"time"

	"pg_liveness_exporter/probe"
)

const (
	// maxMarks, maxMinutes and maxChanges bound what a timeline holds.
	maxMarks, maxMinutes, maxChanges = 100, 60, 50
	// Probes that begin less than markGap apart share a mark, for markTime.
	markGap, markTime = 5 * time.Second, 15 * time.Second
	// maxSamples is how many durations of a minute its median takes into account.
	maxSamples = 64
)

// Timeline has the last probes, minutes and changes of the verdict of a target, oldest first. It does not change.
type Timeline struct {
	// Marks are the last 100 probes. If probes begin less than 5 s apart, a mark is the worst of 15 s.
	Marks []Mark
	// Minutes are those of the last 60 in which a probe began.
	Minutes []Minute
	// Changes are the last 50 changes of the verdict.
	Changes []Change
}

// Mark has the verdict of one probe, or the worst of several.
type Mark struct {
	At   time.Time // when the probe began
	Took time.Duration
	Verdict
}

// Verdict is the state and the reason that a probe found. Reason is empty if the probe succeeded.
type Verdict struct {
	State  probe.State
	Reason probe.Reason
}

// Minute summarizes the probes that began in a minute.
type Minute struct {
	Start          time.Time
	Probes, Failed int
	// Median and Max are durations of the probes that succeeded, 0 if none did. If more than 64 did, Median is that of the
	// first 64.
	Median, Max time.Duration
	// Worst is the worst verdict.
	Worst Verdict
}

// Change is a change of the verdict.
type Change struct {
	At       time.Time // when the probe began that found To
	From, To Verdict   // From is empty for the first probe
	// After is how long From lasted, 0 for the first probe.
	After time.Duration
}

// VerdictOf returns the verdict of a result.
func VerdictOf(r *probe.Result) Verdict {
	if r.Up() {
		return Verdict{State: probe.StateAccepting}
	}
	return Verdict{r.State(), r.Failure.Reason}
}

// Compare returns a negative number if v is better than other, and a positive one if it is worse.
func (v Verdict) Compare(other Verdict) int {
	order := []probe.State{
		probe.StateAccepting, probe.StateMisconfigured, probe.StateConnectionLimit, probe.StateRejecting, probe.StateNoResponse,
	}
	return cmp.Compare(slices.Index(order, v.State), slices.Index(order, other.State))
}

// timeline records a Timeline. It takes 4 KiB, which are allocated once. A nil timeline records nothing. The mutex of its
// target protects it.
type timeline struct {
	marks     ring[compactMark]
	markSince time.Time // when the first probe of the last mark began
	last      time.Time // when the last probe began
	minutes   ring[compactMinute]
	samples   []float32 // durations of the last minute's successful probes, in seconds; at most maxSamples
	changes   ring[compactChange]
}

// The compact forms take a third of the memory of the exported ones. Times are in milliseconds since the epoch, durations in
// seconds.
type (
	compactMark struct {
		at      int64
		took    float32
		verdict compactVerdict
	}
	compactMinute struct {
		start          int64
		probes, failed uint32
		median, max    float32
		worst          compactVerdict
	}
	compactChange struct {
		at       int64
		after    float32
		from, to compactVerdict
	}
	// compactVerdict has the indexes in probe.States and probe.Reasons, plus one. 0 is none.
	compactVerdict struct{ state, reason uint8 }
)

func newTimeline() *timeline {
	return &timeline{
		marks: newRing[compactMark](maxMarks), minutes: newRing[compactMinute](maxMinutes), samples: make([]float32, 0, maxSamples),
		changes: newRing[compactChange](maxChanges),
	}
}

// record adds a probe. before is the result of the probe before it, nil if there is none, and changed is when the verdict
// of that one was first found.
func (l *timeline) record(before *probe.Result, changed time.Time, r *probe.Result) {
	if l == nil {
		return
	}
	found := VerdictOf(r)
	l.recordMark(r, found)
	l.recordMinute(r, found)
	if !sameVerdict(before, r) {
		change := compactChange{at: r.Start.UnixMilli(), to: compact(found)}
		if before != nil {
			change.from, change.after = compact(VerdictOf(before)), float32(r.Start.Sub(changed).Seconds())
		}
		l.changes.add(change)
	}
}

func (l *timeline) recordMark(r *probe.Result, found Verdict) {
	mark := compactMark{r.Start.UnixMilli(), float32(r.Duration.Seconds()), compact(found)}
	shared := l.marks.len() > 0 && r.Start.Sub(l.last) < markGap && r.Start.Sub(l.markSince) < markTime
	l.last = r.Start
	if !shared {
		l.marks.add(mark)
		l.markSince = r.Start
		return
	}
	last := l.marks.newest()
	if order := found.Compare(last.verdict.expand()); order > 0 || order == 0 && mark.took > last.took {
		*last = mark
	}
}

func (l *timeline) recordMinute(r *probe.Result, found Verdict) {
	start := r.Start.Truncate(time.Minute).UnixMilli()
	if l.minutes.len() == 0 || l.minutes.newest().start != start {
		l.minutes.add(compactMinute{start: start, worst: compact(found)})
		l.samples = l.samples[:0]
	}
	m := l.minutes.newest()
	m.probes++
	if found.Compare(m.worst.expand()) > 0 {
		m.worst = compact(found)
	}
	if !r.Up() {
		m.failed++
		return
	}
	took := float32(r.Duration.Seconds())
	m.max = max(m.max, took)
	if len(l.samples) < maxSamples {
		i, _ := slices.BinarySearch(l.samples, took)
		l.samples = slices.Insert(l.samples, i, took)
		m.median = l.samples[len(l.samples)/2]
	}
}

// read returns a copy. Minutes that began more than an hour before now are left out.
func (l *timeline) read(now time.Time) Timeline {
	if l == nil {
		return Timeline{}
	}
	var t Timeline
	for mark := range l.marks.all {
		t.Marks = append(t.Marks, Mark{time.UnixMilli(mark.at), seconds(mark.took), mark.verdict.expand()})
	}
	for m := range l.minutes.all {
		if start := time.UnixMilli(m.start); now.Sub(start) <= time.Hour {
			t.Minutes = append(t.Minutes, Minute{
				start, int(m.probes), int(m.failed), seconds(m.median), seconds(m.max), m.worst.expand(),
			})
		}
	}
	for c := range l.changes.all {
		t.Changes = append(t.Changes, Change{time.UnixMilli(c.at), c.from.expand(), c.to.expand(), seconds(c.after)})
	}
	return t
}

func seconds(s float32) time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

func compact(v Verdict) compactVerdict {
	return compactVerdict{
		uint8(slices.Index(probe.States(), v.State) + 1), uint8(slices.Index(probe.Reasons(), v.Reason) + 1), //nolint:gosec // fewer than 255
	}
}

func (v compactVerdict) expand() Verdict {
	var expanded Verdict
	if v.state > 0 {
		expanded.State = probe.States()[v.state-1]
	}
	if v.reason > 0 {
		expanded.Reason = probe.Reasons()[v.reason-1]
	}
	return expanded
}

// ring holds the last values that were added to it.
type ring[T any] struct {
	values []T // has its full capacity from the beginning
	oldest int // the index of the oldest value once values is full
}

func newRing[T any](capacity int) ring[T] { return ring[T]{values: make([]T, 0, capacity)} }

func (r *ring[T]) add(value T) {
	if len(r.values) < cap(r.values) {
		r.values = append(r.values, value)
		return
	}
	r.values[r.oldest] = value
	r.oldest = (r.oldest + 1) % len(r.values)
}

func (r *ring[T]) len() int { return len(r.values) }

// newest returns the value that was added last. The ring must not be empty.
func (r *ring[T]) newest() *T { return &r.values[(r.oldest+len(r.values)-1)%len(r.values)] }

// all yields the values, oldest first.
func (r *ring[T]) all(yield func(T) bool) {
	for i := range r.values {
		if !yield(r.values[(r.oldest+i)%len(r.values)]) {
			return
		}
	}
}
