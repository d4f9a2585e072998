package broker

import (
	"context"
	"sync"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

// Groups implements backend: without coordinate, the fake coordinates nothing.
func (b *fakeBackend) Groups() *coordinator.Groups {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.groups == nil {
		b.groups = coordinator.NewGroups(coordinator.GroupConfig{InitialRebalanceDelay: -1, Image: b.Image, Partitions: func() int {
			if t := b.Image().Topic(coordinator.ConsumerOffsetsTopic); t != nil {
				return len(t.Partitions)
			}
			return 0
		}})
	}
	return b.groups
}

// EnsureOffsetsTopic implements backend.
func (b *fakeBackend) EnsureOffsetsTopic() {}

// coordinate makes __consumer_offsets, led by this broker.
func (b *fakeBackend) coordinate(partitions int) coordinator.TopicID {
	id := b.addTopic(coordinator.ConsumerOffsetsTopic, partitions, nil)
	for p := range int32(partitions) {
		rep := b.replica(id, p)
		b.Groups().Lead(p, rep.currentEpoch(), &offsetsLog{rep: rep, epoch: rep.currentEpoch()})
	}
	becomes(b.t, "groups are loaded", func() bool {
		_, err := b.Groups().List()
		return err == nil
	})
	if tb, ok := b.t.(interface{ Cleanup(func()) }); ok {
		tb.Cleanup(sync.OnceFunc(func() { _ = b.Groups().Close() }))
	}
	return id
}

// coordinateTxns makes __transaction_state of one partition, led by this broker. Markers are taken for written.
func (b *fakeBackend) coordinateTxns() {
	id := b.addTopic(coordinator.TransactionStateTopic, 1, nil)
	b.txns = coordinator.NewTxns(coordinator.TxnConfig{
		Partitions:     func() int { return 1 },
		NextProducerID: func(done func(int64, error)) { b.NextProducerID(context.Background(), done) },
		WriteMarkers: func(_ coordinator.Marker, parts []coordinator.TopicPartition, done func([]error)) {
			done(make([]error, len(parts)))
		},
	})
	rep := b.replica(id, 0)
	b.txns.Lead(0, rep.currentEpoch(), &offsetsLog{rep: rep, epoch: rep.currentEpoch()})
	becomes(b.t, "transactions are loaded", func() bool {
		_, err := b.txns.List(func(coordinator.TxnInfo) bool { return true })
		return err == nil
	})
	if tb, ok := b.t.(interface{ Cleanup(func()) }); ok {
		tb.Cleanup(func() { _ = b.txns.Close() })
	}
}

// LogStart implements offsetsReplica.
func (r *fakeReplica) LogStart() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.start
}

// Leader implements offsetsReplica.
func (r *fakeReplica) Leader() (raft.NodeID, int32, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.notLeader {
		return otherNode, r.epoch + 1, false
	}
	return selfNode, r.epoch, true
}
