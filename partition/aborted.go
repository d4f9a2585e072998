// The index of aborted transactions: what tells readers of committed records, and compaction, which records do not count.
//
// It is an index of the log's segments, and no more than that: each entry can be found again by reading from the transaction's first record on to its
// marker. So it holds what ends there, and nothing below. Retention moves the start of the segments, and so does compaction, which leaves no record of
// an aborted transaction (docs/design/0021-compaction.md). Each replica compacts for itself, and each forgets for itself; whoever gets a log from another
// one gets it with a state as of where its segments begin, of which all entries are behind.
//
// A leader whose index is full takes no new transaction. A follower does not choose what it takes: one that cannot compact, as its disk is full, say,
// while its leader can, loses the oldest entries, and finds them in the log as they are needed.

package partition

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/segment"
)

const (
	// maxAborted bounds the index; it shrinks as retention and compaction remove what was aborted. It takes 32 MiB. At one abort a second it is filled in
	// twelve days on a log of which neither removes anything.
	maxAborted = 1 << 20
	// lostShare is the part of a full index that makes room.
	lostShare = 8
	// pressingShare: an index so full makes compaction due.
	pressingShare = 2
	// recallChunk bounds what is read at once to find entries again.
	recallChunk = 1 << 20
)

// AbortedTxn is an aborted transaction as a fetch answers it: the producer's records from First on, up to its next marker, do
// not count.
type AbortedTxn struct {
	ProducerID int64
	First      int64
}

// abortedTxn is an entry of the index, which is in order of last.
type abortedTxn struct {
	producer    int64
	first, last int64 // offsets of its first record and of the marker
	// stable is the last stable offset once the marker was there: transactions that are aborted later begin at or above it.
	stable int64
}

// addAborted adds the newest one.
func (f *fold) addAborted(a abortedTxn) {
	if len(f.aborted) >= f.most { // not on a replica that has led ever since: see judgeTxn
		f.aborted = slices.Clone(f.aborted[max(f.most/lostShare, 1):])
		f.lost = a.last
		if len(f.aborted) > 0 {
			f.lost = f.aborted[0].last
		}
	}
	f.aborted = append(f.aborted, a)
}

// trim drops what ends below an offset, where the segments begin or what is not deleted.
func (f *fold) trim(to int64) {
	f.trimmed = max(f.trimmed, to)
	if f.lost <= to {
		f.lost = 0
	}
	n := sort.Search(len(f.aborted), func(i int) bool { return f.aborted[i].last >= to })
	switch {
	case n == len(f.aborted):
		f.aborted = nil
	case n > 0:
		f.aborted = slices.Clone(f.aborted[n:])
	}
}

// abortedIn are the aborted transactions that have records in [from, to), in order of their first offsets, as far as the index has them. to is
// at most the last stable offset of some moment: what was aborted since begins above it.
func (f *fold) abortedIn(from, to int64) []AbortedTxn {
	out := []AbortedTxn{}
	i := sort.Search(len(f.aborted), func(i int) bool { return f.aborted[i].last >= from })
	for ; i < len(f.aborted); i++ {
		a := &f.aborted[i]
		if a.first < to {
			out = append(out, AbortedTxn{ProducerID: a.producer, First: a.first})
		}
		if a.stable >= to {
			break
		}
	}
	sortAborted(out)
	return out
}

func sortAborted(txns []AbortedTxn) {
	slices.SortFunc(txns, func(a, b AbortedTxn) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.ProducerID, b.ProducerID))
	})
}

// mostAborted is how many entries the index has room for.
func (m *machine) mostAborted() int { return cmp.Or(m.r.cfg.maxAborted, maxAborted) }

// abortedPress reports that the index fills, so that compaction should not wait for more that is dirty: it would not help then.
func (r *Replica) abortedPress() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.m != nil && r.abortedTxns >= r.m.mostAborted()/pressingShare
}

// forgetCleaned drops the entries that end below the segments.
func (m *machine) forgetCleaned() {
	if len(m.fold.aborted) == 0 && m.fold.lost == 0 {
		return
	}
	end := int64(m.log.CleanedEnd())
	if end <= m.fold.trimmed {
		return
	}
	m.look.Lock()
	m.fold.trim(end)
	n := len(m.fold.aborted)
	m.look.Unlock()
	m.r.mu.Lock()
	if m.r.m == m {
		m.r.abortedTxns = n
	}
	m.r.mu.Unlock()
}

var (
	// errTrimmed: what was read is deleted meanwhile, and with it the word on what of it was aborted.
	errTrimmed = errors.New("partition: the start has moved past what was read")
	// errForgotten: what was read is cleaned meanwhile, and with it the word on what of it was aborted.
	errForgotten = errors.New("partition: compaction has moved past what was read")
)

// abortedIn are the aborted transactions that batches, read from offset on, have records of.
func (m *machine) abortedIn(batches [][]byte, from int64) ([]AbortedTxn, error) {
	if len(batches) == 0 {
		return []AbortedTxn{}, nil
	}
	to := protocol.Batch(batches[len(batches)-1]).NextOffset()
	m.look.RLock()
	start, trimmed, lost := m.fold.start, m.fold.trimmed, m.fold.lost
	out := m.fold.abortedIn(max(from, lost), to)
	m.look.RUnlock()
	switch {
	case from < start:
		return nil, errTrimmed
	case from < trimmed:
		return nil, errForgotten
	case from >= lost:
		return out, nil
	}
	found, _, err := m.recall(from, to, lost, func(int64) bool { return false }, func(int) error { return nil })
	if err != nil {
		return nil, err
	}
	for _, a := range found {
		out = append(out, AbortedTxn{ProducerID: a.producer, First: a.first})
	}
	sortAborted(out)
	return out, nil
}

// recall finds, by reading the log, the aborted transactions that have records or the marker in [from, to) and end below lost, in order of their markers; as
// the first offset of each that of the first batch from the one at from on. Once it has as many as an index has room for it asks whether that will do: the
// outcome of what lies below known is known then, with what the index has.
func (m *machine) recall(from, to, lost int64, enough func(known int64) bool, pace func(int) error) (found []abortedTxn, known int64, err error) {
	open := make(map[int64]int64) // by producer, the first offset of what is not decided yet
	at, ask := from, m.mostAborted()
	for at < lost && (at < to || len(open) > 0) {
		batches, err := m.log.ReadOffsets(segment.Offset(at), math.MaxUint64, recallChunk) // what lies below lost is applied
		if err != nil {
			return nil, 0, fmt.Errorf("look for aborted transactions at %d: %w", at, err)
		}
		if len(batches) == 0 {
			return nil, 0, fmt.Errorf("partition: look for aborted transactions: the log ends at %d, below %d", at, lost)
		}
		for _, raw := range batches {
			if err := pace(len(raw)); err != nil {
				return nil, 0, err
			}
			b, err := protocol.ParseBatch(raw)
			if err != nil {
				return nil, 0, fmt.Errorf("look for aborted transactions at %d: %w", at, err)
			}
			base := b.BaseOffset()
			if at = b.NextOffset(); base >= lost {
				break // the index has it
			}
			first, is := open[b.ProducerID()]
			switch {
			case b.Control():
				if !is && base < to {
					first, is = base, true // clients count their markers
				}
				if marker, err := b.Marker(); is && err == nil && !marker.Commit {
					found = append(found, abortedTxn{producer: b.ProducerID(), first: first, last: base})
				}
				if delete(open, b.ProducerID()); len(found) >= ask {
					known := at
					for _, first := range open {
						known = min(known, first)
					}
					if enough(known) {
						return found, known, nil
					}
					ask += ask/lostShare + 1
				}
			case b.Transactional() && !is && base < to:
				open[b.ProducerID()] = base
			}
		}
	}
	return found, math.MaxInt64, nil
}

// recallAborted finds what the index has lost and compaction needs; as recall does. lost is from where on the index lacked none.
func (m *machine) recallAborted(enough func(known int64) bool, pace func(int) error) (found []abortedTxn, known, lost int64, err error) {
	m.look.RLock()
	lost = m.fold.lost
	m.look.RUnlock()
	if lost == 0 {
		return nil, math.MaxInt64, 0, nil
	}
	if pace == nil {
		pace = func(int) error { return nil }
	}
	if found, known, err = m.recall(int64(m.log.CleanedEnd()), lost, lost, enough, pace); errors.Is(err, segment.ErrOffsetOutOfRange) {
		err = fmt.Errorf("%w: %w", segment.ErrOvertaken, err)
	}
	return found, known, lost, err
}

// abortedBelow says which batches below the offset, all of which are stable, transactions wrote that were aborted. recalled is what the index
// had lost below lost; if it has lost more since, nobody knows that, and it would be cleaned as if it were committed.
func (m *machine) abortedBelow(offset int64, recalled []abortedTxn, lost int64) (func(protocol.Batch) bool, error) {
	byProducer := make(map[int64][]abortedTxn)
	for _, a := range recalled {
		byProducer[a.producer] = append(byProducer[a.producer], a)
	}
	m.look.RLock()
	defer m.look.RUnlock()
	if m.fold.lost > lost {
		return nil, fmt.Errorf("%w: aborted transactions were lost meanwhile", segment.ErrOvertaken)
	}
	for _, a := range m.fold.aborted {
		if a.first < offset {
			byProducer[a.producer] = append(byProducer[a.producer], a)
		}
	}
	return func(b protocol.Batch) bool {
		txns := byProducer[b.ProducerID()] // one after the other
		i := sort.Search(len(txns), func(i int) bool { return txns[i].last > b.BaseOffset() })
		return i < len(txns) && txns[i].first <= b.BaseOffset()
	}, nil
}
