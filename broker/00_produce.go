// Produce (key 0), versions 3 to 13 (listed from 0): appends record batches.
//
// The batches are found in the frame and handed to their replicas as they lie there; nothing is decoded. acks: 0 has no
// response, and an error closes the connection, as there is no other way to tell; 1 answers after the leader's own sync;
// -1 (all) after the quorum's commit. v7 allows zstd, v8 brought error messages, v10 the new leader in the answer
// (KIP-951), v12 transactions to which a partition belongs by being written to (KIP-890), v13 topic ids.

package broker

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/protocol"
)

const (
	// maxRecordRequest is the default of socket.request.max.bytes.
	maxRecordRequest = 100 << 20
	// produceListed: Kafka 4 refuses v0 to v2 and lists them all the same, since librdkafka infers from them which
	// codecs the broker knows (KAFKA-18659).
	produceListed = 0
	// maxProducePartitions bounds the topics and partitions of one request.
	maxProducePartitions = 100_000

	keyFetch = 1
)

// produceOp is one request on its way through its partitions.
type produceOp struct {
	s    *server
	r    *request
	req  *kmsg.ProduceRequest
	resp *kmsg.ProduceResponse

	mu       sync.Mutex // guards what follows, and resp until answered
	waiting  int        // appends not done yet, and one for the handler itself
	answered bool
	failed   error // the first one: what closes an acks=0 connection
	timer    *time.Timer
	hinted   map[int32]struct{} // leaders whose address is in the answer
}

func (s *server) produce(r *request) {
	req := r.msg.(*kmsg.ProduceRequest)
	r.charge(quotaProduce, float64(r.size), false) // before the next request is read, however many come together
	op := &produceOp{s: s, r: r, req: req, resp: kmsg.NewPtrProduceResponse(), waiting: 1}
	op.resp.Version = req.Version
	// All places of the answer are laid out first: a result may come while others are still being sent on their way.
	op.resp.Topics = make([]kmsg.ProduceResponseTopic, len(req.Topics))
	for i := range req.Topics {
		t, rt := &req.Topics[i], &op.resp.Topics[i]
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		rt.Partitions = make([]kmsg.ProduceResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			p := &rt.Partitions[j]
			p.Default()
			p.Partition = t.Partitions[j].Partition
			p.BaseOffset, p.LogAppendTime, p.LogStartOffset = -1, -1, -1
			p.ErrorCode = kerr.RequestTimedOut.Code // what stays if nothing else comes
		}
	}
	var txn error
	if req.TransactionID != nil && !r.may(coordinator.OpWrite, coordinator.ResourceTransactionalID, *req.TransactionID) {
		txn = kerr.TransactionalIDAuthorizationFailed
	}
	r.hold() // the replicas look into the frame until the last of them is done
	im := s.b.Image()
	for i := range req.Topics {
		t := &req.Topics[i]
		topic, err := produceTopic(im, req, t)
		switch {
		case txn != nil:
			topic, err = nil, txn
		case topic != nil:
			if no := r.mayTopic(coordinator.OpWrite, topic); no != nil {
				topic, err = nil, no
			}
		case req.Version < 13 && !r.may(coordinator.OpWrite, coordinator.ResourceTopic, t.Topic):
			err = kerr.TopicAuthorizationFailed // rather than that there is no such topic
		}
		for j := range t.Partitions {
			p := &t.Partitions[j]
			place := &op.resp.Topics[i].Partitions[j]
			if err != nil {
				op.done(place, topic, partition.AppendResult{BaseOffset: -1, LogAppendTime: -1, LogStart: -1, Err: err}, false)
				continue
			}
			op.append(place, topic, p)
		}
	}
	// The clock starts when everything is on its way. What is done by now needs none.
	op.mu.Lock()
	if op.waiting > 1 && req.Acks != 0 {
		op.timer = time.AfterFunc(max(time.Duration(req.TimeoutMillis)*time.Millisecond, time.Millisecond), op.answer)
	}
	op.mu.Unlock()
	op.leave()
}

// produceTopic finds the topic that a client means, and may write to: of the brokers' own only a bridge the one where it keeps its place.
func produceTopic(im *coordinator.Image, req *kmsg.ProduceRequest, t *kmsg.ProduceRequestTopic) (*coordinator.Topic, error) {
	topic, err := findTopic(im, req.Version >= 13, t.Topic, t.TopicID)
	if err == nil && topic.Internal() && !(topic.Name == coordinator.BridgesTopic && req.TransactionID != nil && coordinator.IsBridgeTransaction(*req.TransactionID)) {
		return nil, refuse(kerr.InvalidTopicException, fmt.Sprintf("topic %s belongs to the brokers", topic.Name))
	}
	return topic, err
}

// findTopic looks a topic up by id or by name, as the request's version has it.
func findTopic(im *coordinator.Image, byID bool, name string, id [16]byte) (*coordinator.Topic, error) {
	if byID {
		if t := im.TopicByID(id); t != nil {
			return t, nil
		}
		return nil, kerr.UnknownTopicID
	}
	if t := im.Topic(name); t != nil {
		return t, nil
	}
	return nil, kerr.UnknownTopicOrPartition
}

// findReplica finds this broker's replica of a partition.
func (s *server) findReplica(t *coordinator.Topic, p int32) (replica, error) {
	if p < 0 || int(p) >= len(t.Partitions) {
		return nil, kerr.UnknownTopicOrPartition
	}
	if rep := s.b.Replica(t.ID, p); rep != nil {
		return rep, nil
	}
	return nil, kerr.NotLeaderForPartition
}

// append sends one partition's batch to its replica.
func (op *produceOp) append(place *kmsg.ProduceResponseTopicPartition, topic *coordinator.Topic, p *kmsg.ProduceRequestTopicPartition) {
	refused := func(err error) {
		op.done(place, topic, partition.AppendResult{BaseOffset: -1, LogAppendTime: -1, LogStart: -1, Err: err}, false)
	}
	if op.req.Acks < -1 || op.req.Acks > 1 {
		refused(partition.ErrInvalidAcks)
		return
	}
	rep, err := op.s.findReplica(topic, p.Partition)
	if err != nil {
		refused(err)
		return
	}
	batch, err := produceBatch(op.req.Version, p.Records)
	if err != nil {
		refused(err)
		return
	}
	if b := protocol.Batch(batch); b.Transactional() && textOf(op.req.TransactionID) == "" {
		refused(refuse(kerr.TransactionalIDAuthorizationFailed, "a transactional batch without a transactional id"))
		return
	}
	op.mu.Lock()
	op.waiting++
	op.mu.Unlock()
	rep.Append(&partition.AppendRequest{Batch: batch, Acks: op.req.Acks, TransactionalID: textOf(op.req.TransactionID), AddToTxn: op.req.Version >= 12, Done: func(res partition.AppendResult) {
		if res.Err == nil {
			op.s.met.producedBatches.Inc()
			op.s.met.producedBytes.Add(float64(len(batch)))
		}
		op.done(place, topic, res, true)
	}})
}

// produceBatch is the one batch that a partition's records must be. What the batch says is the replica's to check.
func produceBatch(version int16, records []byte) ([]byte, error) {
	if len(records) == 0 {
		return nil, refuse(kerr.InvalidRecord, "no record batch for the partition")
	}
	b, rest, err := protocol.NextBatch(records)
	switch {
	case errors.Is(err, protocol.ErrMagic):
		return nil, refuse(kerr.InvalidRecord, err.Error()+": produce requests of this version carry record batches of magic 2")
	case err != nil:
		return nil, err
	case len(rest) != 0:
		return nil, refuse(kerr.InvalidRecord, "more than one record batch for the partition")
	case b.Codec() == protocol.CodecZstd && version < 7:
		return nil, refuse(kerr.UnsupportedCompressionType, "zstd needs produce version 7 or later (KIP-110)")
	}
	return b, nil
}

// done enters a partition's result. async says that it was counted in waiting.
func (op *produceOp) done(place *kmsg.ProduceResponseTopicPartition, topic *coordinator.Topic, res partition.AppendResult, async bool) {
	op.mu.Lock()
	if !op.answered {
		if place.ErrorCode = codeOf(res.Err); place.ErrorCode == kerr.TransactionAbortable.Code && op.req.Version < 11 {
			place.ErrorCode = kerr.InvalidTxnState.Code // what older clients know
		}
		if place.ErrorCode != 0 {
			op.s.met.refusedPartition(keyProduce, place.ErrorCode)
		}
		if res.Err == nil {
			place.BaseOffset, place.LogAppendTime, place.LogStartOffset = res.BaseOffset, res.LogAppendTime, res.LogStart
		} else {
			place.ErrorMessage = messageOf(res.Err)
			if r, ok := errors.AsType[*partition.RecordsError](res.Err); ok {
				place.ErrorRecords = errorRecords(r)
			}
			if op.failed == nil {
				op.failed = res.Err
			}
			if place.ErrorCode == kerr.NotLeaderForPartition.Code && topic != nil && op.req.Version >= 10 {
				if b := op.s.hintLeader(op.r.c, topic, place.Partition, res.Err, &place.CurrentLeader.LeaderID, &place.CurrentLeader.LeaderEpoch); b != nil {
					op.hintBroker(b)
				}
			}
		}
	}
	op.mu.Unlock()
	if async {
		op.leave()
	}
}

// errorRecords are the records to blame for a refused batch (KIP-467).
func errorRecords(e *partition.RecordsError) []kmsg.ProduceResponseTopicPartitionErrorRecord {
	out := make([]kmsg.ProduceResponseTopicPartitionErrorRecord, len(e.Records))
	for i := range e.Records {
		out[i] = kmsg.NewProduceResponseTopicPartitionErrorRecord()
		out[i].RelativeOffset, out[i].ErrorMessage = e.Records[i].Index, &e.Records[i].Message
	}
	return out
}

// hintBroker puts a leader's address into the answer, once. op.mu is held.
func (op *produceOp) hintBroker(b *hintedBroker) {
	if _, ok := op.hinted[b.node]; ok {
		return
	}
	if op.hinted == nil {
		op.hinted = make(map[int32]struct{})
	}
	op.hinted[b.node] = struct{}{}
	n := kmsg.NewProduceResponseBroker()
	n.NodeID, n.Host, n.Port, n.Rack = b.node, b.host, b.port, b.rack
	op.resp.Brokers = append(op.resp.Brokers, n)
}

// leave counts down; the last one answers and lets go of the frame.
func (op *produceOp) leave() {
	op.mu.Lock()
	op.waiting--
	last := op.waiting == 0
	op.mu.Unlock()
	if last {
		op.answer()
		op.r.release()
	}
}

// answer answers with what there is; at the time-out that is REQUEST_TIMED_OUT for the rest, which may still commit.
func (op *produceOp) answer() {
	op.mu.Lock()
	if op.answered {
		op.mu.Unlock()
		return
	}
	op.answered = true
	failed := op.failed
	if op.timer != nil {
		op.timer.Stop()
	}
	op.mu.Unlock()
	if op.req.Acks == 0 {
		if failed != nil {
			op.r.abort(fmt.Errorf("produce with acks=0 failed: %w", failed))
		} else {
			op.r.discard()
		}
		return
	}
	op.r.respond(op.resp)
}

// hintedBroker is where a client finds a leader (KIP-951).
type hintedBroker struct {
	node int32
	host string
	port int32
	rack *string
}

// hintLeader tells who leads a partition that this broker does not lead, and where that is; nil if nobody better is
// known, and then the two fields keep their -1. The replica's refusal may know of a later leader than the table does.
func (s *server) hintLeader(c *conn, topic *coordinator.Topic, p int32, refusal error, leader, epoch *int32) *hintedBroker {
	node, e, ok := s.b.Leader(topic.ID, p)
	if r, found := errors.AsType[*partition.NotLeaderError](refusal); found && r.Leader != 0 && (!ok || r.Epoch > e) {
		node, e, ok = r.Leader, r.Epoch, true
	}
	if !ok || node == s.b.NodeID() {
		return nil
	}
	b := s.b.Image().Broker(node)
	if b == nil || b.Fenced {
		return nil
	}
	ep, ok := b.Endpoint(c.listener)
	if !ok {
		return nil
	}
	*leader, *epoch = int32(node), e
	return &hintedBroker{int32(node), ep.Host, ep.Port, optional(b.Rack)}
}

// optional is a nullable string of ours on the wire: the empty one is null.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
