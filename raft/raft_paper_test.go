// Tests named after the paragraphs of the Raft paper (extended version) that they hold the code to. What a whole cluster is
// needed for is in random_test.go, what is best read as a conversation in testdata/.

package raft

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// paperCluster is three voters with empty logs.
func paperCluster(t *testing.T, ids ...NodeID) *cluster {
	t.Helper()
	if len(ids) == 0 {
		ids = []NodeID{1, 2, 3}
	}
	c := newCluster(7)
	for _, id := range ids {
		c.add(id, ConfState{Voters: members(ids...)}, true)
	}
	return c
}

func (c *cluster) elect(t *testing.T, id NodeID) *memNode {
	t.Helper()
	n := c.node(id)
	n.r.Campaign(n.now())
	if !c.stabilize() || n.r.role != Leader {
		t.Fatalf("node %d is not elected: %+v", id, n.r.Status())
	}
	return n
}

func msg(t MessageType, from, to NodeID, term Term) Message {
	return Message{Type: t, Group: testGroup, From: from, FromIncarnation: Incarnation(100 + from), To: to, Term: term, FromBoot: 1}
}

// sent returns the messages of a type that left since the last call.
func (c *cluster) sent(typ MessageType) []Message {
	var out []Message
	for _, m := range c.net {
		if m.Type == typ {
			out = append(out, m)
		}
	}
	c.net = nil
	return out
}

// settle processes a node's Ready and all its syncs.
func (n *memNode) settle() {
	n.process()
	for n.syncHardState() || n.syncLog() {
		n.process()
	}
}

// §5.1: "if one server's current term is smaller than the other's, then it updates its current term to the larger value. If a
// candidate or leader discovers that its term is out of date, it immediately reverts to follower state."
func TestPaper_5_1_UpdateTermFromMessage(t *testing.T) {
	for _, role := range []Role{Follower, Candidate, Leader} {
		c := paperCluster(t)
		n := c.node(1)
		switch role {
		case Candidate:
			n.r.campaign(true)
		case Leader:
			c.elect(t, 1)
		}
		if n.r.role != role {
			t.Fatalf("setup: %v", n.r.role)
		}
		m := msg(MsgApp, 2, 1, 9)
		if err := n.r.Step(n.now(), &m); err != nil {
			t.Fatal(err)
		}
		if n.r.role != Follower || n.r.term != 9 || n.r.leader != 2 {
			t.Errorf("%v: %+v", role, n.r.Status())
		}
	}
}

// §5.1: "If a server receives a request with a stale term number, it rejects the request."
func TestPaper_5_1_RejectStaleTerm(t *testing.T) {
	c := paperCluster(t)
	n := c.node(1)
	m := msg(MsgApp, 2, 1, 5)
	m.Entries = []Entry{{Term: 5, Index: 1, Type: EntryCommand}}
	if err := n.r.Step(n.now(), &m); err != nil {
		t.Fatal(err)
	}
	n.settle()
	c.net = nil
	old := msg(MsgApp, 3, 1, 4)
	old.Entries = []Entry{{Term: 4, Index: 1, Type: EntryCommand, Payload: []byte("old")}}
	if err := n.r.Step(n.now(), &old); err != nil {
		t.Fatal(err)
	}
	n.settle()
	if term, _ := n.log.Term(1); term != 5 {
		t.Errorf("entry 1 is of term %d", term)
	}
	if out := c.sent(MsgAppResp); len(out) != 1 || out[0].To != 3 || out[0].Term != 5 || !out[0].Reject {
		t.Errorf("answer %+v", out)
	}
}

// §5.2: "When servers start up, they begin as followers."
func TestPaper_5_2_StartAsFollower(t *testing.T) {
	if n := paperCluster(t).node(1); n.r.role != Follower || n.r.term != 0 || n.r.leader != 0 {
		t.Errorf("%+v", n.r.Status())
	}
}

// §5.2: "Leaders send periodic heartbeats to all followers in order to maintain their authority."
func TestPaper_5_2_LeaderSendsHeartbeats(t *testing.T) {
	c := paperCluster(t)
	l := c.elect(t, 1)
	for range 3 {
		if d := l.r.Deadline(); d > l.now()+Time(testHB) {
			t.Fatalf("next heartbeat in %d", d-l.now())
		}
		c.now += Time(testHB)
		l.tick()
		l.process()
		to := []NodeID{}
		for _, m := range c.sent(MsgHeartbeat) {
			to = append(to, m.To)
		}
		if !slices.Equal(to, []NodeID{2, 3}) {
			t.Errorf("heartbeats to %v", to)
		}
		c.stabilize()
	}
}

// §5.2: "If a follower receives no communication over a period of time called the election timeout, then it … begins an
// election": it "increments its current term and transitions to candidate state. It then votes for itself and issues
// RequestVote RPCs in parallel to each of the other servers". Here a pre-vote comes first (thesis 9.6).
func TestPaper_5_2_ElectionTimeoutStartsElection(t *testing.T) {
	c := paperCluster(t)
	n := c.node(1)
	c.now = n.r.Deadline() - 1
	n.tick()
	if n.r.role != Follower {
		t.Fatal("campaigns before its deadline")
	}
	c.now++
	n.tick()
	n.settle()
	if n.r.role != PreCandidate || n.r.term != 0 {
		t.Fatalf("%+v", n.r.Status())
	}
	if out := c.sent(MsgPreVote); len(out) != 2 || out[0].Term != 1 {
		t.Fatalf("%+v", out)
	}
	resp := msg(MsgPreVoteResp, 2, 1, 1)
	if err := n.r.Step(n.now(), &resp); err != nil {
		t.Fatal(err)
	}
	n.settle()
	if n.r.role != Candidate || n.r.term != 1 || n.r.vote != 1 || n.disk != (HardState{Term: 1, Vote: 1}) {
		t.Fatalf("%+v, on disk %+v", n.r.Status(), n.disk)
	}
	if out := c.sent(MsgVote); len(out) != 2 || out[0].Term != 1 {
		t.Fatalf("%+v", out)
	}
}

// §5.2: "A candidate wins an election if it receives votes from a majority of the servers in the full cluster for the same
// term."
func TestPaper_5_2_MajorityWins(t *testing.T) {
	for _, tc := range []struct {
		size, yes, no int
		want          Role
	}{
		{1, 0, 0, Leader}, {3, 0, 0, Candidate}, {3, 1, 0, Leader}, {3, 0, 1, Candidate}, {3, 0, 2, Follower}, {3, 1, 1, Leader},
		{5, 1, 0, Candidate}, {5, 2, 0, Leader}, {5, 1, 2, Candidate}, {5, 1, 3, Follower}, {5, 2, 2, Leader},
		{4, 1, 0, Candidate}, {4, 2, 0, Leader}, {4, 1, 2, Follower},
	} {
		var ids []NodeID
		for i := range tc.size {
			ids = append(ids, NodeID(i+1))
		}
		c := paperCluster(t, ids...)
		n := c.node(1)
		n.r.campaign(true)
		n.settle()
		from := NodeID(2)
		for k := range tc.yes + tc.no {
			m := msg(MsgVoteResp, from, 1, 1)
			m.Reject = k >= tc.yes
			from++
			for range 2 { // a repeated answer counts once
				if err := n.r.Step(n.now(), &m); err != nil && n.r.role != Leader {
					t.Fatal(err)
				}
			}
		}
		if n.r.role != tc.want {
			t.Errorf("%d voters, %d yes, %d no: %v, want %v", tc.size, tc.yes, tc.no, n.r.role, tc.want)
		}
	}
}

// §5.2: "Each server will vote for at most one candidate in a given term, on a first-come-first-served basis". Nor does it
// forget that when it restarts.
func TestPaper_5_2_OneVotePerTerm(t *testing.T) {
	c := paperCluster(t)
	n := c.node(1)
	ask := func(from NodeID, term Term) []Message {
		m := msg(MsgVote, from, 1, term)
		if err := n.r.Step(n.now(), &m); err != nil {
			t.Fatal(err)
		}
		n.settle()
		return c.sent(MsgVoteResp)
	}
	if out := ask(2, 1); len(out) != 1 || out[0].Reject {
		t.Fatalf("first: %+v", out)
	}
	if out := ask(3, 1); len(out) != 1 || !out[0].Reject {
		t.Errorf("second: %+v", out)
	}
	if out := ask(2, 1); len(out) != 1 || out[0].Reject {
		t.Errorf("the first again: %+v", out)
	}
	n.crash(func(int) int { return 0 })
	n.start(false)
	c.now += Time(testET)
	if out := ask(3, 1); len(out) != 1 || !out[0].Reject {
		t.Errorf("second, after a restart: %+v", out)
	}
	if out := ask(3, 2); len(out) != 1 || out[0].Reject {
		t.Errorf("in the next term: %+v", out)
	}
}

// §5.2: "If the leader's term … is at least as large as the candidate's current term, then the candidate recognizes the leader
// as legitimate and returns to follower state."
func TestPaper_5_2_CandidateRecognizesLeader(t *testing.T) {
	for _, term := range []Term{1, 2} {
		c := paperCluster(t)
		n := c.node(1)
		n.r.campaign(true)
		m := msg(MsgHeartbeat, 3, 1, term)
		if err := n.r.Step(n.now(), &m); err != nil {
			t.Fatal(err)
		}
		if n.r.role != Follower || n.r.leader != 3 || n.r.term != term {
			t.Errorf("%+v", n.r.Status())
		}
	}
}

// §5.2: "election timeouts are chosen randomly from a fixed interval": all of [1, 1.25], and anew each time.
func TestPaper_5_2_RandomElectionTimeouts(t *testing.T) {
	c := paperCluster(t)
	n := c.node(1)
	low, high := false, false
	for range 200 {
		n.r.drawElectionWait()
		x := float64(n.r.electionWait) / float64(testET)
		if x < 1 || x > 1.25 {
			t.Fatalf("drew %f", x)
		}
		low, high = low || x < 1.05, high || x > 1.2
	}
	if !low || !high {
		t.Error("the draws do not spread")
	}
}

// §5.3: "The leader appends the command to its log as a new entry, then issues AppendEntries RPCs in parallel to each of the
// other servers". In parallel with its own disk, too (thesis 10.2.1).
func TestPaper_5_3_ReplicateInParallel(t *testing.T) {
	c := paperCluster(t)
	l := c.elect(t, 1)
	c.net = nil
	if err := l.propose("x"); err != nil {
		t.Fatal(err)
	}
	l.process()
	out := c.sent(MsgApp)
	if len(out) != 2 || out[0].To != 2 || out[1].To != 3 || string(out[0].Entries[0].Payload) != "x" {
		t.Fatalf("%+v", out)
	}
	if l.r.stable >= l.r.last {
		t.Fatal("the leader's own disk was waited for")
	}
}

// §5.3: "A log entry is committed once the leader that created the entry has replicated it on a majority of the servers": each on
// its disk, the leader's own included.
func TestPaper_5_3_CommitByMajority(t *testing.T) {
	for _, tc := range []struct {
		size int
		acks []NodeID
		own  bool
		want bool
	}{
		{1, nil, false, false}, {1, nil, true, true},
		{3, nil, true, false}, {3, []NodeID{2}, false, false}, {3, []NodeID{2}, true, true}, {3, []NodeID{2, 3}, false, true},
		{5, []NodeID{2}, true, false}, {5, []NodeID{2, 3}, false, false}, {5, []NodeID{2, 4}, true, true}, {5, []NodeID{2, 3, 4}, false, true},
	} {
		var ids []NodeID
		for i := range tc.size {
			ids = append(ids, NodeID(i+1))
		}
		c := paperCluster(t, ids...)
		l := c.elect(t, 1)
		if err := l.propose("x"); err != nil {
			t.Fatal(err)
		}
		l.process()
		i := l.r.last
		for _, id := range tc.acks {
			m := msg(MsgAppResp, id, 1, l.r.term)
			m.Index = i
			if err := l.r.Step(l.now(), &m); err != nil {
				t.Fatal(err)
			}
		}
		if tc.own {
			l.syncLog()
		}
		if got := l.r.commit >= i; got != tc.want {
			t.Errorf("%d voters, acks %v, own %v: committed %v", tc.size, tc.acks, tc.own, got)
		}
	}
}

// §5.3: "Once a follower learns that a log entry is committed, it applies the entry to its local state machine (in log order)."
func TestPaper_5_3_FollowerAppliesCommitted(t *testing.T) {
	c := paperCluster(t)
	n := c.node(2)
	m := msg(MsgApp, 1, 2, 1)
	m.Entries = []Entry{{Term: 1, Index: 1, Type: EntryNoop}, {Term: 1, Index: 2, Type: EntryCommand, Payload: []byte("a")}}
	m.Commit = 1
	if err := n.r.Step(n.now(), &m); err != nil {
		t.Fatal(err)
	}
	n.process()
	if n.upTo != 0 {
		t.Fatal("applied before it was durable here")
	}
	n.settle()
	if n.upTo != 1 {
		t.Fatalf("applied to %d", n.upTo)
	}
	// A message shows a match up to its own end only: what this log has beyond may be another leader's.
	o := c.node(3)
	o.log.ents = []Entry{{Term: 1, Index: 1, Type: EntryNoop}, {Term: 1, Index: 2, Type: EntryCommand, Payload: []byte("other")}}
	o.log.durable = o.log.image()
	o.start(true)
	m = msg(MsgApp, 1, 3, 2)
	m.Index, m.LogTerm, m.Commit = 1, 1, 2
	if err := o.r.Step(o.now(), &m); err != nil || o.r.commit != 1 {
		t.Fatalf("commit %d, %v", o.r.commit, err)
	}
	// The commit index in a message never reaches beyond what that message, or an earlier one, has shown to match.
	hb := msg(MsgHeartbeat, 1, 3, 2)
	hb.Commit = 2
	if err := o.r.Step(o.now(), &hb); err != nil || o.r.commit != 1 {
		t.Fatalf("commit %d by a heartbeat, %v", o.r.commit, err)
	}
	hb = msg(MsgHeartbeat, 1, 2, 1)
	hb.Commit = 99
	if err := n.r.Step(n.now(), &hb); err != nil {
		t.Fatal(err)
	}
	n.settle()
	if n.r.commit != 2 || n.upTo != 2 {
		t.Fatalf("commit %d, applied %d", n.r.commit, n.upTo)
	}
}

// §5.3: "If the follower does not find an entry in its log with the same index and term, then it refuses the new entries."
func TestPaper_5_3_ConsistencyCheck(t *testing.T) {
	for _, tc := range []struct {
		index    Index
		term     Term
		reject   bool
		hint     Index
		hintTerm Term
	}{
		{0, 0, false, 0, 0}, {1, 1, false, 0, 0}, {2, 2, false, 0, 0},
		{1, 2, true, 1, 1}, {2, 1, true, 1, 1}, {3, 3, true, 2, 2}, {3, 1, true, 1, 1},
	} {
		c := newCluster(1)
		n := c.add(1, ConfState{Voters: members(1, 2, 3)}, true)
		n.log.ents = []Entry{{Term: 1, Index: 1, Type: EntryCommand}, {Term: 2, Index: 2, Type: EntryCommand}}
		n.log.durable = n.log.image()
		n.disk = HardState{Term: 2}
		n.start(true)
		m := msg(MsgApp, 2, 1, 4)
		m.Index, m.LogTerm = tc.index, tc.term
		if err := n.r.Step(n.now(), &m); err != nil {
			t.Fatal(err)
		}
		n.settle()
		out := c.sent(MsgAppResp)
		if len(out) != 1 || out[0].Reject != tc.reject || out[0].Index != tc.index || out[0].RejectHint != tc.hint || out[0].LogTerm != tc.hintTerm {
			t.Errorf("prev (%d,%d): %+v", tc.index, tc.term, out)
		}
	}
}

// §5.3: "conflicting entries in follower logs will be overwritten with entries from the leader's log"; but figure 2: only "if an
// existing entry conflicts with a new one": a message that comes late must not shorten the log.
func TestPaper_5_3_OverwriteOnlyConflicts(t *testing.T) {
	for _, tc := range []struct {
		prev  Index
		terms []Term
		want  []Term
	}{
		{2, []Term{3}, []Term{1, 2, 3}},
		{1, []Term{3, 4}, []Term{1, 3, 4}},
		{0, []Term{1}, []Term{1, 2}}, // late: keeps entry 2
		{0, nil, []Term{1, 2}},
		{0, []Term{3}, []Term{3}},
		{0, []Term{1, 2, 4}, []Term{1, 2, 4}},
	} {
		c := newCluster(1)
		n := c.add(1, ConfState{Voters: members(1, 2, 3)}, true)
		n.log.ents = []Entry{{Term: 1, Index: 1, Type: EntryCommand}, {Term: 2, Index: 2, Type: EntryCommand}}
		n.log.durable = n.log.image()
		n.disk = HardState{Term: 2}
		n.start(true)
		m := msg(MsgApp, 2, 1, 4)
		m.Index = tc.prev
		m.LogTerm, _ = n.log.Term(tc.prev)
		for k, term := range tc.terms {
			m.Entries = append(m.Entries, Entry{Term: term, Index: tc.prev + 1 + Index(k), Type: EntryCommand})
		}
		if err := n.r.Step(n.now(), &m); err != nil {
			t.Fatal(err)
		}
		n.settle()
		var got []Term
		for _, e := range n.log.ents {
			got = append(got, e.Term)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("after %d, %v: log %v, want %v", tc.prev, tc.terms, got, tc.want)
		}
	}
}

// §5.3: "A leader never overwrites or deletes entries in its own log", nor does anybody at or below the commit index.
func TestPaper_5_3_CommittedIsNeverCut(t *testing.T) {
	c := paperCluster(t)
	l := c.elect(t, 1)
	if err := l.propose("x"); err != nil {
		t.Fatal(err)
	}
	c.stabilize()
	f := c.node(2)
	for _, m := range []Message{
		{Index: 0, LogTerm: 0, Entries: []Entry{{Term: 1, Index: 1, Type: EntryNoop}, {Term: 8, Index: 2, Type: EntryNoop}}},
		{Index: 1, LogTerm: 1, Entries: []Entry{{Term: 9, Index: 2, Type: EntryNoop}, {Term: 9, Index: 3, Type: EntryNoop}}},
		{Index: 2, LogTerm: 7},
	} {
		in := msg(MsgApp, 3, 2, 9)
		in.Index, in.LogTerm, in.Entries = m.Index, m.LogTerm, m.Entries
		if err := f.r.Step(f.now(), &in); !errors.Is(err, ErrDiverged) {
			t.Errorf("%+v: %v", m, err)
		}
		f.settle()
		if term, _ := f.log.Term(2); f.log.LastIndex() != 2 || term != 1 || f.r.commit != 2 {
			t.Fatalf("log to %d, commit %d", f.log.LastIndex(), f.r.commit)
		}
	}
}

// §5.4.1: "the voter denies its vote if its own log is more up-to-date than that of the candidate": later last term, or the same
// and longer.
func TestPaper_5_4_1_VoterComparesLogs(t *testing.T) {
	for _, tc := range []struct {
		term  Term
		index Index
		grant bool
	}{
		{2, 2, true}, {2, 3, true}, {3, 1, true}, {2, 1, false}, {1, 9, false},
	} {
		for _, typ := range []MessageType{MsgPreVote, MsgVote} {
			c := newCluster(1)
			n := c.add(1, ConfState{Voters: members(1, 2, 3)}, true)
			n.log.ents = []Entry{{Term: 1, Index: 1, Type: EntryCommand}, {Term: 2, Index: 2, Type: EntryCommand}}
			n.log.durable = n.log.image()
			n.disk = HardState{Term: 2}
			n.start(true)
			m := msg(typ, 2, 1, 4)
			m.Index, m.LogTerm = tc.index, tc.term
			if err := n.r.Step(n.now(), &m); err != nil {
				t.Fatal(err)
			}
			n.settle()
			out := c.sent(typ + 1)
			if len(out) != 1 || out[0].Reject == tc.grant {
				t.Errorf("%v last (%d,%d): %+v", typ, tc.index, tc.term, out)
			}
			if want := map[MessageType]Term{MsgPreVote: 2, MsgVote: 4}[typ]; n.r.term != want {
				t.Errorf("%v: term %d", typ, n.r.term)
			}
		}
	}
}

// §5.4.2: "Only log entries from the leader's current term are committed by counting replicas".
func TestPaper_5_4_2_OnlyOwnTermByCounting(t *testing.T) {
	for _, tc := range []struct{ ack, want Index }{{1, 0}, {2, 0}, {3, 3}} {
		c := newCluster(1)
		n := c.add(1, ConfState{Voters: members(1, 2, 3)}, true)
		n.log.ents = []Entry{{Term: 1, Index: 1, Type: EntryCommand}, {Term: 2, Index: 2, Type: EntryCommand}}
		n.log.durable = n.log.image()
		n.disk = HardState{Term: 2}
		n.start(true)
		n.r.campaign(true)
		n.settle()
		v := msg(MsgVoteResp, 2, 1, 3)
		if err := n.r.Step(n.now(), &v); err != nil {
			t.Fatal(err)
		}
		n.settle()
		m := msg(MsgAppResp, 2, 1, 3)
		m.Index = tc.ack
		if err := n.r.Step(n.now(), &m); err != nil {
			t.Fatal(err)
		}
		if n.r.commit != tc.want {
			t.Errorf("ack %d: commit %d, want %d", tc.ack, n.r.commit, tc.want)
		}
	}
}

// §5.5: "Raft RPCs are idempotent".
func TestPaper_5_5_RepeatedMessagesChangeNothing(t *testing.T) {
	c := paperCluster(t)
	l := c.elect(t, 1)
	if err := l.propose("x"); err != nil {
		t.Fatal(err)
	}
	l.process()
	m := c.sent(MsgApp)[0]
	f := c.node(2)
	// Before it is durable, a repetition is answered with what is.
	for range 2 {
		if err := f.r.Step(f.now(), &m); err != nil {
			t.Fatal(err)
		}
		f.process()
	}
	if out := c.sent(MsgAppResp); len(out) != 1 || out[0].Index != 1 {
		t.Fatalf("acknowledged before it was durable: %+v", out)
	}
	f.settle()
	c.net = nil
	for k := range 3 {
		if err := f.r.Step(f.now(), &m); err != nil {
			t.Fatal(err)
		}
		f.settle()
		if out := c.sent(MsgAppResp); len(out) != 1 || out[0].Reject || out[0].Index != 2 || f.log.LastIndex() != 2 {
			t.Fatalf("try %d: %+v", k, out)
		}
	}
}

// §6: "Once a given server adds the new configuration entry to its log, it uses that configuration for all future decisions
// (a server always uses the latest configuration in its log, regardless of whether the entry is committed)"; in a joint one
// "agreement (for elections and entry commitment) requires separate majorities from both".
func TestPaper_6_JointNeedsBothMajorities(t *testing.T) {
	conf := ConfState{Voters: members(1, 4, 5), Outgoing: members(1, 2, 3)}
	for _, tc := range []struct {
		have []NodeID
		want bool
	}{
		{[]NodeID{1, 2, 3}, false}, {[]NodeID{1, 4, 5}, false}, {[]NodeID{1, 2, 4}, true}, {[]NodeID{2, 3, 4, 5}, true}, {[]NodeID{1}, false},
		{[]NodeID{1, 3, 5}, true}, {[]NodeID{2, 4}, false},
	} {
		var votes []ballot
		for _, id := range tc.have {
			votes = append(votes, ballot{id, true})
		}
		if got := tally(&conf, votes) == voteWon; got != tc.want {
			t.Errorf("votes %v: %v", tc.have, got)
		}
		reached := quorumValue(&conf, func(m Member) Index {
			if slices.Contains(tc.have, m.ID) {
				return 7
			}
			return 3
		})
		if got := reached == 7; got != tc.want {
			t.Errorf("acks %v: %d", tc.have, reached)
		}
	}
}

// §6: "servers disregard RequestVote RPCs when they believe a current leader exists … within the minimum election timeout of
// hearing from a current leader, it does not update its term or grant its vote." A transfer's election is exempt (thesis 4.2.3).
func TestPaper_6_DisregardVotesWhileLeaderLives(t *testing.T) {
	for _, typ := range []MessageType{MsgPreVote, MsgVote} {
		c := paperCluster(t)
		c.elect(t, 1)
		for _, id := range []NodeID{1, 2} { // leader and follower
			n := c.node(id)
			m := msg(typ, 3, id, 5)
			m.Index, m.LogTerm = 99, 4
			before := n.r.Status()
			if err := n.r.Step(n.now(), &m); err != nil {
				t.Fatal(err)
			}
			n.settle()
			if after := n.r.Status(); after.Term != before.Term || after.Vote != before.Vote || after.Role != before.Role || len(c.sent(typ+1)) > 0 {
				t.Errorf("%v at %d: %+v", typ, id, after)
			}
		}
		f := c.node(2)
		m := msg(MsgVote, 3, 2, 5)
		m.Index, m.LogTerm, m.Force = 99, 4, true
		if err := f.r.Step(f.now(), &m); err != nil {
			t.Fatal(err)
		}
		if f.r.vote != 3 || f.r.term != 5 {
			t.Errorf("a leader's order: %+v", f.r.Status())
		}
	}
}

// §6: "it is possible for the leader to … not be part of the new configuration … it does not count itself in majorities", and
// "steps down once it has committed" that entry. "new servers … join as non-voting members".
func TestPaper_6_LearnersDoNotCount(t *testing.T) {
	c := newCluster(3)
	conf := ConfState{Voters: members(1, 2, 3), Learners: members(4, 5)}
	for id := NodeID(1); id <= 5; id++ {
		c.add(id, conf, true)
	}
	l := c.elect(t, 1)
	if err := l.propose("x"); err != nil {
		t.Fatal(err)
	}
	l.settle()
	for _, id := range []NodeID{4, 5} {
		m := msg(MsgAppResp, id, 1, 1)
		m.Index = l.r.last
		if err := l.r.Step(l.now(), &m); err != nil {
			t.Fatal(err)
		}
	}
	if l.r.commit == l.r.last {
		t.Error("committed by learners")
	}
	// They do answer votes: they may have been promoted and not know it.
	n := c.node(4)
	c.now += Time(2 * testET)
	c.net = nil
	m := msg(MsgVote, 2, 4, 7)
	m.Index, m.LogTerm = 9, 6
	if err := n.r.Step(n.now(), &m); err != nil {
		t.Fatal(err)
	}
	n.settle()
	if out := c.sent(MsgVoteResp); len(out) != 1 || out[0].Reject {
		t.Errorf("%+v", out)
	}
}

// §7: "If instead the follower receives a snapshot that describes a prefix of its log … then log entries covered by the snapshot
// are deleted but entries following the snapshot are still valid and must be retained."
func TestPaper_7_SnapshotOfOwnPrefixKeepsLog(t *testing.T) {
	c := newCluster(1)
	n := c.add(1, ConfState{Voters: members(1, 2, 3)}, true)
	for i := Index(1); i <= 4; i++ {
		n.log.ents = append(n.log.ents, Entry{Term: 1, Index: i, Type: EntryCommand, Payload: fmt.Append(nil, i)})
	}
	n.log.durable = n.log.image()
	n.start(true)
	step := func(index Index, term Term) {
		m := msg(MsgSnap, 2, 1, 3)
		m.Snapshot = &Snapshot{Meta: SnapshotMeta{Index: index, Term: term, Conf: ConfState{Voters: members(1, 2, 3)}}, Data: []byte("5")}
		if err := n.r.Step(n.now(), &m); err != nil {
			t.Fatal(err)
		}
		n.settle()
	}
	step(2, 1)
	if n.snap.Meta.Index != 0 || n.log.LastIndex() != 4 || n.r.commit != 2 {
		t.Fatalf("installed %d, last %d, commit %d", n.snap.Meta.Index, n.log.LastIndex(), n.r.commit)
	}
	step(3, 2) // another entry 3 than this log's: all of it goes
	if n.snap.Meta.Index != 3 || n.log.LastIndex() != 3 || n.r.commit != 3 || n.r.applied != 3 {
		t.Fatalf("installed %d, last %d, %+v", n.snap.Meta.Index, n.log.LastIndex(), n.r.Status())
	}
	step(2, 1) // late: nothing
	if n.snap.Meta.Index != 3 {
		t.Fatal("went back")
	}
}

// §8: a leader "must have the latest information on which entries are committed … by having each leader commit a blank no-op
// entry at the start of its term", and "check whether it has been deposed before processing a read-only request … by having
// the leader exchange heartbeat messages with a majority".
func TestPaper_8_ReadsNeedNoopAndRound(t *testing.T) {
	c := paperCluster(t)
	n := c.node(1)
	n.r.campaign(true)
	n.settle()
	v := msg(MsgVoteResp, 2, 1, 1)
	if err := n.r.Step(n.now(), &v); err != nil {
		t.Fatal(err)
	}
	n.settle()
	if e := n.log.ents; len(e) != 1 || e[0].Type != EntryNoop || e[0].Term != 1 {
		t.Fatalf("log %v", e)
	}
	if err := n.r.ReadIndex(n.now(), 1); !errors.Is(err, ErrNotReady) || n.r.LeaseUntil() != 0 {
		t.Fatalf("read before the no-op is committed: %v", err)
	}
	if _, _, err := n.r.NextProposal(); !errors.Is(err, ErrNotReady) {
		t.Fatalf("proposal before the no-op is applied: %v", err)
	}
	c.stabilize()
	if err := n.r.ReadIndex(n.now(), 2); err != nil {
		t.Fatal(err)
	}
	if len(n.r.readStates) != 0 {
		t.Fatal("answered without asking anybody")
	}
	n.process()
	c.net = nil
	c.stabilize()
	if len(n.reads) != 0 {
		t.Fatalf("answered though the round was lost: %v", n.reads)
	}
	c.now += Time(testHB)
	n.tick() // the next round serves it, too
	c.stabilize()
	if len(n.reads) != 1 || n.reads[0] != (ReadState{2, 1, nil}) {
		t.Fatalf("%v", n.reads)
	}
}
