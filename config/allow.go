// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// AllowList is the list of hosts that may get a module's credentials besides the configured targets. It is not changed
// once it was read.
type AllowList struct {
	names    []string       // patterns in lower case; "*" stands for anything but a dot
	networks []netip.Prefix // those that an address must be in; empty if the list has only names
}

// add adds one entry to the list: a network, an address, or a pattern for names.
func (a *AllowList) add(entry string) error {
	if prefix, err := netip.ParsePrefix(entry); err == nil {
		if prefix.Addr().Is4In6() {
			return errors.New("must be written as an IPv4 network")
		}
		if prefix != prefix.Masked() {
			return errors.New("must have no bits set after the prefix: 10.20.0.0/16 and not 10.20.0.1/16")
		}
		a.networks = append(a.networks, prefix)
		return nil
	}
	if addr, err := netip.ParseAddr(entry); err == nil {
		if addr.Zone() != "" {
			return errors.New("must be an address without a zone")
		}
		a.networks = append(a.networks, netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()))
		return nil
	}
	pattern := strings.ToLower(strings.TrimSuffix(entry, "."))
	if !isName(strings.ReplaceAll(pattern, "*", "x")) {
		return errors.New("must be a name such as db.example.org or *.example.org, an address, " +
			"or a network such as 10.20.0.0/16")
	}
	a.names = append(a.names, pattern)
	return nil
}

// permitsHost reports whether a host may get the credentials at all: an address must be in a network, and a name must
// match a pattern. permitsAddress decides about the addresses of the name.
func (a *AllowList) permitsHost(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return a.permitsAddress(addr) && len(a.networks) > 0
	}
	labels := strings.ReplaceAll(strings.ToLower(strings.TrimSuffix(host, ".")), ".", "/")
	for _, pattern := range a.names {
		// path.Match gets a "/" for each dot, so that "*" stays inside a label, as in a certificate.
		if ok, err := path.Match(strings.ReplaceAll(pattern, ".", "/"), labels); err == nil && ok {
			return true
		}
	}
	return false
}

// Permits reports whether the server may be at address, an IP address in text form. Every address is permitted unless
// the target is an ad-hoc one; its credentials go only where its module allows.
func (t *Target) Permits(address string) bool {
	if t.Allow == nil {
		return true
	}
	addr, err := netip.ParseAddr(address)
	return err == nil && t.Allow.permitsAddress(addr)
}

// permitsAddress reports whether a connection may go to an address. The address must be in one of the networks. If the
// list has none, every address is permitted except for special ones: a stranger chooses the name.
func (a *AllowList) permitsAddress(addr netip.Addr) bool {
	if len(a.networks) == 0 {
		return !IsSpecial(addr)
	}
	addr = addr.Unmap()
	if addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "" {
		return false
	}
	return slices.ContainsFunc(a.networks, func(n netip.Prefix) bool { return n.Contains(addr) })
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// isName reports whether a host is a name as in DNS, which may hold underscores.
func isName(host string) bool {
	if host == "" || len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' {
			return false
		}
		for _, c := range label {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}
