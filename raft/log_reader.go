// The window through which the core sees its own log.

package raft

// LogReader is how the core reads its own log. The log's owner appends what [Ready.Entries] hands out before it calls
// the core again, so that the core keeps no entry of its own beyond that; a cache of the log's hot tail is the owner's.
type LogReader interface {
	// FirstIndex is the first index still present: LastIndex+1 for an empty log.
	FirstIndex() Index
	// LastIndex is the last appended index, durable or not; FirstIndex-1 if the log is empty.
	LastIndex() Index
	// Term of the entry at i, for FirstIndex-1 <= i <= LastIndex. [ErrCompacted] below that range, [ErrUnavailable] above.
	Term(i Index) (Term, error)
	// Entries returns [lo, hi), at least one entry and then as many as fit into maxBytes. The slice is the caller's, the
	// frames are shared. [ErrCompacted] and [ErrUnavailable] as for Term.
	Entries(lo, hi Index, maxBytes int) ([]Entry, error)
	// LastConfig returns the last EntryConfig at or below upTo that the log still holds.
	LastConfig(upTo Index) (Entry, bool, error)
}

// SnapshotReader is an open snapshot of a log, for sending it. It stays what it was when a newer one is stored.
type SnapshotReader interface {
	// Snapshot is what it is, without data.
	Snapshot() Snapshot
	// ReadAt fills p with data from off on.
	ReadAt(p []byte, off int64) error
	Close() error
}
