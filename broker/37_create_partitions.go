// CreatePartitions (key 37), versions 0 to 3: more partitions for topics that are there, placed by the cluster or by the client. Each topic is
// done on its own, once; the answer comes when the new partitions have leaders and every live broker knows them, or at the time-out.
// The brokers' own topics keep their number, as it says who coordinates what.

package broker

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

func (s *server) createPartitions(r *request) {
	req := r.msg.(*kmsg.CreatePartitionsRequest)
	resp := kmsg.NewPtrCreatePartitionsResponse()
	resp.Topics = make([]kmsg.CreatePartitionsResponseTopic, len(req.Topics))
	im := s.b.Image()
	count := make(map[string]int, len(req.Topics))
	for i := range req.Topics {
		count[req.Topics[i].Topic]++
	}
	g := &coordinator.Growth{ValidateOnly: req.ValidateOnly}
	var places []int
	fail := func(i int, err error) {
		resp.Topics[i].ErrorCode, resp.Topics[i].ErrorMessage = codeOf(err), messageOf(err)
	}
	for i := range req.Topics {
		t := &req.Topics[i]
		resp.Topics[i].Default()
		resp.Topics[i].Topic = t.Topic
		grow, err := growthOf(im, t)
		switch {
		case err == nil && count[t.Topic] > 1:
			err = refuse(kerr.InvalidRequest, "the request names the topic more than once")
		case err == nil && len(g.Topics) == coordinator.MaxChangesPerCommand:
			err = refuse(kerr.PolicyViolation, fmt.Sprintf("more than %d topics in one request", coordinator.MaxChangesPerCommand))
		}
		if err == nil && !req.ValidateOnly {
			err = r.mutates(max(int(t.Count)-len(im.TopicByID(grow.Topic).Partitions), 0), req.Version >= 3)
		}
		if err != nil {
			fail(i, err)
			continue
		}
		g.Topics, places = append(g.Topics, grow), append(places, i)
	}
	if len(g.Topics) == 0 {
		r.respond(resp)
		return
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, adminTimeout(req.TimeoutMillis))
	s.b.GrowTopics(ctx, g, func(errs []error) {
		cancel()
		for k, i := range places {
			if errs[k] != nil {
				fail(i, errs[k])
			}
		}
		r.respond(resp)
	})
}

func growthOf(im *coordinator.Image, q *kmsg.CreatePartitionsRequestTopic) (g coordinator.GrowTopic, err error) {
	t, err := findTopic(im, false, q.Topic, [16]byte{})
	switch {
	case err != nil:
		return g, err
	case t.Internal():
		return g, refuse(kerr.InvalidRequest, fmt.Sprintf("%s belongs to the brokers, and keeps its number of partitions", t.Name))
	case coordinator.Conditional(t.Configs):
		return g, refuse(kerr.InvalidRequest, fmt.Sprintf("%s has %s, and keeps its number of partitions: its keys would move away from their last records", t.Name, coordinator.ConditionalAppend))
	}
	if q.Count > coordinator.MaxPartitionsPerTopic { // the controller says so, too, but not before the client's quota has been charged for them all
		return g, fmt.Errorf("%w: %d, allowed are 1 to %d", coordinator.ErrInvalidPartitions, q.Count, coordinator.MaxPartitionsPerTopic)
	}
	g.Topic, g.Count = t.ID, q.Count
	for i := range q.Assignment {
		nodes := make([]raft.NodeID, len(q.Assignment[i].Replicas))
		for k, id := range q.Assignment[i].Replicas {
			if id <= 0 {
				return g, refuse(kerr.InvalidReplicaAssignment, fmt.Sprintf("there is no broker %d", id))
			}
			nodes[k] = raft.NodeID(id)
		}
		g.Assignment = append(g.Assignment, nodes)
	}
	if q.Assignment != nil && len(q.Assignment) == 0 && int(q.Count) > len(t.Partitions) {
		return g, refuse(kerr.InvalidReplicaAssignment, fmt.Sprintf("%d partitions are to be added, and none is assigned", int(q.Count)-len(t.Partitions)))
	}
	return g, nil
}

// GrowTopics implements backend.
func (b *Broker) GrowTopics(ctx context.Context, g *coordinator.Growth, done func([]error)) {
	fail := func(err error) {
		errs := make([]error, len(g.Topics))
		for i := range errs {
			errs[i] = err
		}
		done(errs)
	}
	b.admin(ctx, func(ctx context.Context) {
		r, err := b.ask(ctx, &coordinator.Intent{Request: newRequestID(), Grow: g})
		if err == nil {
			err = r.Err()
		}
		if err == nil && len(r.Items) != len(g.Topics) {
			err = errRPC
		}
		if err != nil {
			fail(fmt.Errorf("add partitions: %w", err))
			return
		}
		errs := make([]error, len(g.Topics))
		var grown []coordinator.TopicID
		for i := range errs {
			if errs[i] = r.Items[i].Err(); errs[i] == nil {
				grown = append(grown, g.Topics[i].Topic)
			}
		}
		if len(grown) > 0 && !g.ValidateOnly {
			if err := b.awaitCluster(ctx, r.Index, grown); err != nil {
				for i := range errs {
					if errs[i] == nil {
						errs[i] = fmt.Errorf("the partitions are added, but their leaders or some broker's metadata are not there yet: %w", err)
					}
				}
			}
		}
		done(errs)
	}, fail)
}
