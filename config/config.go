// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package config turns what an operator wrote into plain validated values: targets, modules, checks and the settings of
// the health endpoints.
//
// It reads a configuration file and the environment when it is called, and nothing later: what a login reads is the job
// of internal/credentials. It does not know how a server is probed, and it has no effect on the process.
package config
