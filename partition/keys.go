// Conditional appends: a record may say what its key's last record must be for it to be written (balsa.conditional.append). This file has
// the condition, what the leader judges it by, and how it is refused; keys_table.go has the table of what is committed. See
// docs/design/0027-kv.md.
//
// A condition is judged when the batch gets its place in the log, as a producer's sequence is, and by the same division: a table that is a
// function of the committed entries, and an overlay of what this leader has staged in its term, which goes with leadership as a whole.

package partition

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

// ExpectHeader is the record header that carries a condition: [ExpectNone], or the offset of the key's last record in decimal.
const (
	ExpectHeader = "balsa.expect"
	ExpectNone   = "none" // the key does not exist, or its last record is a tombstone
)

const (
	noCondition  = -2
	expectAbsent = -1
)

// keyHash stands for a key: half of its SHA-256, which compaction trusts as well (segment's offsetMap).
type keyHash [16]byte

func hashOf(key []byte) keyHash {
	sum := sha256.Sum256(key)
	return keyHash(sum[:16])
}

// recordKey is what a record of a batch means for its key.
type recordKey struct {
	hash   keyHash
	expect int64 // an offset, expectAbsent or noCondition
	delta  int32 // its offset in the batch
	dead   bool  // a tombstone
}

// parseExpect reads the value of an ExpectHeader.
func parseExpect(v []byte) (offset int64, ok bool) {
	if string(v) == ExpectNone {
		return expectAbsent, true
	}
	if len(v) == 0 || len(v) > len("9223372036854775807") || v[0] == '0' && len(v) > 1 {
		return 0, false
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		if offset > (math.MaxInt64-int64(c-'0'))/10 {
			return 0, false
		}
		offset = offset*10 + int64(c-'0')
	}
	return offset, true
}

// keyOf is what a record with a key means, or why it is refused.
func keyOf(r *protocol.Record, delta int32) (k recordKey, why string) {
	k = recordKey{hash: hashOf(r.Key), expect: noCondition, delta: delta, dead: r.Value == nil}
	for i := range r.Headers {
		h := &r.Headers[i]
		if h.Key != ExpectHeader {
			continue
		}
		if k.expect != noCondition {
			return k, ExpectHeader + ": malformed: it is there more than once"
		}
		var ok bool
		if k.expect, ok = parseExpect(h.Value); !ok {
			return k, ExpectHeader + ": malformed: it is an offset in decimal, or " + ExpectNone
		}
	}
	return k, ""
}

// conflictText is what a client is told of a record whose condition failed. Clients read it: it is as stable as an error code.
func conflictText(current int64) string {
	if current < 0 {
		return ExpectHeader + ": current=" + ExpectNone
	}
	return ExpectHeader + ": current=" + strconv.FormatInt(current, 10)
}

// keyOverlay is what this leader has staged and not applied: of each key the last record, and of each entry its keys. It is a part of staging.
// Its size is bounded by what raft lets be uncommitted, and by maxKeysOnWay.
type keyOverlay struct {
	last  map[keyHash]stagedKey
	queue []stagedKeys // in the order of the log
	count int          // keys in queue
}

type stagedKey struct {
	offset int64 // -1: a tombstone
	index  raft.Index
}

type stagedKeys struct {
	index raft.Index
	keys  []recordKey
}

// staged notes the keys of a batch that has got its place.
func (o *keyOverlay) staged(i raft.Index, base int64, keys []recordKey) {
	if o.last == nil {
		o.last = make(map[keyHash]stagedKey)
	}
	for _, k := range keys {
		s := stagedKey{offset: base + int64(k.delta), index: i}
		if k.dead {
			s.offset = -1
		}
		o.last[k.hash] = s
	}
	o.queue = append(o.queue, stagedKeys{i, keys})
	o.count += len(keys)
}

// applied takes out the entry at i and all before it, and returns its keys; nil if it was not staged here.
func (o *keyOverlay) applied(i raft.Index) []recordKey {
	for len(o.queue) > 0 && o.queue[0].index <= i {
		e := o.queue[0]
		o.count -= len(e.keys)
		o.queue[0] = stagedKeys{}
		if o.queue = o.queue[1:]; len(o.queue) == 0 {
			o.queue = nil
		}
		for _, k := range e.keys {
			if s, ok := o.last[k.hash]; ok && s.index <= e.index {
				delete(o.last, k.hash)
			}
		}
		if e.index == i {
			return e.keys
		}
	}
	return nil
}

// errRefused is how Stage says that a condition failed: the request's refusal says which.
var errRefused = errors.New("partition: a condition failed")

// judgeKeys holds a batch's conditions against the log as it is with all that is staged. A refusal that speaks of an entry which is not
// committed yet waits for that.
func (m *machine) judgeKeys(req *AppendRequest, term raft.Term) (waitFor raft.Index, err error) {
	if m.staging.keys.count+len(req.keys) > maxKeysOnWay {
		return 0, fmt.Errorf("%w: %d keys are not committed yet", ErrOverloaded, m.staging.keys.count)
	}
	conditional := false
	for i := range req.keys {
		if req.keys[i].expect != noCondition {
			conditional = true
			break
		}
	}
	t := &m.keys
	t.mu.RLock()
	ready := t.state == tableReady
	if ready {
		waitFor, err = m.judgeByTable(req, conditional)
	}
	t.mu.RUnlock()
	switch {
	case !ready && conditional:
		return 0, m.wantKeys()
	case err != nil && errors.Is(err, errRefused):
		req.result.LeaderEpoch = int32(term)
		if waitFor > 0 {
			return waitFor, nil // and then the refusal
		}
	}
	return 0, err
}

// judgeByTable is judgeKeys with a table that is complete, and held.
func (m *machine) judgeByTable(req *AppendRequest, conditional bool) (waitFor raft.Index, err error) {
	if conditional {
		var refused RecordsError
		var here map[keyHash]int64 // what earlier records of the batch make of their keys
		base := m.staging.next
		for i := range req.keys {
			k := &req.keys[i]
			current, index, again := int64(0), raft.Index(0), false
			if current, again = here[k.hash]; !again {
				current, index = m.currentKey(k.hash)
			}
			if k.expect != noCondition && k.expect != current {
				waitFor = max(waitFor, index)
				if refused.Total == 0 {
					req.blamed = current
				}
				if refused.Total++; len(refused.Records) < maxRecordErrors {
					refused.Records = append(refused.Records, RecordError{k.delta, conflictText(current)})
				}
			}
			if len(req.keys) > 1 {
				if here == nil {
					here = make(map[keyHash]int64, len(req.keys))
				}
				if here[k.hash] = base + int64(k.delta); k.dead {
					here[k.hash] = -1
				}
			}
		}
		if refused.Total > 0 {
			refused.Cause = ErrConditionFailed
			req.refusal = &refused
			return waitFor, errRefused
		}
	}
	if room := m.keys.memory.room(); room < int64(len(req.keys)) {
		for i := range req.keys {
			if current, _ := m.currentKey(req.keys[i].hash); current < 0 && !req.keys[i].dead {
				if room--; room < 0 {
					return 0, fmt.Errorf("%w: no more keys are taken", ErrKeyMemory)
				}
			}
		}
	}
	return 0, nil
}

// currentKey is the offset of a key's last record, -1 if it does not exist, and where it stands if it is not applied.
func (m *machine) currentKey(h keyHash) (offset int64, staged raft.Index) {
	if s, ok := m.staging.keys.last[h]; ok {
		return s.offset, s.index
	}
	if o, ok := m.keys.last[h]; ok && o >= m.fold.start {
		return o, 0
	}
	return -1, 0
}

// refuse answers a request whose condition has failed. That is a read: only a leader that still leads, in the term in which it has looked, knows
// what it says to be true.
func (req *AppendRequest) refuse() {
	r, epoch := req.r, req.result.LeaderEpoch
	r.Linearize(func(err error) {
		if err == nil {
			var v view
			if v, err = r.serving(); err == nil && v.lead.Epoch != epoch {
				err = &NotLeaderError{Epoch: v.lead.Epoch}
			}
		}
		if err == nil {
			err = req.refusal
		}
		req.answer(err)
	})
}
