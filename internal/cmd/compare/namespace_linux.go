// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// isolated tells this program that it already runs in a network of its own.
const isolated = "COMPARE_ISOLATED"

// enterNamespaces runs this program again in a network and a mount namespace of its own, so that no fault reaches the
// rest of the machine. There it returns nil.
func enterNamespaces(ctx context.Context) error {
	if os.Getenv(isolated) != "" {
		return run(ctx, "ip", "link", "set", "lo", "up")
	}
	if os.Geteuid() != 0 {
		return errors.New("the faults cut networks and mount small disks: run it as root")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the new program gets the namespaces of this thread
	if err := syscall.Unshare(syscall.CLONE_NEWNET | syscall.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	return syscall.Exec(self, os.Args, append(os.Environ(), isolated+"=1")) //nolint:gosec // it is this program
}

// mountDisk mounts an empty disk in memory of some MiB on a folder.
func mountDisk(folder string, size int) error {
	return os.NewSyscallError("mount", syscall.Mount("tmpfs", folder, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=700", size)))
}

// unmountDisk unmounts it, even if it is in use.
func unmountDisk(folder string) error {
	return os.NewSyscallError("unmount", syscall.Unmount(folder, syscall.MNT_DETACH))
}

// run runs a command. Its error has the output.
func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}
