package coordinator

// Members of the new protocol as real clients are: they own what they were told to, give it back when told, and say so in
// their next heartbeat.

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// testTopics are the topics that a harness's coordinator sees.
type testTopics struct {
	im   *Image
	made byte // topics so far: one that is made anew has another id
}

// set makes a topic, has it grow, or deletes it (0).
func (ts *testTopics) set(name string, partitions int) {
	d := ts.im.draft()
	d.version++
	d.setFeature(FeatureGroupVersion, 1)
	if old := d.Topic(name); old != nil && partitions == 0 {
		d.dropTopic(old)
	} else if partitions > 0 {
		var id TopicID
		if old != nil {
			id = old.ID
		} else {
			copy(id[:], fmt.Sprintf("%-15s", name))
			id[15] = ts.made
			ts.made++
		}
		d.putTopic(&Topic{Name: name, ID: id, Partitions: make([]Partition, partitions)})
	}
	ts.im = d.Image
}

// newConsumerHarness has the given topics of three partitions each.
func newConsumerHarness(t fataler, cfg GroupConfig, topics ...string) (*groupHarness, *testTopics) {
	ts := &testTopics{im: newImage()}
	ts.set("", 0)
	for _, name := range topics {
		ts.set(name, 3)
	}
	cfg.Image = func() *Image { return ts.im }
	return newGroupHarness(t, cfg), ts
}

// consumer is a client.
type consumer struct {
	h        *groupHarness
	group    string
	id       string
	instance *string
	topics   []string
	regex    string
	assignor string
	// mayDescribe is MayDescribe in each heartbeat.
	mayDescribe func(string) bool

	epoch int32
	owned partSet // what it consumes
	told  bool    // it has something to say: its next heartbeat is a full one
	slow  int     // so many heartbeats pass before it has given back what it was told to
	next  partSet // what it will own then; nil: it has nothing to give back
	wait  int     // heartbeats until then
}

func (h *groupHarness) consumer(id string, topics ...string) *consumer {
	return &consumer{h: h, group: "g", id: id, topics: topics, owned: partSet{}, told: true}
}

func (c *consumer) request() *ConsumerHeartbeatRequest {
	if c.next != nil {
		if c.wait--; c.wait < 0 {
			c.owned, c.next, c.told = c.next, nil, true
		} else {
			c.told = false // it says nothing of what it owns while that is in flux
		}
	}
	r := &ConsumerHeartbeatRequest{Group: c.group, MemberID: c.id, Epoch: c.epoch, Instance: c.instance, ClientID: "c", ClientHost: "/h", Rebalance: -1, OwnID: true, MayDescribe: c.mayDescribe}
	if c.told || c.epoch == joinEpoch {
		r.Rebalance, r.Topics = 30*time.Second, c.topics
		if c.regex != "" {
			r.Regex = &c.regex
		}
		if c.assignor != "" {
			r.Assignor = &c.assignor
		}
		r.Owned = c.owned.byTopic()
		if r.Owned == nil {
			r.Owned = []TopicPartitions{}
		}
	}
	return r
}

func (h *groupHarness) beat(r *ConsumerHeartbeatRequest) *answer[ConsumerHeartbeatResult] {
	a := newAnswer[ConsumerHeartbeatResult](h.t)
	h.c.ConsumerHeartbeat(r, a.set)
	return a
}

// hear does what an answer says.
func (c *consumer) hear(r ConsumerHeartbeatResult) error {
	switch {
	case errors.Is(r.Err, ErrFencedEpoch), errors.Is(r.Err, ErrUnknownMember), errors.Is(r.Err, ErrGroupNotFound):
		c.epoch, c.owned, c.next, c.told = joinEpoch, partSet{}, nil, true
		return r.Err
	case r.Err != nil:
		c.told = true // whatever has become of it, the next one says everything
		return r.Err
	}
	c.epoch, c.told = r.Epoch, false
	if r.Assigned {
		next := partsOf(r.Assignment)
		c.next = nil
		for id := range c.owned {
			if _, ok := next[id]; !ok && c.slow > 0 {
				c.next, c.wait = next, c.slow
				return nil
			}
		}
		c.told = !sameParts(next, c.owned)
		c.owned = next
	}
	return nil
}

// beat is a heartbeat that gets its answer.
func (c *consumer) beat() error {
	c.h.t.Helper()
	return c.hear(c.h.beat(c.request()).get())
}

func (c *consumer) mustBeat() {
	c.h.t.Helper()
	c.h.want(c.beat(), nil)
}

// settle has members speak until nobody has anything new to hear.
func (h *groupHarness) settle(cs ...*consumer) {
	h.t.Helper()
	for range 20 {
		still := true
		for _, c := range cs {
			epoch, told := c.epoch, c.told
			c.mustBeat()
			still = still && epoch == c.epoch && !told && !c.told
		}
		if still {
			return
		}
	}
	h.t.Fatalf("the group does not settle: %+v", h.describe("g"))
}

func (h *groupHarness) describe(group string) *ConsumerGroupDescription {
	d, err := h.c.DescribeConsumer(group)
	if err != nil {
		return &ConsumerGroupDescription{State: err.Error()}
	}
	return d
}

// topicOf is the name of a partition's topic.
func topicOf(id partID) string { return strings.TrimSpace(string(id.topic[:15])) }

// owns is a member's partitions in words: "t0 t1".
func (c *consumer) owns() string {
	var out []string
	for _, id := range c.owned.sorted() {
		out = append(out, fmt.Sprint(topicOf(id), id.partition))
	}
	return strings.Join(out, " ")
}

func (h *groupHarness) wantOwned(c *consumer, want string) {
	h.t.Helper()
	if got := c.owns(); got != want {
		h.t.Fatalf("%s owns %q, want %q; the group: %+v", c.id, got, want, h.describe(c.group))
	}
}

// wantShared checks that members own all of the partitions together, each by one, within a difference of one.
func (h *groupHarness) wantShared(total int, cs ...*consumer) {
	h.t.Helper()
	seen, least, most := partSet{}, total, 0
	for _, c := range cs {
		for id := range c.owned {
			if _, ok := seen[id]; ok {
				h.t.Fatalf("%v is owned twice", id)
			}
			seen[id] = 0
		}
		least, most = min(least, len(c.owned)), max(most, len(c.owned))
	}
	if len(seen) != total || most-least > 1 {
		h.t.Fatalf("%d of %d partitions are owned, %d to %d each: %+v", len(seen), total, least, most, h.describe("g"))
	}
}

func classicSubscription(version int16, topics []string, owned map[string][]int32) []GroupProtocol {
	m := kmsg.NewConsumerMemberMetadata()
	m.Version, m.Topics = version, topics
	for name, parts := range owned {
		m.OwnedPartitions = append(m.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition{Topic: name, Partitions: parts})
	}
	return []GroupProtocol{{Name: "range", Metadata: m.AppendTo(nil)}}
}

// assigned reads the assignment that a classic client gets.
func assigned(t fataler, b []byte) string {
	t.Helper()
	var a kmsg.ConsumerMemberAssignment
	if err := a.ReadFrom(b); err != nil {
		t.Fatalf("an assignment of %d bytes: %v", len(b), err)
	}
	var out []string
	for _, at := range a.Topics {
		for _, p := range at.Partitions {
			out = append(out, fmt.Sprint(at.Topic, p))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
