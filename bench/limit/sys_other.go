// Where there is no direct I/O by a flag, and no CPU accounting that we use.

//go:build !linux

package limit

import (
	"os"
	"time"
)

const (
	directFlag = 0
	dsyncFlag  = 0
)

func dataSync(f *os.File) error { return f.Sync() }

// readable cannot be had: the one that is asked first is waited for.
func readable([]*os.File) (int, error) { return 0, errCannot }

func processCPU() time.Duration { return 0 }
