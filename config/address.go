// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// CanonicalAddress returns the address of an ad-hoc target, host:port, in a form that is the same for every spelling of
// it. The error is a plain sentence that does not repeat the address.
func CanonicalAddress(target string) (string, error) {
	host, port, err := splitAddress(target)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(host, port), nil
}

// splitAddress splits the address of an ad-hoc target into the two parts of its canonical form. The error is that of
// CanonicalAddress.
func splitAddress(target string) (host, port string, err error) {
	switch {
	case strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return "", "", errors.New("the target holds a space or a control character")
	case strings.Contains(target, "://"), strings.ContainsAny(target, "=?&"):
		return "", "", errors.New("the target is a connection string; write host:port without credentials, which come from the module")
	case strings.Contains(target, "@"):
		return "", "", errors.New("the target holds a user; write host:port without credentials, which come from the module")
	case strings.ContainsAny(target, `/\`):
		return "", "", errors.New("the target is a path; write host:port")
	}
	host, port, err = net.SplitHostPort(target)
	if err != nil {
		return "", "", errors.New("the target is not host:port")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", "", errors.New("the target's port is not a number from 1 to 65535")
	}
	port = strconv.FormatUint(n, 10)
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return "", "", errors.New("the target's address must not have a zone")
		}
		return addr.Unmap().String(), port, nil
	}
	if !isName(host) || target[0] == '[' {
		return "", "", errors.New("the target's host is neither a name nor an address")
	}
	return strings.ToLower(host), port, nil
}
