// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// childAttributes returns the attributes of a child: the kernel kills it if this program dies.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// cpuTime returns the CPU time of all threads of a process, including threads that have ended, in nanoseconds
// (clock_getcpuclockid(3)). utime and stime of /proc/PID/stat have a resolution of only 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	const scheduled = 2 // CPUCLOCK_SCHED in the kernel's include/linux/posix-timers_types.h
	var ts unix.Timespec
	clock := int32(^pid<<3 | scheduled) //nolint:gosec // a process id has 22 bits
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// residentMemory returns VmRSS and RssAnon of a process.
func residentMemory(pid int) (resident, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	content, err := os.ReadFile(path)
	if err != nil {
		return resident{}, err
	}
	var r resident
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		var into *int
		switch name {
		case "VmRSS":
			into = &r.all
		case "RssAnon":
			into = &r.anonymous
		default:
			continue
		}
		kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		if err != nil {
			return r, fmt.Errorf("%s: %s: %w", path, name, err)
		}
		*into = kib << 10
	}
	return r, nil
}
