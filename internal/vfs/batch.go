// Writes of many files at once: a Batch has the system take them all with one call, where it can.

package vfs

import "errors"

// SyncWrite is one write of a [Batch]: see [File.WriteSync].
type SyncWrite struct {
	File File
	Bufs [][]byte // not to be touched before the write is done
	Off  int64
	Err  error // what became of it
}

// Batch does many WriteSyncs side by side, in one goroutine at a time. Where the system cannot, or a file is not the system's own, or not
// written directly, they are done one after another.
type Batch struct {
	q *asyncQueue // nil: one after another
}

// ErrNoBatch says that the system takes no batches: many goroutines get done more.
var ErrNoBatch = errors.New("the system takes no batches of writes")

// NewBatch makes a batch of at most so many writes. It fails with ErrNoBatch where the system does not know how, or forbids it.
func NewBatch(writes int) (*Batch, error) {
	q, err := newAsyncQueue(writes)
	if err != nil {
		return nil, err
	}
	return &Batch{q}, nil
}

// OneByOne is a Batch that does its writes one after another, as WriteSync: for tests.
func OneByOne() *Batch { return new(Batch) }

// WriteSync does the writes, all to different files, and returns when all are done. Meanwhile it tells which are, by their place: mostly of all of
// them when the last is done, but of none much later than it is, should another one hang.
func (b *Batch) WriteSync(writes []SyncWrite, done func(at []int)) {
	if b.q != nil {
		b.q.writeSync(writes, done)
		return
	}
	for i := range writes {
		w := &writes[i]
		w.Err = w.File.WriteSync(w.Bufs, w.Off)
		done([]int{i})
	}
}

// Close gives back what the system keeps for it.
func (b *Batch) Close() error {
	if b.q == nil {
		return nil
	}
	return b.q.close()
}
