// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// sampleInterval is the time between two looks at the processes of a server.
const sampleInterval = 250 * time.Millisecond

// usage is what the sessions of one role take of a server. A session counts from the moment the server knows its role,
// so also while it logs in.
type usage struct {
	Sessions int `json:"sessions"`
	Waiting  int `json:"waiting,omitempty"` // sessions that wait for a lock
}

// max returns the larger of each.
func (u usage) max(v usage) usage {
	return usage{max(u.Sessions, v.Sessions), max(u.Waiting, v.Waiting)}
}

// usageByRole returns what each role takes of a server. The server need not answer: its processes have titles such as
// "postgres: role database 127.0.0.1(4711) idle".
func usageByRole(postmaster int) map[string]usage {
	byRole := map[string]usage{}
	for _, pid := range children(postmaster) {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue // it has just ended
		}
		title := strings.Fields(strings.TrimRight(string(content), "\x00"))
		if len(title) < 4 || title[0] != "postgres:" {
			continue
		}
		u := byRole[title[1]]
		u.Sessions++
		if title[len(title)-1] == "waiting" {
			u.Waiting++
		}
		byRole[title[1]] = u
	}
	return byRole
}

// children returns the processes that a process has started and that have not ended.
func children(pid int) []int {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		return nil // it has ended
	}
	var pids []int
	for field := range strings.FieldsSeq(string(content)) {
		if child, err := strconv.Atoi(field); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}

// sessionsOf returns the processes of all sessions of some roles.
func sessionsOf(postmaster int, roles ...string) []int {
	var pids []int
	for _, pid := range children(postmaster) {
		content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may have ended
		for _, role := range roles {
			if strings.HasPrefix(string(content), "postgres: "+role+" ") {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// sample looks at the processes of a server until ctx ends. It returns the most that each role took.
func sample(ctx context.Context, postmaster func() int) map[string]usage {
	most := map[string]usage{}
	for {
		for role, u := range usageByRole(postmaster()) {
			most[role] = most[role].max(u)
		}
		if pause(ctx, sampleInterval) != nil {
			return most
		}
	}
}

// stopProcesses stops processes, as if each hung, and returns what continues them.
func stopProcesses(pids ...int) (resume func(context.Context) error, err error) {
	for _, pid := range pids {
		if e := syscall.Kill(pid, syscall.SIGSTOP); !errors.Is(e, syscall.ESRCH) { // a session may have ended
			err = errors.Join(err, e)
		}
	}
	return func(context.Context) error {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT) // it may have ended
		}
		return nil
	}, err
}

// clientPorts returns the ports of the clients that have a connection to a port of this machine (proc(5),
// /proc/net/tcp).
func clientPorts(server int) ([]int, error) {
	content, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		return nil, err
	}
	const established = "01"
	var ports []int
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[3] != established {
			continue
		}
		if local, remote := portOf(fields[1]), portOf(fields[2]); remote == server {
			ports = append(ports, local)
		}
	}
	return ports, nil
}

// portOf returns the port of an address in /proc/net/tcp, such as 0100007F:1538, or -1.
func portOf(address string) int {
	_, port, _ := strings.Cut(address, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return -1
	}
	return int(n)
}

// pause waits for d. It returns an error if ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
