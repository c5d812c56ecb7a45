// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"pg_liveness_exporter/internal/bounded"
)

// reconcile returns a list with one element for each of the wanted settings, in the same order. If an element of the
// same name is running and keep reports true for it, reconcile keeps that element. Otherwise it calls create with the
// running element of the same name, or with the zero value if there is none. dropped has the running elements that are
// not in the new list.
func reconcile[S any, R comparable](
	wanted []S, running []R, wantedName func(S) string, runningName func(R) string,
	keep func(R, S) bool, create func(s S, replaced R) R,
) (now, dropped []R) {
	before := make(map[string]R, len(running))
	for _, r := range running {
		before[runningName(r)] = r
	}
	now = make([]R, 0, len(wanted))
	for _, s := range wanted {
		name := wantedName(s)
		r, ok := before[name]
		if ok && keep(r, s) {
			delete(before, name)
		} else {
			r = create(s, r)
		}
		now = append(now, r)
	}
	for _, r := range running {
		if before[runningName(r)] == r {
			dropped = append(dropped, r)
		}
	}
	return now, dropped
}

// closeAll closes all elements in parallel, waits for retiring, and returns the first error. ctx bounds all of that.
func closeAll[C interface{ Close(context.Context) error }](
	ctx context.Context, all []C, retiring *sync.WaitGroup,
) error {
	var group errgroup.Group
	for _, c := range all {
		group.Go(func() error { return c.Close(ctx) })
	}
	group.Go(func() error { return bounded.Wait(ctx, retiring) })
	return group.Wait()
}
