// OffsetFetch (key 9), versions 1 to 10: how far a group has read. v2 brought "all topics" (null), v7 require_stable, v8 many
// groups at once, v10 topic ids. An unknown group, and a partition without a commit, have offset -1 and no error.
//
// The answer comes after the coordinator has made sure that it still is the coordinator: what was acknowledged is never
// older afterwards. Who asks for what is stable is told UNSTABLE_OFFSET_COMMIT where a transaction may still change it.

package broker

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) offsetFetch(r *request) {
	req := r.msg.(*kmsg.OffsetFetchRequest)
	resp := kmsg.NewPtrOffsetFetchResponse()
	groups := req.Groups
	if req.Version < 8 {
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = req.Group
		if req.Topics != nil {
			g.Topics = make([]kmsg.OffsetFetchRequestGroupTopic, len(req.Topics))
		}
		for i := range req.Topics {
			g.Topics[i].Topic, g.Topics[i].Partitions = req.Topics[i].Topic, req.Topics[i].Partitions
		}
		groups = []kmsg.OffsetFetchRequestGroup{g}
	}
	resp.Groups = make([]kmsg.OffsetFetchResponseGroup, len(groups))
	f := newFanIn(func() {
		if req.Version < 8 {
			flattenOffsets(resp)
		}
		r.respond(resp)
	})
	for i := range groups {
		resp.Groups[i].Default()
		f.add()
		s.groupOffsets(req.Version, req.RequireStable, &groups[i], &resp.Groups[i], f.done)
	}
	f.done()
}

// groupOffsets fills in one group's part of the answer.
func (s *server) groupOffsets(version int16, stable bool, q *kmsg.OffsetFetchRequestGroup, place *kmsg.OffsetFetchResponseGroup, done func()) {
	place.Group = q.Group
	im := s.b.Image()
	all := q.Topics == nil && version >= 2
	var want []coordinator.TopicPartition
	known := make([]*coordinator.Topic, len(q.Topics))
	for i := range q.Topics {
		t := &q.Topics[i]
		name := t.Topic
		known[i], _ = findTopic(im, version >= 10, t.Topic, t.TopicID)
		if known[i] != nil {
			name = known[i].Name
		}
		for _, p := range t.Partitions {
			want = append(want, coordinator.TopicPartition{Topic: name, Partition: p})
		}
	}
	if version >= 9 {
		if err := s.b.Groups().MayFetch(q.Group, q.MemberID, q.MemberEpoch); err != nil {
			place.ErrorCode = codeOf(err)
			done()
			return
		}
	}
	s.b.Groups().FetchOffsets(q.Group, want, all, func(offsets []coordinator.CommittedOffset, err error) {
		defer done()
		place.ErrorCode = codeOf(err)
		if err != nil && version >= 2 {
			return
		}
		if !stable {
			offsets = asCommitted(offsets, all)
		}
		if all {
			names, topics := byTopic(offsets)
			for _, name := range names {
				t := im.Topic(name)
				if t == nil && version >= 10 {
					continue // it has no id by which to name it
				}
				rt := kmsg.NewOffsetFetchResponseGroupTopic()
				rt.Topic = name
				if t != nil {
					rt.TopicID = t.ID
				}
				for _, o := range topics[name] {
					if !outlived(&o, t) {
						rt.Partitions = append(rt.Partitions, fetchedOffset(&o))
					}
				}
				if len(rt.Partitions) > 0 {
					place.Topics = append(place.Topics, rt)
				}
			}
			return
		}
		place.Topics = make([]kmsg.OffsetFetchResponseGroupTopic, len(q.Topics))
		n := 0
		for i := range q.Topics {
			rt := &place.Topics[i]
			rt.Default()
			rt.Topic, rt.TopicID = q.Topics[i].Topic, q.Topics[i].TopicID
			for _, p := range q.Topics[i].Partitions {
				o := coordinator.CommittedOffset{Partition: p, Offset: -1, LeaderEpoch: -1}
				if err == nil && !outlived(&offsets[n], known[i]) {
					o = offsets[n]
				}
				n++
				rp := fetchedOffset(&o)
				switch {
				case err != nil:
					rp.ErrorCode = codeOf(err) // v1 has no other place for it
				case version >= 10 && known[i] == nil:
					rp.ErrorCode = kerr.UnknownTopicID.Code
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
		}
	})
}

// asCommitted is for who does not ask for stable offsets: what is committed counts, whatever is pending.
func asCommitted(offsets []coordinator.CommittedOffset, all bool) []coordinator.CommittedOffset {
	for i := range offsets {
		offsets[i].Unstable = false
	}
	if all {
		offsets = slices.DeleteFunc(offsets, func(o coordinator.CommittedOffset) bool { return o.Offset < 0 && o.Committed == 0 })
	}
	return offsets
}

// outlived says that the offset belongs to an earlier topic of the same name.
func outlived(o *coordinator.CommittedOffset, t *coordinator.Topic) bool {
	return t != nil && !o.TopicID.IsZero() && o.TopicID != t.ID
}

func fetchedOffset(o *coordinator.CommittedOffset) kmsg.OffsetFetchResponseGroupTopicPartition {
	rp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
	if o.Unstable {
		none := ""
		rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata, rp.ErrorCode = o.Partition, -1, -1, &none, kerr.UnstableOffsetCommit.Code
		return rp
	}
	rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = o.Partition, o.Offset, o.LeaderEpoch, &o.Metadata
	return rp
}

// flattenOffsets turns the answer for one group into the form before v8.
func flattenOffsets(resp *kmsg.OffsetFetchResponse) {
	g := &resp.Groups[0]
	resp.ErrorCode = g.ErrorCode
	resp.Topics = make([]kmsg.OffsetFetchResponseTopic, len(g.Topics))
	for i := range g.Topics {
		rt := &resp.Topics[i]
		rt.Default()
		rt.Topic = g.Topics[i].Topic
		for _, p := range g.Topics[i].Partitions {
			rp := kmsg.NewOffsetFetchResponseTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata, rp.ErrorCode = p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode
			rt.Partitions = append(rt.Partitions, rp)
		}
	}
}
