// The property test's part about what is wanted no longer, and about snapshots that come from a leader.

package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// prune moves what is wanted on, and cuts. The log may cut behind any snapshot that ends there or below.
func (w *world) prune() {
	if w.rng.IntN(3) > 0 && w.cur.next() > w.forget {
		w.forget += Offset(w.rng.Int64N(int64(w.cur.next()-w.forget) + 1))
		w.log.Forget(w.forget)
	}
	w.note("prune below offset %d", w.forget)
	trim := func(v version, upTo raft.Index) version { return v.from(max(v.first, upTo+1)) }
	m, err := w.log.Prune()
	switch {
	case err == nil && m == nil:
	case err == nil:
		w.count["pruned"]++
		if !slices.ContainsFunc(w.saved, func(c checkpoint) bool { return c.index == m.Index && c.next <= w.forget }) || m.Index < w.cur.first ||
			m.Term != w.cur.term(m.Index) {
			w.failf("cut behind %d of term %d; wanted is offset %d and up, snapshots were taken at %v", m.Index, m.Term, w.forget, w.saved)
		}
		w.late.trim(m.Index)
		w.cur, w.durable = trim(w.cur, m.Index), trim(w.durable, m.Index)
		for i := range w.pending {
			w.pending[i] = trim(w.pending[i], m.Index)
		}
		w.checkBase()
	case w.dead || errors.Is(err, ErrFailed) || strings.Contains(err.Error(), "injected") || errors.Is(err, vfs.ErrNoSpace):
		for _, c := range w.saved {
			for _, p := range w.possibles() {
				if c.next <= w.forget && c.index >= p.v.first && c.index <= p.v.last() && c.index <= w.snap.Meta.Index {
					w.extra = append(w.extra, possible{trim(p.v, c.index), max(p.min, c.index)})
				}
			}
		}
		if !w.dead && w.log.Health().Err == nil {
			w.afterSoftFailure()
		}
	default:
		w.failf("prune: %v", err)
	}
}

// checkBase: a log of records that was cut can always say what its followers begin with.
func (w *world) checkBase() {
	if !w.opt.Checkpoints || w.cur.first == 1 {
		return
	}
	f, err := w.log.OpenSnapshot()
	switch {
	case w.dead || err != nil && (errors.Is(err, ErrFailed) || strings.Contains(err.Error(), "injected")):
		return
	case err != nil:
		w.failf("no snapshot to begin with at %d: %v", w.cur.first, err)
	}
	s := f.Snapshot()
	if s.Meta.Index != w.cur.first-1 || s.Meta.Term != w.cur.prev || f.(*SnapshotFile).next != w.cur.start {
		w.failf("a follower would begin behind %d of term %d, offset %d; the log begins at %d, behind term %d, offset %d", s.Meta.Index, s.Meta.Term,
			f.(*SnapshotFile).next, w.cur.first, w.cur.prev, w.cur.start)
	}
	if err := f.Close(); err != nil && !w.dead {
		w.failf("close: %v", err)
	}
}

// receive takes in the next bytes of a leader's snapshot, and installs it when it is there. Crashes lose at most what was
// not synced, and what is left is gone on with.
func (w *world) receive() {
	if w.coming == nil || w.coming.Meta.Index <= max(w.snap.Meta.Index, w.cur.first) || w.rng.IntN(10) == 0 {
		w.coming, w.came = w.leadersSnapshot(), 0
	}
	s := *w.coming
	s.Data = nil
	got, err := w.log.ReceiveSnapshot(&s)
	if err != nil {
		if !w.lost(err) {
			w.failf("receive: %v", err)
		}
		return
	}
	w.note("receive snapshot at %d, %d of %d bytes are here", s.Meta.Index, got, s.Size)
	if got > w.came {
		w.failf("%d bytes of the snapshot are said to be here, %d were written", got, w.came)
	}
	if got > 0 && w.came == got {
		w.count["resumed"]++
	}
	for range 1 + w.rng.IntN(4) {
		n := min(1+w.rng.Int64N(64), s.Size-got)
		w.came = max(w.came, got+n)
		if err := w.log.WriteSnapshot(got, w.coming.Data[got:got+n]); err != nil {
			if !w.lost(err) {
				w.failf("receive at %d: %v", got, err)
			}
			return
		}
		got += n
	}
	if got < s.Size {
		return
	}
	w.count["received whole"]++
	w.install(s, w.coming.Data)
	if !w.dead {
		w.coming = nil
	}
}

// lost: receiving has failed as it may.
func (w *world) lost(err error) bool {
	return w.dead || errors.Is(err, ErrFailed) || strings.Contains(err.Error(), "injected") || errors.Is(err, vfs.ErrNoSpace)
}

// receiveWhole takes a snapshot in at once; false if that failed, which leaves the log as it was.
func (w *world) receiveWhole(s raft.Snapshot, data []byte) bool {
	s.Data = nil
	got, err := w.log.ReceiveSnapshot(&s)
	if err == nil && got < s.Size {
		err = w.log.WriteSnapshot(got, data[got:])
	}
	if err != nil && !w.lost(err) {
		w.failf("receive: %v", err)
	}
	return err == nil
}

func (w *world) installSnapshot() {
	if s := w.leadersSnapshot(); w.receiveWhole(*s, s.Data) {
		w.install(*s, s.Data)
	}
}

// leadersSnapshot makes one that is not behind what is committed here.
func (w *world) leadersSnapshot() *raft.Snapshot {
	w.term++
	i := w.cur.last() + raft.Index(w.rng.IntN(20))
	if w.rng.IntN(3) == 0 && w.cur.last() > w.snap.Meta.Index { // a diverged log: the snapshot is shorter
		i = w.snap.Meta.Index + raft.Index(w.rng.Uint64N(uint64(w.cur.last()-w.snap.Meta.Index)))
	}
	i = max(i, w.snap.Meta.Index+1, w.cur.first) // an index and a group name one state: never another one at the same index
	next := w.cur.start + Offset(w.rng.IntN(100))
	w.serial++
	st := logState{next: next, epochs: []epoch{{w.term, i, next}}, state: binary.AppendUvarint(bytes.Repeat([]byte("leader's state"), 1+w.rng.IntN(40)), w.serial)}
	s := &raft.Snapshot{Meta: raft.SnapshotMeta{Index: i, Term: w.term}, Data: st.encode(testGroup)}
	s.Size, s.Sum = int64(len(s.Data)), snapshotSum(testGroup, s.Data)
	return s
}

func (w *world) install(s raft.Snapshot, data []byte) {
	st, err := decodeLogState(testGroup, data)
	if err != nil {
		w.failf("the leader's snapshot: %v", err)
	}
	w.note("install snapshot at %d, term %d", s.Meta.Index, s.Meta.Term)
	w.term = max(w.term, s.Meta.Term)
	s.Data = nil
	state, err := w.log.InstallSnapshot(&s)
	s.Data = data
	v := version{first: s.Meta.Index + 1, prev: s.Meta.Term, start: st.next}
	switch {
	case err == nil:
		if !bytes.Equal(state, st.state) {
			w.failf("install returned state %q", state)
		}
		w.snap, w.cur = s, v
		w.saved = append(w.saved, checkpoint{s.Meta.Index, st.next})
		w.synced()
		w.checkBase()
	case w.dead || errors.Is(err, ErrFailed) || errors.Is(err, vfs.ErrNoSpace):
		w.extra = append(w.extra, possible{v, s.Meta.Index})
		w.snapAlt = append(w.snapAlt, s)
		w.saved = append(w.saved, checkpoint{s.Meta.Index, st.next})
		if !w.dead && w.log.Health().Err == nil {
			w.snapAlt, w.extra = nil, nil // said to have changed nothing
		}
	default:
		w.failf("install snapshot: %v", err)
	}
}
