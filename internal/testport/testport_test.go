package testport

import (
	"net"
	"slices"
	"testing"
)

// Who names a port has it, and has it again; nobody is there before.
func TestAddrsCanBeListenedOn(t *testing.T) {
	addrs := Addrs(t, 4)
	if slices.Sort(addrs); len(slices.Compact(slices.Clone(addrs))) != 4 {
		t.Fatalf("one of them twice: %q", addrs)
	}
	for _, addr := range addrs {
		if nc, err := net.Dial("tcp", addr); err == nil {
			nc.Close()
			t.Fatalf("somebody listens on %s", addr)
		}
		for range 2 {
			ln, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			ln.Close()
		}
	}
}
