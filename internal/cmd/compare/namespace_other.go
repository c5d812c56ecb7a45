// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"context"
	"errors"
)

func enterNamespaces(context.Context) error { return errors.ErrUnsupported }

func mountDisk(string, int) error { return errors.ErrUnsupported }

func unmountDisk(string) error { return errors.ErrUnsupported }

func run(context.Context, string, ...string) error { return errors.ErrUnsupported }
