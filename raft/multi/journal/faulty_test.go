// A tidwall/wal that fails on demand, and counts.

package journal

import (
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/tidwall/wal"
)

type faultyLog struct {
	walLog
	dir                   string
	write, sync, truncate atomic.Pointer[error] // returned while set
	// full makes writes fail with this error after half of the batch has really gone to the file, as a full disk does.
	full    atomic.Pointer[error]
	fullFor atomic.Int64 // how many more writes; <0: for ever
	syncs   atomic.Int64
	opens   *atomic.Int64
}

func (l *faultyLog) WriteBatch(b *wal.Batch) error {
	if e := l.write.Load(); e != nil {
		return *e
	}
	if e := l.full.Load(); e != nil && l.fullFor.Load() != 0 {
		l.fullFor.Add(-1)
		m, err := filepath.Glob(filepath.Join(l.dir, "*"))
		if err != nil {
			return err
		}
		f, err := os.OpenFile(m[len(m)-1], os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write([]byte("\x3cBHJ\x01half a record")); err != nil {
			return err
		}
		return *e
	}
	return l.walLog.WriteBatch(b)
}

func (l *faultyLog) Sync() error {
	l.syncs.Add(1)
	if e := l.sync.Load(); e != nil {
		return *e
	}
	return l.walLog.Sync()
}

func (l *faultyLog) TruncateFront(i uint64) error {
	if e := l.truncate.Load(); e != nil {
		return *e
	}
	return l.walLog.TruncateFront(i)
}

// faulty returns an openWAL that leaves the log in *out; a reopened one takes its orders from the same place.
func faulty(out **faultyLog) func(string, *wal.Options) (walLog, error) {
	return func(path string, o *wal.Options) (walLog, error) {
		l, err := wal.Open(path, o)
		if err != nil {
			return nil, err
		}
		if *out == nil {
			*out = &faultyLog{dir: path, opens: new(atomic.Int64)}
		}
		(*out).walLog = l
		(*out).opens.Add(1)
		return *out, nil
	}
}
