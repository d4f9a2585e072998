// The broker as the Kafka handlers see it (backend): looking up, creating and deleting topics, and producer ids.

package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

const (
	// producerIDBlock is how many producer ids a broker takes from the metadata group at once. What it does not use before
	// it stops is lost; there are 2⁶³.
	producerIDBlock = 1000
	// maxAdmin bounds the admin requests (create, delete) that this broker carries out at once; more wait.
	maxAdmin = 64
)

var _ backend = (*Broker)(nil)

// NodeID is this broker's id in the cluster.
func (b *Broker) NodeID() raft.NodeID { return b.store.id.NodeID }

// Image is what this broker knows of the cluster.
func (b *Broker) Image() *coordinator.Image { return b.md.Image() }

// Controller is the metadata leader where it is known, else some live broker: clients send admin requests there, and every
// broker forwards them.
func (b *Broker) Controller() raft.NodeID {
	leader, _ := b.meta.Leader()
	im := b.Image()
	if l := im.Broker(leader); l != nil && !l.Fenced {
		return leader
	}
	if self := im.Broker(b.NodeID()); self != nil && !self.Fenced {
		return self.ID
	}
	for _, l := range im.LiveBrokers() {
		return l.ID
	}
	return 0
}

// group finds a partition's group.
func (b *Broker) group(topic coordinator.TopicID, partition int32) (raft.GroupID, bool) {
	t := b.Image().TopicByID(topic)
	if t == nil || partition < 0 || int(partition) >= len(t.Partitions) {
		return 0, false
	}
	return t.Partitions[partition].Group, true
}

// Replica implements backend.
func (b *Broker) Replica(topic coordinator.TopicID, partition int32) replica {
	g, ok := b.group(topic, partition)
	if !ok {
		return nil
	}
	if r := b.rec.replica(g); r != nil {
		return r
	}
	return nil
}

// Leader implements backend. A leader that is fenced is not named: clients would only wait for it.
func (b *Broker) Leader(topic coordinator.TopicID, partition int32) (raft.NodeID, int32, bool) {
	g, ok := b.group(topic, partition)
	if !ok {
		return 0, 0, false
	}
	l := b.peers.table.get(g)
	if l.leader == 0 {
		epoch := int32(l.epoch)
		if rep := b.rec.replica(g); rep != nil { // it may know of later ones than anybody has told of: after a start, of all
			_, own, _ := rep.Leader()
			epoch = max(epoch, own)
		}
		return 0, epoch, false
	}
	if br := b.Image().Broker(l.leader); br == nil || br.Fenced {
		return 0, int32(l.epoch), false
	}
	return l.leader, int32(l.epoch), true
}

// InSync implements backend.
func (b *Broker) InSync(topic coordinator.TopicID, partition int32) []raft.NodeID {
	im := b.Image()
	t := im.TopicByID(topic)
	if t == nil || partition < 0 || int(partition) >= len(t.Partitions) {
		return nil
	}
	p := &t.Partitions[partition]
	rep := b.rec.replica(p.Group)
	if rep != nil {
		if isr := rep.ISR(); isr != nil {
			return isr
		}
	}
	isr := b.peers.inSyncOf(im, p)
	// Whatever was told when: what this broker has not open it does not have.
	return slices.DeleteFunc(isr, func(id raft.NodeID) bool { return id == b.NodeID() && (rep == nil || rep.Raft() == nil) })
}

// Config implements backend: what was set explicitly, by Kafka's names. What is as it would be if nobody had set it counts as not set: a flag's default comes
// here as a setting, and tools carry what is set over to other clusters.
func (b *Broker) Config(name string) (string, bool) {
	value, ok := b.setting(name)
	if d := brokerConfigs()[name]; ok && d != nil && d.canonical(value) == d.canonical(d.def) {
		return "", false
	}
	return value, ok
}

func (b *Broker) setting(name string) (string, bool) {
	c, d := &b.given, Config{}
	switch name {
	case "balsa.admin.listener":
		return b.adminURL(), b.adm != nil
	case "listeners":
		return b.describeListeners(false), true
	case "advertised.listeners":
		return b.describeListeners(true), true
	case "num.partitions":
		return fmt.Sprint(c.Partitions), c.Partitions != d.Partitions
	case "default.replication.factor":
		return fmt.Sprint(c.ReplicationFactor), c.ReplicationFactor != d.ReplicationFactor
	case "auto.create.topics.enable":
		return fmt.Sprint(!c.DisableAutoCreate), c.DisableAutoCreate
	case "offsets.topic.num.partitions":
		return fmt.Sprint(b.cfg.OffsetsPartitions), true
	case "transaction.state.log.num.partitions":
		return fmt.Sprint(b.cfg.TxnPartitions), true
	case "transaction.max.timeout.ms":
		return fmt.Sprint(b.cfg.TxnMaxTimeout.Milliseconds()), c.TxnMaxTimeout != 0
	case "transactional.id.expiration.ms":
		return fmt.Sprint(b.cfg.TxnIDExpiration.Milliseconds()), c.TxnIDExpiration != 0
	case "producer.id.expiration.ms":
		return fmt.Sprint(b.cfg.ProducerIDExpiration.Milliseconds()), c.ProducerIDExpiration != 0
	case "group.initial.rebalance.delay.ms":
		return fmt.Sprint(max(b.cfg.GroupInitialRebalanceDelay, 0).Milliseconds()), c.GroupInitialRebalanceDelay != 0
	case "group.min.session.timeout.ms":
		return fmt.Sprint(c.GroupMinSession.Milliseconds()), c.GroupMinSession != 0
	case "group.max.session.timeout.ms":
		return fmt.Sprint(c.GroupMaxSession.Milliseconds()), c.GroupMaxSession != 0
	case "group.max.size":
		return fmt.Sprint(c.GroupMaxSize), c.GroupMaxSize != 0
	case "group.consumer.session.timeout.ms":
		return fmt.Sprint(c.GroupConsumerSession.Milliseconds()), c.GroupConsumerSession != 0
	case "group.consumer.heartbeat.interval.ms":
		return fmt.Sprint(c.GroupConsumerHeartbeat.Milliseconds()), c.GroupConsumerHeartbeat != 0
	case "group.consumer.max.size":
		return fmt.Sprint(c.GroupConsumerMaxSize), c.GroupConsumerMaxSize != 0
	case "group.consumer.migration.policy":
		return c.GroupConsumerMigration, c.GroupConsumerMigration != ""
	case "offsets.retention.minutes":
		return fmt.Sprint(int64(c.OffsetsRetention.Minutes())), c.OffsetsRetention != 0
	case "max.connections":
		return fmt.Sprint(b.cfg.MaxConnections), true
	case "max.connections.per.ip":
		return fmt.Sprint(c.MaxConnectionsPerIP), c.MaxConnectionsPerIP != 0
	case "max.connection.creation.rate":
		return fmt.Sprint(int64(c.ConnectionRate)), c.ConnectionRate != 0
	case "sasl.enabled.mechanisms":
		if b.security.SASL == nil {
			return "", false
		}
		return strings.Join(b.security.SASL.mechanisms, ","), true
	case "connections.max.reauth.ms":
		return fmt.Sprint(c.ReauthInterval.Milliseconds()), c.ReauthInterval != 0
	case "ssl.client.auth":
		return c.KafkaTLS.clientAuth(), c.KafkaTLS.enabled()
	case "ssl.principal.mapping.rules":
		return c.PrincipalRules, c.PrincipalRules != ""
	case "log.retention.check.interval.ms":
		return fmt.Sprint(b.cfg.RetentionCheck.Milliseconds()), true
	case "log.cleaner.enable":
		return fmt.Sprint(!c.DisableCleaner), c.DisableCleaner
	case "log.cleaner.backoff.ms":
		return fmt.Sprint(b.cfg.CleanerPause.Milliseconds()), c.CleanerPause != 0
	case "log.cleaner.dedupe.buffer.size":
		return fmt.Sprint(b.cfg.CleanerMemory), c.CleanerMemory != 0
	case "log.cleaner.io.max.bytes.per.second":
		return fmt.Sprint(b.cfg.CleanerRate), b.cfg.CleanerRate > 0
	case "log.segment.bytes":
		return fmt.Sprint(b.cfg.SegmentBytes), true
	case "auto.leader.rebalance.enable":
		return fmt.Sprint(!c.DisableLeaderBalance), c.DisableLeaderBalance
	case "leader.imbalance.check.interval.seconds":
		return fmt.Sprint(int64(b.cfg.LeaderBalanceInterval.Seconds())), true
	case readConsistency:
		return b.cfg.ReadConsistency, c.ReadConsistency != ""
	case "replica.selector.class":
		return rackAware, true
	case "broker.rack":
		return c.Rack, c.Rack != ""
	case "socket.request.max.bytes":
		return fmt.Sprint(c.MaxRequestBytes), c.MaxRequestBytes != d.MaxRequestBytes
	case "log.dirs", "log.dir":
		return c.DataDir, true
	case "broker.session.timeout.ms":
		return fmt.Sprint(c.SessionTimeout.Milliseconds()), c.SessionTimeout != 0
	}
	return "", false
}

// admin runs one admin request beside the handler that took it, which must not wait.
func (b *Broker) admin(ctx context.Context, do func(context.Context), refused func(error)) {
	b.life.Lock()
	defer b.life.Unlock()
	if b.closing {
		go refused(fmt.Errorf("the broker is shutting down: %w", context.Canceled))
		return
	}
	b.wg.Go(func() {
		// The request ends with its connection and with the broker.
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(b.ctx, cancel)()
		if err := b.admins.Acquire(ctx, 1); err != nil {
			refused(err)
			return
		}
		defer b.admins.Release(1)
		do(ctx)
	})
}

// CreateTopics implements backend.
func (b *Broker) CreateTopics(ctx context.Context, topics []newTopic, validateOnly bool, done func([]topicResult)) {
	if validateOnly {
		results := make([]topicResult, len(topics))
		im := b.Image()
		for i := range topics {
			results[i] = validateTopic(im, &topics[i])
		}
		done(results)
		return
	}
	fail := func(err error) {
		results := make([]topicResult, len(topics))
		for i := range results {
			results[i].Err = err
		}
		done(results)
	}
	b.admin(ctx, func(ctx context.Context) {
		results, err := b.createTopics(ctx, topics)
		if err != nil {
			fail(err)
			return
		}
		done(results)
	}, fail)
}

func validateTopic(im *coordinator.Image, t *newTopic) (r topicResult) {
	if r.Err = im.CheckNewTopic(t.Name); r.Err != nil {
		return r
	}
	replicas := t.Assignment
	if len(replicas) > 0 {
		r.Err = im.CheckAssignment(0, replicas)
	} else {
		rf := t.ReplicationFactor
		if rf <= 0 {
			rf = min(coordinator.DefaultReplication, len(im.LiveBrokers()))
		}
		replicas, r.Err = im.PlaceTopic(t.Partitions, rf, 0)
	}
	if r.Err == nil {
		r.Partitions, r.ReplicationFactor = len(replicas), len(replicas[0])
	}
	return r
}

func (b *Broker) createTopics(ctx context.Context, topics []newTopic) ([]topicResult, error) {
	in := &coordinator.Intent{Request: newRequestID()}
	for i := range topics {
		t := &topics[i]
		if coordinator.IsInternalTopic(t.Name) {
			b.awaitThree(ctx)
		}
		in.Create = append(in.Create, coordinator.TopicSpec{Name: t.Name, ID: newTopicID(), Partitions: int32(t.Partitions),
			Replication: int16(max(t.ReplicationFactor, 0)), Assignment: t.Assignment, Configs: t.Configs})
	}
	r, err := b.ask(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("create topics: %w", err)
	}
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("create topics: %w", err)
	}
	if len(r.Topics) != len(topics) {
		return nil, fmt.Errorf("create topics: %w: %d results for %d topics", errRPC, len(r.Topics), len(topics))
	}
	results := make([]topicResult, len(topics))
	var created []coordinator.TopicID
	for i := range r.Topics {
		if results[i].Err = r.Topics[i].Err(); results[i].Err != nil {
			continue
		}
		results[i].ID = r.Topics[i].ID
		created = append(created, r.Topics[i].ID)
		if t := b.Image().TopicByID(r.Topics[i].ID); t != nil {
			results[i].Partitions, results[i].ReplicationFactor = len(t.Partitions), len(t.Partitions[0].Replicas)
		}
	}
	if len(created) == 0 {
		return results, nil
	}
	if err := b.awaitCluster(ctx, r.Index, created); err != nil {
		for i := range results {
			if results[i].Err == nil {
				results[i].Err = fmt.Errorf("topic %q is created, but its leaders or some broker's metadata are not there yet: %w", topics[i].Name, err)
			}
		}
	}
	return results, nil
}

// ensureInternal makes sure that an internal topic is there, with as many replicas as there are live brokers, up to three. It
// grows when brokers join later; a broker that has just started waits a moment for the third all the same.
func (b *Broker) ensureInternal(ctx context.Context, name string, partitions int32) (*coordinator.Topic, error) {
	for {
		if t := b.Image().Topic(name); t != nil {
			return t, nil
		}
		configs := map[string]string{"cleanup.policy": "compact", "compression.type": "producer", "segment.bytes": internalSegmentBytes, "max.message.bytes": offsetsBatchBytes}
		if name == coordinator.BridgesTopic { // few keys, each written with every batch: what is compacted away the next owner need not read
			configs["segment.bytes"], configs["min.cleanable.dirty.ratio"] = "1048576", "0.1"
		}
		r, err := b.createTopics(ctx, []newTopic{{Name: name, Partitions: int(partitions), Configs: configs}})
		if err == nil {
			err = r[0].Err
		}
		// Another broker may have been faster; the Image has its topic, or will.
		if err != nil && !errors.Is(err, coordinator.ErrTopicExists) {
			return nil, err
		}
		if err := b.meta.Linearize(ctx); err != nil {
			return nil, err
		}
	}
}

// awaitCluster waits until every broker that is there has the metadata up to v, and every partition of the topics a leader
// that is ready and that those brokers know.
func (b *Broker) awaitCluster(ctx context.Context, v raft.Index, created []coordinator.TopicID) error {
	var waits []raft.GroupID // looked at with every piece of news: of ten thousand, only those before which all others have a leader
	for n := 0; ; {
		changed := b.peers.wait()
		if !b.peers.behind(v) {
			if waits == nil {
				waits = b.groupsOf(created)
			}
			for n < len(waits) && b.led(waits[n]) {
				n++
			}
			if n == len(waits) {
				return b.awaitNamed(ctx, waits)
			}
		}
		select {
		case <-changed:
		case <-time.After(b.cfg.ElectionTimeout): // a broker that went away is waited for no longer, and says nothing
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// groupsOf are the groups of the topics' partitions.
func (b *Broker) groupsOf(topics []coordinator.TopicID) (out []raft.GroupID) {
	im := b.Image()
	for _, id := range topics {
		if t := im.TopicByID(id); t != nil {
			for i := range t.Partitions {
				out = append(out, t.Partitions[i].Group)
			}
		}
	}
	return out
}

// led: the group has, or a moment ago had, a ready leader; one that is deleted meanwhile needs none.
func (b *Broker) led(g raft.GroupID) bool {
	if l := b.peers.table.get(g); l.leader != 0 && l.ready {
		return true
	}
	return b.Image().Deleted(g)
}

// awaitThree waits, in the first seconds of this broker's life, for a third broker: see Config.InternalTopicWait.
func (b *Broker) awaitThree(ctx context.Context) {
	left := b.cfg.InternalTopicWait - time.Since(b.starting.began)
	if left <= 0 {
		return
	}
	deadline := time.NewTimer(left)
	defer deadline.Stop()
	for {
		changed := b.peers.wait()
		if len(b.Image().LiveBrokers()) >= coordinator.DefaultReplication {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// DeleteTopics implements backend.
func (b *Broker) DeleteTopics(ctx context.Context, ids []coordinator.TopicID, done func([]error)) {
	fail := func(err error) {
		errs := make([]error, len(ids))
		for i := range errs {
			errs[i] = err
		}
		done(errs)
	}
	b.admin(ctx, func(ctx context.Context) {
		r, err := b.ask(ctx, &coordinator.Intent{Request: newRequestID(), Command: &coordinator.Command{DeleteTopics: &coordinator.DeleteTopics{IDs: ids}}})
		if err == nil {
			err = r.Err()
		}
		if err == nil && len(r.Topics) != len(ids) {
			err = fmt.Errorf("%w: %d results for %d topics", errRPC, len(r.Topics), len(ids))
		}
		if err != nil {
			fail(fmt.Errorf("delete topics: %w", err))
			return
		}
		late := b.awaitCluster(ctx, r.Index, nil)
		errs := make([]error, len(ids))
		for i := range errs {
			errs[i] = r.Topics[i].Err()
			if errs[i] == nil && late != nil {
				errs[i] = fmt.Errorf("topic is deleted, but some broker's metadata still has it: %w", late)
			}
		}
		done(errs)
	}, fail)
}

// producerIDs hands out ids from a block.
type producerIDs struct {
	mu        sync.Mutex // guards the rest
	next, end int64
	waiting   []func(int64, error)
	asking    bool
}

// maxProducerIDWaiters bounds those who wait for a new block.
const maxProducerIDWaiters = 10_000

// NextProducerID implements backend.
func (b *Broker) NextProducerID(ctx context.Context, done func(int64, error)) {
	p := &b.pids
	p.mu.Lock()
	if p.next < p.end {
		id := p.next
		p.next++
		p.mu.Unlock()
		done(id, nil)
		return
	}
	if len(p.waiting) >= maxProducerIDWaiters {
		p.mu.Unlock()
		done(0, fmt.Errorf("too many producers wait for an id: %w", context.DeadlineExceeded))
		return
	}
	p.waiting = append(p.waiting, done)
	if p.asking {
		p.mu.Unlock()
		return
	}
	p.asking = true
	p.mu.Unlock()
	// One question for all who wait; it ends with the broker or by its own time, not with the first one's connection.
	b.admin(context.WithoutCancel(ctx), func(ctx context.Context) { b.refillProducerIDs(ctx) }, func(err error) { p.give(0, 0, err) })
}

func (b *Broker) refillProducerIDs(ctx context.Context) {
	for {
		rctx, cancel := context.WithTimeout(ctx, 2*rpcTimeout)
		r, err := b.ask(rctx, &coordinator.Intent{Request: newRequestID(),
			Command: &coordinator.Command{AllocateProducerIDs: &coordinator.AllocateProducerIDs{Count: producerIDBlock}}})
		cancel()
		if err == nil {
			err = r.Err()
		}
		if err != nil {
			b.pids.give(0, 0, fmt.Errorf("allocate producer ids: %w", err))
			return
		}
		if !b.pids.give(r.First, r.Count, nil) {
			return
		}
	}
}

// give serves the waiting from a new block, or with an error. It reports whether some still wait and the caller must go on.
func (p *producerIDs) give(first, count int64, err error) (more bool) {
	p.mu.Lock()
	if err == nil {
		p.next, p.end = first, first+count
	}
	var calls []func()
	for len(p.waiting) > 0 && (err != nil || p.next < p.end) {
		done, id := p.waiting[0], p.next
		p.waiting = p.waiting[1:]
		if err != nil {
			id = 0
		} else {
			p.next++
		}
		calls = append(calls, func() { done(id, err) })
	}
	more = len(p.waiting) > 0
	p.asking = more
	p.mu.Unlock()
	for _, fn := range calls {
		fn()
	}
	return more
}

func newAdmins() *semaphore.Weighted { return semaphore.NewWeighted(maxAdmin) }
