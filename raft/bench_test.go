package raft

import (
	"math/rand/v2"
	"testing"
	"time"
)

// sliceLog is a log that costs nothing: what the core itself allocates can be counted beside it.
type sliceLog struct{ ents []Entry }

func (l *sliceLog) FirstIndex() Index { return 1 }
func (l *sliceLog) LastIndex() Index  { return Index(len(l.ents)) }
func (l *sliceLog) Term(i Index) (Term, error) {
	if i == 0 {
		return 0, nil
	}
	return l.ents[i-1].Term, nil
}
func (l *sliceLog) Entries(lo, hi Index, maxBytes int) ([]Entry, error) {
	n, size := lo, 0
	for ; n < hi; n++ {
		if size += l.ents[n-1].Size(); n > lo && size > maxBytes {
			break
		}
	}
	return l.ents[lo-1 : n-1 : n-1], nil
}
func (l *sliceLog) LastConfig(upTo Index) (Entry, bool, error) { return Entry{}, false, nil }

// lean is a cluster of three whose disks and network take no time and allocate nothing.
type lean struct {
	nodes   []*Raft
	logs    []*sliceLog
	queue   []Message
	now     Time
	commits Index
	one     [1]Entry
	payload []byte
}

func newLean(tb testing.TB, room int) *lean {
	c := &lean{now: Time(time.Second), queue: make([]Message, 0, 64), payload: make([]byte, 1024)}
	for id := NodeID(1); id <= 3; id++ {
		log := &sliceLog{ents: make([]Entry, 0, room)}
		r, err := New(Config{Group: testGroup, Self: Member{id, Incarnation(100 + id)}, Boot: 1, ElectionTimeout: testET, HeartbeatInterval: testHB, ClockDrift: testDrift,
			MaxMessageBytes: 1 << 20, MaxInflightMsgs: 64, MaxInflightBytes: 8 << 20, MaxUncommitted: 8 << 20, MaxApplyBytes: 1 << 20, Log: log,
			Bootstrap: ConfState{Voters: members(1, 2, 3)}, Now: c.now, Fresh: true, Rand: rand.New(rand.NewPCG(1, uint64(id))),
			FrameInternal: func(e *Entry) { e.Frame = append([]byte{byte(e.Type)}, e.Payload...); e.Payload = e.Frame[1:] }})
		if err != nil {
			tb.Fatal(err)
		}
		c.nodes, c.logs = append(c.nodes, r), append(c.logs, log)
	}
	c.nodes[0].Campaign(c.now)
	c.settle(tb)
	if c.nodes[0].Status().Role != Leader {
		tb.Fatal("node 1 does not lead")
	}
	return c
}

// settle does what all Readys ask for, and delivers, until nothing moves.
func (c *lean) settle(tb testing.TB) {
	for busy := true; busy; {
		busy = false
		for i, r := range c.nodes {
			for {
				rd, ok := r.Ready()
				if !ok {
					break
				}
				busy = true
				if rd.HardState != nil {
					r.HardStateSynced(c.now, *rd.HardState)
				}
				if n := len(rd.Entries); n > 0 {
					c.logs[i].ents = append(c.logs[i].ents[:rd.Entries[0].Index-1], rd.Entries...)
					r.AppendSynced(c.now, Ticket{rd.Term, rd.Entries[n-1].Index})
				}
				c.queue = append(c.queue, rd.Messages...)
				if n := len(rd.Committed); n > 0 {
					r.AppliedTo(rd.Committed[n-1].Index)
					if i == 0 {
						c.commits = rd.Committed[n-1].Index
					}
				}
			}
		}
		for i := range c.queue {
			busy = true
			if err := c.nodes[c.queue[i].To-1].Step(c.now, &c.queue[i]); err != nil {
				tb.Fatal(err)
			}
		}
		c.queue = c.queue[:0]
	}
}

// commit takes an entry from the proposal to the commit on all three.
func (c *lean) commit(tb testing.TB) {
	c.now += Time(time.Microsecond)
	t, i, err := c.nodes[0].NextProposal()
	if err != nil {
		tb.Fatal(err)
	}
	c.one[0] = Entry{Term: t, Index: i, Type: EntryCommand, Payload: c.payload, Frame: c.payload}
	if err := c.nodes[0].Propose(c.now, c.one[:]); err != nil {
		tb.Fatal(err)
	}
	c.settle(tb)
	if c.commits != i {
		tb.Fatalf("committed up to %d, want %d", c.commits, i)
	}
}

// BenchmarkCommit is an entry from the proposal to the commit on all of three replicas: Step and Ready, and nothing else.
func BenchmarkCommit(b *testing.B) {
	c := newLean(b, 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		c.commit(b)
	}
}

// What Step and Ready of three replicas allocate for one entry. Lower the bound with what you save.
func TestCommitAllocations(t *testing.T) {
	c := newLean(t, 4096)
	c.commit(t)
	n := testing.AllocsPerRun(1000, func() { c.commit(t) })
	t.Logf("%v allocations for an entry on three replicas", n)
	if n > 35 {
		t.Errorf("%v allocations for an entry on three replicas, more than 35", n)
	}
}
