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

func processCPU() time.Duration { return 0 }
