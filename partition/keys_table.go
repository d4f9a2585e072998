// The leader's table of keys: of each key that exists the offset of its last committed record. A leader reads it from the log when it begins to
// lead, in the background, while Apply notes what is committed meanwhile; then the two are one. Who follows has none.

package partition

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/segment"
)

const (
	// DefaultKeyMemory bounds what all tables of a broker take.
	DefaultKeyMemory = 256 << 20
	// keyBytes is about what a key takes in a table, whatever its length: 24 bytes, and what a map that grows leaves free.
	keyBytes = 48
	// keyReaders bounds the logs that are read at once.
	keyReaders = 2
	// keyReadBytes is read at a time.
	keyReadBytes = 1 << 20
	// keyStep is how many keys room is taken for at a time while a log is read.
	keyStep = 1024
	// keyRetry is how long a table that could not be read is not tried again, at least; and keyRest the same in times of what the trial took, so that the
	// disk, and compaction, are not kept from their work for a table that does not fit.
	keyRetry, keyRest = time.Second, 9
	// maxBatchKeys bounds the records of a batch whose keys are noted: what compresses well may hold millions.
	maxBatchKeys = 1 << 17
	// maxKeysOnWay bounds the noted keys of batches that have been looked into and not answered, of a broker; and those of a partition that are staged.
	maxKeysOnWay = 1 << 21
	// sweepStep is how many keys are looked at before others have their turn at the table, where those below the log's start are forgotten.
	sweepStep = 1 << 12
	// lookupTries bounds how often compaction may overtake one look-up.
	lookupTries = 8
)

// KeyMemory is what the replicas of a broker may take for their tables of keys, and the line of those that have to be read.
type KeyMemory struct {
	most int64 // keys
	used atomic.Int64
	way  atomic.Int64 // keys of batches on their way
	run  func(func()) // nil: a goroutine

	mu      sync.Mutex // guards what follows
	waiting []func()   // of each table one that reads and one that sweeps, at most
	readers int
}

// NewKeyMemory bounds it; 0: [DefaultKeyMemory].
func NewKeyMemory(bytes int64) *KeyMemory {
	if bytes == 0 {
		bytes = DefaultKeyMemory
	}
	return &KeyMemory{most: max(bytes/keyBytes, 1)}
}

func (k *KeyMemory) room() int64 { return max(k.most-k.used.Load(), 0) }

// Used is how many keys are in the tables.
func (k *KeyMemory) Used() int64 { return k.used.Load() }

// enter takes room for the keys of a batch; false: there is none.
func (k *KeyMemory) enter(keys int) bool {
	if k.way.Add(int64(keys)) > maxKeysOnWay {
		k.leave(keys)
		return false
	}
	return true
}

func (k *KeyMemory) leave(keys int) { k.way.Add(-int64(keys)) }

// read runs task soon, with at most keyReaders at once. It does not block.
func (k *KeyMemory) read(task func()) {
	if k.run != nil {
		k.run(task)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.readers == keyReaders {
		k.waiting = append(k.waiting, task)
		return
	}
	k.readers++
	go k.work(task)
}

func (k *KeyMemory) work(task func()) {
	for task != nil {
		task()
		k.mu.Lock()
		if task = nil; len(k.waiting) > 0 {
			task, k.waiting = k.waiting[0], k.waiting[1:]
		} else {
			k.readers--
		}
		k.mu.Unlock()
	}
}

type tableState uint8

const (
	tableNone    tableState = iota
	tableReading            // last holds what was applied since from, tombstones too, as their offsets' complements
	tableReady              // last is complete as of what is applied; tombstones have no place in it
)

// keyTable is a machine's. mu is a leaf, but for machine.look, under which it may be taken.
type keyTable struct {
	memory *KeyMemory
	on     atomic.Bool // state is not tableNone: the quick look

	mu      sync.RWMutex // guards what follows
	leads   bool         // this node does: who follows has no table, though somebody who has just asked for a key may still want one
	state   tableState
	life    uint64 // counts tables: an older one's reader is ignored
	last    map[keyHash]int64
	counted int64 // taken from memory
	// Keys below start are forgotten; sweeping: somebody is at it, or will be.
	start    int64
	sweeping bool
	err      error // why the last one could not be read
	retry    time.Time
}

// drop forgets the table.
func (t *keyTable) drop() {
	if !t.on.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropLocked()
}

// lead says whether there may be a table. When leadership goes, it goes: it takes memory from those that other partitions have here.
func (t *keyTable) lead(leads bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.leads = leads; !leads && t.state != tableNone {
		t.dropLocked()
	}
}

func (t *keyTable) dropLocked() {
	t.memory.used.Add(-t.counted)
	t.state, t.last, t.counted, t.start, t.sweeping = tableNone, nil, 0, 0, false
	t.life++
	t.on.Store(false)
}

// failLocked forgets the table, and lets nobody read it for a while.
func (t *keyTable) failLocked(err error, rest time.Duration) {
	t.dropLocked()
	t.err, t.retry = fmt.Errorf("%w: the keys of the partition could not be read", err), time.Now().Add(rest)
}

// reading: the log is being read, and must not lose a tombstone before what it deletes has been seen to be gone.
func (t *keyTable) reading() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.state == tableReading
}

// wantKeys begins to read the table, if that is not done yet, and returns the error to answer meanwhile.
func (m *machine) wantKeys() error {
	t := &m.keys
	// The fold stands still: what is applied from here on is noted, what was before is read.
	m.look.RLock()
	t.mu.Lock()
	if t.state != tableNone || !t.leads || t.err != nil && time.Now().Before(t.retry) {
		err := t.err
		t.mu.Unlock()
		m.look.RUnlock()
		if err != nil {
			return err
		}
		return ErrKeysLoading
	}
	t.life++
	t.state, t.err, t.last = tableReading, nil, make(map[keyHash]int64)
	t.on.Store(true)
	life, from, upTo := t.life, m.fold.next, m.applied
	t.mu.Unlock()
	m.look.RUnlock()
	t.memory.read(func() { m.readKeys(life, from, upTo) })
	return ErrKeysLoading
}

// readKeys reads what is below from, and completes the table.
func (m *machine) readKeys(life uint64, from int64, upTo raft.Index) {
	t, begun := &m.keys, time.Now()
	found, taken, err := m.scanKeys(life, from, upTo)
	defer func() { t.below(0) }() // should the start have moved meanwhile
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.life != life {
		t.memory.used.Add(-taken)
		return
	}
	if err != nil {
		t.memory.used.Add(-taken)
		t.failLocked(err, max(keyRetry, keyRest*time.Since(begun)))
		m.r.cfg.Logger.Warn("cannot judge conditions", "topic", m.r.cfg.Topic, "partition", m.r.cfg.Partition, "err", err)
		return
	}
	for h, o := range t.last {
		if o < 0 {
			delete(found, h)
		} else {
			found[h] = o
		}
	}
	t.state, t.last = tableReady, found
	t.count(taken)
}

// count makes what is taken from memory what is there; taken was taken elsewhere and is the table's now.
func (t *keyTable) count(taken int64) {
	n := int64(len(t.last))
	t.memory.used.Add(n - t.counted - taken)
	t.counted = n
}

// scanKeys reads the log up to from, which ends with the entry upTo. It returns how many keys it has taken from memory.
func (m *machine) scanKeys(life uint64, from int64, upTo raft.Index) (found map[keyHash]int64, taken int64, err error) {
	t := &m.keys
	found = make(map[keyHash]int64)
	at := m.r.LogStart()
	for at < from {
		t.mu.RLock()
		stale := t.life != life
		t.mu.RUnlock()
		if stale || at < 0 {
			return nil, taken, ErrClosed
		}
		batches, err := m.log.ReadOffsets(segment.Offset(at), upTo, keyReadBytes)
		if err != nil {
			if start := m.r.LogStart(); start > at { // retention overtook us
				at = start
				continue
			}
			return nil, taken, fmt.Errorf("%w: %w", ErrFailed, err)
		}
		if len(batches) == 0 {
			break // compaction has come in between: what is left lies at or above from, and Apply has noted it
		}
		for _, raw := range batches {
			b := protocol.Batch(raw)
			if at = b.NextOffset(); b.Control() {
				continue
			}
			if err := addKeys(found, b); err != nil {
				return nil, taken, fmt.Errorf("%w: %w", ErrFailed, err)
			}
			if more := int64(len(found)) - taken; more > 0 {
				room := t.memory.room()
				if room < more {
					return nil, taken, ErrKeyMemory
				}
				more = max(more, min(keyStep, room))
				t.memory.used.Add(more)
				taken += more
			}
		}
	}
	return found, taken, nil
}

// addKeys notes the keys of a batch that comes after all that is in found.
func addKeys(found map[keyHash]int64, b protocol.Batch) error {
	slots := lookers()
	slots <- struct{}{}
	defer func() { <-slots }()
	for r, err := range b.Records(inflater()) {
		switch {
		case err != nil:
			return fmt.Errorf("batch at offset %d: %w", b.BaseOffset(), err)
		case r.Key == nil:
		case r.Value == nil:
			delete(found, hashOf(r.Key))
		default:
			found[hashOf(r.Key)] = r.Offset
		}
	}
	return nil
}

// foldKeys notes the keys of an entry that is being applied. The fold, and so its lock, is held.
func (m *machine) foldKeys(e *raft.Entry) {
	s, t := &m.staging, &m.keys
	var keys []recordKey
	if len(s.keys.queue) > 0 && e.Term == s.term {
		keys = s.keys.applied(e.Index)
	}
	if !t.on.Load() {
		return
	}
	b := protocol.Batch(e.Payload)
	if keys == nil && b.Control() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == tableNone {
		return
	}
	if keys == nil {
		t.dropLocked() // it was not staged here: whoever needs the table reads it anew
		return
	}
	for _, k := range keys {
		switch o := b.BaseOffset() + int64(k.delta); {
		case !k.dead:
			t.last[k.hash] = o
		case t.state == tableReading:
			t.last[k.hash] = ^o // the reader may yet meet what it deletes
		default:
			delete(t.last, k.hash)
		}
	}
	if t.count(0); t.state == tableReading && t.memory.used.Load() > t.memory.most {
		t.failLocked(ErrKeyMemory, keyRetry) // a table that is read bounds what comes in; while it is not, this does
	}
}

// KeyResult answers LookupKey.
type KeyResult struct {
	Offset      int64 // of the key's last record; -1: the key does not exist
	Timestamp   int64
	LeaderEpoch int32
	Value       []byte // shared and immutable
}

// LookupKey finds the last committed record of a key, on the leader of a partition with Settings.Conditional. Call Linearize first: then the answer is of a
// moment after the call. leaderEpoch is the client's, -1 if it does not say. Errors, beside those of Read: ErrKeysLoading, ErrKeyMemory, ErrNoKeys.
func (r *Replica) LookupKey(key []byte, leaderEpoch int32) (KeyResult, error) {
	none := KeyResult{Offset: -1, Timestamp: -1, LeaderEpoch: -1}
	v, err := r.view(leaderEpoch, false)
	switch {
	case err != nil:
		return none, err
	case !r.settings.Load().Conditional:
		return none, ErrNoKeys
	}
	m, h := v.m, hashOf(key)
	for range lookupTries {
		m.keys.mu.RLock()
		ready := m.keys.state == tableReady
		offset, ok := m.keys.last[h]
		m.keys.mu.RUnlock()
		switch {
		case !ready:
			return none, m.wantKeys()
		case !ok || offset < r.LogStart():
			return none, nil
		}
		m.look.RLock() // the table is told while the fold is held: what it knows is applied once that is let go
		applied := m.applied
		m.look.RUnlock()
		batches, err := m.log.ReadOffsets(segment.Offset(offset), applied, 1)
		if err != nil && offset >= r.LogStart() {
			return none, fmt.Errorf("%w: read offset %d: %w", ErrFailed, offset, err)
		}
		if err != nil || len(batches) == 0 {
			continue
		}
		res, err := keyIn(protocol.Batch(batches[0]), offset, key)
		if err != nil {
			return none, fmt.Errorf("%w: read offset %d: %w", ErrFailed, offset, err)
		}
		if res.Offset >= 0 {
			return res, nil
		}
		// Compaction has taken it since we looked: there is a newer one.
	}
	// It cannot overtake so often. Should the table be wrong, then it is so no longer than this.
	m.keys.drop()
	r.cfg.Logger.Error("a key's record is not where the table of keys has it", "topic", r.cfg.Topic, "partition", r.cfg.Partition)
	return none, m.wantKeys()
}

// keyIn is the record at offset in b, if its key is this one.
func keyIn(b protocol.Batch, offset int64, key []byte) (KeyResult, error) {
	none := KeyResult{Offset: -1, Timestamp: -1, LeaderEpoch: -1}
	if offset < b.BaseOffset() || offset >= b.NextOffset() {
		return none, nil
	}
	slots := lookers()
	slots <- struct{}{}
	defer func() { <-slots }()
	for rec, err := range b.Records(inflater()) {
		if err != nil {
			return none, err
		}
		if rec.Offset == offset && bytes.Equal(rec.Key, key) && rec.Value != nil {
			return KeyResult{Offset: offset, Timestamp: rec.Timestamp, LeaderEpoch: b.LeaderEpoch(), Value: rec.Value}, nil
		}
	}
	return none, nil
}

// below has the keys forgotten whose last record lies below the log's start. They do not exist from the moment on at which the start has moved; here it is about
// their memory, which the worker that has moved it does not wait for.
func (t *keyTable) below(start int64) {
	if !t.on.Load() {
		return
	}
	t.mu.Lock()
	t.start = max(t.start, start)
	life, begin := t.life, t.state == tableReady && !t.sweeping && t.start > 0
	t.sweeping = t.sweeping || begin
	t.mu.Unlock()
	if begin { // else whoever sweeps, or reads, looks at start when that is done
		t.memory.read(func() { t.sweep(life) })
	}
}

// sweep walks over the table, and again if the start has moved meanwhile. The table is held for sweepStep keys at a time: what others do to it in between, a walk over
// a map allows for.
func (t *keyTable) sweep(life uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.life == life {
		start, seen := t.start, 0
		for h, o := range t.last {
			if seen++; seen%sweepStep == 0 {
				t.count(0)
				t.mu.Unlock()
				runtime.Gosched()
				if t.mu.Lock(); t.life != life {
					return
				}
			}
			if o < start {
				delete(t.last, h)
			}
		}
		if t.count(0); t.start == start {
			t.sweeping = false
			return
		}
	}
}

// KeyCount is how many keys the table has. ready is false where there is none, or it is being read.
func (r *Replica) KeyCount() (n int, ready bool) {
	m, _ := r.current()
	if m == nil {
		return 0, false
	}
	m.keys.mu.RLock()
	defer m.keys.mu.RUnlock()
	return len(m.keys.last), m.keys.state == tableReady
}
