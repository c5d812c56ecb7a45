// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"testing"
)

// TestIsSpecial tests where a stranger's name must not lead to, and that servers may be in private networks.
func TestIsSpecial(t *testing.T) {
	t.Parallel()
	for want, addresses := range map[bool][]string{
		true: {
			// this machine, its link, several machines
			"0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "169.254.0.1", "224.0.0.1", "239.255.255.255", "255.255.255.255",
			"::", "::1", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1", "ff02::1", "2001:db8::1%eth0",
			// metadata services
			"169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.0.23", "169.254.42.42", "100.100.100.200", "168.63.129.16", "192.0.0.192",
			"fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:100::100:200", "fd00:42::42", "fd00:a9fe:a9fe::1", "fe80::a9fe:a9fe",
			// an IPv4 address inside
			"::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:100.100.100.200", "::ffff:0.1.2.3", "::ffff:255.255.255.255",
			"64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::168.63.129.16", "64:ff9b::0.0.0.1", "64:ff9b::224.0.0.1", "64:ff9b:1::10.0.0.1",
			"2002:7f00:1::1", "2002:a9fe:a9fe::", "2002:6464:64c8::5", "2002:1::1",
			"::127.0.0.1", "::169.254.169.254", "::ffff:0:127.0.0.1", "::ffff:0:169.254.169.254",
			"2001:db8::5efe:169.254.169.254", "2001:db8::200:5efe:127.0.0.1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
		},
		false: {
			"10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "100.100.100.201", "168.63.129.17", "192.0.2.1", "198.51.100.1", "240.0.0.1", "1.0.0.0",
			"2001:db8::1", "2600:1f18::1", "fd12:3456::1", "fc00::1", "fd00:ec3::254", "fd20:ce::255",
			"::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::c000:201", "2002:a00:1::1", "::10.0.0.1", "::ffff:0:10.0.0.1", "2001:db8::5efe:10.0.0.1",
		},
	} {
		for _, address := range addresses {
			if got := IsSpecial(netip.MustParseAddr(address)); got != want {
				t.Errorf("%s: %v, want %v", address, got, want)
			}
		}
	}
}
