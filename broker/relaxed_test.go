// balsa.durability=relaxed: who may have it, that it is taken up and given up while records come, and what power losses lead to, of one machine
// and of all. That killed processes lose nothing is for cmd/broker, TestRelaxedSurvivesKill; random histories are segment's and the simulator's.

package broker

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

func TestDurabilityConfig(t *testing.T) {
	h := newHarness(t, serverOptions{})
	if err := h.back.apply(&coordinator.Command{SetFeature: &coordinator.SetFeature{Name: metadataVersion, Level: coordinator.LevelRelaxed}}).Err(); err != nil {
		t.Fatal(err) // a higher one stays while there is any topic
	}
	create := func(h *kafkaHarness, name, value string) (int16, string) {
		t.Helper()
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Version, req.TimeoutMillis = 7, 5000
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, 1, 1
		cf := kmsg.NewCreateTopicsRequestTopicConfig()
		cf.Name, cf.Value = coordinator.Durability, &value
		rt.Configs = append(rt.Configs, cf)
		req.Topics = append(req.Topics, rt)
		got := ask[*kmsg.CreateTopicsResponse](h.dial(), req).Topics[0]
		if got.ErrorMessage == nil {
			return got.ErrorCode, ""
		}
		return got.ErrorCode, *got.ErrorMessage
	}
	alter := func(h *kafkaHarness, name string, op configOp) (int16, string) {
		t.Helper()
		got := ask[*kmsg.IncrementalAlterConfigsResponse](h.dial(), incrementalAlter(1, kmsg.ConfigResourceTypeTopic, name, op)).Resources[0]
		if got.ErrorMessage == nil {
			return got.ErrorCode, ""
		}
		return got.ErrorCode, *got.ErrorMessage
	}
	relaxed, quorum := setTo(coordinator.Durability, "relaxed"), setTo(coordinator.Durability, "quorum")
	isRelaxed := func(h *kafkaHarness, name string) bool {
		r := &reconciler{}
		return r.settingsOf(h.back.Image().Topic(name), 0, nil).Relaxed
	}
	want := func(what string, code int16, message string, wanted *kerr.Error, says string) {
		t.Helper()
		if kerr.TypedErrorForCode(code) != wanted || !strings.Contains(message, says) {
			t.Errorf("%s: %v, %q; wanted %v and %q", what, kerr.ErrorForCode(code), message, wanted, says)
		}
	}

	code, says := create(h, "r", "relaxed")
	want("create", code, says, nil, "")
	code, says = create(h, "q", "quorum")
	want("create with the default", code, says, nil, "")
	if !isRelaxed(h, "r") || isRelaxed(h, "q") {
		t.Errorf("settings: relaxed %v, quorum %v", isRelaxed(h, "r"), isRelaxed(h, "q"))
	}
	code, says = create(h, "n", "none")
	want("a value that there is not", code, says, kerr.InvalidConfig, "")
	code, says = alter(h, "q", relaxed)
	want("relax", code, says, nil, "")
	if !isRelaxed(h, "q") {
		t.Error("altered, and not relaxed")
	}
	for _, op := range []configOp{quorum, relaxed, unsetOp(coordinator.Durability)} {
		code, says = alter(h, "q", op)
		want("alter", code, says, nil, "")
		if isRelaxed(h, "q") != (op.value != nil && *op.value == "relaxed") {
			t.Errorf("%+v, and relaxed is %v", op, isRelaxed(h, "q"))
		}
	}

	// What other data depends on.
	code, says = create(h, "__mine", "relaxed")
	want("create __mine", code, says, kerr.InvalidConfig, "__mine")
	for _, name := range []string{"__plain", coordinator.ConsumerOffsetsTopic, coordinator.TransactionStateTopic} {
		h.back.addTopic(name, 1, nil)
		code, says = alter(h, name, relaxed)
		want("alter "+name, code, says, kerr.InvalidConfig, "")
		if isRelaxed(h, name) {
			t.Errorf("%s is relaxed", name)
		}
	}

	// The level is needed, and stays while there is such a topic.
	lower := &coordinator.Command{SetFeature: &coordinator.SetFeature{Name: metadataVersion, Level: coordinator.LevelApps}}
	if err := h.back.apply(lower).Err(); err == nil || !strings.Contains(err.Error(), coordinator.Durability) {
		t.Errorf("lowered with a relaxed topic: %v", err)
	}
	code, says = alter(h, "r", quorum)
	want("strict again", code, says, nil, "")
	if err := h.back.apply(lower).Err(); err != nil {
		t.Fatal(err)
	}
	code, says = create(h, "s", "relaxed")
	want("create below the level", code, says, kerr.UnsupportedVersion, "cluster upgrade")
	code, says = alter(h, "r", relaxed)
	want("alter below the level", code, says, kerr.UnsupportedVersion, "cluster upgrade")
	code, says = create(h, "s", "quorum")
	want("create the default below the level", code, says, nil, "")
	value := "relaxed"
	for _, body := range []*coordinator.Command{
		{CreateTopics: &coordinator.CreateTopics{Topics: []coordinator.NewTopic{{Name: "m", ID: coordinator.TopicID{9}, Replicas: [][]raft.NodeID{{selfNode}}, Configs: map[string]string{coordinator.Durability: value}}}}},
		{SetConfigs: &coordinator.SetConfigs{Changes: []coordinator.ConfigChange{{Kind: coordinator.ConfigTopic, Topic: h.back.Image().Topic("r").ID, Set: map[string]*string{coordinator.Durability: &value}}}}},
	} {
		if err := h.back.apply(body).Err(); codeOf(err) != kerr.UnsupportedVersion.Code {
			t.Errorf("a command below the level: %v", err)
		}
	}
}

// setDurability alters the topic's config, whoever is asked.
func (r *repairs) setDurability(n *node, value string) {
	r.t.Helper()
	soon(r.t, "durability is "+value, func() bool {
		cl, err := kgo.NewClient(kgo.SeedBrokers(n.KafkaAddr()))
		if err != nil {
			r.t.Fatal(err)
		}
		defer cl.Close()
		resp, err := incrementalAlter(1, kmsg.ConfigResourceTypeTopic, repairTopic, setTo(coordinator.Durability, value)).RequestWith(r.t.Context(), cl)
		return err == nil && resp.Resources[0].ErrorCode == 0
	})
	for _, n := range r.running() {
		soon(r.t, "a broker has heard of it", func() bool {
			rep := n.rec.replica(r.group)
			return rep != nil && rep.Settings().Relaxed == (value == "relaxed")
		})
	}
}

// noted: the broker's log may be ahead of its disk.
func (r *repairs) noted(n *node) bool {
	_, err := r.disks[n].Stat(path.Join(r.dir(), "relaxed"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.t.Fatal(err)
	}
	return err == nil
}

const saysForgot = "acknowledged records may be lost here"

// losePower takes the power from brokers whose logs are ahead of their disks, and starts them again. A log comes to rest when its writer is not
// given the processor for long enough, and then there is nothing to lose: it is done again.
func (r *repairs) losePower(nodes ...*node) {
	r.t.Helper()
	from := make(map[*node]int)
	soon(r.t, "the power is lost in the middle of something", func() bool {
		for _, n := range nodes {
			soon(r.t, "a log is ahead of its disk", func() bool { return r.noted(n) })
			from[n] = n.logged()
		}
		for _, n := range nodes {
			r.disks[n].Crash(nil)
		}
		for _, n := range nodes {
			_ = n.Close() // of a broker whose disk is gone, something is bound to complain
			n.Broker = nil
		}
		r.start(nodes...)
		for _, n := range nodes {
			soon(r.t, "the replica is open", func() bool { rep := n.rec.replica(r.group); return rep != nil && rep.Raft() != nil })
		}
		return !slices.ContainsFunc(nodes, func(n *node) bool { return !n.said(from[n], saysForgot) })
	})
}

// A topic is relaxed and strict again, while it is written to; in between one machine after the other loses its power, the leader's first.
// Nothing is lost, and each votes again when a leader has caught it up.
func TestRelaxedWhileWritten(t *testing.T) {
	t.Parallel()
	r := newRepairs(t)
	for _, n := range r.nodes {
		if r.noted(n) {
			t.Fatal("a log was ahead of its disk before that was asked for")
		}
	}
	for range 2 {
		r.setDurability(r.nodes[0], "relaxed")
		for _, n := range r.nodes {
			soon(t, "a log is ahead of its disk", func() bool { return r.noted(n) })
		}
		r.load.more("relaxed", 50)
		for _, leads := range []bool{true, false} {
			n := r.victim(leads)
			r.losePower(n)
			r.sound(n)
			r.lead(n) // it has its vote, and all that it takes to lead
			r.load.more("after a power loss", 20)
		}
		r.setDurability(r.nodes[1], "quorum")
		for _, n := range r.nodes {
			soon(t, "all is on the disk", func() bool { return !r.noted(n) && n.rec.replica(r.group).Behind() == 0 })
		}
		r.load.more("strict again", 50)
		for _, n := range r.nodes {
			if r.noted(n) {
				t.Error("a log is ahead of its disk, although that is not wanted any more")
			}
		}
	}
	r.load.stop(r.testCluster)
}

// All three machines lose their power at once. What was acknowledged last may be gone, and nobody may lead who does not know: not before an
// operator has said that what is left is all there is.
func TestRelaxedMajorityWaits(t *testing.T) {
	t.Parallel()
	r := newRepairs(t)
	r.setDurability(r.nodes[0], "relaxed")
	r.load.more("relaxed", 50)
	r.losePower(r.nodes...)
	r.load.abandon()
	_ = r.metaLeader()
	soon(t, "all say why they do not vote", func() bool {
		for _, n := range r.nodes {
			rep := n.rec.replica(r.group)
			if rep == nil || rep.Raft() == nil {
				return false
			}
			if s := rep.Raft().Status(); s.Leader != 0 {
				t.Fatalf("broker %d leads", s.Leader)
			} else if s.VoteAfter != raft.UntilTold {
				return false
			}
		}
		return true
	})
	r.nodes[0].execute(t, r.nodes[0].plan(t, &resetRequest{Topic: repairTopic}))
	for _, n := range r.nodes {
		r.sound(n)
	}
	r.load = r.trickle()
	r.load.more("after the reset", 20)
	r.load.stop(r.testCluster)
}
