// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package status is the view for people: a page with all targets and checks, a page for each target, badges, and the
// latest changes as JSON lines. It shows the last results, and causes a probe only of a target that has no result yet.
//
// Pages contain no address, no user, no connection string and no message of a server.
package status
