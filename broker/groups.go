// Consumer groups at the broker's edge: the partitions of __consumer_offsets as logs for coordinator.Groups, who coordinates what,
// and what the group APIs have in common.

package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
)

// offsetsBatchBytes is max.message.bytes of __consumer_offsets: the generation of a large group is one record.
const offsetsBatchBytes = "33554432"

// internalSegmentBytes is segment.bytes of internal topics. Compaction works by segments: what it has not come to yet is what a new coordinator
// reads beside what is clean.
const internalSegmentBytes = "16777216"

// offsetsTopicTimeout bounds the creation of __consumer_offsets; clients ask again meanwhile.
const offsetsTopicTimeout = 30 * time.Second

// offsetsLog is a partition of __consumer_offsets in one leader epoch, as coordinator.ReplicatedLog.
type offsetsLog struct {
	rep   offsetsReplica
	epoch int32
}

// offsetsReplica is the part of [partition.Replica] that it uses.
type offsetsReplica interface {
	Append(*partition.AppendRequest)
	Read(partition.ReadQuery) (partition.ReadResult, error)
	LogStart() int64
	Linearize(done func(error))
	Leader() (node raft.NodeID, epoch int32, ready bool)
}

// Append implements [coordinator.ReplicatedLog].
func (l *offsetsLog) Append(batch []byte, done func(error)) {
	l.rep.Append(&partition.AppendRequest{Batch: batch, Acks: -1, Epoch: l.epoch, Done: func(r partition.AppendResult) {
		done(offsetsError(r.Err))
	}})
}

// AppendTxn implements [coordinator.ReplicatedLog].
func (l *offsetsLog) AppendTxn(batch []byte, id string, add bool, done func(error)) {
	l.rep.Append(&partition.AppendRequest{Batch: batch, Acks: -1, Epoch: l.epoch, TransactionalID: id, AddToTxn: add, Done: func(r partition.AppendResult) {
		done(offsetsError(r.Err))
	}})
}

// Read implements [coordinator.ReplicatedLog].
func (l *offsetsLog) Read(offset int64, maxBytes int) ([][]byte, error) {
	res, err := l.rep.Read(partition.ReadQuery{Offset: offset, MaxBytes: maxBytes, LeaderEpoch: l.epoch})
	return res.Batches, offsetsError(err)
}

// Start implements [coordinator.ReplicatedLog].
func (l *offsetsLog) Start() int64 { return max(l.rep.LogStart(), 0) }

// Linearize implements [coordinator.ReplicatedLog].
func (l *offsetsLog) Linearize(done func(error)) {
	l.rep.Linearize(func(err error) {
		if err == nil {
			// The replica may have been deposed and elected again: then what was confirmed is another epoch's end.
			if _, epoch, ready := l.rep.Leader(); !ready || epoch != l.epoch {
				err = partition.ErrNotLeader
			}
		}
		done(offsetsError(err))
	})
}

// offsetsError is the coordinator's word for what a replica says.
func offsetsError(err error) error {
	if err == nil {
		return nil
	}
	for _, gone := range []error{partition.ErrNotLeader, partition.ErrNotReady, partition.ErrClosed, partition.ErrFailed,
		partition.ErrFencedLeaderEpoch, partition.ErrUnknownLeaderEpoch, partition.ErrUnavailable} {
		if errors.Is(err, gone) {
			return fmt.Errorf("%w: %w", coordinator.ErrNotCoordinator, err)
		}
	}
	// What a transaction's coordinator, or the log, has against a producer is for the producer.
	if _, ok := errors.AsType[*kerr.Error](err); ok || errors.Is(err, partition.ErrInvalidProducerEpoch) || errors.Is(err, partition.ErrInvalidTxnState) {
		return err
	}
	if errors.Is(err, partition.ErrTooLarge) {
		return fmt.Errorf("%w: %w", coordinator.ErrCommitTooLarge, err)
	}
	return fmt.Errorf("%w: %w", coordinator.ErrCoordinatorUnavailable, err)
}

// newGroups makes the coordinator of this broker.
func (b *Broker) newGroups() *coordinator.Groups {
	c := &b.cfg
	return coordinator.NewGroups(coordinator.GroupConfig{
		Partitions: func() int {
			if t := b.Image().Topic(coordinator.ConsumerOffsetsTopic); t != nil {
				return len(t.Partitions)
			}
			return 0
		},
		Logger: b.logOf("coordinator"), InitialRebalanceDelay: c.GroupInitialRebalanceDelay, MinSession: c.GroupMinSession, MaxSession: c.GroupMaxSession,
		MaxSize: c.GroupMaxSize, Retention: c.OffsetsRetention, Image: b.Image,
		ConsumerSession: c.GroupConsumerSession, ConsumerHeartbeat: c.GroupConsumerHeartbeat, ConsumerMaxSize: c.GroupConsumerMaxSize,
		Migration: coordinator.Migration(c.GroupConsumerMigration), ConsumerTiming: b.consumerTiming,
	})
}

// offsetsLeadership tells the coordinator what it leads. It is called by workers.
func (b *Broker) offsetsLeadership(p int32, rep *partition.Replica, l partition.Leadership) {
	if l.Serving() {
		b.groups.Lead(p, l.Epoch, &offsetsLog{rep: rep, epoch: l.Epoch})
	} else {
		b.groups.Resign(p, l.Epoch)
	}
}

// Groups implements backend.
func (b *Broker) Groups() *coordinator.Groups { return b.groups }

// EnsureOffsetsTopic implements backend.
func (b *Broker) EnsureOffsetsTopic() {
	b.ensureTopic(coordinator.ConsumerOffsetsTopic, b.cfg.OffsetsPartitions, &b.ensuring)
}

// ensureTopic has an internal topic created, unless somebody is at it (busy).
func (b *Broker) ensureTopic(name string, partitions int32, busy *atomic.Bool) {
	if !busy.CompareAndSwap(false, true) {
		return
	}
	b.admin(b.ctx, func(ctx context.Context) {
		defer busy.Store(false)
		ctx, cancel := context.WithTimeout(ctx, offsetsTopicTimeout)
		defer cancel()
		if _, err := b.ensureInternal(ctx, name, partitions); err != nil && b.ctx.Err() == nil {
			b.log.Warn("cannot create an internal topic; it is tried again when a client asks", "topic", name, "err", err)
		}
	}, func(error) { busy.Store(false) })
}

// consumerTiming is what was set dynamically for a group, or for all.
func (b *Broker) consumerTiming(group string) (session, heartbeat time.Duration) {
	im := b.Image()
	set := im.GroupConfigs(group)
	ms := func(name, all string) time.Duration {
		v, ok := set[name]
		if ok {
			v = groupConfigByName(name).canonical(v)
		} else {
			v, ok = setForBroker(im, b.NodeID(), all)
		}
		if !ok {
			return 0
		}
		return time.Duration(min(number(v), math.MaxInt32)) * time.Millisecond
	}
	return ms(groupSession, "group.consumer.session.timeout.ms"), ms(groupHeartbeat, "group.consumer.heartbeat.interval.ms")
}

// groupTopicsChanged forgets what groups have committed for topics that are deleted.
func (b *Broker) groupTopicsChanged(old, now *coordinator.Image) {
	if gone := coordinator.DeletedTopics(old, now); len(gone) > 0 {
		b.spawn(func() { b.groups.TopicsDeleted(gone) })
	}
}

// findCoordinator is who coordinates a group.
func (s *server) findCoordinator(group string) (*coordinator.Broker, error) {
	im := s.b.Image()
	t := im.Topic(coordinator.ConsumerOffsetsTopic)
	if t == nil {
		s.b.EnsureOffsetsTopic()
		return nil, kerr.CoordinatorNotAvailable
	}
	node, _, ok := s.b.Leader(t.ID, coordinator.PartitionOf(group, len(t.Partitions)))
	if b := im.Broker(node); ok && b != nil && !b.Fenced {
		return b, nil
	}
	return nil, kerr.CoordinatorNotAvailable
}

// fanIn answers once all parts are done.
type fanIn struct {
	waiting atomic.Int32
	answer  func()
}

// newFanIn starts one. The handler calls add for each part, and done for itself at the end.
func newFanIn(answer func()) *fanIn {
	f := &fanIn{answer: answer}
	f.waiting.Store(1)
	return f
}

func (f *fanIn) add() { f.waiting.Add(1) }

func (f *fanIn) done() {
	if f.waiting.Add(-1) == 0 {
		f.answer()
	}
}

// byTopic sorts committed offsets into topics, by name and partition, so that answers do not depend on a map's mood.
func byTopic(offsets []coordinator.CommittedOffset) (names []string, topics map[string][]coordinator.CommittedOffset) {
	topics = make(map[string][]coordinator.CommittedOffset)
	for _, o := range offsets {
		topics[o.Topic] = append(topics[o.Topic], o)
	}
	for _, list := range topics {
		slices.SortFunc(list, func(a, b coordinator.CommittedOffset) int { return int(a.Partition) - int(b.Partition) })
	}
	return slices.Sorted(maps.Keys(topics)), topics
}

// textOf is a nullable string's value.
func textOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
