//go:build linux

// Connections between brokers after a cut: TCP doubles the pause before each next attempt to get its data through, so that what was on its way
// when a network was cut comes as long after its end as it has lasted. A lane notices after some seconds by its pings; heartbeats are answered
// again before that, and a leader is elected whose entries wait.

package broker

import "syscall"

const (
	// tcpRTOMax is TCP_RTO_MAX_MS, of Linux 6.15; earlier ones refuse it, and pause for up to two minutes.
	tcpRTOMax = 44
	// longestPause is in milliseconds. A round trip that takes longer is attempted twice; elections do not get on there anyway.
	longestPause = 2000
)

// resendPromptly is a net.Dialer's Control.
func resendPromptly(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpRTOMax, longestPause)
	})
}
