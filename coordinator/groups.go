// Consumer groups: which group is coordinated where, and the life of a coordinator.
//
// A group belongs to one partition of __consumer_offsets, by its id's hash, and is coordinated by that partition's
// leader. The coordinator's state is a fold over the partition: it is read when this node has become the leader and its no-op is
// applied, and dropped when it stops leading. Each partition that this node leads is a shard with a mutex of its own.
//
// Nothing waits on a goroutine of its own: a request is parked as its reply function, and time-outs are entries of one heap.
// Effects (appends to the log, replies) are collected under the shard's mutex and carried out, in order, after it was
// released: the log gets the batches in the order in which they were decided.

package coordinator

import (
	"errors"
	"log/slog"
	"math"
	"time"
	"unicode/utf16"

	"github.com/balsamq/balsa/protocol"
)

// GroupConfig configures a broker's group coordinator. Zero fields take the defaults, which are Kafka's.
type GroupConfig struct {
	// Partitions is how many partitions __consumer_offsets has, 0 while there is no such topic.
	Partitions func() int
	// Now is the clock, for time-outs and timestamps. Default time.Now.
	Now func() time.Time
	// NewID makes the random part of a member's id: no other has it. Default: 128 random bits.
	NewID  func() string
	Logger *slog.Logger

	// InitialRebalanceDelay is how long an empty group waits for more members after the first. Default 3 s; negative: 0.
	InitialRebalanceDelay time.Duration
	// MinSession and MaxSession bound a member's session timeout. Defaults 6 s and 30 min.
	MinSession, MaxSession time.Duration
	// MaxSize bounds the members of a group. Default: by maxGroupBytes only.
	MaxSize int
	// MaxOffsetMetadata bounds the metadata of a committed offset, in bytes. Default 4096.
	MaxOffsetMetadata int
	// Retention is how long the offsets of an empty group are kept. Default 7 days.
	Retention time.Duration
	// Sweep is between two looks for expired offsets. Default 10 min.
	Sweep time.Duration

	// Image is the cluster as this broker knows it. Nil: there are no topics, and no groups of the new protocol.
	Image func() *Image
	// ConsumerSession and ConsumerHeartbeat are what members of the new protocol (KIP-848) are held to. Defaults 45 s and 5 s.
	ConsumerSession, ConsumerHeartbeat time.Duration
	// ConsumerTiming is what a group has instead, as it was set for it or for all while the broker ran; nil, or zeros: nothing.
	ConsumerTiming func(group string) (session, heartbeat time.Duration)
	// ConsumerMaxSize bounds the members of a group of the new protocol. Default: by maxGroupBytes only.
	ConsumerMaxSize int
	// Migration says which groups change their protocol while they have members. Default MigrateBoth.
	Migration Migration
}

const (
	// maxGroupID bounds a group's name.
	maxGroupID = 4096
	// maxGroups bounds the groups of one shard, and so the memory that made-up group names can take.
	maxGroups = 50_000
	// maxPending bounds the members of a group that were told an id and have not come back with it.
	maxPending = 10_000
	// maxProtocols bounds the assignment strategies of one member.
	maxProtocols = 256
	// maxGroupBytes bounds the metadata of one group's members. A generation is one record, and must fit into a batch.
	maxGroupBytes = 8 << 20
	// loadChunk is what is read of the log at once.
	loadChunk = 1 << 20
	// loadRetry is the pause after a failed read while loading.
	loadRetry = 100 * time.Millisecond
	// maxTombstones bounds the records of one batch that removes offsets.
	maxTombstones = 10_000
)

func (c GroupConfig) withDefaults() GroupConfig {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.InitialRebalanceDelay, 3*time.Second)
	c.InitialRebalanceDelay = max(c.InitialRebalanceDelay, 0)
	def(&c.MinSession, 6*time.Second)
	def(&c.MaxSession, 30*time.Minute)
	def(&c.Retention, 7*24*time.Hour)
	def(&c.Sweep, 10*time.Minute)
	def(&c.ConsumerSession, 45*time.Second)
	def(&c.ConsumerHeartbeat, 5*time.Second)
	if c.ConsumerMaxSize == 0 {
		c.ConsumerMaxSize = math.MaxInt32
	}
	if c.Migration == "" {
		c.Migration = MigrateBoth
	}
	if c.Image == nil {
		none := newImage()
		c.Image = func() *Image { return none }
	}
	if c.MaxSize == 0 {
		c.MaxSize = math.MaxInt32
	}
	if c.MaxOffsetMetadata == 0 {
		c.MaxOffsetMetadata = 4096
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.NewID == nil {
		c.NewID = randomID
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Groups coordinates the consumer groups of those partitions of __consumer_offsets that this node leads. All methods are safe
// for concurrent use; none blocks but Close.
//
// Lock order: Groups.mu, then shard.mu, then timers.mu. None is held while the log or a reply is called.
type Groups struct {
	cfg GroupConfig
	shards[*shard]
}

// NewGroups makes a coordinator that leads nothing yet. Start runs its clock.
func NewGroups(cfg GroupConfig) *Groups {
	c := &Groups{cfg: cfg.withDefaults()}
	c.setUp()
	return c
}

// Start runs the clock until Close.
func (c *Groups) Start() { c.run(c.cfg.Now) }

// fireDue fires what is due, and says when the next one is.
func (c *Groups) fireDue() time.Time { return c.timers.fireDue(c.cfg.Now) }

// Lead says that this node leads the partition in epoch and that its log is complete up to there. The state is read by a
// goroutine; until it is there, requests are told so.
func (c *Groups) Lead(partition, epoch int32, log ReplicatedLog) {
	c.lead(partition, epoch, func() *shard {
		s := &shard{c: c, ledPartition: ledPartition{partition: partition, epoch: epoch, log: log, loading: true}}
		s.sweep.fire = func() { s.locked(s.expire) }
		return s
	})
}

// PartitionOf is the partition of __consumer_offsets that a group or a transactional id belongs to: Kafka's hash, by which
// tools find it too.
func PartitionOf(id string, partitions int) int32 {
	var h int32 // Java's String.hashCode, over UTF-16
	for _, r := range id {
		if r >= 0x10000 {
			hi, lo := utf16.EncodeRune(r)
			h = 31*(31*h+hi) + lo
			continue
		}
		h = 31*h + r
	}
	if h == math.MinInt32 {
		h = 0 // Kafka's Utils.abs
	}
	return max(h, -h) % int32(partitions)
}

// shardOf finds the shard of a group. The caller locks it.
func (c *Groups) shardOf(group string) (*shard, error) {
	if len(group) > maxGroupID {
		return nil, ErrInvalidGroupID
	}
	return c.of(group, c.cfg.Partitions())
}

// enter locks the shard of a group that may have members, if it may answer. The caller ends with shard.unlock.
func (c *Groups) enter(group string) (*shard, error) {
	if group == "" {
		return nil, ErrInvalidGroupID
	}
	return c.enterAny(group)
}

// enterAny is enter also for the group without a name: consumers of before Kafka 2.2 commit under it, as members of nothing.
func (c *Groups) enterAny(group string) (*shard, error) {
	s, err := c.shardOf(group)
	if err != nil {
		return nil, err
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	return s, nil
}

// shard is one partition's coordinator in one leader epoch.
type shard struct {
	c *Groups

	ledPartition
	groups map[string]*group
	// Of transactions: see group_txn.go.
	pendingTxns pendingOffsets
	applied     uint64 // records of offsets so far: the order in which they were committed
	loadedTo    int64  // offset up to which the load has read
	markedTo    int64  // while loading: offset after the last marker that is known to be committed
}

// append appends records as one batch. then is called under mu, after they were applied, or with the error. mu is held.
func (s *shard) append(records []groupRecord, then func(error)) {
	now := s.c.cfg.Now().UnixMilli()
	for i := range records {
		records[i].at = now
	}
	batch := groupBatch(records, now)
	s.write(func(done func(error)) { s.log.Append(batch, done) }, func() {
		for i := range records {
			s.apply(&records[i])
		}
	}, then)
}

// apply folds one committed record into the state: the only way in which anything stored changes, live and at a load.
func (s *shard) apply(r *groupRecord) {
	g := s.groups[r.name]
	if g == nil {
		if r.deleted {
			return
		}
		g = s.newGroup(r.name)
	}
	switch {
	case r.consumer != nil:
		g.fold(r.consumer, r.deleted, r.at)
	case r.isOffset && r.deleted:
		g.removeOffset(r.offset.Topic, r.offset.Partition)
	case r.isOffset:
		s.applied++
		r.offset.order = s.applied
		g.setOffset(r.offset)
	default:
		g.stored, g.meta = !r.deleted, r.meta
	}
}

// load reads the log from its start to where it ended when this node was elected, and starts to serve.
func (s *shard) load() {
	began := s.c.cfg.Now()
	into := &shard{c: s.c, groups: make(map[string]*group)}
	at, skipped, records := s.log.Start(), 0, 0
	for {
		s.mu.Lock()
		closed := s.closed
		s.mu.Unlock()
		if closed {
			return
		}
		batches, err := s.log.Read(at, loadChunk)
		if err != nil {
			if errors.Is(err, ErrNotCoordinator) {
				s.c.cfg.Logger.Debug("gave up loading consumer groups", "partition", s.partition, "epoch", s.epoch, "err", err)
			} else {
				s.c.cfg.Logger.Error("cannot load consumer groups; trying again", "partition", s.partition, "offset", at, "err", err)
			}
			select {
			case <-s.c.stop:
				return
			case <-time.After(loadRetry):
			}
			continue
		}
		if len(batches) == 0 {
			s.mu.Lock()
			whole := s.closed || at >= s.markedTo
			if whole {
				break // with the lock: no marker comes in between
			}
			s.mu.Unlock()
			continue
		}
		for _, raw := range batches {
			b, err := protocol.ParseBatch(raw)
			if err != nil {
				s.c.cfg.Logger.Error("a batch of consumer offsets cannot be read", "partition", s.partition, "offset", at, "err", err)
				s.c.Resign(s.partition, s.epoch) // never answer from half a log
				return
			}
			if ok, n := into.loadTxn(b); ok {
				skipped += n
				at = b.NextOffset()
				continue
			}
			for rec, err := range b.Records(nil) {
				if err != nil {
					skipped++
					break
				}
				r, err := decodeGroupRecord(rec.Key, rec.Value)
				if err != nil {
					skipped++
					continue
				}
				records++
				r.at = rec.Timestamp
				into.apply(&r)
			}
			at = b.NextOffset()
		}
	}
	defer s.unlock()
	if s.closed {
		return
	}
	s.groups, s.loading = into.groups, false
	s.pendingTxns, s.applied, s.loadedTo = into.pendingTxns, into.applied, at
	for _, g := range s.groups {
		g.s = s
		g.restore()
		g.restoreConsumer()
		s.tidy(g)
	}
	s.c.timers.set(&s.sweep, s.c.cfg.Now().Add(s.c.cfg.Sweep))
	log := s.c.cfg.Logger.With("partition", s.partition, "epoch", s.epoch, "groups", len(s.groups), "records", records,
		"took", s.c.cfg.Now().Sub(began))
	if skipped > 0 {
		log.Warn("loaded consumer groups, without records that could not be decoded", "skipped", skipped)
	} else if records > 0 {
		log.Info("loaded consumer groups")
	}
}

// close drops the state and sends away everybody who waits.
func (s *shard) close() {
	s.mu.Lock()
	defer s.unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.c.timers.stop(&s.sweep)
	for _, g := range s.groups {
		g.dissolve(ErrNotCoordinator)
	}
	s.groups = nil
}

// group finds a group, or nil.
func (s *shard) group(name string) *group { return s.groups[name] }

func (s *shard) newGroup(name string) *group {
	g := &group{s: s, name: name, members: make(map[string]*member), static: make(map[string]string), pending: make(map[string]*pendingMember),
		support: make(map[string]int)}
	g.joinTimer.fire = func() { g.s.locked(g.joinExpired) }
	g.syncTimer.fire = func() { g.s.locked(g.syncExpired) }
	g.downgrade.fire = func() { g.s.locked(g.downgradeAgain) }
	s.groups[name] = g
	return g
}

// obtain finds or makes a group.
func (s *shard) obtain(name string) (*group, error) {
	if g := s.groups[name]; g != nil {
		return g, nil
	}
	if len(s.groups) >= maxGroups {
		return nil, ErrGroupFull
	}
	return s.newGroup(name), nil
}

// tidy forgets a group of which there is nothing to remember.
func (s *shard) tidy(g *group) {
	if g.state == groupEmpty && len(g.members) == 0 && len(g.pending) == 0 && !g.stored && g.consumer == nil && g.writing == 0 && len(g.queue) == 0 && g.commits == 0 && g.count == 0 && len(g.unstable) == 0 &&
		s.groups[g.name] == g {
		g.dissolve(nil)
		delete(s.groups, g.name)
	}
}
