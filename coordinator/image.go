// Package coordinator holds the state machines that fold over Raft groups: the cluster's metadata (brokers, topics,
// assignments, configs), the controller that acts on it, and consumer groups.
//
// This file is the Image: what a broker knows of the cluster at one version, as an immutable value. It is replaced, never
// changed, so a request that took one sees one consistent cluster to its end, without a lock.

package coordinator

import (
	"encoding/hex"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/balsamq/balsa/raft"
)

// TopicID is a topic's identity: a topic deleted and made anew under its old name has another one. The zero id is none.
type TopicID [16]byte

func (id TopicID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether no id was given (Kafka's "use the name").
func (id TopicID) IsZero() bool { return id == TopicID{} }

// MarshalText makes ids readable in commands and snapshots.
func (id TopicID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText is the inverse of MarshalText.
func (id *TopicID) UnmarshalText(b []byte) error {
	if len(b) != 2*len(id) {
		return ErrMalformed
	}
	_, err := hex.Decode(id[:], b)
	return err
}

// Endpoint is where Kafka clients reach a broker through one of its listeners: the advertised address.
type Endpoint struct {
	Listener string `json:"listener"` // name, such as PLAINTEXT
	Host     string `json:"host"`
	Port     int32  `json:"port"`
}

// Broker is one registered broker. Shared by images: never change one.
type Broker struct {
	ID          raft.NodeID      `json:"id"`
	Incarnation raft.Incarnation `json:"incarnation"` // of its data directory
	Endpoints   []Endpoint       `json:"endpoints"`   // at least one
	RPC         string           `json:"rpc"`         // host:port for other brokers
	Rack        string           `json:"rack,omitempty"`
	NeverLead   bool             `json:"never_lead,omitempty"` // it holds replicas and votes, and leads none that another may lead
	// Epoch is the metadata index of the broker's last registration: a later start has a larger one.
	Epoch  int64 `json:"epoch"`
	Fenced bool  `json:"fenced,omitempty"` // not heard from for a session timeout: no client is sent there
}

// Endpoint returns the advertised address of the named listener. ok is false if the broker has none by that name: another
// listener's is never the right one, as it may speak another protocol.
func (b *Broker) Endpoint(listener string) (e Endpoint, ok bool) {
	for _, e := range b.Endpoints {
		if e.Listener == listener {
			return e, true
		}
	}
	return Endpoint{}, false
}

// Member is the broker as a replica's owner.
func (b *Broker) Member() raft.Member { return raft.Member{ID: b.ID, Incarnation: b.Incarnation} }

// Partition is one partition's place in the cluster. Who leads it is not metadata: brokers tell each other.
type Partition struct {
	Group raft.GroupID `json:"group"`
	// Replicas are the group's members as they were founded or last settled; the first one is the preferred leader.
	Replicas []raft.Member `json:"replicas"`
	// Target, if not empty, is where the partition is moving to. What the group's membership really is says its own log; see
	// docs/design/0011-moves.md.
	Target []raft.Member `json:"target,omitempty"`
	// Leaving may be members as well, by an earlier target: they keep what they have until the move has settled.
	Leaving []raft.Member `json:"leaving,omitempty"`
	// Founders is the membership from which the group's log starts, once the partition was ever to be moved: nobody may
	// take a later one for it.
	Founders []raft.Member `json:"founders,omitempty"`
	// Settled is the index, in the group's log, of the membership that Replicas stands for; 0: of the founding one.
	Settled raft.Index `json:"settled,omitempty"`
	// Epoch counts how often the group's peers were reset: a replica of an earlier one is not the group's any more.
	Epoch raft.GroupEpoch `json:"epoch,omitempty"`
	// Reset is set from the command that resets the group's peers until all survivors have followed it.
	Reset *GroupReset `json:"reset,omitempty"`
}

// GroupReset is [raft.Reset] as metadata.
type GroupReset struct {
	Epoch     raft.GroupEpoch `json:"epoch"`
	Term      raft.Term       `json:"term"`
	Leader    raft.NodeID     `json:"leader"`
	Survivors []raft.Member   `json:"survivors"` // sorted by id
}

// HasReplica reports whether the node, in whichever incarnation, holds a replica.
func (p *Partition) HasReplica(id raft.NodeID) bool {
	return slices.ContainsFunc(p.Replicas, func(m raft.Member) bool { return m.ID == id })
}

// Hosts reports whether the member holds, or is to hold, the partition's data.
func (p *Partition) Hosts(m raft.Member) bool {
	return slices.Contains(p.Replicas, m) || slices.Contains(p.Target, m) || slices.Contains(p.Leaving, m)
}

// Moving reports whether the partition is on its way to other brokers.
func (p *Partition) Moving() bool { return len(p.Target) > 0 }

// Wanted is the membership that the group should have.
func (p *Partition) Wanted() []raft.Member {
	if p.Moving() {
		return p.Target
	}
	return p.Replicas
}

// Nodes are all brokers that hold or are to hold the partition: those of the target first, then those that it leaves.
func (p *Partition) Nodes() []raft.NodeID {
	ids := make([]raft.NodeID, 0, len(p.Replicas)+len(p.Target))
	for _, ms := range [3][]raft.Member{p.Target, p.Replicas, p.Leaving} {
		for _, m := range ms {
			if !slices.Contains(ids, m.ID) {
				ids = append(ids, m.ID)
			}
		}
	}
	return ids
}

// Adding are the brokers of the target that have to get the data first, Removing those that the partition leaves.
func (p *Partition) Adding() (ids []raft.NodeID) {
	for _, m := range p.Target {
		if !slices.Contains(p.Replicas, m) {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// Removing: see Adding.
func (p *Partition) Removing() (ids []raft.NodeID) {
	if !p.Moving() {
		return nil
	}
	for _, id := range p.Nodes() {
		if !slices.ContainsFunc(p.Target, func(m raft.Member) bool { return m.ID == id }) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Topic is one topic. Shared by images: never change one.
type Topic struct {
	Name       string            `json:"name"`
	ID         TopicID           `json:"id"`
	Partitions []Partition       `json:"partitions"`        // by partition number
	Configs    map[string]string `json:"configs,omitempty"` // only what was set for this topic
	Created    raft.Index        `json:"created"`           // metadata index of the command that created it
}

// Internal reports whether the topic belongs to the brokers themselves; clients may read but not write it.
func (t *Topic) Internal() bool { return IsInternalTopic(t.Name) }

// ConsumerOffsetsTopic holds the committed offsets and the consumer groups.
const ConsumerOffsetsTopic = "__consumer_offsets"

// IsInternalTopic reports whether the name belongs to the brokers.
func IsInternalTopic(name string) bool {
	return name == ConsumerOffsetsTopic || name == TransactionStateTopic || name == BridgesTopic
}

// imageShards is the fan-out of the maps in an Image: a change copies one shard of each, not ten thousand topics.
const imageShards = 256

type groupPlace struct {
	topic     *Topic
	partition int32
}

// Image is the cluster at one version. All methods are safe for any goroutine; what they return is shared and immutable.
type Image struct {
	version   raft.Index
	clusterID string
	founder   raft.Member
	nextGroup raft.GroupID
	nextNode  raft.NodeID
	nextPID   int64
	epoch     raft.GroupEpoch // of the metadata group itself
	skipped   []IDRange
	features  map[string]int16
	brokers   []*Broker // sorted by id

	users       map[UserMechanism]*ScramCredential
	loginSecret []byte
	acls        *ACLs // never nil

	// What was set dynamically, by broker (empty: for all) and by group; the quotas by entity. The inner maps are never changed.
	brokerConfigs map[string]map[string]string
	groupConfigs  map[string]map[string]string
	quotas        map[quotaKey]map[string]float64
	quotaVersion  raft.Index
	configVersion raft.Index // of brokerConfigs

	bridges       map[string]*Bridge
	bridgeVersion raft.Index

	topicCount int
	partitions int
	byName     [imageShards]map[string]*Topic // by collisionName, of which no two topics share one
	byID       [imageShards]map[TopicID]*Topic
	byGroup    [imageShards]map[raft.GroupID]groupPlace

	// Answers that many callers ask for and that take a walk: computed on first use, the same for everyone.
	sorted atomic.Pointer[[]*Topic]
	moving atomic.Pointer[[]raft.GroupID]
	live   atomic.Pointer[[]*Broker]
}

// Version is the metadata log index up to which this image has folded: it only ever rises on a broker. 0: nothing known yet.
func (im *Image) Version() raft.Index { return im.version }

// ClusterID is empty until the cluster has been founded.
func (im *Image) ClusterID() string { return im.clusterID }

// Founder was the only voter of the metadata group's first term: the membership that its log starts from.
func (im *Image) Founder() raft.Member { return im.founder }

// NextGroup is the group-id counter: an id below it that no partition has belongs to a deleted one.
func (im *Image) NextGroup() raft.GroupID { return im.nextGroup }

// Epoch is the metadata group's own: how often its peers were reset. See [IDRange].
func (im *Image) Epoch() raft.GroupEpoch { return im.epoch }

// IDRange is [First, End) of the group ids that may have been given out by a majority of the metadata group that is lost: who they
// belonged to nobody knows, so that what lies under them on some disk is left alone.
type IDRange struct {
	First raft.GroupID `json:"first"`
	End   raft.GroupID `json:"end"`
}

// Deleted reports that a group was once given out and is gone for good.
func (im *Image) Deleted(id raft.GroupID) bool {
	if _, _, ok := im.Group(id); ok || id >= im.nextGroup {
		return false
	}
	return !slices.ContainsFunc(im.skipped, func(s IDRange) bool { return id >= s.First && id < s.End })
}

// Feature is the finalized level of a feature, 0 if it is off.
func (im *Image) Feature(name string) int16 { return im.features[name] }

// Features is a copy of all finalized levels.
func (im *Image) Features() map[string]int16 { return maps.Clone(im.features) }

// Brokers are all registered brokers by id, fenced ones too.
func (im *Image) Brokers() []*Broker { return im.brokers }

// LiveBrokers are the brokers that are not fenced, by id.
func (im *Image) LiveBrokers() []*Broker {
	if p := im.live.Load(); p != nil {
		return *p
	}
	live := make([]*Broker, 0, len(im.brokers))
	for _, b := range im.brokers {
		if !b.Fenced {
			live = append(live, b)
		}
	}
	im.live.Store(&live)
	return live
}

// Broker returns the broker with that id, or nil.
func (im *Image) Broker(id raft.NodeID) *Broker {
	i, ok := slices.BinarySearchFunc(im.brokers, id, func(b *Broker, id raft.NodeID) int { return int(b.ID) - int(id) })
	if !ok {
		return nil
	}
	return im.brokers[i]
}

// Topic returns the topic of that name, or nil.
func (im *Image) Topic(name string) *Topic {
	if t := im.colliding(name); t != nil && t.Name == name {
		return t
	}
	return nil
}

// colliding is the topic whose metric names would be the same: names that differ only in '.' and '_' collide.
func (im *Image) colliding(name string) *Topic {
	key := collisionName(name)
	return im.byName[nameShard(key)][key]
}

func collisionName(name string) string { return strings.ReplaceAll(name, ".", "_") }

// TopicByID returns the topic with that id, or nil.
func (im *Image) TopicByID(id TopicID) *Topic { return im.byID[id[0]][id] }

// Topics are all topics by name, internal ones too.
func (im *Image) Topics() []*Topic {
	if p := im.sorted.Load(); p != nil {
		return *p
	}
	all := slices.AppendSeq(make([]*Topic, 0, im.topicCount), im.All())
	slices.SortFunc(all, func(a, b *Topic) int { return strings.Compare(a.Name, b.Name) })
	im.sorted.Store(&all)
	return all
}

// Moving are the groups of the partitions that are on their way to other brokers, by id.
func (im *Image) Moving() []raft.GroupID {
	if p := im.moving.Load(); p != nil {
		return *p
	}
	var groups []raft.GroupID
	for t := range im.All() {
		for i := range t.Partitions {
			if t.Partitions[i].Moving() {
				groups = append(groups, t.Partitions[i].Group)
			}
		}
	}
	slices.Sort(groups)
	im.moving.Store(&groups)
	return groups
}

// Partition finds the partition that a Raft group replicates, or nil.
func (im *Image) Partition(id raft.GroupID) *Partition {
	if t, i, ok := im.Group(id); ok {
		return &t.Partitions[i]
	}
	return nil
}

// All yields every topic, in no order: for those who look at all of them at each change.
func (im *Image) All() iter.Seq[*Topic] {
	return func(yield func(*Topic) bool) {
		for _, shard := range im.byName {
			for _, t := range shard {
				if !yield(t) {
					return
				}
			}
		}
	}
}

// TopicCount and PartitionCount are the sizes of the cluster.
func (im *Image) TopicCount() int     { return im.topicCount }
func (im *Image) PartitionCount() int { return im.partitions }

// Group finds the partition that a Raft group replicates.
func (im *Image) Group(id raft.GroupID) (t *Topic, partition int32, ok bool) {
	p, ok := im.byGroup[id%imageShards][id]
	return p.topic, p.partition, ok
}

func nameShard(name string) uint8 {
	h := uint32(2166136261) // FNV-1a; deterministic, unlike the runtime's own hash
	for i := range len(name) {
		h = (h ^ uint32(name[i])) * 16777619
	}
	return uint8(h ^ h>>8 ^ h>>16 ^ h>>24)
}

// draft is an Image under construction by the state machine: it copies a shard the first time it writes to it.
type draft struct {
	*Image
	ownName, ownID, ownGroup [imageShards]bool
	ownBrokers, ownFeatures  bool
	ownBrokerConfigs         bool
	ownGroupConfigs          bool
	ownQuotas                bool
	ownBridges               bool
	lowered                  bool // MetadataVersion has just been lowered
}

func newImage() *Image { return &Image{nextGroup: raft.MetadataGroup + 1, nextNode: 1, acls: noACLs} }

func (im *Image) draft() *draft {
	c := &Image{version: im.version, clusterID: im.clusterID, nextGroup: im.nextGroup, nextNode: im.nextNode, nextPID: im.nextPID,
		features: im.features, brokers: im.brokers, topicCount: im.topicCount, partitions: im.partitions,
		byName: im.byName, byID: im.byID, byGroup: im.byGroup, founder: im.founder, epoch: im.epoch, skipped: im.skipped,
		users: im.users, loginSecret: im.loginSecret, acls: im.acls,
		brokerConfigs: im.brokerConfigs, groupConfigs: im.groupConfigs, quotas: im.quotas, quotaVersion: im.quotaVersion, configVersion: im.configVersion,
		bridges: im.bridges, bridgeVersion: im.bridgeVersion}
	c.sorted.Store(im.sorted.Load())
	c.live.Store(im.live.Load())
	c.moving.Store(im.moving.Load())
	return &draft{Image: c}
}

func own[K comparable, V any](m *map[K]V, owned *bool) map[K]V {
	if !*owned {
		if *m == nil {
			*m = make(map[K]V)
		} else {
			*m = maps.Clone(*m)
		}
		*owned = true
	}
	return *m
}

// putTopic adds a topic, or replaces the one with the same name and id.
func (d *draft) putTopic(t *Topic) {
	if old := d.Topic(t.Name); old != nil {
		d.dropTopic(old)
	}
	key := collisionName(t.Name)
	s := nameShard(key)
	own(&d.byName[s], &d.ownName[s])[key] = t
	own(&d.byID[t.ID[0]], &d.ownID[t.ID[0]])[t.ID] = t
	for i := range t.Partitions {
		g := t.Partitions[i].Group
		own(&d.byGroup[g%imageShards], &d.ownGroup[g%imageShards])[g] = groupPlace{t, int32(i)}
	}
	d.topicCount++
	d.partitions += len(t.Partitions)
	d.sorted.Store(nil)
	d.moving.Store(nil)
}

func (d *draft) dropTopic(t *Topic) {
	key := collisionName(t.Name)
	s := nameShard(key)
	delete(own(&d.byName[s], &d.ownName[s]), key)
	delete(own(&d.byID[t.ID[0]], &d.ownID[t.ID[0]]), t.ID)
	for i := range t.Partitions {
		g := t.Partitions[i].Group
		delete(own(&d.byGroup[g%imageShards], &d.ownGroup[g%imageShards]), g)
	}
	d.topicCount--
	d.partitions -= len(t.Partitions)
	d.sorted.Store(nil)
	d.moving.Store(nil)
}

// putBroker adds or replaces a broker.
func (d *draft) putBroker(b *Broker) {
	if !d.ownBrokers {
		d.brokers, d.ownBrokers = slices.Clone(d.brokers), true
	}
	i, ok := slices.BinarySearchFunc(d.brokers, b.ID, func(b *Broker, id raft.NodeID) int { return int(b.ID) - int(id) })
	if ok {
		d.brokers[i] = b
	} else {
		d.brokers = slices.Insert(d.brokers, i, b)
	}
	d.live.Store(nil)
}

func (d *draft) dropBroker(id raft.NodeID) {
	d.brokers, d.ownBrokers = slices.DeleteFunc(slices.Clone(d.brokers), func(b *Broker) bool { return b.ID == id }), true
	d.live.Store(nil)
}

func (d *draft) setFeature(name string, level int16) {
	own(&d.features, &d.ownFeatures)[name] = level
}
