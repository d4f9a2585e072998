//go:build !linux || !(amd64 || arm64)

// Other systems: connections are the standard library's.

package sock

import "net"

// Wrap returns c.
func Wrap(c net.Conn) net.Conn { return c }
