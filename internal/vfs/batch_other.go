//go:build !linux || !(amd64 || arm64)

// Systems that take no batches of writes.

package vfs

type asyncQueue struct{}

func newAsyncQueue(int) (*asyncQueue, error) { return nil, ErrNoBatch }

func (q *asyncQueue) writeSync([]SyncWrite, func([]int)) {}
func (q *asyncQueue) close() error                       { return nil }
