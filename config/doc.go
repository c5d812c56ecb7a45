// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package config turns what an operator wrote into plain validated values: targets, modules, checks and the settings of
// the health endpoints.
//
// Load and Parse read a configuration file, and FromEnvironment reads the target in the environment. A problem in a
// file is reported with its line and key. The values do not change after they are returned. A reload makes new values,
// and Equal reports whether a target or a check has changed.
//
// Load, Parse and FromEnvironment read nothing after they have returned: internal/credentials reads what each login needs,
// such as password files. Two more functions read a file when they are called: ReadFile, for the packages that read secrets
// and certificates, and Fingerprint, which shows whether the configuration file has changed.
//
// The package does not know how a server is probed, and it changes nothing in the process.
package config
