// A replica that has lost its log under its own name: what its leader may tell it, and when (Raft.told).

package raft

import "testing"

// lostFollower is replica 3 of a group of three after the loss of its log, in its second start and in term 5.
func lostFollower(t *testing.T) *memNode {
	t.Helper()
	n := newCluster(1).add(3, ConfState{Voters: members(1, 2, 3)}, false)
	n.disk, n.voteAfter = HardState{Term: 5, Vote: 1}, UntilTold
	n.start(false)
	if n.boot != 2 || n.r.Status().VoteAfter != UntilTold {
		t.Fatalf("boot %d, %+v", n.boot, n.r.Status())
	}
	return n
}

// quieten does all that needs no message, and returns what was sent.
func (n *memNode) quieten() []Message {
	n.process()
	for n.syncHardState() || n.syncLog() {
		n.process()
	}
	out := n.c.net
	n.c.net = nil
	return out
}

func (n *memNode) mustStep(t *testing.T, m Message) {
	t.Helper()
	if err := n.r.Step(n.now(), &m); err != nil {
		t.Fatal(err)
	}
}

func appendFrom1(commit Index, lost uint64, es ...Entry) Message {
	m := msg(MsgApp, 1, 3, 5)
	m.Commit, m.Lost, m.Entries = commit, lost, es
	return m
}

// Only a message that was sent after the leader had heard of this very start tells how far the log went.
func TestLostLogIsToldByWhoKnowsOfTheLoss(t *testing.T) {
	for _, lost := range []uint64{0, 1, 3} {
		n := lostFollower(t)
		n.mustStep(t, appendFrom1(1, lost))
		if s := n.r.Status(); s.VoteAfter != UntilTold {
			t.Errorf("told by a message to start %d: votes after %d", lost, s.VoteAfter)
		}
		asked := false
		for _, m := range n.quieten() {
			asked = asked || m.Type == MsgAppResp && m.Lost == 2
		}
		if !asked {
			t.Error("did not ask")
		}
	}
	n := lostFollower(t)
	n.mustStep(t, appendFrom1(2, 2))
	if s := n.r.Status(); s.VoteAfter != 2 {
		t.Fatalf("told 2, votes after %d", s.VoteAfter)
	}
	// It does not vote before it has all that on its disk.
	n.mustStep(t, appendFrom1(2, 2, Entry{Term: 4, Index: 1, Type: EntryNoop, Frame: []byte{1}}, Entry{Term: 5, Index: 2, Type: EntryNoop, Frame: []byte{1}}))
	if n.r.Status().VoteAfter != 2 {
		t.Error("votes before the entries are durable")
	}
	for _, m := range n.quieten() {
		if m.Lost != 0 {
			t.Errorf("asks again: %s", describe(&m))
		}
	}
	if v := n.r.Status().VoteAfter; v != 0 {
		t.Errorf("has it all, and votes after %d", v)
	}
}

// A leader whose own term has no entry committed does not know what is: it tells nothing yet.
func TestLostLogIsNotToldBeforeOwnTermCommits(t *testing.T) {
	c := newCluster(1)
	conf := ConfState{Voters: members(1, 2, 3)}
	n := c.add(1, conf, true)
	n.r.Campaign(n.now())
	n.quieten()
	n.mustStep(t, msg(MsgPreVoteResp, 2, 1, 1))
	n.quieten()
	n.mustStep(t, msg(MsgVoteResp, 2, 1, 1))
	n.quieten()
	if n.r.role != Leader || n.r.commit >= n.r.termStart {
		t.Fatalf("%+v", n.r.Status())
	}
	answer := msg(MsgHeartbeatResp, 3, 1, 1)
	answer.FromBoot, answer.Lost = 7, 7
	n.mustStep(t, answer)
	for _, m := range n.quieten() {
		if m.Lost != 0 {
			t.Errorf("tells before its own term commits: %s", describe(&m))
		}
	}
	ack := msg(MsgAppResp, 2, 1, 1)
	ack.Index = n.r.termStart
	n.mustStep(t, ack)
	n.mustStep(t, answer)
	told := false
	for _, m := range n.quieten() {
		told = told || m.To == 3 && m.Type == MsgApp && m.Lost == 7 && m.Commit == n.r.commit
	}
	if !told || n.r.commit < n.r.termStart {
		t.Errorf("not told: %+v", n.r.Status())
	}
	ack.From, ack.FromIncarnation, ack.FromBoot, ack.Lost = 3, 103, 7, 7
	n.mustStep(t, ack)
	if _, ok := n.r.Coverable(3); ok {
		t.Error("a replica that waits to be told may not rest")
	}
	ack.Lost = 0
	n.mustStep(t, ack)
	if _, ok := n.r.Coverable(3); !ok {
		t.Error("a replica that was told may rest")
	}
	// A member that left and came back within the term: what it said in an earlier start does not count.
	n.r.confs = append(n.r.confs, confAt{n.r.last, ConfState{Voters: members(1, 2)}})
	n.r.confChanged()
	n.r.confs = append(n.r.confs, confAt{n.r.last, conf})
	n.r.confChanged()
	ack.FromBoot = 6
	if err := n.r.Step(n.now(), &ack); err == nil || n.r.peer(3).Match != 0 {
		t.Errorf("counts what was said before the loss: %v", err)
	}
}
