// What comes from outside must never hurt: any sequence of messages, however wrong, leaves a replica whose own promises
// hold, and never panics.

package raft

import (
	"encoding/binary"
	"testing"
)

// fuzzSource reads small numbers, mostly near what matters, from the fuzzer's bytes.
type fuzzSource struct{ b []byte }

func (f *fuzzSource) byte() byte {
	if len(f.b) == 0 {
		return 0
	}
	v := f.b[0]
	f.b = f.b[1:]
	return v
}

// num is a number below 16 most of the time, and now and then one at the edges of its type.
func (f *fuzzSource) num() uint64 {
	switch v := f.byte(); {
	case v < 240:
		return uint64(v % 16)
	case v < 248:
		return 1<<uint(v%64) - uint64(v%2)
	default:
		var w [8]byte
		copy(w[:], f.b)
		f.b = f.b[min(8, len(f.b)):]
		return binary.LittleEndian.Uint64(w[:])
	}
}

func (f *fuzzSource) members() []Member {
	var ms []Member
	for range f.byte() % 5 {
		ms = append(ms, Member{NodeID(f.num()), Incarnation(f.num())})
	}
	return ms
}

func (f *fuzzSource) message(r *Raft) Message {
	m := Message{
		Type: MessageType(f.byte() % 13), Group: testGroup, From: NodeID(f.num()), To: 1,
		Term: Term(f.num()), LogTerm: Term(f.num()), Index: Index(f.num()), Commit: Index(f.num()), RejectHint: Index(f.num()),
		Round: f.num(), SentAt: Time(f.num()), FromBoot: uint64(f.byte() % 3),
	}
	flags := f.byte()
	m.Reject, m.Force, m.Lost = flags&1 != 0, flags&2 != 0, uint64(flags>>6)
	if flags&4 != 0 { // often the current term, often a member's true incarnation
		m.Term = r.term
	}
	if flags&8 != 0 {
		m.FromIncarnation = Incarnation(100 + m.From)
	}
	if flags&16 != 0 { // continues the log
		m.Index, m.LogTerm = r.last, r.lastTerm
	}
	for i := range f.byte() % 6 {
		e := Entry{Term: Term(f.num()), Index: m.Index + 1 + Index(i), Type: EntryType(f.byte() % 7)}
		if flags&32 != 0 {
			e.Term = m.Term
		}
		if e.Type == EntryConfig && flags&64 != 0 {
			e.Payload = AppendConfState(nil, &ConfState{Voters: f.members(), Outgoing: f.members(), Learners: f.members()})
		}
		if f.byte() == 255 {
			e.Index = Index(f.num())
		}
		m.Entries = append(m.Entries, e)
	}
	if flags&128 != 0 {
		m.Snapshot = &Snapshot{Meta: SnapshotMeta{Index: Index(f.num()), Term: Term(f.num()), Conf: ConfState{Voters: f.members()}}}
	}
	return m
}

func FuzzStep(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x05\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x01\x18\x03\x01\x01\x01\x01\x02\x01"))
	for s := range byte(24) { // longer seeds of all kinds
		b := make([]byte, 600)
		x := uint32(s)*2654435761 + 1
		for i := range b {
			x = x*1664525 + 1013904223
			b[i] = byte(x >> 24)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		src := &fuzzSource{data}
		c := newCluster(1)
		n := c.add(1, ConfState{Voters: members(1, 2, 3), Learners: members(4)}, true)
		if src.byte()%2 == 0 { // a leader
			n.r.Campaign(n.now())
			n.process()
			_ = n.r.Step(n.now(), &Message{Type: MsgPreVoteResp, Group: testGroup, From: 2, To: 1, Term: 1, FromIncarnation: 102})
			n.process()
			for n.syncHardState() {
				n.process()
			}
			_ = n.r.Step(n.now(), &Message{Type: MsgVoteResp, Group: testGroup, From: 2, To: 1, Term: 1, FromIncarnation: 102})
			if n.r.role != Leader {
				t.Fatal("setup: no leader")
			}
		}
		n.autoSnap = src.byte()%2 == 0
		for range 200 {
			if len(src.b) == 0 {
				break
			}
			term, commit, applied, vote := n.r.term, n.r.commit, n.r.applied, n.r.vote
			switch src.byte() % 16 {
			case 0:
				c.now += Time(src.byte()) * Time(testHB) / 16
				n.tick()
			case 1:
				n.process()
			case 2:
				n.syncLog()
			case 3:
				n.syncHardState()
			case 4:
				_ = n.propose("x")
			case 5:
				_, _ = n.r.ProposeConf(n.now(), ConfChange{Steps: []ConfStep{{ConfOp(src.byte() % 6), Member{ID: NodeID(src.num())}}}, Joint: src.byte()%2 == 0})
				_, _ = n.r.ProposeConf(n.now(), ConfChange{Revert: src.byte()%4 == 0})
			case 6:
				_ = n.r.ReadIndex(n.now(), 1)
			case 7:
				_ = n.r.Transfer(n.now(), NodeID(src.num()))
			case 8:
				n.snapshotAndCompact(Index(src.byte() % 4))
			case 9:
				n.r.SetCovered(n.now(), NodeID(src.num()), src.byte()%2 == 0)
				n.r.SetResting(n.now(), src.byte()%2 == 0)
			case 10:
				n.r.SetPriorities(n.now(), []NodePriority{{NodeID(src.num()), Priority(src.byte() % 5)}, {NodeID(src.num()), Priority(src.byte() % 5)}})
				n.r.SetImpaired(n.now(), src.byte()%2 == 0)
			case 11:
				n.r.Resign(n.now())
			default:
				m := src.message(n.r)
				_ = n.r.Step(n.now(), &m)
			}
			r := n.r
			if r.term < term || r.commit < commit || r.applied < applied || r.term == term && vote != 0 && r.vote != vote {
				t.Fatalf("went back: term %d→%d commit %d→%d applied %d→%d vote %d→%d", term, r.term, commit, r.commit, applied, r.applied, vote, r.vote)
			}
			if r.commit > r.last || r.applied > r.commit || r.stable > r.last || r.matched > r.last || r.term > MaxTerm {
				t.Fatalf("out of bounds: %+v matched %d", r.Status(), r.matched)
			}
			_, _, _ = r.Deadline(), r.LeaseUntil(), r.Peers()
		}
		n.process()
	})
}

func FuzzDecodeConfState(f *testing.F) {
	f.Add(AppendConfState(nil, &ConfState{Voters: members(1, 2, 3), Outgoing: members(1, 2), Learners: members(9)}))
	f.Add([]byte{1, 0, 0, 0})
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeConfState(b)
		if err != nil {
			return
		}
		again, err := DecodeConfState(AppendConfState(nil, &c))
		if err != nil || !again.Equal(&c) {
			t.Fatalf("%v: %v, %v", c, again, err)
		}
	})
}
