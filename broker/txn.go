// Transactions at the broker's edge: the partitions of __transaction_state as logs for coordinator.Txns, who coordinates what, markers on
// their way to the leaders of partitions, and a leader's questions on their way to coordinators.

package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
)

const (
	// verifyPatience bounds how long a batch waits for its transaction's coordinator, which may have to finish the transaction before.
	verifyPatience = 2 * time.Second
	// verifyPause is between two questions.
	verifyPause = 5 * time.Millisecond
	// maxVerifyPause is where doubling it ends.
	maxVerifyPause = 100 * time.Millisecond
	// maxVerifying bounds the questions of one broker that are on their way.
	maxVerifying = 1 << 14
)

// errTransactions refuses a transactional id where the cluster has no transactions yet. TRANSACTIONAL_ID_AUTHORIZATION_FAILED is the one
// code that the Java client, librdkafka and franz-go all take as final and report as being about the transactional id; anything that
// they retry would let a producer hang in its start.
var errTransactions = refuse(kerr.TransactionalIDAuthorizationFailed,
	"the feature "+coordinator.TransactionVersion+" is not finalized: 'broker cluster upgrade', once all brokers run this version")

// transactions says why there are none.
func (s *server) transactions() error {
	if s.b.Image().Feature(coordinator.TransactionVersion) < 1 {
		return errTransactions
	}
	return nil
}

// fencedCode is the code of an error that clients of older versions know by another name: they take PRODUCER_FENCED for unknown.
func fencedCode(err error, modern bool) int16 {
	if !modern && errors.Is(err, coordinator.ErrProducerFenced) {
		return kerr.InvalidProducerEpoch.Code
	}
	return codeOf(err)
}

// errUnwritten stays for a marker of which nothing came back.
var errUnwritten = errors.New("no answer about the marker")

// newTxns makes this broker's coordinator of transactions.
func (b *Broker) newTxns() *coordinator.Txns {
	c := &b.cfg
	return coordinator.NewTxns(coordinator.TxnConfig{
		Partitions: func() int {
			if t := b.Image().Topic(coordinator.TransactionStateTopic); t != nil {
				return len(t.Partitions)
			}
			return 0
		},
		NextProducerID: func(done func(int64, error)) {
			b.NextProducerID(b.ctx, done)
		},
		WriteMarkers: b.writeMarkers, Logger: b.log, MaxTimeout: c.TxnMaxTimeout, Expiration: c.TxnIDExpiration,
	})
}

// txnLeadership tells the coordinator what it leads. It is called by workers.
func (b *Broker) txnLeadership(p int32, rep *partition.Replica, l partition.Leadership) {
	if l.Serving() {
		b.txns.Lead(p, l.Epoch, &offsetsLog{rep: rep, epoch: l.Epoch})
	} else {
		b.txns.Resign(p, l.Epoch)
	}
}

// Txns implements backend.
func (b *Broker) Txns() *coordinator.Txns { return b.txns }

// findTxnCoordinator is who coordinates a transactional id.
func (s *server) findTxnCoordinator(id string) (*coordinator.Broker, error) {
	if err := s.transactions(); err != nil {
		return nil, err
	}
	im := s.b.Image()
	t := im.Topic(coordinator.TransactionStateTopic)
	if t == nil {
		s.b.EnsureTxnTopic()
		return nil, kerr.CoordinatorNotAvailable
	}
	if coordinator.IsBridgeTransaction(id) && im.Topic(coordinator.BridgesTopic) == nil { // what it writes first goes there
		s.b.EnsureBridgesTopic()
		return nil, kerr.CoordinatorNotAvailable
	}
	node, _, ok := s.b.Leader(t.ID, coordinator.PartitionOf(id, len(t.Partitions)))
	if b := im.Broker(node); ok && b != nil && !b.Fenced {
		return b, nil
	}
	return nil, kerr.CoordinatorNotAvailable
}

// EnsureTxnTopic implements backend.
func (b *Broker) EnsureTxnTopic() {
	b.ensureTopic(coordinator.TransactionStateTopic, b.cfg.TxnPartitions, &b.ensuringTxn)
}

// EnsureBridgesTopic implements backend.
func (b *Broker) EnsureBridgesTopic() {
	b.ensureTopic(coordinator.BridgesTopic, BridgesPartitions, &b.ensuringBridges)
}

// ---- Markers: from the coordinator to the partitions' leaders.

// writeMarkers is TxnConfig.WriteMarkers: one call to each broker that leads some of the partitions.
func (b *Broker) writeMarkers(m coordinator.Marker, parts []coordinator.TopicPartition, done func([]error)) {
	errs := make([]error, len(parts))
	im := b.Image()
	byNode := make(map[raft.NodeID][]int) // indexes of parts
	groups := make([]raft.GroupID, len(parts))
	var unknown []int
	for i, p := range parts {
		t := findPartition(im, p)
		if t == nil {
			unknown = append(unknown, i)
			continue
		}
		groups[i] = t.Group
		leader := b.peers.table.get(groups[i]).leader
		if leader == 0 {
			errs[i] = partition.ErrNotLeader
			continue
		}
		if errs[i] = errUnwritten; len(byNode[leader]) < maxMarkers { // what is left goes with the next attempt
			byNode[leader] = append(byNode[leader], i)
		}
	}
	var mu sync.Mutex // guards errs
	f := newFanIn(func() { done(errs) })
	if len(unknown) > 0 {
		f.add()
		for _, i := range unknown {
			errs[i] = errUnwritten
		}
		b.spawnOr(func() {
			gone := b.isDeleted(parts, unknown)
			mu.Lock()
			for j, i := range unknown {
				errs[i] = gone[j]
			}
			mu.Unlock()
			f.done()
		}, f.done)
	}
	for node, list := range byNode {
		ms := make([]markerEntry, len(list))
		for j, i := range list {
			ms[j] = markerEntry{group: groups[i], producer: m.ProducerID, epoch: m.ProducerEpoch, coordinator: m.CoordinatorEpoch, commit: m.Commit, bumped: m.Bumped}
		}
		f.add()
		answered := func(codes []int16, err error) {
			mu.Lock()
			for j, i := range list {
				if errs[i] = err; err == nil {
					errs[i] = markerError(codes[j])
				}
			}
			mu.Unlock()
			f.done()
		}
		if node == b.NodeID() {
			b.putMarkers(ms, func(codes []int16) { answered(codes, nil) })
			continue
		}
		b.spawnOr(func() {
			ctx, cancel := context.WithTimeout(b.ctx, rpcTimeout)
			defer cancel()
			body, err := b.tr.Call(ctx, node, methodWriteMarkers, encodeMarkers(ms))
			var codes []int16
			if err == nil {
				codes, err = decodeCodes(body, len(ms))
			}
			if err != nil {
				err = fmt.Errorf("markers for broker %d: %w", node, err)
			}
			answered(codes, err)
		}, func() { answered(nil, context.Canceled) })
	}
	f.done()
}

// findPartition is the partition in the Image, or nil.
func findPartition(im *coordinator.Image, p coordinator.TopicPartition) *coordinator.Partition {
	t := im.Topic(p.Topic)
	if t == nil || p.Partition < 0 || int(p.Partition) >= len(t.Partitions) {
		return nil
	}
	return &t.Partitions[p.Partition]
}

// isDeleted says of each partition that this broker's Image lacks that there is none: that the Image may lag behind a topic's creation, of
// which the partition's leader has heard, must leave no transaction without its end.
func (b *Broker) isDeleted(parts []coordinator.TopicPartition, unknown []int) []error {
	ctx, cancel := context.WithTimeout(b.ctx, rpcTimeout)
	defer cancel()
	errs := make([]error, len(unknown))
	err := b.meta.Linearize(ctx)
	im := b.Image()
	for j, i := range unknown {
		switch {
		case err != nil:
			errs[j] = err
		case findPartition(im, parts[i]) != nil:
			errs[j] = errUnwritten // it is there after all: the next attempt finds it
		default:
			errs[j] = coordinator.ErrUnknownPartition
		}
	}
	return errs
}

// spawnOr runs fn on a goroutine of the broker's, or refused on this one if the broker is closing.
func (b *Broker) spawnOr(fn, refused func()) {
	b.life.Lock()
	if closing := b.closing; !closing {
		b.wg.Go(fn)
		b.life.Unlock()
		return
	}
	b.life.Unlock()
	refused()
}

// markerError is what a code means to the coordinator.
func markerError(code int16) error {
	switch err := kerr.ErrorForCode(code); {
	case err == nil:
		return nil
	case errors.Is(err, kerr.InvalidProducerEpoch):
		return fmt.Errorf("%w: %w", coordinator.ErrMarkerFenced, err)
	default:
		return err
	}
}

// putMarkers writes markers into partitions that this broker leads. done gets a code for each.
func (b *Broker) putMarkers(ms []markerEntry, done func(codes []int16)) {
	codes := make([]int16, len(ms))
	f := newFanIn(func() { done(codes) })
	for i := range ms {
		m := &ms[i]
		rep := b.rec.replica(m.group)
		if rep == nil {
			codes[i] = kerr.NotLeaderForPartition.Code
			continue
		}
		f.add()
		topic, p := rep.Name()
		rep.WriteMarker(&partition.MarkerRequest{
			ProducerID: m.producer, ProducerEpoch: m.epoch, CoordinatorEpoch: m.coordinator, Commit: m.commit, Bumped: m.bumped,
			Done: func(res partition.AppendResult) {
				if res.Err == nil && !res.Repeated {
					b.met.markers.Inc()
					if topic == coordinator.ConsumerOffsetsTopic {
						b.groups.TxnEnded(p, res.LeaderEpoch, m.producer, m.commit, res.BaseOffset)
					}
				}
				codes[i] = codeOf(res.Err)
				f.done()
			}})
	}
	f.done()
}

// serveMarkers answers a coordinator on another broker.
func (b *Broker) serveMarkers(ctx context.Context, ms []markerEntry) ([]byte, error) {
	answer := make(chan []int16, 1)
	b.putMarkers(ms, func(codes []int16) { answer <- codes })
	select {
	case codes := <-answer:
		return encodeCodes(codes), nil
	case <-ctx.Done():
		return nil, ctx.Err() // they stay proposed; the coordinator sends them again
	}
}

// ---- Verification: from a partition's leader to the coordinator.

// verifyTxn is partition.Config.Verify.
func (b *Broker) verifyTxn(v partition.Verification, done func(error)) {
	if b.verifying.Add(1) > maxVerifying {
		b.verifying.Add(-1)
		done(partition.ErrOverloaded)
		return
	}
	answer := func(err error) {
		b.verifying.Add(-1)
		done(err)
	}
	b.spawnOr(func() { answer(b.awaitVerified(v)) }, func() { answer(partition.ErrClosed) })
}

func (b *Broker) awaitVerified(v partition.Verification) error {
	b.met.verified.Inc()
	ctx, cancel := context.WithTimeout(b.ctx, verifyPatience)
	defer cancel()
	q := &txnQuestion{id: v.TransactionalID, producer: v.ProducerID, epoch: v.ProducerEpoch, add: v.Add, topic: v.Topic, partition: v.Partition}
	for d := verifyPause; ; {
		err := b.askTxnCoordinator(ctx, q)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, kerr.ProducerFenced):
			return fmt.Errorf("%w: %w", partition.ErrInvalidProducerEpoch, err) // what producers know to handle here
		case !passes(err):
			return err
		}
		if pause(ctx, &d, maxVerifyPause) != nil {
			if b.ctx.Err() != nil {
				return partition.ErrClosed
			}
			return fmt.Errorf("%w: %w", partition.ErrTxnUnverified, err)
		}
	}
}

// passes says whether another try may end better.
func passes(err error) bool {
	for _, e := range []error{kerr.ConcurrentTransactions, kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator, errNoAnswer} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// errNoAnswer: the coordinator could not be reached.
var errNoAnswer = errors.New("no answer from the transaction's coordinator")

// askTxnCoordinator asks once. Errors are Kafka's, or errNoAnswer.
func (b *Broker) askTxnCoordinator(ctx context.Context, q *txnQuestion) error {
	t := b.Image().Topic(coordinator.TransactionStateTopic)
	if t == nil {
		return kerr.CoordinatorNotAvailable
	}
	node := b.peers.table.get(t.Partitions[coordinator.PartitionOf(q.id, len(t.Partitions))].Group).leader
	switch node {
	case 0:
		return kerr.CoordinatorNotAvailable
	case b.NodeID():
		if k := kafkaError(b.addToTxn(ctx, q)); k != nil {
			return k
		}
		return nil
	}
	body, err := b.tr.Call(ctx, node, methodAddToTxn, q.encode())
	var codes []int16
	if err == nil {
		codes, err = decodeCodes(body, 1)
	}
	if err != nil {
		return fmt.Errorf("%w: broker %d: %w", errNoAnswer, node, err)
	}
	return kerr.ErrorForCode(codes[0])
}

// addToTxn is the coordinator's side.
func (b *Broker) addToTxn(ctx context.Context, q *txnQuestion) error {
	answer := make(chan error, 1)
	b.txns.Add(coordinator.AddRequest{
		TransactionalID: q.id, ProducerID: q.producer, ProducerEpoch: q.epoch, Verify: !q.add, Version: 2,
		Partitions: []coordinator.TopicPartition{{Topic: q.topic, Partition: q.partition}},
	}, func(err error) { answer <- err })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return coordinator.ErrCoordinatorUnavailable
	}
}
