package transport

import (
	"reflect"
	"testing"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

// TestCarryKeepsEverything: what the simulator carries is what was sent.
func TestCarryKeepsEverything(t *testing.T) {
	base := raft.Message{Group: 7, From: 1, To: 2, FromIncarnation: 11, ToIncarnation: 12, FromBoot: 1<<40 | 3, Term: 5,
		LogTerm: 4, Index: 99, Commit: 98, RejectHint: 97, Lost: 1<<40 | 2, Round: 6, SentAt: -5}
	app, snap, vote, resp := base, base, base, base
	app.Type, app.Entries = raft.MsgApp, []raft.Entry{{Frame: []byte("one")}, {Frame: []byte("another")}}
	snap.Type = raft.MsgSnap
	snap.Snapshot = &raft.Snapshot{Size: 5, Sum: 6, Meta: raft.SnapshotMeta{Index: 9, Term: 2, Conf: raft.ConfState{
		Voters: []raft.Member{{ID: 1, Incarnation: 1}}, Outgoing: []raft.Member{{ID: 2, Incarnation: 1}}, Learners: []raft.Member{{ID: 3, Incarnation: 9}}}}}
	vote.Type, vote.Force = raft.MsgVote, true
	resp.Type, resp.Reject = raft.MsgAppResp, true
	for _, m := range []raft.Message{app, snap, vote, resp} {
		got, err := Carry(&m)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%v: %v\ngot  %+v\nsent %+v", m.Type, err, got, m)
		}
	}
	p := &multi.PairMessage{Session: 3, Seq: 4, SentAt: 5, Cover: []multi.CoveredGroup{{Group: 1, Term: 2, Commit: 3}},
		Uncover: []raft.GroupID{4}, Except: []raft.GroupID{5, 6}}
	if got, err := CarryPair(p); err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("pair message: %v\ngot  %+v\nsent %+v", err, got, p)
	}
	bad := base // no type: no message
	if _, err := Carry(&bad); err == nil {
		t.Error("a message without a type was carried")
	}
}
