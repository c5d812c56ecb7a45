// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"net/netip"
	"path"
	"strings"
)

// allow is a module's list of who may get its credentials besides the configured targets.
type allow struct {
	names    []string       // patterns in lower case: "*" stands for anything but a dot
	networks []netip.Prefix // what an address must be in; empty for a list of names alone
}

// add reads one entry of the list: a network, an address, or a pattern for names.
func (a *allow) add(entry string) error {
	if prefix, err := netip.ParsePrefix(entry); err == nil {
		if prefix.Addr().Is4In6() {
			return errors.New("must be written as an IPv4 network")
		}
		if prefix != prefix.Masked() {
			return errors.New("must not have bits set behind the network's length")
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
		return errors.New(`must be a name such as db.example.org or *.example.org, an address, or a network such as 10.20.0.0/16`)
	}
	a.names = append(a.names, pattern)
	return nil
}

// host says whether the list lets a host be asked at all: an address must be in a network, a name match a pattern. Where
// the name leads is for address to say.
func (a *allow) host(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return a.address(addr) && len(a.networks) > 0
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	for _, pattern := range a.names {
		// A pattern's dot is a "/" to path.Match, so that "*" stays inside a label, as in a certificate.
		if ok, err := path.Match(strings.ReplaceAll(pattern, ".", "/"), strings.ReplaceAll(name, ".", "/")); err == nil && ok {
			return true
		}
	}
	return false
}

// address says whether a connection may go to an address: it must be in one of the networks. Where the list has none, it
// may be anywhere but where a stranger's name must not lead: to the loopback, the link (a cloud's metadata) or nowhere.
func (a *allow) address(addr netip.Addr) bool {
	addr = addr.Unmap()
	if addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "" {
		return false
	}
	for _, network := range a.networks {
		if network.Contains(addr) {
			return true
		}
	}
	return len(a.networks) == 0 && !addr.IsLoopback() && !addr.IsLinkLocalUnicast()
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// isName says whether a host is a name as DNS has them, underscores included.
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
