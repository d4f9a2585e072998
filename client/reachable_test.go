// Which admin listeners are asked at all.

package client

import (
	"slices"
	"strings"
	"testing"
)

func TestReachable(t *testing.T) {
	for _, tc := range []struct {
		name         string
		kafka, admin string
		asked        bool
	}{
		{"both on this machine", "127.0.0.1", "127.0.0.1:9292", true},
		{"by name", "localhost", "127.0.0.2:9292", true},
		{"IPv6", "::1", "[::1]:9292", true},
		{"both elsewhere", "10.0.0.7", "10.0.0.7:9292", true},
		{"a name elsewhere", "prod-1.example", "prod-1.example:9292", true},
		{"on that machine's loopback", "10.0.0.7", "127.0.0.1:9292", false},
		{"on loopback of a name", "prod-1.example", "localhost:9292", false},
		{"on loopback, IPv6", "prod-1.example", "[::1]:9292", false},
		{"no address", "127.0.0.1", "9292", false},
	} {
		addrs, skipped := reachable(map[int32]string{3: tc.kafka, 4: "10.0.0.9"}, map[int32]string{3: tc.admin, 4: "10.0.0.9:1"})
		if slices.Contains(addrs, tc.admin) != tc.asked || !slices.Contains(addrs, "10.0.0.9:1") || strings.Contains(skipped, "broker 3") == tc.asked {
			t.Errorf("%s: %v are asked; skipped: %q", tc.name, addrs, skipped)
		}
	}
}
