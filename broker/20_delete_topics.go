// DeleteTopics (key 20), versions 0 to 6: deletes topics, by name, from v6 also by id. When the answer comes, no live
// broker serves the topic any more; the disk is freed soon after.

package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) deleteTopics(r *request) {
	req := r.msg.(*kmsg.DeleteTopicsRequest)
	resp := kmsg.NewPtrDeleteTopicsResponse()
	asked := req.Topics
	if req.Version < 6 {
		asked = make([]kmsg.DeleteTopicsRequestTopic, len(req.TopicNames))
		for i := range req.TopicNames {
			asked[i].Topic = &req.TopicNames[i]
		}
	}
	resp.Topics = make([]kmsg.DeleteTopicsResponseTopic, len(asked))
	fail := func(i int, err error) {
		resp.Topics[i].ErrorCode, resp.Topics[i].ErrorMessage = codeOf(err), messageOf(err)
	}
	im := s.b.Image()
	var ids []coordinator.TopicID
	var places []int
	seen := make(map[coordinator.TopicID]int, len(asked))
	enabled := s.configBool("delete.topic.enable")
	for i := range asked {
		place := &resp.Topics[i]
		place.Default()
		place.Topic, place.TopicID = asked[i].Topic, asked[i].TopicID
		topic, err := deletedTopic(im, &asked[i])
		switch {
		case err != nil:
			fail(i, err)
			continue
		case !enabled:
			fail(i, refuse(kerr.TopicDeletionDisabled, "delete.topic.enable is false"))
			continue
		case topic.Internal():
			fail(i, refuse(kerr.TopicAuthorizationFailed, fmt.Sprintf("topic %s belongs to the brokers", topic.Name)))
			continue
		}
		name := topic.Name
		place.Topic, place.TopicID = &name, topic.ID
		if first, ok := seen[topic.ID]; ok {
			err := refuse(kerr.InvalidRequest, "the request names the topic more than once")
			fail(first, err)
			fail(i, err)
			continue
		}
		if err := r.mutates(len(topic.Partitions), req.Version >= 5); err != nil {
			fail(i, err)
			continue
		}
		seen[topic.ID] = i
		ids, places = append(ids, topic.ID), append(places, i)
	}
	// What was named twice is not deleted.
	n := 0
	for k, i := range places {
		if resp.Topics[i].ErrorCode == 0 {
			ids[n], places[n] = ids[k], i
			n++
		}
	}
	ids, places = ids[:n], places[:n]
	if n == 0 {
		r.respond(resp)
		return
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, adminTimeout(req.TimeoutMillis))
	s.b.DeleteTopics(ctx, ids, func(errs []error) {
		cancel()
		for k, i := range places {
			if errs[k] != nil {
				fail(i, errs[k])
			}
		}
		r.respond(resp)
	})
}

func deletedTopic(im *coordinator.Image, t *kmsg.DeleteTopicsRequestTopic) (*coordinator.Topic, error) {
	byID := t.TopicID != [16]byte{}
	switch {
	case byID && t.Topic != nil:
		return nil, refuse(kerr.InvalidRequest, "a topic is named by its name or by its id, not by both")
	case !byID && t.Topic == nil:
		return nil, refuse(kerr.InvalidRequest, "neither a name nor an id")
	case byID:
		return findTopic(im, true, "", t.TopicID)
	}
	return findTopic(im, false, *t.Topic, t.TopicID)
}

// adminTimeout is a client's time-out within reason.
func adminTimeout(ms int32) time.Duration {
	const least, most = time.Millisecond, 10 * time.Minute
	return min(max(time.Duration(ms)*time.Millisecond, least), most)
}
