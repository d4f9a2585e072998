// Fetch sessions (KIP-227): a consumer of many partitions names them once, and from then on only what changes; the
// broker answers with the partitions that have something to say. Sessions are a cache: the client starts anew whenever
// one is gone.

package broker

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// sessionMinAge protects a session from eviction by newcomers, as in Kafka.
	sessionMinAge = 2 * time.Minute
	// maxSessionPartitions bounds the partitions of all sessions together; beyond it fetches go without a session.
	maxSessionPartitions = 500_000
)

// partitionKey names a partition as its session does: by id from v13 on, by name before.
type partitionKey struct {
	id        [16]byte
	name      string
	partition int32
}

// sessionPartition is what a session remembers of a partition.
type sessionPartition struct {
	key         partitionKey
	fetchOffset int64
	maxBytes    int32
	leaderEpoch int32
	lastEpoch   int32
	// What the client was told last; anything else goes out in the next answer.
	highWatermark, logStart int64
	fresh                   bool // never told anything
}

// fetchSession belongs to one client. Its requests come one after another; mu is for those that do not keep to it.
type fetchSession struct {
	id      int32
	byID    bool
	created time.Time

	// Guarded by sessionCache.mu.
	lastUsed time.Time
	count    int // of partitions, as accounted for in the cache

	mu    sync.Mutex // taken before sessionCache.mu, where both are
	epoch int32      // the next one expected
	// order is the order of reading: what was answered moves to the end, so that none starves. index finds a key there.
	order []*sessionPartition
	index map[partitionKey]*sessionPartition
}

type sessionCache struct {
	slots int
	now   func() time.Time

	mu         sync.Mutex
	sessions   map[int32]*fetchSession
	partitions int
}

func newSessionCache(slots int) *sessionCache {
	return &sessionCache{slots: slots, now: time.Now, sessions: make(map[int32]*fetchSession)}
}

// fetchContext is how one request is to be answered.
type fetchContext struct {
	session     *fetchSession // nil: sessionless
	incremental bool          // leave out what has not changed
	parts       []sessionPartition
}

// begin resolves a request to the partitions to read. A *kerr.Error refuses the request as a whole.
func (sc *sessionCache) begin(req *kmsg.FetchRequest) (fetchContext, *kerr.Error) {
	if req.Version < 7 || req.SessionEpoch <= 0 {
		// A full fetch: the end of an old session, the start of a new one, or none.
		if req.SessionID != 0 {
			sc.remove(req.SessionID)
		}
		ctx := fetchContext{parts: requested(req)}
		if req.Version >= 7 && req.SessionEpoch == 0 {
			ctx.session = sc.create(req, ctx.parts)
		}
		return ctx, nil
	}
	sc.mu.Lock()
	se := sc.sessions[req.SessionID]
	if se != nil {
		se.lastUsed = sc.now()
	}
	sc.mu.Unlock()
	if se == nil {
		return fetchContext{}, kerr.FetchSessionIDNotFound
	}
	se.mu.Lock()
	defer se.mu.Unlock()
	if se.epoch != req.SessionEpoch {
		return fetchContext{}, kerr.InvalidFetchSessionEpoch
	}
	if se.byID != (req.Version >= 13) {
		return fetchContext{}, kerr.FetchSessionTopicIDError
	}
	before := len(se.order)
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			se.put(sessionPartitionOf(t, &t.Partitions[j]))
		}
	}
	for i := range req.ForgottenTopics {
		t := &req.ForgottenTopics[i]
		for _, p := range t.Partitions {
			delete(se.index, partitionKey{t.TopicID, t.Topic, p})
		}
	}
	live := se.order[:0]
	for _, p := range se.order {
		if se.index[p.key] == p {
			live = append(live, p)
		}
	}
	clear(se.order[len(live):])
	se.order = live
	if !sc.resize(se, len(live)-before) {
		// No room: the client starts anew, and gets no session then.
		return fetchContext{}, kerr.FetchSessionIDNotFound
	}
	if se.epoch++; se.epoch <= 0 {
		se.epoch = 1 // 0 and -1 have meanings of their own
	}
	ctx := fetchContext{session: se, incremental: true, parts: make([]sessionPartition, len(se.order))}
	for i, p := range se.order {
		ctx.parts[i] = *p
	}
	return ctx, nil
}

func requested(req *kmsg.FetchRequest) []sessionPartition {
	n := 0
	for i := range req.Topics {
		n += len(req.Topics[i].Partitions)
	}
	parts := make([]sessionPartition, 0, n)
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			parts = append(parts, *sessionPartitionOf(t, &t.Partitions[j]))
		}
	}
	return parts
}

func sessionPartitionOf(t *kmsg.FetchRequestTopic, p *kmsg.FetchRequestTopicPartition) *sessionPartition {
	return &sessionPartition{key: partitionKey{t.TopicID, t.Topic, p.Partition}, fetchOffset: p.FetchOffset, maxBytes: p.PartitionMaxBytes,
		leaderEpoch: p.CurrentLeaderEpoch, lastEpoch: p.LastFetchedEpoch, highWatermark: -1, logStart: -1, fresh: true}
}

// put adds or updates a partition. se.mu is held.
func (se *fetchSession) put(p *sessionPartition) {
	if old := se.index[p.key]; old != nil {
		old.fetchOffset, old.maxBytes, old.leaderEpoch, old.lastEpoch = p.fetchOffset, p.maxBytes, p.leaderEpoch, p.lastEpoch
		return
	}
	se.index[p.key] = p
	se.order = append(se.order, p)
}

// create opens a session over the partitions, or returns nil if there is no room for one.
func (sc *sessionCache) create(req *kmsg.FetchRequest, parts []sessionPartition) *fetchSession {
	if len(parts) == 0 {
		return nil
	}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	now := sc.now()
	for len(sc.sessions) >= sc.slots || sc.partitions+len(parts) > maxSessionPartitions {
		if !sc.evict(now, len(parts)) {
			return nil
		}
	}
	id := rand.Int32()
	for id <= 0 || sc.sessions[id] != nil {
		id = rand.Int32()
	}
	se := &fetchSession{id: id, byID: req.Version >= 13, created: now, lastUsed: now, epoch: 1,
		order: make([]*sessionPartition, 0, len(parts)), index: make(map[partitionKey]*sessionPartition, len(parts))}
	for i := range parts {
		p := parts[i]
		se.put(&p)
	}
	sc.sessions[id] = se
	se.count = len(se.order)
	sc.partitions += se.count
	return se
}

// evict drops the session that was idle for longest, if it is old enough, or smaller than what wants in (the larger a
// session, the more it saves). sc.mu is held.
func (sc *sessionCache) evict(now time.Time, want int) bool {
	var oldest *fetchSession
	for _, se := range sc.sessions {
		if oldest == nil || se.lastUsed.Before(oldest.lastUsed) {
			oldest = se
		}
	}
	if oldest == nil || now.Sub(oldest.lastUsed) < sessionMinAge && (now.Sub(oldest.created) < sessionMinAge || want <= oldest.count) {
		return false
	}
	sc.drop(oldest)
	return true
}

// drop takes a session out. sc.mu is held. A request that is still using it finishes undisturbed.
func (sc *sessionCache) drop(se *fetchSession) {
	if sc.sessions[se.id] == se {
		delete(sc.sessions, se.id)
		sc.partitions -= se.count
	}
}

// len is how many there are.
func (sc *sessionCache) len() int {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return len(sc.sessions)
}

func (sc *sessionCache) remove(id int32) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if se := sc.sessions[id]; se != nil {
		sc.drop(se)
	}
}

// resize counts partitions that came or went; false if there is no room, and then the session is gone.
func (sc *sessionCache) resize(se *fetchSession, delta int) bool {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.sessions[se.id] != se {
		return true // evicted meanwhile: this one request is answered still
	}
	if delta > 0 && sc.partitions+delta > maxSessionPartitions {
		sc.drop(se)
		return false
	}
	se.count += delta
	sc.partitions += delta
	return true
}

// told notes what an answer said of its partitions, and moves those that had records to the end of the order.
func (se *fetchSession) told(parts []*fetchPart) {
	se.mu.Lock()
	defer se.mu.Unlock()
	moved := make(map[*sessionPartition]struct{})
	for _, p := range parts {
		sp := se.index[p.key]
		if sp == nil {
			continue // forgotten meanwhile
		}
		sp.highWatermark, sp.logStart, sp.fresh = p.res.HighWatermark, p.res.LogStart, p.err != nil
		if p.res.Bytes > 0 {
			moved[sp] = struct{}{}
		}
	}
	if len(moved) == 0 || len(moved) == len(se.order) {
		return
	}
	order := make([]*sessionPartition, 0, len(se.order))
	for _, sp := range se.order {
		if _, ok := moved[sp]; !ok {
			order = append(order, sp)
		}
	}
	for _, sp := range se.order {
		if _, ok := moved[sp]; ok {
			order = append(order, sp)
		}
	}
	se.order = order
}
