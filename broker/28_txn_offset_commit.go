// TxnOffsetCommit (key 28), versions 0 to 5: offsets of a group that come into force with the transaction. v2 brought leader epochs, v3 the
// member that commits (KIP-447), v5 the addition of the group to the transaction by this very request (KIP-890).

package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) txnOffsetCommit(r *request) {
	req := r.msg.(*kmsg.TxnOffsetCommitRequest)
	resp := kmsg.NewPtrTxnOffsetCommitResponse()
	q := &coordinator.CommitRequest{Group: req.Group, Generation: -1, Retention: -1, Transactional: true, Modern: true}
	if req.Version >= 3 {
		q.MemberID, q.Instance, q.Generation = req.MemberID, req.InstanceID, req.Generation
	}
	im := s.b.Image()
	var places []*int16 // where the error of each of q.Offsets goes
	resp.Topics = make([]kmsg.TxnOffsetCommitResponseTopic, len(req.Topics))
	for i := range req.Topics {
		t, rt := &req.Topics[i], &resp.Topics[i]
		rt.Default()
		rt.Topic = t.Topic
		topic := im.Topic(t.Topic)
		rt.Partitions = make([]kmsg.TxnOffsetCommitResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			p, place := &t.Partitions[j], &rt.Partitions[j]
			place.Default()
			place.Partition = p.Partition
			if topic == nil || p.Partition < 0 || int(p.Partition) >= len(topic.Partitions) {
				place.ErrorCode = kerr.UnknownTopicOrPartition.Code
				continue
			}
			epoch := p.LeaderEpoch
			if req.Version < 2 {
				epoch = -1
			}
			q.Offsets = append(q.Offsets, coordinator.CommittedOffset{Topic: topic.Name, TopicID: topic.ID, Partition: p.Partition,
				Offset: p.Offset, LeaderEpoch: epoch, Metadata: textOf(p.Metadata)})
			places = append(places, &place.ErrorCode)
		}
	}
	answer := func(errs []error, err error) {
		for i, place := range places {
			e := err
			if e == nil {
				e = errs[i]
			}
			if *place = codeOf(e); *place == kerr.TransactionAbortable.Code && req.Version < 4 {
				*place = kerr.InvalidTxnState.Code
			}
		}
		r.respond(resp)
	}
	if len(q.Offsets) == 0 {
		r.respond(resp)
		return
	}
	switch err := s.transactions(); {
	case err != nil:
		answer(nil, err)
		return
	case req.TransactionalID == "" || req.ProducerID < 0 || req.ProducerEpoch < 0:
		answer(nil, kerr.InvalidRequest)
		return
	}
	s.b.Groups().CommitTxn(q, coordinator.TxnProducer{TransactionalID: req.TransactionalID, ID: req.ProducerID, Epoch: req.ProducerEpoch, Add: req.Version >= 5}, answer)
}
