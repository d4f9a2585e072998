//go:build !windows && (!linux || !(amd64 || arm64))

// Other systems but Windows: a plain write.

package sock

import "syscall"

// TryWrite writes what the socket takes at once, and returns how many bytes that was.
func TryWrite(raw syscall.RawConn, b []byte) (n int) {
	_ = raw.Control(func(fd uintptr) { // Write would look at deadlines, which are those of writes that wait
		if k, err := syscall.Write(int(fd), b); err == nil {
			n = k
		}
	})
	return n
}
