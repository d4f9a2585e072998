// How children are tied to their parent where the kernel does it.

package main

import "syscall"

// procAttr gives a child a process group of its own, so that a Ctrl-C in the terminal reaches only the parent, which
// stops the children in order; and has the kernel kill it when the parent dies without having done so.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
