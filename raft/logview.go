// The log as the core sees it: what its owner holds, overlaid by the entries not handed out yet.

package raft

import "errors"

// handedLast is the last index that the log's owner has, or has just been handed and appends before it calls again.
func (r *Raft) handedLast() Index {
	if len(r.pending) > 0 {
		return min(r.last, r.pending[0].Index-1)
	}
	return r.last
}

// termAt is the term of the entry at i; ok is false where the log does not reach, or where it cannot be read, which is
// noted for the next Ready.
func (r *Raft) termAt(i Index) (t Term, ok bool) {
	if i > r.last {
		return 0, false
	}
	if len(r.pending) > 0 && i >= r.pending[0].Index {
		return r.pending[i-r.pending[0].Index].Term, true
	}
	t, err := r.log.Term(i)
	if err != nil {
		r.noteLogError(err)
		return 0, false
	}
	return t, true
}

func (r *Raft) noteLogError(err error) {
	if r.logErr == nil && !errors.Is(err, ErrCompacted) && !errors.Is(err, ErrUnavailable) {
		r.logErr = err
	}
}

// entries returns some entries from lo on, at least one if there is any, within maxBytes after the first.
func (r *Raft) entries(lo Index, maxBytes int) ([]Entry, error) {
	if lo > r.last {
		return nil, nil
	}
	if len(r.pending) == 0 || lo < r.pending[0].Index {
		return r.log.Entries(lo, r.handedLast()+1, maxBytes)
	}
	return within(r.pending[lo-r.pending[0].Index:], maxBytes), nil
}

// within is the first of es, and as many after it as fit into maxBytes with it.
func within(es []Entry, maxBytes int) []Entry {
	n, size := 0, 0
	for n < len(es) {
		if size += es[n].Size(); n > 0 && size > maxBytes {
			break
		}
		n++
	}
	return es[:n:n]
}

// appendEntries puts es, which are consecutive and do not change any more, at their place, cutting off what stands there. The cut is never at or
// below commit, nor below what this term's leader was seen to share: callers have checked, and if they have not, going
// on would lose acknowledged data.
func (r *Raft) appendEntries(es []Entry) {
	first := es[0].Index
	if first <= r.commit || first > r.last+1 {
		panic("raft: append would cut committed entries or leave a gap")
	}
	if first <= r.last {
		r.truncTerm = r.term
		r.stable = min(r.stable, first-1)
		for r.confs[len(r.confs)-1].index >= first { // confs[0] is at or below applied, hence below first
			r.confs = r.confs[:len(r.confs)-1]
			r.changed = true
		}
	}
	switch {
	case len(r.pending) == 0 || first <= r.pending[0].Index:
		r.pending = es[:len(es):len(es)]
	default:
		// Messages on their way out may share the array: never write over what they hold.
		k := int(first - r.pending[0].Index)
		if k < len(r.pending) {
			r.pending = r.pending[:k:k]
		}
		r.pending = append(r.pending, es...)
	}
	r.last, r.lastTerm = es[len(es)-1].Index, es[len(es)-1].Term
	for i := range es {
		if es[i].Type == EntryConfig {
			c, err := decodeEntryConf(&es[i])
			if err != nil {
				panic("raft: undecodable membership got past its checks: " + err.Error())
			}
			r.confs = append(r.confs[:len(r.confs):len(r.confs)], confAt{es[i].Index, c})
			r.confChanged()
		}
	}
}

// findConflict returns the largest index at or below i whose term is at most t, and its term: where the logs may agree,
// seen from the side that does not have the other's (§5.3, one term per round trip instead of one entry). It stops at
// floor, below which there is no need, or no means, to look.
func (r *Raft) findConflict(i Index, t Term, floor Index) (Index, Term) {
	// Terms never fall along a log, so that a search in halves finds it, however long the log is.
	lo, hi := floor, max(floor, min(i, r.last))
	for lo < hi {
		mid := lo + (hi-lo+1)/2
		if mine, ok := r.termAt(mid); ok && mine > t {
			hi = mid - 1
		} else if ok {
			lo = mid
		} else {
			return mid, 0 // compacted or unreadable: the leader's side then sends a snapshot, or tries again
		}
	}
	mine, _ := r.termAt(lo)
	return lo, mine
}
