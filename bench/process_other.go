//go:build !linux

// What is not known, or not possible, on systems other than Linux.

package bench

import (
	"os"
	"syscall"
)

func procAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func terminalWidth(*os.File) int { return 0 }

func freeBytes(string) int64 { return 0 }

func usedBytes(string) int64 { return 0 }

func dropCache(string) (string, error) { return "the page cache was left as it was", nil }
