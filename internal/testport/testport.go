// Package testport has loopback addresses for tests that must know a port before anybody listens on it: a seed of a cluster, a process's flag,
// an address at which nobody is. Where it can be, listen on port 0 and ask instead.
package testport

import (
	"net"
	"testing"
)

// Addrs are n addresses that nobody listens on. For a minute nobody is given one of them who asks for any port, be it to listen or to dial,
// as tests beside this one do: see reserve.
func Addrs(t testing.TB, n int) (addrs []string) {
	t.Helper()
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close() // all of them are held until there are enough
		reserve(t, ln)
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs
}

// Addr is one such address.
func Addr(t testing.TB) string {
	t.Helper()
	return Addrs(t, 1)[0]
}

// reserve uses a listener's port once and closes from this side: in TIME_WAIT it can be listened on by who names it, and by nobody else.
func reserve(t testing.TB, ln net.Listener) {
	t.Helper()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}
