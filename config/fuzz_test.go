// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"strings"
	"testing"
)

// FuzzAllowList: a module's credentials go only to hosts and addresses that its list has, by a second reading of the list.
func FuzzAllowList(f *testing.F) {
	for _, entry := range []string{"h", "*.example.org", "10.0.0.0/8", "::1", "fe80::/10", "*", "a.*.b", "H.", "10.1.2.3", "::ffff:10.0.0.0/104", "x*y"} {
		for _, host := range []string{"h", "db.example.org", "10.1.2.3", "::1", "fe80::1%eth0", "127.0.0.1", "H.", "a.b", "::ffff:10.1.2.3", "0x7f.1"} {
			f.Add(entry, host, "127.0.0.1")
		}
	}
	f.Add("h", "h", "::ffff:169.254.169.254")
	f.Fuzz(func(t *testing.T, entry, host, address string) {
		file, err := parseText(t, fmt.Sprintf("modules: {m: {user: u, allow: [%q]}}\ntargets: {a: {host: h, user: u}}", entry))
		if err != nil {
			return
		}
		target, err := file.AdHoc(net.JoinHostPort(host, "5432"), "m")
		if err != nil {
			if len(host) > 12 && strings.Contains(err.Error(), host) {
				t.Errorf("the error repeats the host: %v", err)
			}
			return
		}
		network, err := netip.ParsePrefix(entry)
		if addr, addrErr := netip.ParseAddr(entry); addrErr == nil {
			network, err = addr.Unmap().Prefix(addr.Unmap().BitLen())
		}
		isNetwork := err == nil
		if addr, err := netip.ParseAddr(host); err == nil {
			if !isNetwork || !network.Contains(addr.Unmap()) {
				t.Errorf("the address %s is allowed by %s", host, entry)
			}
		} else if !matches(entry, host) {
			t.Errorf("the name %s is allowed by %s", host, entry)
		}
		addr, err := netip.ParseAddr(address)
		if !target.Permits(address) {
			return
		}
		addr = addr.Unmap()
		switch {
		case err != nil:
			t.Errorf("%q, which is no address, is permitted", address)
		case isNetwork && !network.Contains(addr):
			t.Errorf("the address %s is permitted by %s", address, entry)
		case !isNetwork && (addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified() || addr.IsMulticast()):
			t.Errorf("the address %s is permitted by a name", address)
		}
	})
}

// matches reports whether a host matches a pattern label by label.
func matches(pattern, host string) bool {
	patterns := strings.Split(strings.ToLower(strings.TrimSuffix(pattern, ".")), ".")
	labels := strings.Split(strings.ToLower(strings.TrimSuffix(host, ".")), ".")
	if len(patterns) != len(labels) {
		return false
	}
	for i := range labels {
		if ok, err := path.Match(patterns[i], labels[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
