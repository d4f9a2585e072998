// The start of the log: moved by DeleteRecords and by retention, always as an entry that every replica applies.

package partition

import (
	"errors"
	"fmt"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

// HighWatermarkOffset stands for the high watermark in [Replica.DeleteBefore].
const HighWatermarkOffset int64 = -1

// DeleteBefore makes offset the first one of the log, if it is not behind that already, and calls done with the start that is in
// force then: on the disks of a quorum, and applied here. [HighWatermarkOffset] deletes all that is committed. It never
// blocks; done is called exactly once, from a worker or from within. Errors: ErrOffsetOutOfRange for an offset above the
// high watermark or below -1, and those of [Replica.Append].
func (r *Replica) DeleteBefore(offset int64, done func(start int64, err error)) {
	v, err := r.serving()
	if err != nil {
		done(-1, err)
		return
	}
	if offset == HighWatermarkOffset {
		offset = v.pub.hw
	}
	switch {
	case offset < 0 || offset > v.pub.hw:
		done(-1, &RangeError{Offset: offset, Start: v.pub.start, HighWatermark: v.pub.hw})
	case offset <= v.pub.start:
		// Nothing to do. But only the leader may say so.
		r.Linearize(func(err error) {
			if err != nil {
				done(-1, err)
				return
			}
			done(r.LogStart(), nil)
		})
	default:
		r.moveStart(v.group, offset, done)
	}
}

func (r *Replica) moveStart(g *multi.Group, offset int64, done func(int64, error)) {
	g.Propose(&multi.Proposal{Type: raft.EntryPrefix, Payload: encodePrefix(offset), Done: func(o multi.Outcome) {
		if o.Err != nil {
			done(-1, r.typed(o.Err))
			return
		}
		done(r.LogStart(), nil)
	}})
}

// Housekeep does what time makes due: a leader lets records go that are too old or too many, and every replica closes a segment
// that has become old, and drops files that a move of the start has left behind. It is meant to be called for all replicas
// every few minutes: for one that has nothing to do it costs a look at what is in memory.
func (r *Replica) Housekeep() {
	m, g := r.current()
	if g == nil {
		return
	}
	s, now := r.settings.Load(), r.now().UnixMilli()
	if s.SegmentAge > 0 {
		m.log.RollOlder(now - max(s.segmentAge(r.cfg.Group).Milliseconds(), 1))
	}
	if m.log.PruneDue() {
		g.Prune()
	}
	v, err := r.serving()
	if err != nil || v.m != m {
		return
	}
	q := segment.Expiry{MaxAge: -1, MaxBytes: s.RetentionBytes, Now: now, Start: segment.Offset(v.pub.start), End: segment.Offset(v.pub.hw)}
	if s.RetentionAge >= 0 {
		q.MaxAge = s.RetentionAge.Milliseconds()
	}
	start := m.log.Expired(q)
	if start <= q.Start {
		return
	}
	r.mu.Lock()
	busy := m.trimming
	m.trimming = true
	r.mu.Unlock()
	if busy {
		return
	}
	r.moveStart(g, int64(start), func(at int64, err error) {
		r.mu.Lock()
		m.trimming = false
		r.mu.Unlock()
		l := r.cfg.Logger.With("topic", r.cfg.Topic, "partition", r.cfg.Partition)
		switch {
		case err == nil:
			l.Info("retention has moved the start of the log", "from", int64(q.Start), "to", at)
		case !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrClosed):
			l.Warn("retention could not move the start of the log; it tries again", "err", fmt.Errorf("to %d: %w", int64(start), err))
		}
	})
}
