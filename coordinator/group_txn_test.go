package coordinator

import (
	"testing"
	"time"

	"github.com/balsamq/balsa/protocol"
)

// marker writes a transaction's end into the log, and tells the coordinator as the append's answer would.
func (h *groupHarness) marker(producer int64, commit bool) {
	l := h.log
	l.mu.Lock()
	b := protocol.BuildMarker(producer, 1, protocol.Marker{Commit: commit, CoordinatorEpoch: 1}, h.now.UnixMilli())
	b.SetBaseOffset(l.next)
	at, epoch := l.next, l.epoch
	l.next = b.NextOffset()
	l.batches = append(l.batches, b)
	l.mu.Unlock()
	h.c.TxnEnded(0, epoch, producer, commit, at)
}

func (h *groupHarness) commitTxn(producer int64, group string, offset int64, r CommitRequest) *answer[error] {
	a := newAnswer[error](h.t)
	r.Group, r.Retention, r.Transactional = group, -1, true
	r.Offsets = []CommittedOffset{{Topic: "t", Partition: 0, Offset: offset, LeaderEpoch: -1}}
	h.c.CommitTxn(&r, TxnProducer{TransactionalID: "tx", ID: producer, Epoch: 0}, func(_ []error, err error) { a.set(err) })
	return a
}

var outside = CommitRequest{Generation: -1}

// offset is what is committed, and whether a transaction may change it.
func (h *groupHarness) offset(group string) (int64, bool) {
	h.t.Helper()
	a := newAnswer[CommittedOffset](h.t)
	h.c.FetchOffsets(group, []TopicPartition{{"t", 0}}, false, func(o []CommittedOffset, err error) {
		if err != nil {
			h.t.Fatalf("fetch: %v", err)
		}
		a.set(o[0])
	})
	return a.get().Offset, a.get().Unstable
}

func (h *groupHarness) wantOffset(what string, want int64, unstable bool) {
	h.t.Helper()
	if o, u := h.offset("g"); o != want || u != unstable {
		h.t.Fatalf("%s: offset %d (unstable %v), want %d (%v)", what, o, u, want, unstable)
	}
}

func TestOffsetsOfTransactions(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	h.log.waitForCommit()
	a := h.commitTxn(7, "g", 10, outside)
	h.wantOffset("on its way to the log", -1, true)
	h.log.commit()
	h.want(a.get(), nil)
	h.wantOffset("pending", -1, true)
	h.want(h.commitTxn(7, "g", 11, outside).get(), nil)
	h.want(h.commitTxn(8, "g", 12, outside).get(), nil)
	h.move()
	h.wantOffset("pending, after a load", -1, true)
	h.marker(9, true) // somebody else's
	h.marker(7, true)
	h.wantOffset("one committed, one pending", 11, true)
	h.marker(8, false)
	h.wantOffset("the other aborted", 11, false)
	h.move()
	h.wantOffset("after a load", 11, false)
	h.marker(7, true) // of a transaction that committed no offsets
	h.wantOffset("again", 11, false)

	// A plain commit outlives an earlier one that was still pending.
	h.want(h.commitTxn(7, "g", 20, outside).get(), nil)
	b := newAnswer[error](t)
	h.c.Commit(&CommitRequest{Group: "g", Generation: -1, Retention: -1, Offsets: []CommittedOffset{{Topic: "t", Offset: 30, LeaderEpoch: -1}}},
		func(_ []error, err error) { b.set(err) })
	h.want(b.get(), nil)
	h.wantOffset("a plain commit beside", 30, true)
	h.marker(7, true)
	h.wantOffset("the earlier one, late", 30, false)
	h.move()
	h.wantOffset("after a load", 30, false)

	// All offsets, also those that are only pending.
	h.want(h.commitTxn(7, "new", 5, outside).get(), nil)
	all := newAnswer[[]CommittedOffset](t)
	h.c.FetchOffsets("new", nil, true, func(o []CommittedOffset, err error) { all.set(o) })
	if o := all.get(); len(o) != 1 || !o[0].Unstable || o[0].Offset != -1 {
		t.Fatalf("%+v", o)
	}
	d := newAnswer[error](t)
	h.c.DeleteGroup("new", d.set)
	h.want(d.get(), ErrGroupNotEmpty)
	h.marker(7, false)
	if groups, err := h.c.List(); err != nil || len(groups) != 1 {
		t.Fatalf("an aborted transaction leaves a group behind: %v %v", groups, err)
	}
}

// Who commits is checked as for plain commits (KIP-447), and a refused batch leaves nothing.
func TestOffsetsOfTransactionsAreChecked(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	h.want(h.commitTxn(7, "g", 1, CommitRequest{Generation: 3, MemberID: "m"}).get(), ErrIllegalGeneration)
	h.log.fail(ErrCoordinatorUnavailable)
	h.want(h.commitTxn(7, "g", 1, outside).get(), ErrCoordinatorUnavailable)
	h.wantOffset("refused", -1, false)
	if groups, err := h.c.List(); err != nil || len(groups) != 0 {
		t.Fatalf("a refused commit leaves a group behind: %v %v", groups, err)
	}
	h.log.fail(nil)
	ids, gen := h.stable(1)
	h.want(h.commitTxn(7, "g", 1, CommitRequest{Generation: gen, MemberID: "stranger"}).get(), ErrUnknownMember)
	h.want(h.commitTxn(7, "g", 1, CommitRequest{Generation: gen - 1, MemberID: ids[0]}).get(), ErrIllegalGeneration)
	h.want(h.commitTxn(7, "g", 1, CommitRequest{Generation: gen, MemberID: ids[0]}).get(), nil)
	h.want(h.commitTxn(8, "g", 2, outside).get(), nil) // a producer of before KIP-447 says nothing of a member
}

// A marker that comes while a shard loads is not lost, whether the load has passed its place or not.
func TestMarkersWhileLoading(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	h.want(h.commitTxn(7, "g", 1, outside).get(), nil)
	h.log.mu.Lock()
	h.log.block = make(chan struct{})
	block := h.log.block
	h.log.mu.Unlock()
	h.log.depose()
	old := h.c
	h.c = NewGroups(h.cfg)
	h.c.Lead(0, h.log.epoch, &epochLog{h.log, h.log.epoch})
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	h.marker(7, true)
	h.log.mu.Lock()
	h.log.block = nil
	h.log.mu.Unlock()
	close(block)
	h.loaded()
	h.wantOffset("committed while loading", 1, false)
	h.advance(time.Hour)
	h.wantOffset("later", 1, false)
}
