// Metadata is the state machine of the metadata group. Its state is an Image plus the results of recent requests; each
// run of applied entries makes one new Image and swaps it in.
//
// Invariant: the Image after index i is a function of the entries up to i alone. It is the same on every broker, and the
// same whether it came from the entries or from a snapshot.

package coordinator

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

// Metadata is driven by one goroutine at a time (Apply, Snapshot, Restore); everything else is safe for any.
type Metadata struct {
	image  atomic.Pointer[Image]
	recent []recentResult // oldest first, at most maxRecentRequests; owned by the applier
	// applied is the last entry seen in this life of the group; below the Image's version while a group that was opened
	// again replays what is folded already. Owned by the applier.
	applied raft.Index

	// mu guards what waits for versions. It is never held while a callback runs.
	mu       sync.Mutex
	waiters  []*waiter // sorted by version
	watchers []func(old, now *Image)

	leadership []func(multi.Status)
}

type recentResult struct {
	Request string  `json:"request"`
	Result  *Result `json:"result"`
}

type waiter struct {
	version raft.Index
	fn      func(*Image)
}

// NewMetadata returns the state of a cluster that is not founded.
func NewMetadata() *Metadata {
	m := new(Metadata)
	m.image.Store(newImage())
	return m
}

// Image is the newest image. It is never nil.
func (m *Metadata) Image() *Image { return m.image.Load() }

// OnChange registers fn to be called after each swap, in order, from the applier: it must not block. Call it before the
// group starts.
func (m *Metadata) OnChange(fn func(old, now *Image)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchers = append(m.watchers, fn)
}

// WhenVersion calls fn once the Image's version is at least v: at once from the caller, or later from the applier; then
// it must not block. cancel takes it back, if it has not been called yet; nothing waits in a goroutine.
func (m *Metadata) WhenVersion(v raft.Index, fn func(*Image)) (cancel func()) {
	m.mu.Lock()
	if im := m.image.Load(); im.version >= v {
		m.mu.Unlock()
		fn(im)
		return func() {}
	}
	w := &waiter{v, fn}
	i, _ := slices.BinarySearchFunc(m.waiters, v, func(w *waiter, v raft.Index) int { return cmp.Compare(w.version, v) })
	m.waiters = slices.Insert(m.waiters, i, w)
	m.mu.Unlock()
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.waiters = slices.DeleteFunc(m.waiters, func(x *waiter) bool { return x == w })
	}
}

func (m *Metadata) swap(now *Image) {
	m.mu.Lock()
	old := m.image.Swap(now)
	i, _ := slices.BinarySearchFunc(m.waiters, now.version+1, func(w *waiter, v raft.Index) int { return cmp.Compare(w.version, v) })
	due := slices.Clone(m.waiters[:i])
	m.waiters = slices.Delete(m.waiters, 0, i)
	watchers := m.watchers
	m.mu.Unlock()
	for _, fn := range watchers {
		fn(old, now)
	}
	for _, w := range due {
		w.fn(now)
	}
}

// Apply folds committed entries, and returns a *Result per command entry, nil for the others. An error means that
// this broker cannot follow the log any further (a command of a newer version, say); the state is then as before.
func (m *Metadata) Apply(entries []raft.Entry) ([]any, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	d := m.Image().draft()
	recent := m.recent
	results := make([]any, len(entries))
	for i := range entries {
		e := &entries[i]
		if e.Index <= d.version {
			// The group was closed after a failure of its log and opened again: it replays what has been folded already.
			// Committed entries never change, so there is nothing to do, and nobody waits for a result.
			continue
		}
		if e.Type == raft.EntryCommand {
			c, err := DecodeCommand(e.Payload)
			if err != nil {
				return nil, fmt.Errorf("metadata entry %d: %w", e.Index, err)
			}
			if f := c.SetFeature; f != nil && f.Name == MetadataVersion && f.Level > LevelLatest {
				return nil, fmt.Errorf("metadata entry %d: %w: the cluster goes on with %s %d, this broker knows %d: start a newer broker", e.Index, ErrFeatureLevel, f.Name, f.Level, LevelLatest)
			}
			var r *Result
			if j := slices.IndexFunc(recent, func(x recentResult) bool { return x.Request == c.Request }); c.Request != "" && j >= 0 {
				r = recent[j].Result
			} else {
				r = d.apply(c, e.Index)
				r.Index = e.Index
				if d.lowered { // the results may be of a level that is above the new one
					recent, d.lowered = nil, false
				}
				if c.Request != "" {
					recent = append(slices.Clip(recent), recentResult{c.Request, r})
					recent = recent[max(0, len(recent)-maxRecentRequests):]
				}
			}
			results[i] = r
		}
		if e.Type == raft.EntryConfig {
			conf, err := raft.DecodeConfState(e.Payload)
			if err != nil {
				return nil, fmt.Errorf("metadata entry %d: %w", e.Index, err)
			}
			d.enterEpoch(conf.Epoch)
		}
		d.version = e.Index
	}
	m.recent, m.applied = recent, entries[len(entries)-1].Index
	if d.version > m.Image().version {
		m.swap(d.Image)
	}
	return results, nil
}

// apply changes the draft by one command. What it refuses, it refuses on every broker.
func (d *draft) apply(c *Command, index raft.Index) *Result {
	switch {
	case c.Found != nil:
		if d.clusterID != "" && d.clusterID != c.Found.ClusterID {
			return &Result{Failure: FailureOf(fmt.Errorf("%w: it is founded as %s", ErrWrongCluster, d.clusterID))}
		}
		if d.clusterID == "" {
			d.clusterID, d.founder = c.Found.ClusterID, c.Found.Founder
			for name, level := range c.Found.Features {
				d.setFeature(name, level)
			}
		}
		return &Result{}
	case d.clusterID == "":
		return &Result{Failure: FailureOf(ErrNotFounded)}
	}
	if err := d.CheckLevel(c); err != nil {
		return &Result{Failure: FailureOf(err)}
	}
	switch {
	case c.Register != nil:
		return d.register(c.Register, index)
	case c.Fence != nil:
		f := c.Fence
		b := d.Broker(f.Node)
		if b == nil {
			return &Result{Failure: FailureOf(fmt.Errorf("%w: %d", ErrUnknownBroker, f.Node))}
		}
		if b.Epoch != f.Epoch {
			return &Result{Failure: FailureOf(fmt.Errorf("%w: broker %d has registered anew", ErrStale, f.Node))}
		}
		if b.Fenced != f.Fenced {
			nb := *b
			nb.Fenced = f.Fenced
			d.putBroker(&nb)
		}
		return &Result{}
	case c.CreateTopics != nil:
		return d.createTopics(c.CreateTopics, index)
	case c.DeleteTopics != nil:
		r := &Result{}
		for _, id := range c.DeleteTopics.IDs {
			tr := TopicResult{ID: id}
			if t := d.TopicByID(id); t != nil {
				tr.Name = t.Name
				d.dropTopic(t)
			} else {
				tr.Failure = FailureOf(fmt.Errorf("%w: id %s", ErrUnknownTopic, id))
			}
			r.Topics = append(r.Topics, tr)
		}
		return r
	case c.AlterConfigs != nil:
		t := d.TopicByID(c.AlterConfigs.Topic)
		if t == nil {
			return &Result{Failure: FailureOf(fmt.Errorf("%w: id %s", ErrUnknownTopic, c.AlterConfigs.Topic))}
		}
		nt := *t
		if nt.Configs = maps.Clone(t.Configs); nt.Configs == nil {
			nt.Configs = make(map[string]string)
		}
		for k, v := range c.AlterConfigs.Set {
			if v == nil {
				delete(nt.Configs, k)
			} else {
				nt.Configs[k] = *v
			}
		}
		d.putTopic(&nt)
		return &Result{}
	case c.AllocateProducerIDs != nil:
		n := c.AllocateProducerIDs.Count
		r := &Result{First: d.nextPID, Count: n}
		d.nextPID += n
		return r
	case c.SetFeature != nil:
		return &Result{Failure: FailureOf(d.setFeatureLevel(c.SetFeature))}
	case c.ResetPeers != nil:
		return &Result{Failure: FailureOf(d.resetPeers(c.ResetPeers))}
	case c.ResetDone != nil:
		return &Result{Failure: FailureOf(d.resetDone(c.ResetDone))}
	case c.Reassign != nil:
		return d.reassign(c.Reassign)
	case c.Settle != nil:
		return &Result{Failure: FailureOf(d.settle(c.Settle))}
	case c.Unregister != nil:
		return &Result{Failure: FailureOf(d.unregister(c.Unregister))}
	case c.AlterUsers != nil:
		return d.alterUsers(c.AlterUsers)
	case c.AlterACLs != nil:
		return d.alterACLs(c.AlterACLs)
	case c.SetConfigs != nil:
		return d.setConfigs(c.SetConfigs)
	case c.AddPartitions != nil:
		return d.addPartitions(c.AddPartitions)
	case c.AlterQuotas != nil:
		return d.alterQuotas(c.AlterQuotas)
	case c.AlterBridge != nil:
		return &Result{Failure: FailureOf(d.alterBridge(c.AlterBridge))}
	}
	panic("coordinator: a checked command has a kind")
}

// Ids that are left out when the metadata group's peers were reset. The lost majority may have given out some that the
// survivors know nothing of, and a group's id, for one, must never mean two things.
const (
	skipGroups      = 1 << 24
	skipNodes       = 100
	skipProducerIDs = 1 << 40
)

// enterEpoch follows a reset of the metadata group's own peers (see [raft.Reset]): the first membership of a later epoch.
func (d *draft) enterEpoch(epoch raft.GroupEpoch) {
	if epoch <= d.epoch {
		return
	}
	d.epoch = epoch
	d.skipped = append(slices.Clip(d.skipped), IDRange{d.nextGroup, d.nextGroup + skipGroups})
	d.nextGroup += skipGroups
	d.nextNode += skipNodes
	d.nextPID += skipProducerIDs
}

// partitionAt finds the partition of a command.
func (im *Image) partitionAt(id TopicID, partition int32) (*Topic, *Partition, error) {
	t := im.TopicByID(id)
	if t == nil || partition < 0 || int(partition) >= len(t.Partitions) {
		return nil, nil, fmt.Errorf("%w: id %s, partition %d", ErrUnknownTopic, id, partition)
	}
	return t, &t.Partitions[partition], nil
}

// putPartition replaces one partition of a topic.
func (d *draft) putPartition(t *Topic, partition int32, p Partition) {
	nt := *t
	nt.Partitions = slices.Clone(t.Partitions)
	nt.Partitions[partition] = p
	d.putTopic(&nt)
}

func (d *draft) resetPeers(r *ResetPeers) error {
	t, p, err := d.partitionAt(r.Topic, r.Partition)
	if err != nil {
		return err
	}
	if r.Epoch != p.Epoch+1 {
		return fmt.Errorf("%w: %s-%d is in epoch %d: its peers were reset meanwhile", ErrStale, t.Name, r.Partition, p.Epoch)
	}
	for _, m := range r.Survivors {
		if b := d.Broker(m.ID); b == nil || b.Incarnation != m.Incarnation {
			return fmt.Errorf("%w: %d, or its disk is another one", ErrUnknownBroker, m.ID)
		}
	}
	np, reset := *p, r.GroupReset
	np.Epoch, np.Reset = r.Epoch, &reset
	np.Settled = 0 // the survivors' logs may be shorter than the lost one's
	d.putPartition(t, r.Partition, np)
	return nil
}

func (d *draft) resetDone(r *ResetDone) error {
	t, p, err := d.partitionAt(r.Topic, r.Partition)
	if err != nil {
		return err
	}
	if p.Epoch == r.Epoch && p.Reset != nil {
		np := *p
		np.Reset = nil
		d.putPartition(t, r.Partition, np)
	}
	return nil
}

func (d *draft) register(r *RegisterBroker, index raft.Index) *Result {
	node := r.Node
	// A broker that did not hear the answer to its first registration asks again: its directory is its name.
	for _, b := range d.brokers {
		if b.Incarnation == r.Incarnation {
			if node != 0 && node != b.ID {
				return &Result{Failure: FailureOf(fmt.Errorf("%w: this data directory is registered as broker %d, not %d", ErrBrokerIDTaken, b.ID, node))}
			}
			node = b.ID
		}
	}
	if node == 0 {
		for d.Broker(d.nextNode) != nil {
			d.nextNode++
		}
		node = d.nextNode
		d.nextNode++
	}
	// A wiped disk under its old id takes the place of the one that was there, once that is not heard from any more, if it may
	// (checkTakeover). It is a new replica everywhere: see Controller.repair.
	if b := d.Broker(node); b != nil && b.Incarnation != r.Incarnation && !b.Fenced {
		return &Result{Failure: FailureOf(errOtherAlive(b))}
	}
	d.putBroker(&Broker{ID: node, Incarnation: r.Incarnation, Endpoints: r.Endpoints, RPC: r.RPC, Rack: r.Rack, NeverLead: r.NeverLead, Epoch: int64(index)})
	return &Result{Node: node, Epoch: int64(index)}
}

func errOtherAlive(b *Broker) error {
	return fmt.Errorf("%w: broker %d is registered with another data directory (incarnation %016x), which is in use", ErrBrokerAlive, b.ID, uint64(b.Incarnation))
}

func (d *draft) createTopics(c *CreateTopics, index raft.Index) *Result {
	for _, m := range c.Brokers {
		if b := d.Broker(m.ID); b == nil || b.Incarnation != m.Incarnation {
			return &Result{Failure: FailureOf(fmt.Errorf("%w: broker %d is not there any more", ErrStale, m.ID))}
		}
	}
	r := &Result{Topics: make([]TopicResult, len(c.Topics))}
	for i := range c.Topics {
		t := &c.Topics[i]
		r.Topics[i] = TopicResult{Name: t.Name, ID: t.ID, Failure: FailureOf(d.createTopic(t, c.Brokers, index))}
	}
	return r
}

func (d *draft) createTopic(nt *NewTopic, brokers []raft.Member, index raft.Index) error {
	if err := d.CheckNewTopic(nt.Name); err != nil {
		return err
	}
	if d.TopicByID(nt.ID) != nil {
		return fmt.Errorf("%w: id %s", ErrTopicExists, nt.ID)
	}
	if err := checkReplicas(0, nt.Replicas); err != nil {
		return err
	}
	t := &Topic{Name: nt.Name, ID: nt.ID, Configs: nt.Configs, Created: index, Partitions: make([]Partition, len(nt.Replicas))}
	group := d.nextGroup
	for i, ids := range nt.Replicas {
		p := &t.Partitions[i]
		p.Group, p.Replicas = group, make([]raft.Member, len(ids))
		group++
		for j, id := range ids {
			k := slices.IndexFunc(brokers, func(m raft.Member) bool { return m.ID == id })
			if k < 0 {
				return fmt.Errorf("%w: partition %d names broker %d, which is not known", ErrInvalidAssignment, i, id)
			}
			p.Replicas[j] = brokers[k]
		}
	}
	d.nextGroup = group
	d.putTopic(t)
	return nil
}

// A snapshot is
//
//	+---------+----------+---------+------------------+
//	| version | reserved | CRC32C  | JSON, fields     |
//	|  1 byte | 3, zero  | 4 bytes | in fixed order   |
//	+---------+----------+---------+------------------+
//
// with the CRC (big endian) over version, reserved and JSON. Equal states have equal bytes.
const (
	snapshotVersion = 1
	snapshotHeader  = 8
	// MaxSnapshotBytes bounds what Restore takes: a million partitions are about 150 MB.
	MaxSnapshotBytes = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type snapshotState struct {
	Version   raft.Index       `json:"version"`
	ClusterID string           `json:"cluster_id"`
	Founder   raft.Member      `json:"founder"`
	NextGroup raft.GroupID     `json:"next_group"`
	NextNode  raft.NodeID      `json:"next_node"`
	NextPID   int64            `json:"next_pid"`
	Epoch     raft.GroupEpoch  `json:"epoch,omitempty"`
	Skipped   []IDRange        `json:"skipped,omitempty"`
	Features  map[string]int16 `json:"features"`
	Brokers   []*Broker        `json:"brokers"`
	Topics    []*Topic         `json:"topics"`
	Recent    []recentResult   `json:"recent"`
	Security  *securityState   `json:"security,omitempty"`
	// From here on LevelAdmin, and absent where there is none.
	BrokerConfigs map[string]map[string]string `json:"broker_configs,omitempty"`
	GroupConfigs  map[string]map[string]string `json:"group_configs,omitempty"`
	Quotas        []Quota                      `json:"quotas,omitempty"`
	Bridges       []*Bridge                    `json:"bridges,omitempty"` // LevelApps
}

// Snapshot encodes the state as of the last applied entry.
func (m *Metadata) Snapshot() ([]byte, error) {
	im := m.Image()
	if im.version > m.applied {
		// It would be stored as the state at m.applied, and no Restore would take it.
		return nil, fmt.Errorf("metadata snapshot at %d: the state is that of %d until the replay has come there", m.applied, im.version)
	}
	body, err := json.Marshal(&snapshotState{Version: im.version, ClusterID: im.clusterID, Founder: im.founder, NextGroup: im.nextGroup, NextNode: im.nextNode,
		NextPID: im.nextPID, Epoch: im.epoch, Skipped: im.skipped, Features: im.features, Brokers: im.brokers, Topics: im.Topics(), Recent: m.recent,
		BrokerConfigs: im.brokerConfigs, GroupConfigs: im.groupConfigs, Quotas: im.sortedQuotas(), Bridges: im.Bridges(), Security: im.securityState()})
	if err != nil {
		return nil, fmt.Errorf("metadata snapshot at %d: %w", im.version, err)
	}
	b := make([]byte, snapshotHeader, snapshotHeader+len(body))
	b[0] = snapshotVersion
	b = append(b, body...)
	binary.BigEndian.PutUint32(b[4:], snapshotCRC(b))
	return b, nil
}

func snapshotCRC(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:4], castagnoli), castagnoli, b[snapshotHeader:])
}

// Restore replaces the state by a snapshot's; meta.Index is the snapshot's last included one.
func (m *Metadata) Restore(meta raft.SnapshotMeta, b []byte) error {
	index := meta.Index
	s, err := decodeSnapshot(b)
	if err != nil {
		return fmt.Errorf("metadata snapshot at %d: %w", index, err)
	}
	if index <= m.Image().version {
		m.applied = index
		return nil // as in Apply: this and more has been folded already
	}
	if level := s.Features[MetadataVersion]; level > LevelLatest {
		return fmt.Errorf("metadata snapshot at %d: %w: it is of %s %d, this broker knows %d: start a newer broker", index, ErrFeatureLevel, MetadataVersion, level, LevelLatest)
	}
	// The state's own version is the last entry that it folded, and nothing between it and index changed it.
	if s.Version > index {
		return fmt.Errorf("metadata snapshot at %d: %w: it is of version %d", index, ErrMalformed, s.Version)
	}
	d := newImage().draft()
	d.version, d.clusterID, d.founder = index, s.ClusterID, s.Founder
	d.nextGroup, d.nextNode, d.nextPID = s.NextGroup, s.NextNode, s.NextPID
	d.epoch, d.skipped, d.features = s.Epoch, s.Skipped, s.Features
	for _, b := range s.Brokers {
		d.putBroker(b)
	}
	d.restoreSecurity(s.Security)
	for _, t := range s.Topics {
		d.putTopic(t)
	}
	if len(s.GroupConfigs) > MaxConfiguredGroups {
		return fmt.Errorf("metadata snapshot at %d: %w: configs of %d groups", index, ErrMalformed, len(s.GroupConfigs))
	}
	d.brokerConfigs, d.groupConfigs = s.BrokerConfigs, s.GroupConfigs
	if err := d.restoreQuotas(s.Quotas); err != nil {
		return fmt.Errorf("metadata snapshot at %d: %w", index, err)
	}
	if err := d.restoreBridges(s.Bridges); err != nil {
		return fmt.Errorf("metadata snapshot at %d: %w", index, err)
	}
	d.quotaVersion, d.configVersion, d.bridgeVersion = index, index, index
	m.recent, m.applied = s.Recent, index
	m.swap(d.Image)
	return nil
}

// decodeSnapshot believes nothing: a snapshot may come from another broker.
func decodeSnapshot(b []byte) (*snapshotState, error) {
	if len(b) < snapshotHeader || len(b) > MaxSnapshotBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	if b[0] != snapshotVersion || b[1] != 0 || b[2] != 0 || b[3] != 0 {
		return nil, fmt.Errorf("%w: version %d, this broker knows %d: start a newer broker", ErrMalformed, b[0], snapshotVersion)
	}
	if binary.BigEndian.Uint32(b[4:]) != snapshotCRC(b) {
		return nil, fmt.Errorf("%w: checksum does not match", ErrMalformed)
	}
	s := new(snapshotState)
	if err := strictJSON(b[snapshotHeader:], s); err != nil {
		return nil, err
	}
	if s.NextGroup <= raft.MetadataGroup || s.NextNode == 0 || s.NextPID < 0 || len(s.Recent) > maxRecentRequests {
		return nil, fmt.Errorf("%w: counters out of range", ErrMalformed)
	}
	if err := s.Security.check(); err != nil {
		return nil, err
	}
	nodes := make(map[raft.NodeID]bool)
	for _, b := range s.Brokers {
		if b == nil || b.ID == 0 || nodes[b.ID] {
			return nil, fmt.Errorf("%w: a broker without an id, or twice", ErrMalformed)
		}
		nodes[b.ID] = true
	}
	names, ids, groups := make(map[string]bool), make(map[TopicID]bool), make(map[raft.GroupID]bool)
	for _, t := range s.Topics {
		if t == nil || CheckTopicName(t.Name) != nil || names[collisionName(t.Name)] || ids[t.ID] || t.ID.IsZero() || len(t.Partitions) == 0 {
			return nil, fmt.Errorf("%w: a topic without a name or id, or twice", ErrMalformed)
		}
		names[collisionName(t.Name)], ids[t.ID] = true, true
		for _, p := range t.Partitions {
			if p.Group <= raft.MetadataGroup || p.Group >= s.NextGroup || groups[p.Group] || len(p.Replicas) == 0 {
				return nil, fmt.Errorf("%w: topic %q has a partition with group %d", ErrMalformed, t.Name, p.Group)
			}
			groups[p.Group] = true
		}
	}
	for _, r := range s.Recent {
		if r.Request == "" || r.Result == nil {
			return nil, fmt.Errorf("%w: a remembered request without id or result", ErrMalformed)
		}
	}
	return s, nil
}
