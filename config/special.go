// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"slices"
)

// IsSpecial reports whether an address is one that a stranger's name or redirect must not lead to: an address of this
// machine, of its link, of a cloud's metadata service, or of several machines. An IPv6 address with an IPv4 address
// inside is special if the latter is.
func IsSpecial(addr netip.Addr) bool {
	addr = addr.Unmap()
	if addr.Zone() != "" || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified() || addr.IsMulticast() {
		return true
	}
	if slices.ContainsFunc(specialNetworks(), func(n netip.Prefix) bool { return n.Contains(addr) }) {
		return true
	}
	inside, ok := embeddedIPv4(addr)
	return ok && IsSpecial(inside)
}

// specialNetworks returns the networks that netip does not know. Most clouds have their metadata service at
// 169.254.169.254, which is a link-local address. The others are taken from their documentation.
func specialNetworks() []netip.Prefix {
	var networks []netip.Prefix
	for _, text := range []string{
		"0.0.0.0/8",              // this machine (RFC 1122, section 3.2.1.3)
		"255.255.255.255/32",     // broadcast
		"192.0.0.0/24",           // assigned to protocols (RFC 6890); metadata of Oracle Cloud Classic
		"100.100.100.200/32",     // metadata of Alibaba Cloud
		"168.63.129.16/32",       // Azure's platform
		"fd00:ec2::/32",          // metadata and other services of AWS
		"fd20:ce::254/128",       // metadata of Google Cloud
		"fd00:c1::a9fe:a9fe/128", // metadata of Oracle Cloud
		"fd00:100::100:200/128",  // metadata of Alibaba Cloud
		"fd00:42::42/128",        // metadata of Scaleway
		"fd00:a9fe:a9fe::1/128",  // metadata of Akamai, once Linode
		"fec0::/10",              // of a site (RFC 3879)
		"64:ff9b:1::/48",         // local translation to IPv4 (RFC 8215); the network decides where the IPv4 address is
		"2001::/32",              // Teredo (RFC 4380)
	} {
		networks = append(networks, netip.MustParsePrefix(text))
	}
	return networks
}

// embeddedIPv4 returns the IPv4 address that is part of an IPv6 address, where packets to the latter may end.
func embeddedIPv4(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	last := netip.AddrFrom4([4]byte(b[12:]))
	for _, network := range []string{
		"64:ff9b::/96",    // NAT64 (RFC 6052)
		"::/96",           // IPv4-compatible (RFC 4291, section 2.5.5.1)
		"::ffff:0:0:0/96", // IPv4-translated (RFC 2765)
	} {
		if netip.MustParsePrefix(network).Contains(addr) {
			return last, true
		}
	}
	switch {
	case b[0] == 0x20 && b[1] == 0x02: // 6to4 (RFC 3056)
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP (RFC 5214, section 6.1)
		return last, true
	}
	return netip.Addr{}, false
}
