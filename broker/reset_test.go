package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/internal/testport"
	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

// place creates a topic of one partition on the given brokers.
func (n *node) place(t *testing.T, name string, replicas ...raft.NodeID) *coordinator.Topic {
	t.Helper()
	n.make(t, newTopic{Name: name, Assignment: [][]raft.NodeID{replicas}})
	return n.Image().Topic(name)
}

// write appends one record through whoever leads, until it is acknowledged.
func (c *testCluster) write(g raft.GroupID, value string) {
	c.t.Helper()
	soon(c.t, "a leader takes "+value, func() bool {
		for _, n := range c.running() {
			r := n.rec.replica(g)
			if r == nil {
				continue
			}
			if _, _, ready := r.Leader(); !ready {
				continue
			}
			done := make(chan partition.AppendResult, 1)
			r.Append(&partition.AppendRequest{Batch: testBatch(value), Acks: -1, Done: func(a partition.AppendResult) { done <- a }})
			if a := <-done; a.Err == nil {
				return true
			}
		}
		return false
	})
}

// values are the records that a broker's replica has below its high watermark.
func (n *node) values(g raft.GroupID) (out []string) {
	r := n.rec.replica(g)
	if r == nil {
		return nil
	}
	res, err := r.Read(partition.ReadQuery{Offset: 0, MaxBytes: 1 << 20, LeaderEpoch: -1, AnyReplica: true})
	if err != nil {
		return nil
	}
	for _, raw := range res.Batches {
		b, err := protocol.ParseBatch(raw)
		if err != nil {
			return nil
		}
		for rec, err := range b.Records(protocol.NewInflater(1 << 20)) {
			if err != nil {
				return nil
			}
			out = append(out, string(rec.Value))
		}
	}
	return out
}

// A partition loses two of its three replicas. The third goes on by an operator's word; when the two come back, they are not
// heard, and begin anew.
func TestResetPeers(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 5, true)
	c.start(c.nodes...)
	c.awaitVoters(5)
	byID := make(map[raft.NodeID]*node)
	for _, n := range c.nodes {
		byID[n.NodeID()] = n
	}
	topic := c.nodes[0].place(t, "t", 3, 4, 5)
	g := topic.Partitions[0].Group
	c.write(g, "a")
	soon(t, "3 has it", func() bool { return slices.Equal(byID[3].values(g), []string{"a"}) })
	// What only the majority has is lost with it.
	three := byID[3]
	c.stop(three)
	c.write(g, "lost")
	lost := []*node{byID[4], byID[5]}
	c.stop(lost...)
	c.start(three)
	_ = c.metaLeader()

	// Asked of a broker that has no replica.
	plan := c.nodes[0].plan(t, &resetRequest{Topic: "t"})
	if plan.Epoch != 1 || plan.Leader != 3 || !slices.Equal(plan.Survivors, []raft.NodeID{3}) || !slices.Equal(plan.Voters, []raft.NodeID{3, 4, 5}) ||
		plan.Replicas[0].NextOffset != 1 || plan.Replicas[1].Lost == "" || plan.Replicas[2].Lost == "" {
		t.Fatalf("plan %+v", plan)
	}
	if _, err := c.nodes[0].resetPeers(t.Context(), &resetRequest{Topic: "t", Epoch: 1, Leader: 4, Survivors: plan.Survivors}); adminKindOf(err) != adminConflict {
		t.Fatalf("another plan than was shown: %v", err)
	}
	c.nodes[0].execute(t, plan)
	c.write(g, "b")
	if got := three.values(g); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("after the reset: %q", got)
	}
	soon(t, "the reset is done", func() bool { return three.Image().TopicByID(topic.ID).Partitions[0].Reset == nil })

	// One of the two has lost that log, too: nothing is there to be set aside, and it begins anew all the same.
	if err := lost[1].cfg.FS.RemoveAll(path.Join("/data/groups", groupDirName(g))); err != nil {
		t.Fatal(err)
	}
	c.start(lost...)
	soon(t, "what came back is set aside", func() bool {
		for _, n := range lost {
			names, err := n.store.fs.ReadDir(n.store.groupsDir())
			if err != nil || n == lost[0] && !slices.ContainsFunc(names, func(s string) bool { return strings.HasPrefix(s, groupDirName(g)+partition.ResetSuffix) }) {
				return false
			}
			r := n.rec.replica(g)
			if r == nil || r.Raft() == nil || r.Raft().Status().Epoch != 1 {
				return false
			}
		}
		return true
	})
	c.write(g, "c")
	soon(t, "3 has it all, after the others came back", func() bool { return slices.Equal(three.values(g), []string{"a", "b", "c"}) }) // whoever leads
	// And all of it is so after a restart of everyone.
	c.stop(c.nodes...)
	c.start(c.nodes...)
	c.write(g, "d")
	// Another one may lead by now: then 3 hears a little later that "d" is committed.
	soon(t, "3 has all of it", func() bool { return slices.Equal(three.values(g), []string{"a", "b", "c", "d"}) })
	for _, n := range lost {
		if got := n.values(g); slices.Contains(got, "lost") {
			t.Fatalf("broker %d shows %q", n.NodeID(), got)
		}
	}
}

// A survivor that is down when the reset is ordered, and has no membership in its log but the one it was founded with, follows when it
// starts.
func TestResetWhileSurvivorIsDown(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 5, true)
	c.start(c.nodes...)
	c.awaitVoters(5)
	byID := make(map[raft.NodeID]*node)
	for _, n := range c.nodes {
		byID[n.NodeID()] = n
	}
	four, five := byID[4], byID[5]
	topic := byID[1].place(t, "t", 4, 5)
	g := topic.Partitions[0].Group
	c.write(g, "a")
	soon(t, "4 has it", func() bool { return slices.Equal(four.values(g), []string{"a"}) })
	survivor, term := four.self(), four.rec.replica(g).Raft().Status().Term
	c.stop(four, five)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := byID[1].change(ctx, &coordinator.Command{ResetPeers: &coordinator.ResetPeers{Topic: topic.ID, GroupReset: coordinator.GroupReset{
		Epoch: 1, Term: term + resetTermGap, Leader: 4, Survivors: []raft.Member{survivor}}}}); err != nil {
		t.Fatal(err)
	}
	c.start(four)
	c.write(g, "b")
	if got := four.values(g); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("after the reset: %q", got)
	}
}

// Who goes on is decided by the newest membership that is left, not by what the metadata has.
func TestResetPlan(t *testing.T) {
	m := func(ids ...raft.NodeID) (ms []raft.Member) {
		for _, id := range ids {
			ms = append(ms, raft.Member{ID: id, Incarnation: raft.Incarnation(100 + id)})
		}
		return ms
	}
	report := func(id raft.NodeID, term raft.Term, last raft.Index, conf raft.ConfState) groupReport {
		return groupReport{Node: id, Incarnation: raft.Incarnation(100 + id), Role: "follower", Term: term, LastTerm: term, Last: last, Commit: last, Epoch: conf.Epoch, Conf: conf}
	}
	gone := func(id raft.NodeID) groupReport { return groupReport{Node: id, Error: "gone"} }
	old, moved := raft.ConfState{Voters: m(1, 2, 3)}, raft.ConfState{Voters: m(4, 5, 6)}
	joint := raft.ConfState{Voters: m(4, 5, 6), Outgoing: m(1, 2, 3)}
	for name, c := range map[string]struct {
		reports   []groupReport
		leader    raft.NodeID
		survivors []raft.NodeID
		refused   adminKind
	}{
		"a majority is lost":                          {[]groupReport{report(1, 2, 9, old), gone(2), gone(3)}, 1, []raft.NodeID{1}, ""},
		"moved away, and only the old ones are left":  {[]groupReport{report(1, 2, 9, old), report(2, 2, 9, old), report(4, 3, 20, moved), gone(5), gone(6)}, 4, []raft.NodeID{4}, ""},
		"moved away, and all is well":                 {[]groupReport{report(1, 2, 9, old), report(2, 2, 9, old), report(4, 3, 20, moved), report(5, 3, 20, moved), gone(6)}, 0, nil, adminConflict},
		"joint, and one half has no majority":         {[]groupReport{gone(1), gone(2), report(3, 2, 15, joint), report(4, 2, 16, joint), report(5, 2, 16, joint)}, 4, []raft.NodeID{3, 4, 5}, ""},
		"joint, and both halves have one":             {[]groupReport{gone(1), report(2, 2, 15, joint), report(3, 2, 15, joint), report(4, 2, 16, joint), report(5, 2, 16, joint)}, 0, nil, adminConflict},
		"one has never been told who is in the group": {[]groupReport{report(1, 2, 9, raft.ConfState{Voters: m(1, 2), Learners: m(3)}), gone(2), report(3, 2, 0, raft.ConfState{})}, 1, []raft.NodeID{1}, ""},
		"an earlier epoch has more entries":           {[]groupReport{report(1, 9, 90, old), report(2, 7, 20, raft.ConfState{Voters: m(2, 3), Epoch: 1}), gone(3)}, 2, []raft.NodeID{2}, ""},
		"another disk under an old name":              {[]groupReport{report(1, 2, 9, old), {Node: 2, Incarnation: 7, LastTerm: 2, Last: 3, Conf: old}, gone(3)}, 1, []raft.NodeID{1}, ""},
		"nobody is left":                              {[]groupReport{gone(1), gone(2), gone(3)}, 0, nil, adminUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			plan := &resetPlan{}
			err := new(Broker).fillPlan(plan, c.reports)
			if adminKindOf(err) != c.refused || err == nil && (plan.Leader != c.leader || !slices.Equal(plan.Survivors, c.survivors)) {
				t.Fatalf("%d leads %v: %v", plan.Leader, plan.Survivors, err)
			}
		})
	}
}

func adminKindOf(err error) adminKind {
	if err == nil {
		return ""
	}
	return asAdminError(err).Kind
}

// plan asks until there is a plan: as long as somebody may still be leading there is none.
func (n *node) plan(t *testing.T, req *resetRequest) *resetPlan {
	t.Helper()
	var plan *resetPlan
	soon(t, "there is a plan", func() bool {
		p, err := n.resetPeers(t.Context(), req)
		if err != nil && adminKindOf(err) != adminConflict {
			t.Fatal(err)
		}
		plan = p
		return err == nil
	})
	return plan
}

func (n *node) execute(t *testing.T, plan *resetPlan) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done, err := n.resetPeers(ctx, &resetRequest{Topic: plan.Topic, Partition: plan.Partition, Epoch: plan.Epoch, Leader: plan.Leader, Survivors: plan.Survivors})
	if err != nil || !done.Done {
		t.Fatalf("reset: %v, %+v", err, done)
	}
}

func TestResetRefusals(t *testing.T) {
	c := newCluster(t, 3, true)
	c.calm()
	c.start(c.nodes...)
	c.awaitVoters(3)
	c.nodes[0].mustCreate(t, "t", 1, 3)
	for _, q := range []struct {
		req  resetRequest
		want adminKind
	}{
		{resetRequest{Topic: "t"}, adminConflict},               // it has a leader
		{resetRequest{}, adminConflict},                         // so has the metadata group
		{resetRequest{Topic: "t", Partition: 1}, adminNotFound}, // there is none
		{resetRequest{Topic: "u"}, adminNotFound},
		{resetRequest{Topic: "t", Epoch: 1, Leader: 1, Survivors: []raft.NodeID{1}}, adminConflict},
	} {
		if _, err := c.nodes[1].resetPeers(t.Context(), &q.req); adminKindOf(err) != q.want {
			t.Errorf("%+v: %v", q.req, err)
		}
	}
}

// post sends a reset request to an admin listener, as the CLI does.
func postReset(t *testing.T, addr string, req *resetRequest) (*resetPlan, *adminError) {
	t.Helper()
	body, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post("http://"+addr+"/v1/reset-peers", "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, adminErrorf(adminUnavailable, "", "%v", err) // it does not listen yet
	}
	defer resp.Body.Close()
	var answer struct {
		resetPlan
		Error *adminError `json:"error"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return &answer.resetPlan, answer.Error
}

// The metadata group loses two of its three voters. The survivor goes on; what the lost ones may have given out is not given out
// again; and when they come back with their old metadata, they follow anew.
func TestResetMetadata(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, true)
	survivor, lost := c.nodes[2], c.nodes[:2]
	survivor.cfg.AdminListen = testport.Addr(t)
	for _, n := range c.nodes { // one after the other, so that the ids are known
		c.start(n)
	}
	c.awaitVoters(3)
	id := c.nodes[0].mustCreate(t, "t", 3, 3)
	gone := survivor.NodeID()
	c.stop(survivor)
	c.dead(gone)                              // else it may be given a replica
	c.nodes[0].mustCreate(t, "unknown", 1, 2) // to the survivor
	late := c.nodes[0].Image().Topic("unknown").Partitions[0].Group
	c.stop(lost...)

	// A broker that starts without its metadata group serves nobody but the operator.
	started := make(chan error, 1)
	go func() {
		b, err := Start(t.Context(), survivor.cfg)
		survivor.Broker = b
		started <- err
	}()
	var plan *resetPlan
	soon(t, "there is a plan", func() bool {
		p, err := postReset(t, survivor.cfg.AdminListen, &resetRequest{})
		if err != nil && err.Kind != adminUnavailable {
			t.Fatal(err)
		}
		plan = p
		return err == nil
	})
	if plan.Group != raft.MetadataGroup || plan.Leader != 3 || !slices.Equal(plan.Survivors, []raft.NodeID{3}) || len(plan.Replicas) != 3 {
		t.Fatalf("plan %+v", plan)
	}
	if _, err := postReset(t, survivor.cfg.AdminListen, &resetRequest{Topic: "t"}); err == nil || err.Kind != adminUnavailable {
		t.Fatalf("a partition, before there is metadata: %v", err)
	}
	done, aerr := postReset(t, survivor.cfg.AdminListen, &resetRequest{Epoch: plan.Epoch, Leader: plan.Leader, Survivors: plan.Survivors})
	if aerr != nil || !done.Done {
		t.Fatalf("reset: %v, %+v", aerr, done)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	im := survivor.Image()
	if im.Topic("t") == nil || im.Topic("unknown") != nil || im.Epoch() != 1 || late >= im.NextGroup() || im.Deleted(late) {
		t.Fatalf("image: epoch %d, next group %d, lost group %d", im.Epoch(), im.NextGroup(), late)
	}
	c.start(lost...)
	c.awaitVoters(3)
	for _, n := range lost {
		names, err := n.store.fs.ReadDir(n.store.groupsDir())
		aside := groupDirName(raft.MetadataGroup) + partition.ResetSuffix + "1"
		if err != nil || !slices.Contains(names, aside) || !slices.Contains(names, groupDirName(late)) {
			t.Errorf("broker %d has %q, %v: %s and what nobody knows any more should be there", n.NodeID(), names, err, aside)
		}
	}
	soon(t, "the topic is served", func() bool { return c.served(id) })
	if again := c.nodes[1].mustCreate(t, "unknown", 1, 3); c.nodes[1].Image().TopicByID(again).Partitions[0].Group <= late {
		t.Fatal("a group's id was given out twice")
	}
	c.stop(c.nodes...)
	c.start(c.nodes...)
	soon(t, "the topic is served after a restart of everyone", func() bool { return c.served(id) })
}

// The metadata log of an earlier epoch is gone, and what the journal knows of it must go, too: the replica would stay in that epoch.
func TestSetAsideForgetsALostMetadataLog(t *testing.T) {
	states := &memStore{m: map[raft.GroupID]raft.HardState{raft.MetadataGroup: {Term: 3, Vote: 2}}}
	m := &metaGroup{fs: vfs.NewMem(1), dir: "/data/groups/1", epoch: 1, hardState: states.Load, forget: states.Delete, log: slog.New(slog.DiscardHandler)}
	if err := m.setAside(); err != nil {
		t.Fatal(err)
	}
	if hs, known := states.Load(raft.MetadataGroup); known {
		t.Fatalf("the journal still knows %+v", hs)
	}
}

// A broker that lives on, and finds that the metadata group was reset without it.
func TestOutlivedWhileRunning(t *testing.T) {
	c := newCluster(t, 2, true)
	c.start(c.nodes...)
	n := c.nodes[1]
	n.peers.heard(&beat{cluster: n.ClusterID(), node: 1, incarnation: c.nodes[0].self().Incarnation, boot: 1, epoch: 7})
	if err := <-n.Fatal(); !errors.Is(err, ErrOutlived) {
		t.Fatal(err)
	}
	if n.store.id.MetadataEpoch != 7 {
		t.Fatalf("epoch %d is noted", n.store.id.MetadataEpoch)
	}
}
