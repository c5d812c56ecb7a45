// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package status is the view for people: a page with all targets and checks, a page for each target, badges, and the
// latest changes as JSON lines. It shows results that are there. It causes a probe only of a target that has no result yet.
//
// What it shows contains no address, no user, no connection string and no text from a server.
package status
