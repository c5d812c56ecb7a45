// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package web

import "math"

// descriptors returns how many files and sockets the process may have open. On this system no limit is known.
func descriptors() int { return math.MaxInt32 }
