// How processes are tied to their parent where the kernel does it.

package main

import (
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// procAttr gives a child a process group of its own, so that a Ctrl-C in the terminal reaches only the parent, which
// stops the children in order; and has the kernel kill it when the parent dies without having done so.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// endWithGoRun makes a program that `go run` has built and started end when that ends: it passes an interrupt on, but a
// `kill` of it, the only pid that a script knows, would leave the cluster behind.
func endWithGoRun() {
	if exe, err := os.Executable(); err == nil && strings.Contains(exe, "/go-build") {
		_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0, 0, 0) // without it the way out is Ctrl-C
	}
}
