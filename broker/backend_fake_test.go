package broker

// A cluster of two brokers for the handlers' tests: the real Image, folded from real commands, and replicas in memory
// that keep the contract of partition.Replica.

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

const (
	selfNode  raft.NodeID = 1
	otherNode raft.NodeID = 2
)

type replicaKey struct {
	topic     coordinator.TopicID
	partition int32
}

type fakeBackend struct {
	t  testing.TB
	md *coordinator.Metadata

	mu       sync.Mutex
	index    raft.Index
	replicas map[replicaKey]*fakeReplica
	leaders  map[replicaKey]raft.NodeID // where it is not this broker
	configs  map[string]string
	pid      int64
	groups   *coordinator.Groups
	txns     *coordinator.Txns
	logs     *loggers
	hang     atomic.Bool // creations do not end before their context does
	frozen   atomic.Bool // nothing is created or deleted
}

func newFakeBackend(t testing.TB) *fakeBackend {
	b := &fakeBackend{t: t, txns: coordinator.NewTxns(coordinator.TxnConfig{Partitions: func() int { return 0 }}), md: coordinator.NewMetadata(), replicas: map[replicaKey]*fakeReplica{}, leaders: map[replicaKey]raft.NodeID{},
		configs: map[string]string{"default.replication.factor": "1"}, logs: newLoggers(slog.New(slog.DiscardHandler))}
	b.apply(&coordinator.Command{Found: &coordinator.FoundCluster{ClusterID: "test-cluster", Founder: raft.Member{ID: selfNode, Incarnation: 11},
		Features: coordinator.FoundingFeatures()}})
	for _, id := range []raft.NodeID{selfNode, otherNode} {
		b.apply(&coordinator.Command{Register: &coordinator.RegisterBroker{Node: id, Incarnation: raft.Incarnation(10 + id),
			Endpoints: []coordinator.Endpoint{{Listener: "PLAINTEXT", Host: fmt.Sprintf("broker-%d.example", id), Port: 9090 + int32(id)}},
			RPC:       fmt.Sprintf("broker-%d.example:19092", id), Rack: fmt.Sprintf("rack-%d", id)}})
	}
	return b
}

func (b *fakeBackend) apply(c *coordinator.Command) *coordinator.Result {
	body, err := c.Encode()
	if err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.index++
	results, err := b.md.Apply([]raft.Entry{{Term: 1, Index: b.index, Type: raft.EntryCommand, Payload: body}})
	if err != nil {
		b.t.Fatal(err)
	}
	return results[0].(*coordinator.Result)
}

// advertise points this broker's endpoint at the test's listener, for clients that follow Metadata.
func (b *fakeBackend) advertise(host string, port int32) {
	b.apply(&coordinator.Command{Register: &coordinator.RegisterBroker{Node: selfNode, Incarnation: raft.Incarnation(10 + selfNode),
		Endpoints: []coordinator.Endpoint{{Listener: "PLAINTEXT", Host: host, Port: port}}, RPC: "x:1"}})
}

// addTopic makes a topic whose partitions this broker leads.
func (b *fakeBackend) addTopic(name string, partitions int, configs map[string]string) coordinator.TopicID {
	b.t.Helper()
	res := b.createOne(newTopic{Name: name, Partitions: partitions, ReplicationFactor: 1, Configs: configs})
	if res.Err != nil {
		b.t.Fatal(res.Err)
	}
	return res.ID
}

func (b *fakeBackend) createOne(t newTopic) topicResult {
	if t.Assignment == nil {
		for range t.Partitions {
			t.Assignment = append(t.Assignment, []raft.NodeID{selfNode, otherNode}[:t.ReplicationFactor])
		}
	}
	id := coordinator.TopicID{1}
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	res := b.apply(&coordinator.Command{CreateTopics: &coordinator.CreateTopics{
		Brokers: []raft.Member{{ID: selfNode, Incarnation: 11}, {ID: otherNode, Incarnation: 12}},
		Topics:  []coordinator.NewTopic{{Name: t.Name, ID: id, Replicas: t.Assignment, Configs: t.Configs}}}})
	if err := res.Err(); err != nil {
		return topicResult{Err: err}
	}
	if err := res.Topics[0].Err(); err != nil {
		return topicResult{Err: err}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for p := range t.Assignment {
		b.replicas[replicaKey{id, int32(p)}] = newFakeReplica()
	}
	return topicResult{ID: id, Partitions: len(t.Assignment), ReplicationFactor: len(t.Assignment[0])}
}

func (b *fakeBackend) replica(topic coordinator.TopicID, p int32) *fakeReplica {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.replicas[replicaKey{topic, p}]
}

// moveLeader gives a partition to the other broker.
func (b *fakeBackend) moveLeader(topic coordinator.TopicID, p int32) {
	b.mu.Lock()
	b.leaders[replicaKey{topic, p}] = otherNode
	r := b.replicas[replicaKey{topic, p}]
	b.mu.Unlock()
	r.depose()
}

// loseLeader leaves a partition that the other broker led without a leader.
func (b *fakeBackend) loseLeader(topic coordinator.TopicID, p int32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leaders[replicaKey{topic, p}] = 0
}

func (b *fakeBackend) NodeID() raft.NodeID       { return selfNode }
func (b *fakeBackend) Image() *coordinator.Image { return b.md.Image() }
func (b *fakeBackend) Controller() raft.NodeID   { return otherNode }

func (b *fakeBackend) Replica(topic coordinator.TopicID, p int32) replica {
	if r := b.replica(topic, p); r != nil {
		return r
	}
	return nil
}

func (b *fakeBackend) Leader(topic coordinator.TopicID, p int32) (raft.NodeID, int32, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.replicas[replicaKey{topic, p}]
	if r == nil {
		return 0, 0, false
	}
	if id, ok := b.leaders[replicaKey{topic, p}]; ok {
		return id, r.currentEpoch() + 1, id != 0
	}
	return selfNode, r.currentEpoch(), true
}

func (b *fakeBackend) InSync(topic coordinator.TopicID, p int32) []raft.NodeID {
	if r := b.replica(topic, p); r != nil {
		if isr := r.ISR(); isr != nil {
			return isr
		}
	}
	if id, _, ok := b.Leader(topic, p); ok {
		return []raft.NodeID{id}
	}
	return nil
}

func (b *fakeBackend) CreateTopics(ctx context.Context, topics []newTopic, validateOnly bool, done func([]topicResult)) {
	go func() {
		if b.hang.Load() {
			<-ctx.Done()
		}
		results := make([]topicResult, len(topics))
		for i, t := range topics {
			switch {
			case ctx.Err() != nil:
				results[i].Err = ctx.Err()
			case b.frozen.Load():
				results[i].Err = coordinator.ErrStale
			case validateOnly:
				results[i] = topicResult{Partitions: t.Partitions, ReplicationFactor: t.ReplicationFactor}
			default:
				results[i] = b.createOne(t)
			}
		}
		done(results)
	}()
}

func (b *fakeBackend) HasLeader(topic coordinator.TopicID, partition int32) bool {
	_, _, ok := b.Leader(topic, partition)
	return ok
}

func (b *fakeBackend) ElectPreferred(_ context.Context, parts []topicPartition, done func([]error)) {
	errs := make([]error, len(parts))
	for i := range errs {
		errs[i] = kerr.ElectionNotNeeded
	}
	go done(errs)
}

// Txns implements backend: the fake coordinates nothing.
func (b *fakeBackend) Txns() *coordinator.Txns { return b.txns }

func (b *fakeBackend) EnsureTxnTopic() {}

// EnsureBridgesTopic implements backend.
func (b *fakeBackend) EnsureBridgesTopic() {}

func (b *fakeBackend) DeleteTopics(_ context.Context, ids []coordinator.TopicID, done func([]error)) {
	go func() {
		errs := make([]error, len(ids))
		if b.frozen.Load() {
			for i := range errs {
				errs[i] = coordinator.ErrStale
			}
			done(errs)
			return
		}
		res := b.apply(&coordinator.Command{DeleteTopics: &coordinator.DeleteTopics{IDs: ids}})
		for i := range ids {
			errs[i] = res.Topics[i].Err()
		}
		b.mu.Lock()
		maps.DeleteFunc(b.replicas, func(k replicaKey, _ *fakeReplica) bool { return b.md.Image().TopicByID(k.topic) == nil })
		b.mu.Unlock()
		done(errs)
	}()
}

func (b *fakeBackend) Reassign(_ context.Context, moves []coordinator.Move, done func([]error)) {
	cmd := &coordinator.Reassign{Moves: moves, Brokers: []raft.Member{{ID: selfNode, Incarnation: 11}, {ID: otherNode, Incarnation: 12}}}
	r := b.apply(&coordinator.Command{Reassign: cmd})
	errs := make([]error, len(moves))
	for i := range errs {
		if errs[i] = r.Err(); errs[i] == nil {
			errs[i] = r.Moves[i].Err()
		}
	}
	done(errs)
}

func (b *fakeBackend) UnregisterBroker(_ context.Context, node raft.NodeID, done func(error)) {
	if b.frozen.Load() {
		done(coordinator.ErrStale)
		return
	}
	done(b.apply(&coordinator.Command{Unregister: &coordinator.UnregisterBroker{Node: node}}).Err())
}

func (b *fakeBackend) Change(_ context.Context, c *coordinator.Command, done func(*coordinator.Result, error)) {
	b.mu.Lock()
	frozen := b.frozen.Load()
	b.mu.Unlock()
	if frozen {
		go done(nil, coordinator.ErrTooManyUsers)
		return
	}
	r := b.apply(c)
	go done(r, r.Err())
}

func (b *fakeBackend) UpdateFeatures(_ context.Context, in *coordinator.FeatureUpdates, done func([]error, error)) {
	errs := make([]error, len(in.Updates))
	for i, u := range in.Updates {
		if u.Name != metadataVersion {
			errs[i] = fmt.Errorf("%w: %s", coordinator.ErrFeatureUpdate, u.Name)
		}
	}
	go done(errs, nil)
}

func (b *fakeBackend) GrowTopics(_ context.Context, g *coordinator.Growth, done func([]error)) {
	errs := make([]error, len(g.Topics))
	for i := range g.Topics {
		if b.frozen.Load() {
			errs[i] = coordinator.ErrStale
			continue
		}
		t := b.Image().TopicByID(g.Topics[i].Topic)
		more := coordinator.MorePartitions{Topic: t.ID, From: int32(len(t.Partitions))}
		for range int(g.Topics[i].Count) - len(t.Partitions) {
			more.Replicas = append(more.Replicas, []raft.NodeID{selfNode})
		}
		if len(more.Replicas) == 0 {
			errs[i] = coordinator.ErrInvalidPartitions
			continue
		}
		if g.ValidateOnly {
			continue
		}
		r := b.apply(&coordinator.Command{AddPartitions: &coordinator.AddPartitions{Brokers: []raft.Member{{ID: selfNode, Incarnation: 11}}, Topics: []coordinator.MorePartitions{more}}})
		errs[i] = r.Items[0].Err()
		b.mu.Lock()
		for k := range more.Replicas {
			b.replicas[replicaKey{t.ID, more.From + int32(k)}] = newFakeReplica()
		}
		b.mu.Unlock()
	}
	go done(errs)
}

func (b *fakeBackend) SetConfigs(_ context.Context, changes []coordinator.ConfigChange, done func([]error)) {
	b.items(&coordinator.Command{SetConfigs: &coordinator.SetConfigs{Changes: changes}}, done)
}

func (b *fakeBackend) AlterQuotas(_ context.Context, entries []coordinator.QuotaChange, done func([]error)) {
	b.items(&coordinator.Command{AlterQuotas: &coordinator.AlterQuotas{Entries: entries}}, done)
}

func (b *fakeBackend) items(c *coordinator.Command, done func([]error)) {
	if b.frozen.Load() {
		n := 0
		if c.SetConfigs != nil {
			n = len(c.SetConfigs.Changes)
		} else {
			n = len(c.AlterQuotas.Entries)
		}
		go done(make([]error, n))
		return
	}
	r := b.apply(c)
	errs := make([]error, len(r.Items))
	for i := range errs {
		errs[i] = r.Items[i].Err()
	}
	go done(errs)
}

func (b *fakeBackend) Loggers() *loggers { return b.logs }

func (b *fakeBackend) LogDir(_ context.Context, wanted func(string, int32) bool, done func(logDir, error)) {
	d := logDir{path: "/data", total: 1000, usable: 400}
	for t := range b.Image().All() {
		for p := range t.Partitions {
			if wanted(t.Name, int32(p)) {
				d.replicas = append(d.replicas, logDirReplica{t.Name, int32(p), 100 + int64(p), int64(p)})
			}
		}
	}
	done(d, nil)
}

func (b *fakeBackend) NextProducerID(_ context.Context, done func(int64, error)) {
	b.mu.Lock()
	b.pid++
	id := b.pid
	b.mu.Unlock()
	done(id, nil)
}

func (b *fakeBackend) Quorum(_ context.Context, done func(*replicaState, error)) {
	done(nil, errNoMetadataLeader)
}

func (b *fakeBackend) Config(name string) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, ok := b.configs[name]
	return v, ok
}

func (b *fakeBackend) set(name, value string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.configs[name] = value
}

// fakeReplica is a log in memory. What is appended commits at once, or by commit if manual.
type fakeReplica struct {
	mu        sync.Mutex
	batches   []protocol.Batch
	start     int64
	next      int64
	hw        int64
	epoch     int32
	manual    bool
	notLeader bool
	follows   bool                   // it answers only those that ask any replica
	inSync    []partition.Follower   // as the leader
	linear    func(done func(error)) // nil: at once
	onRead    func()                 // called by Read, before it looks
	pending   []func()
	waiters   map[*partition.Waiter]struct{}
	appends   int
	producers []partition.ProducerState
	keys      map[string]partition.KeyResult // nil: an ordinary topic's
}

func newFakeReplica() *fakeReplica {
	return &fakeReplica{epoch: 5, waiters: map[*partition.Waiter]struct{}{}}
}

func (r *fakeReplica) currentEpoch() int32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.epoch
}

func (r *fakeReplica) Append(req *partition.AppendRequest) {
	fail := func(err error) {
		req.Done(partition.AppendResult{BaseOffset: -1, LogAppendTime: -1, LogStart: -1, Err: err})
	}
	b, err := protocol.ParseBatch(req.Batch)
	if err == nil {
		err = b.CheckCRC()
	}
	if err != nil {
		fail(fmt.Errorf("%w: %w", partition.ErrCorrupt, err))
		return
	}
	if err := b.Check(); err != nil && req.Epoch == 0 { // a coordinator's own may be of a transaction, without a sequence
		fail(fmt.Errorf("%w: %w", partition.ErrInvalidRecord, err))
		return
	}
	b = append(protocol.Batch(nil), b...)
	r.mu.Lock()
	r.appends++
	if r.notLeader {
		epoch := r.epoch
		r.mu.Unlock()
		fail(&partition.NotLeaderError{Leader: otherNode, Epoch: epoch + 1})
		return
	}
	b.SetBaseOffset(r.next)
	b.SetLeaderEpoch(r.epoch)
	base, start := r.next, r.start
	r.next = b.NextOffset()
	r.batches = append(r.batches, b)
	r.pending = append(r.pending, func() {
		req.Done(partition.AppendResult{BaseOffset: base, LogAppendTime: -1, LogStart: start})
	})
	manual := r.manual
	r.mu.Unlock()
	if !manual {
		r.commit()
	}
}

// commit moves the high watermark to the end, answers appends and fires waiters.
func (r *fakeReplica) commit() {
	r.mu.Lock()
	r.hw = r.next
	calls := r.pending
	r.pending = nil
	for w := range r.waiters {
		if r.hw > w.After {
			delete(r.waiters, w)
			calls = append(calls, w.Fire)
		}
	}
	r.mu.Unlock()
	for _, fn := range calls {
		fn()
	}
}

func (r *fakeReplica) depose() {
	r.mu.Lock()
	r.notLeader = true
	var calls []func()
	for w := range r.waiters {
		delete(r.waiters, w)
		calls = append(calls, w.Fire)
	}
	r.mu.Unlock()
	for _, fn := range calls {
		fn()
	}
}

// newEpoch is what an election that this broker wins again does: waiters fire.
func (r *fakeReplica) newEpoch() {
	r.mu.Lock()
	r.epoch++
	var calls []func()
	for w := range r.waiters {
		delete(r.waiters, w)
		calls = append(calls, w.Fire)
	}
	r.mu.Unlock()
	for _, fn := range calls {
		fn()
	}
}

func (r *fakeReplica) Read(q partition.ReadQuery) (partition.ReadResult, error) {
	r.mu.Lock()
	fn := r.onRead
	r.mu.Unlock()
	if fn != nil {
		fn()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	res := partition.ReadResult{HighWatermark: r.hw, LastStable: r.hw, LogStart: r.start, LeaderEpoch: r.epoch}
	switch {
	case r.notLeader, r.follows && !q.AnyReplica:
		return res, &partition.NotLeaderError{Leader: otherNode, Epoch: r.epoch + 1}
	case q.LeaderEpoch >= 0 && q.LeaderEpoch != r.epoch:
		return res, &partition.EpochError{Asked: q.LeaderEpoch, Current: r.epoch}
	case q.Offset < r.start || q.Offset > r.hw:
		return res, &partition.RangeError{Offset: q.Offset, Start: r.start, HighWatermark: r.hw}
	}
	for _, b := range r.batches {
		if b.NextOffset() <= q.Offset {
			continue
		}
		if b.NextOffset() > r.hw || q.MaxBytes <= 0 || res.Bytes > 0 && res.Bytes+len(b) > q.MaxBytes {
			break
		}
		res.Batches = append(res.Batches, b)
		res.Bytes += len(b)
	}
	if q.Loan != nil && res.Bytes > 0 {
		lent, at := q.Loan.Lend(bytes.Join(res.Batches, nil)), 0
		for i, b := range res.Batches {
			res.Batches[i] = lent[at : at+len(b) : at+len(b)]
			at += len(b)
		}
	}
	return res, nil
}

func (r *fakeReplica) Linearize(done func(error)) {
	r.mu.Lock()
	fn, follows := r.linear, r.follows
	r.mu.Unlock()
	switch {
	case follows:
		done(&partition.NotLeaderError{Leader: otherNode, Epoch: r.epoch + 1})
	case fn != nil:
		fn(done)
	default:
		done(nil)
	}
}

func (r *fakeReplica) LinearizeAny(done func(error)) {
	r.mu.Lock()
	fn := r.linear
	r.mu.Unlock()
	if fn != nil {
		fn(done)
		return
	}
	done(nil)
}

func (r *fakeReplica) LookupKey(key []byte, epoch int32) (partition.KeyResult, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	none := partition.KeyResult{Offset: -1, Timestamp: -1, LeaderEpoch: -1}
	switch {
	case r.notLeader:
		return none, partition.ErrNotLeader
	case epoch >= 0 && epoch != r.epoch:
		return none, &partition.EpochError{Asked: epoch, Current: r.epoch}
	case r.keys == nil:
		return none, partition.ErrNoKeys
	}
	if res, ok := r.keys[string(key)]; ok {
		return res, nil
	}
	return none, nil
}

func (r *fakeReplica) ListOffset(ts int64, epoch int32, _ bool) (partition.OffsetResult, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	none := partition.OffsetResult{Offset: -1, Timestamp: -1, LeaderEpoch: -1}
	switch {
	case r.notLeader, r.follows:
		return none, partition.ErrNotLeader
	case epoch >= 0 && epoch != r.epoch:
		return none, &partition.EpochError{Asked: epoch, Current: r.epoch}
	}
	switch ts {
	case partition.LatestTimestamp:
		return partition.OffsetResult{Offset: r.hw, Timestamp: -1, LeaderEpoch: r.epoch}, nil
	case partition.EarliestTimestamp, partition.EarliestLocalTimestamp:
		return partition.OffsetResult{Offset: r.start, Timestamp: -1, LeaderEpoch: r.epoch}, nil
	case partition.LastTieredTimestamp:
		return none, nil
	}
	for _, b := range r.batches {
		if b.MaxTimestamp() >= ts && b.NextOffset() <= r.hw {
			return partition.OffsetResult{Offset: b.BaseOffset(), Timestamp: b.MaxTimestamp(), LeaderEpoch: b.LeaderEpoch()}, nil
		}
	}
	return none, nil
}

func (r *fakeReplica) OffsetForLeaderEpoch(epoch, current int32, anyReplica bool) (int32, int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.notLeader, r.follows && !anyReplica:
		return -1, -1, partition.ErrNotLeader
	case current >= 0 && current != r.epoch:
		return -1, -1, &partition.EpochError{Asked: current, Current: r.epoch}
	}
	found, end := int32(-1), int64(-1)
	for _, b := range r.batches {
		if b.LeaderEpoch() <= epoch {
			found, end = b.LeaderEpoch(), b.NextOffset()
		}
	}
	return found, end, nil
}

func (r *fakeReplica) DeleteBefore(offset int64, done func(int64, error)) {
	r.mu.Lock()
	if offset == partition.HighWatermarkOffset {
		offset = r.hw
	}
	var err error
	switch {
	case r.notLeader:
		err = &partition.NotLeaderError{Epoch: r.epoch}
	case offset < 0 || offset > r.hw:
		err = &partition.RangeError{Offset: offset, Start: r.start, HighWatermark: r.hw}
	default:
		r.start = max(r.start, offset)
	}
	start, manual := r.start, r.manual
	r.mu.Unlock()
	if err != nil {
		done(-1, err)
	} else if !manual { // manual: nothing is committed, and nobody answers
		done(start, nil)
	}
}

func (r *fakeReplica) HighWatermark() (int64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hw, !r.notLeader
}

func (r *fakeReplica) LastStable() (int64, bool) { return r.HighWatermark() }

func (r *fakeReplica) Producers() ([]partition.ProducerState, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.notLeader {
		return nil, partition.ErrNotLeader
	}
	return r.producers, nil
}

func (r *fakeReplica) Subscribe(w *partition.Waiter) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.notLeader || r.follows && !w.AnyReplica || r.hw > w.After || w.Epoch >= 0 && w.Epoch != r.epoch {
		return false
	}
	if _, ok := r.waiters[w]; ok {
		panic("subscribed twice")
	}
	r.waiters[w] = struct{}{}
	return true
}

func (r *fakeReplica) Unsubscribe(w *partition.Waiter) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.waiters[w]
	delete(r.waiters, w)
	return ok
}

func (r *fakeReplica) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiters)
}

func (r *fakeReplica) appended() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.appends
}

func (r *fakeReplica) ISR() []raft.NodeID {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.follows {
		return nil
	}
	return []raft.NodeID{selfNode}
}

func (r *fakeReplica) InSyncFollowers() []partition.Follower {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.inSync
}
