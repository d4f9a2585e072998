// Committed offsets: commit, fetch, deletion and expiry. They are in force when their record is committed, and read only when
// no other coordinator can have acknowledged a later one.

package coordinator

import (
	"reflect"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// CommitRequest commits offsets, all or none of those that are valid.
type CommitRequest struct {
	Group, MemberID string
	Instance        *string
	Generation      int32 // negative: a simple consumer, outside of any generation
	Offsets         []CommittedOffset
	Modern          bool          // v9: Generation may be the epoch of a member of the new protocol
	Transactional   bool          // by Groups.CommitTxn
	Retention       time.Duration // v2 to v4: instead of the broker's; negative: not given
}

// TopicPartition names a partition of a topic.
type TopicPartition struct {
	Topic     string
	Partition int32
}

func (g *group) setOffset(o CommittedOffset) {
	if g.offsets == nil {
		g.offsets = make(map[string]map[int32]*CommittedOffset)
	}
	t := g.offsets[o.Topic]
	if t == nil {
		t = make(map[int32]*CommittedOffset)
		g.offsets[o.Topic] = t
	}
	if t[o.Partition] == nil {
		g.count++
	}
	t[o.Partition] = &o
}

func (g *group) removeOffset(topic string, partition int32) {
	t := g.offsets[topic]
	if t[partition] == nil {
		return
	}
	delete(t, partition)
	g.count--
	if len(t) == 0 {
		delete(g.offsets, topic)
	}
}

// mayCommit says whether an offset commit comes from somebody who may.
func (g *group) mayCommit(r *CommitRequest) error {
	if g.consumer != nil {
		return g.consumerMayCommit(r)
	}
	if r.Generation < 0 && g.state == groupEmpty {
		return nil // a simple consumer, or an administrator
	}
	if r.Generation < 0 && r.MemberID == "" && r.Instance == nil {
		return ErrUnknownMember // the group has members: only they may
	}
	m, err := g.validate(r.MemberID, r.Instance)
	switch {
	case err != nil:
		return err
	case r.Generation != g.generation:
		return ErrIllegalGeneration
	case g.state == groupCompleting && !r.Transactional:
		// Whoever commits now has not seen its assignment yet.
		return ErrRebalanceInProgress
	}
	g.touch(m)
	return nil
}

// committer is the group of a commit: one that nobody is a member of is made by it.
func (s *shard) committer(r *CommitRequest) (*group, error) {
	if s.group(r.Group) == nil && r.Generation >= 0 {
		return nil, ErrIllegalGeneration
	}
	return s.obtain(r.Group)
}

// Commit calls reply exactly once, with an error for each offset or with one for all.
func (c *Groups) Commit(r *CommitRequest, reply func(errs []error, err error)) {
	s, err := c.enterAny(r.Group)
	if err != nil {
		reply(nil, err)
		return
	}
	defer s.unlock()
	answer := func(errs []error, err error) { s.later(func() { reply(errs, err) }) }
	g, err := s.committer(r)
	if err != nil {
		answer(nil, err)
		return
	}
	if err := g.mayCommit(r); err != nil {
		answer(nil, err)
		s.tidy(g)
		return
	}
	now := c.cfg.Now()
	errs := make([]error, len(r.Offsets))
	var records []groupRecord
	for i, o := range r.Offsets {
		if len(o.Metadata) > c.cfg.MaxOffsetMetadata {
			errs[i] = ErrOffsetMetadataTooLarge
			continue
		}
		if g.consumer != nil && g.consumer.stale(r, partID{o.TopicID, o.Partition}) {
			errs[i] = ErrStaleEpoch
			continue
		}
		o.Committed, o.Expires = now.UnixMilli(), -1
		if r.Retention >= 0 {
			o.Expires = now.Add(r.Retention).UnixMilli()
		}
		records = append(records, offsetRecord(g.name, o))
	}
	if len(records) == 0 {
		answer(errs, nil)
		s.tidy(g)
		return
	}
	g.commits++
	s.append(records, func(err error) {
		g.commits--
		if !s.closed {
			s.tidy(g)
		}
		answer(errs, err)
	})
}

// FetchOffsets calls reply exactly once: with an offset for each of want, Offset -1 where there is none, or with all that the
// group has if all is set. An unknown group has none, which is no error.
func (c *Groups) FetchOffsets(name string, want []TopicPartition, all bool, reply func([]CommittedOffset, error)) {
	s, err := c.enterAny(name)
	if err != nil {
		reply(nil, err)
		return
	}
	s.unlock()
	s.log.Linearize(func(err error) {
		var out []CommittedOffset
		s.mu.Lock()
		if u := s.usable(); u != nil {
			err = u
		}
		if err == nil {
			out = s.offsetsOf(name, want, all)
		}
		s.unlock()
		reply(out, err)
	})
}

func (s *shard) offsetsOf(name string, want []TopicPartition, all bool) []CommittedOffset {
	g := s.group(name)
	if all {
		if g == nil {
			return nil
		}
		out := make([]CommittedOffset, 0, g.count)
		for _, t := range g.offsets {
			for _, o := range t {
				out = append(out, *o)
				out[len(out)-1].Unstable = g.unstable[TopicPartition{Topic: o.Topic, Partition: o.Partition}] > 0
			}
		}
		// What is only pending has no offset yet, but its reader must wait as well.
		for tp := range g.unstable {
			if g.offsets[tp.Topic][tp.Partition] == nil {
				out = append(out, CommittedOffset{Topic: tp.Topic, Partition: tp.Partition, Offset: -1, LeaderEpoch: -1, Expires: -1, Unstable: true})
			}
		}
		return out
	}
	out := make([]CommittedOffset, len(want))
	for i, tp := range want {
		out[i] = CommittedOffset{Topic: tp.Topic, Partition: tp.Partition, Offset: -1, LeaderEpoch: -1, Expires: -1}
		if g != nil {
			if o := g.offsets[tp.Topic][tp.Partition]; o != nil {
				out[i] = *o
			}
			out[i].Unstable = g.unstable[tp] > 0
		}
	}
	return out
}

// DeleteOffsets removes committed offsets: of any topic from an empty group, of topics that no member is subscribed to
// from a group of consumers. reply gets an error for each, or one for all.
func (c *Groups) DeleteOffsets(name string, parts []TopicPartition, reply func(errs []error, err error)) {
	s, err := c.enterAny(name)
	if err != nil {
		reply(nil, err)
		return
	}
	defer s.unlock()
	answer := func(errs []error, err error) { s.later(func() { reply(errs, err) }) }
	g := s.group(name)
	if g == nil {
		answer(nil, ErrGroupNotFound)
		return
	}
	var subscribed map[string]bool
	if !g.empty() {
		if subscribed = g.subscriptions(); subscribed == nil {
			answer(nil, ErrGroupNotEmpty)
			return
		}
	}
	errs := make([]error, len(parts))
	var records []groupRecord
	for i, tp := range parts {
		switch {
		case subscribed[tp.Topic]:
			errs[i] = ErrTopicSubscribed
		case g.offsets[tp.Topic][tp.Partition] != nil:
			records = append(records, offsetTombstone(name, tp.Topic, tp.Partition))
		}
	}
	if len(records) == 0 {
		answer(errs, nil)
		return
	}
	s.append(records, func(err error) {
		if !s.closed {
			s.tidy(g)
		}
		answer(errs, err)
	})
}

// subscriptions are the topics that any member wants; nil if that cannot be said.
func (g *group) subscriptions() map[string]bool {
	if g.consumer != nil {
		return g.consumerTopics()
	}
	if g.protocolType != "consumer" {
		return nil
	}
	topics := make(map[string]bool)
	for _, m := range g.order {
		for i := range m.protocols {
			var v kmsg.ConsumerMemberMetadata
			if v.ReadFrom(m.protocols[i].Metadata) != nil {
				return nil
			}
			for _, t := range v.Topics {
				topics[t] = true
			}
		}
	}
	return topics
}

// DeleteGroup removes an empty group and all that it has committed. One with a commit on its way is in use: what comes of it would be left.
func (c *Groups) DeleteGroup(name string, reply func(error)) {
	s, err := c.enterAny(name)
	if err != nil {
		reply(err)
		return
	}
	defer s.unlock()
	g := s.group(name)
	switch {
	case g == nil:
		err = ErrGroupNotFound
	case !g.empty() || len(g.pending) > 0 || g.converting || g.consumer != nil && g.writing > 0 || g.commits > 0 || len(g.unstable) > 0:
		err = ErrGroupNotEmpty
	}
	if err != nil {
		s.later(func() { reply(err) })
		return
	}
	s.bury(g, g.tombstones(func(*CommittedOffset) bool { return true }), true, func(err error) { s.later(func() { reply(err) }) })
}

// tombstones are records that remove those offsets of the group that are told to go.
func (g *group) tombstones(gone func(*CommittedOffset) bool) []groupRecord {
	var records []groupRecord
	for _, t := range g.offsets {
		for _, o := range t {
			if gone(o) {
				records = append(records, offsetTombstone(g.name, o.Topic, o.Partition))
			}
		}
	}
	return records
}

// bury appends tombstones, and the one of the group itself if whole is set, in batches of bounded size; the group's comes last.
// then gets the first error.
func (s *shard) bury(g *group, records []groupRecord, whole bool, then func(error)) {
	if whole && (g.stored || g.writing > 0) {
		records = append(records, groupRecord{name: g.name, deleted: true})
	}
	if whole && g.consumer != nil {
		records = append(records, g.consumerTombstones()...)
		g.writing++ // who joins meanwhile waits: its records must not stand among these
		inner := then
		then = func(err error) {
			g.writing--
			inner(err)
			g.written()
			if !s.closed {
				s.tidy(g)
			}
		}
	}
	if len(records) == 0 {
		s.tidy(g)
		then(nil)
		return
	}
	var first error
	left := (len(records) + maxTombstones - 1) / maxTombstones
	for len(records) > 0 {
		n := min(len(records), maxTombstones)
		s.append(records[:n:n], func(err error) {
			if err != nil && first == nil {
				first = err
			}
			if left--; left == 0 {
				if !s.closed {
					s.tidy(g)
				}
				then(first)
			}
		})
		records = records[n:]
	}
}

// expire removes offsets whose time is over. It counts from when the group became empty; without any members ever, and for topics
// that no member of a group wants, from the commit (KIP-211). A group with a commit on its way is left for the next time: its
// tombstone would come after it in the log.
func (s *shard) expire() {
	now := s.c.cfg.Now()
	s.c.timers.set(&s.sweep, now.Add(s.c.cfg.Sweep))
	for _, g := range s.groups {
		wanted, ok := g.wants()
		if !ok || len(g.pending) > 0 || g.commits > 0 || g.writing > 0 || len(g.unstable) > 0 {
			continue
		}
		records := g.tombstones(func(o *CommittedOffset) bool {
			switch {
			case wanted[o.Topic]:
				return false
			case o.Expires >= 0:
				return now.UnixMilli() >= o.Expires
			}
			return now.UnixMilli()-max(o.Committed, g.since()) >= s.c.cfg.Retention.Milliseconds()
		})
		// A group of which nothing is left is forgotten too, once it has been empty for as long.
		whole := g.empty() && len(records) == g.count && now.UnixMilli()-g.since() >= s.c.cfg.Retention.Milliseconds()
		if len(records) > 0 || whole && (g.stored || g.consumer != nil) {
			s.bury(g, records, whole, func(err error) {
				if err != nil {
					s.c.cfg.Logger.Debug("cannot expire offsets; the next sweep tries again", "group", g.name, "err", err)
				}
			})
		}
	}
}

// wants are the topics whose offsets the group needs, whatever their age. ok is false where that cannot be said, now or ever: then
// nothing expires.
func (g *group) wants() (topics map[string]bool, ok bool) {
	if g.empty() {
		return nil, true
	}
	if g.consumer == nil && g.state != groupStable {
		return nil, false
	}
	topics = g.subscriptions()
	return topics, topics != nil
}

// TopicsDeleted removes what groups have committed for topics that are gone.
func (c *Groups) TopicsDeleted(ids map[TopicID]bool) {
	for _, s := range c.all() {
		s.locked(func() {
			for _, g := range s.groups {
				if records := g.tombstones(func(o *CommittedOffset) bool { return ids[o.TopicID] }); len(records) > 0 {
					s.bury(g, records, false, func(err error) {
						if err != nil {
							s.c.cfg.Logger.Debug("cannot remove the offsets of a deleted topic", "group", g.name, "err", err)
						}
					})
				}
			}
		})
	}
}

// DeletedTopics are the topics of old that now lacks, or nil. It costs next to nothing where no topic has changed.
func DeletedTopics(old, now *Image) map[TopicID]bool {
	var gone map[TopicID]bool
	for i := range old.byID {
		// A change copies the shards that it touches.
		if reflect.ValueOf(old.byID[i]).Pointer() == reflect.ValueOf(now.byID[i]).Pointer() {
			continue
		}
		for id := range old.byID[i] {
			if now.byID[i][id] == nil {
				if gone == nil {
					gone = make(map[TopicID]bool)
				}
				gone[id] = true
			}
		}
	}
	return gone
}
