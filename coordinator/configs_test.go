package coordinator

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/balsamq/balsa/raft"
)

// newAdminLog is a cluster of n brokers that has everything of LevelAdmin.
func newAdminLog(t testing.TB, n int) *log {
	l := newLog(t)
	l.found(n)
	l.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelAdmin}})
	return l
}

func TestSetConfigs(t *testing.T) {
	l := newAdminLog(t, 2)
	l.create("", "t", topicID(1), []raft.NodeID{1})
	one, two := "1", "2"
	set := func(c ConfigChange) error {
		t.Helper()
		return l.do(&Command{SetConfigs: &SetConfigs{Changes: []ConfigChange{c}}}).Items[0].Err()
	}
	for _, tc := range []struct {
		c    ConfigChange
		want error
	}{
		{ConfigChange{Kind: ConfigTopic, Topic: topicID(1), Set: map[string]*string{"a": &one}}, nil},
		{ConfigChange{Kind: ConfigTopic, Topic: topicID(2), Set: map[string]*string{"a": &one}}, ErrUnknownTopic},
		{ConfigChange{Kind: ConfigBroker, Set: map[string]*string{"a": &one}}, nil},
		{ConfigChange{Kind: ConfigBroker, Name: "2", Set: map[string]*string{"a": &two}}, nil},
		{ConfigChange{Kind: ConfigBroker, Name: "9", Set: map[string]*string{"a": &two}}, ErrUnknownBroker},
		{ConfigChange{Kind: ConfigBroker, Name: "x", Set: map[string]*string{"a": &two}}, ErrUnknownBroker},
		{ConfigChange{Kind: ConfigGroup, Name: "g", Set: map[string]*string{"a": &one}}, nil},
		// What is made from a value that is there no more does nothing.
		{ConfigChange{Kind: ConfigGroup, Name: "g", Set: map[string]*string{"a": &two}, Was: map[string]*string{"a": nil}}, ErrStale},
		{ConfigChange{Kind: ConfigGroup, Name: "g", Set: map[string]*string{"a": &two}, Was: map[string]*string{"a": &two}}, ErrStale},
		{ConfigChange{Kind: ConfigGroup, Name: "g", Set: map[string]*string{"a": &two}, Was: map[string]*string{"a": &one, "b": nil}}, nil},
	} {
		if err := set(tc.c); !errors.Is(err, tc.want) {
			t.Errorf("%+v: %v, want %v", tc.c, err, tc.want)
		}
	}
	im := l.md.Image()
	if v, ok := im.BrokerConfig(1, "a"); !ok || v != "1" {
		t.Errorf("broker 1 has %q, %v: what holds for all", v, ok)
	}
	if v, ok := im.BrokerConfig(2, "a"); !ok || v != "2" {
		t.Errorf("broker 2 has %q, %v: its own", v, ok)
	}
	if im.Topic("t").Configs["a"] != "1" || im.GroupConfigs("g")["a"] != "2" || fmt.Sprint(im.ConfiguredGroups()) != "[g]" {
		t.Errorf("topic %v, group %v, groups %v", im.Topic("t").Configs, im.GroupConfigs("g"), im.ConfiguredGroups())
	}
	// An old image stays as it is.
	if err := set(ConfigChange{Kind: ConfigGroup, Name: "g", Set: map[string]*string{"a": nil}}); err != nil || im.GroupConfigs("g")["a"] != "2" || len(l.md.Image().ConfiguredGroups()) != 0 {
		t.Errorf("%v: before %v, after %v", err, im.GroupConfigs("g"), l.md.Image().ConfiguredGroups())
	}

	restored := NewMetadata()
	if err := restored.Restore(raft.SnapshotMeta{Index: l.md.Image().Version()}, snapshot(t, l.md)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(snapshot(t, restored), snapshot(t, l.md)) {
		t.Error("a snapshot loses something")
	}

	// A broker that is forgotten takes its configs with it.
	l.do(&Command{Fence: &FenceBroker{Node: 2, Epoch: l.md.Image().Broker(2).Epoch, Fenced: true}})
	if err := l.do(&Command{Unregister: &UnregisterBroker{Node: 2}}).Err(); err != nil || l.md.Image().BrokerConfigs("2") != nil {
		t.Errorf("%v, %v", err, l.md.Image().BrokerConfigs("2"))
	}
}

func TestGroupConfigsAreBounded(t *testing.T) {
	l := newAdminLog(t, 1)
	v := "1"
	c := &SetConfigs{}
	for i := range MaxConfiguredGroups {
		c.Changes = append(c.Changes, ConfigChange{Kind: ConfigGroup, Name: fmt.Sprint("g", i), Set: map[string]*string{"a": &v}})
	}
	l.do(&Command{SetConfigs: c})
	one := func(name string) error {
		return l.do(&Command{SetConfigs: &SetConfigs{Changes: []ConfigChange{{Kind: ConfigGroup, Name: name, Set: map[string]*string{"b": &v}}}}}).Items[0].Err()
	}
	if err := one("more"); !errors.Is(err, ErrTooMany) {
		t.Errorf("one group too many: %v", err)
	}
	if err := one("g0"); err != nil {
		t.Errorf("a group that is there: %v", err)
	}
}

// While something is in use that a lower level has no words for, the level stays; after that it goes down, and a snapshot is one that
// the lower level reads.
func TestLevelInUseIsNotLowered(t *testing.T) {
	l := newAdminLog(t, 1)
	v, rate := "1", 5.0
	user := "u"
	for _, tc := range []struct{ on, off *Command }{
		{&Command{SetConfigs: &SetConfigs{Changes: []ConfigChange{{Kind: ConfigBroker, Set: map[string]*string{"a": &v}}}}},
			&Command{SetConfigs: &SetConfigs{Changes: []ConfigChange{{Kind: ConfigBroker, Set: map[string]*string{"a": nil}}}}}},
		{&Command{SetConfigs: &SetConfigs{Changes: []ConfigChange{{Kind: ConfigGroup, Name: "g", Set: map[string]*string{"a": &v}}}}},
			&Command{SetConfigs: &SetConfigs{Changes: []ConfigChange{{Kind: ConfigGroup, Name: "g", Set: map[string]*string{"a": nil}}}}}},
		{&Command{Request: "kept", AlterQuotas: &AlterQuotas{Entries: []QuotaChange{{QuotaEntity{User: &user}, map[string]*float64{"r": &rate}}}}},
			&Command{AlterQuotas: &AlterQuotas{Entries: []QuotaChange{{QuotaEntity{User: &user}, map[string]*float64{"r": nil}}}}}},
	} {
		l.do(tc.on)
		lower := &Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelMoves}}
		if err := l.do(lower).Err(); !errors.Is(err, ErrFeatureUpdate) || l.md.Image().Feature(MetadataVersion) != LevelAdmin {
			t.Fatalf("lowered with %+v in use: %v", tc.on, err)
		}
		l.do(tc.off)
		if err := l.do(lower).Err(); err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"broker_configs", "group_configs", "quotas", "items"} {
			if bytes.Contains(snapshot(t, l.md), []byte(word)) {
				t.Errorf("a snapshot of level %d has %q", LevelMoves, word)
			}
		}
		l.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelAdmin}})
	}
}

// Where there are topics, their logs may have what a program of a level below LevelPadded cannot open. Below that they have not, and the level is as
// free as older versions think.
func TestLevelOfLogsIsNotLowered(t *testing.T) {
	c, _ := newControlled(t, 1)
	level := func(to int16) error {
		return c.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: to}}).Err()
	}
	for _, to := range []int16{LevelLatest, LevelRelaxed, LevelLatest, LevelRelaxed} {
		if err := level(to); err != nil {
			t.Fatalf("without a topic, to %d: %v", to, err)
		}
	}
	c.create("", "t", topicID(1), []raft.NodeID{1})
	for _, to := range []int16{LevelAdmin, LevelRelaxed, LevelPadded} {
		if err := level(to); err != nil {
			t.Fatalf("with a topic, to %d: %v", to, err)
		}
	}
	if err := level(LevelRelaxed); !errors.Is(err, ErrFeatureUpdate) || c.md.Image().Feature(MetadataVersion) != LevelPadded {
		t.Errorf("lowered with a topic: %v", err)
	}
}

func TestAddPartitions(t *testing.T) {
	c, ctl := newControlled(t, 3)
	c.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelAdmin}})
	c.create("", "t", topicID(1), []raft.NodeID{1, 2}, []raft.NodeID{2, 3})
	seq := 0
	grow := func(g GrowTopic, validate bool) error {
		t.Helper()
		seq++
		r, err := ctl.Do(t.Context(), &Intent{Request: fmt.Sprint("grow", seq), Grow: &Growth{Topics: []GrowTopic{g}, ValidateOnly: validate}})
		if err == nil {
			err = r.Err()
		}
		if err != nil {
			t.Fatal(err)
		}
		return r.Items[0].Err()
	}
	count := func() int { return len(c.md.Image().Topic("t").Partitions) }
	id := topicID(1)
	for _, tc := range []struct {
		g    GrowTopic
		want error
	}{
		{GrowTopic{Topic: topicID(7), Count: 3}, ErrUnknownTopic},
		{GrowTopic{Topic: id, Count: 2}, ErrInvalidPartitions},
		{GrowTopic{Topic: id, Count: 1}, ErrInvalidPartitions},
		{GrowTopic{Topic: id, Count: -1}, ErrInvalidPartitions},
		{GrowTopic{Topic: id, Count: MaxPartitionsPerTopic + 1}, ErrInvalidPartitions},
		{GrowTopic{Topic: id, Count: 4, Assignment: [][]raft.NodeID{{1, 2}}}, ErrInvalidAssignment},
		{GrowTopic{Topic: id, Count: 3, Assignment: [][]raft.NodeID{{1}}}, ErrInvalidAssignment},
		{GrowTopic{Topic: id, Count: 3, Assignment: [][]raft.NodeID{{1, 1}}}, ErrInvalidAssignment},
		{GrowTopic{Topic: id, Count: 3, Assignment: [][]raft.NodeID{{1, 9}}}, ErrInvalidAssignment},
	} {
		if err := grow(tc.g, false); !errors.Is(err, tc.want) || count() != 2 {
			t.Errorf("%+v: %v, want %v; %d partitions", tc.g, err, tc.want, count())
		}
	}
	// What is wrong is said of the partition that it is about: those that are there have numbers too.
	for _, r := range [][]raft.NodeID{{1, 1}, {1, 9}} {
		if err := grow(GrowTopic{Topic: id, Count: 4, Assignment: [][]raft.NodeID{{1, 2}, r}}, false); err == nil || !strings.Contains(err.Error(), "partition 3 ") {
			t.Errorf("%v: %v", r, err)
		}
	}
	if err := grow(GrowTopic{Topic: id, Count: 5}, true); err != nil || count() != 2 {
		t.Errorf("validating: %v, %d partitions", err, count())
	}
	before := c.md.Image()
	if err := grow(GrowTopic{Topic: id, Count: 3, Assignment: [][]raft.NodeID{{3, 1}}}, false); err != nil || count() != 3 {
		t.Fatalf("%v, %d partitions", err, count())
	}
	if err := grow(GrowTopic{Topic: id, Count: 9}, false); err != nil || count() != 9 {
		t.Fatalf("%v, %d partitions", err, count())
	}
	im := c.md.Image()
	ps := im.Topic("t").Partitions
	if ps[2].Replicas[0].ID != 3 || ps[2].Replicas[1].ID != 1 || len(before.Topic("t").Partitions) != 2 || im.PartitionCount() != 9 {
		t.Errorf("%+v", ps)
	}
	groups := make(map[raft.GroupID]bool)
	for i := range ps {
		if groups[ps[i].Group] || len(ps[i].Replicas) != 2 || ps[i].Group >= im.NextGroup() {
			t.Errorf("partition %d: %+v", i, ps[i])
		}
		groups[ps[i].Group] = true
		if topic, p, ok := im.Group(ps[i].Group); !ok || topic.Name != "t" || p != int32(i) {
			t.Errorf("group %d leads to %v/%d", ps[i].Group, topic, p)
		}
	}
	// Somebody else was faster.
	r := c.do(&Command{AddPartitions: &AddPartitions{Brokers: []raft.Member{{ID: 1, Incarnation: 101}}, Topics: []MorePartitions{{Topic: id, From: 2, Replicas: [][]raft.NodeID{{1}}}}}})
	if err := r.Items[0].Err(); !errors.Is(err, ErrStale) || count() != 9 {
		t.Errorf("%v, %d partitions", err, count())
	}
}

func TestQuotasInTheImage(t *testing.T) {
	l := newAdminLog(t, 1)
	a, all, rate := "a", "", 100.5
	set := map[string]*float64{"producer_byte_rate": &rate}
	if r := l.do(&Command{AlterQuotas: &AlterQuotas{Entries: []QuotaChange{{QuotaEntity{User: &a}, set}, {QuotaEntity{User: &all, ClientID: &a}, set}}}}); r.Items[0].Err() != nil || r.Items[1].Err() != nil {
		t.Fatalf("%+v", r)
	}
	found := 0
	for e, limits := range l.md.Image().Quotas() {
		found++
		if limits["producer_byte_rate"] != rate || e.User == nil || (*e.User == "") != (e.ClientID != nil) {
			t.Errorf("%+v %v", e, limits)
		}
	}
	if found != 2 {
		t.Errorf("%d entities", found)
	}
	for _, e := range []QuotaEntity{{}, {IP: &a, User: &a}, {IP: &a, ClientID: &a}} {
		if _, err := (&Command{AlterQuotas: &AlterQuotas{Entries: []QuotaChange{{e, set}}}}).Encode(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%+v is taken: %v", e, err)
		}
	}
}
