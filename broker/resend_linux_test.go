//go:build linux

// How long TCP pauses between attempts on connections to other brokers.

package broker

import (
	"errors"
	"syscall"
	"testing"
)

func TestDialedConnectionsResendPromptly(t *testing.T) {
	network := newTCP()
	ln, err := network.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := network.Dial(t.Context(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got int
	var gotErr error
	if err := raw.Control(func(fd uintptr) { got, gotErr = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpRTOMax) }); err != nil {
		t.Fatal(err)
	}
	if errors.Is(gotErr, syscall.ENOPROTOOPT) {
		t.Skip("this kernel does not know TCP_RTO_MAX_MS")
	}
	if gotErr != nil || got != longestPause {
		t.Errorf("pauses of up to %d ms (%v), want %d", got, gotErr, longestPause)
	}
}
