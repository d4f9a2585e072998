//go:build unix && !linux

// How processes are tied to their parent where the kernel does not help: a parent that is killed by force leaves them behind.

package main

import "syscall"

func procAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func endWithGoRun() {}
