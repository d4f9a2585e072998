// Compaction of this replica's log: when it is due, and how far it may go. The cleaning itself is segment's; whose turn it is,
// at what pace and with how much memory, is the broker's. Each replica compacts for itself, and tells nobody.

package partition

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

// Compaction says how a topic with Settings.Compact is compacted.
type Compaction struct {
	// MinDirtyRatio is min.cleanable.dirty.ratio: the part of the log that must be dirty before it is cleaned. Default 0.5; negative: any.
	MinDirtyRatio float64
	// MinLag is min.compaction.lag.ms: younger records stay. Zero, the default: none, whatever times records bear; negative: unbounded, and so nothing is cleaned.
	MinLag time.Duration
	// MaxLag is max.compaction.lag.ms: a log with dirty records older than that is cleaned however little is dirty. Default, and negative: unbounded.
	MaxLag time.Duration
	// DeleteRetention is delete.retention.ms: how long tombstones and transaction markers stay after all that they delete is gone. Default 24 h;
	// negative: for ever.
	DeleteRetention time.Duration
}

// deleteRetention is in milliseconds; math.MaxInt64: for ever.
func (c Compaction) deleteRetention() int64 {
	if c.DeleteRetention < 0 {
		return math.MaxInt64
	}
	return c.DeleteRetention.Milliseconds()
}

const (
	defaultDirtyRatio      = 0.5
	defaultDeleteRetention = 24 * time.Hour
	// laggardPatience bounds what a leader leaves uncleaned for a member that has not got it yet, as a multiple of what is clean (and of a segment, if
	// that is more): cleaned, it could only be sent with all that is clean.
	laggardPatience = 2
)

func (c Compaction) withDefaults() Compaction {
	if c.MinDirtyRatio == 0 {
		c.MinDirtyRatio = defaultDirtyRatio
	}
	if c.MaxLag == 0 {
		c.MaxLag = -1
	}
	if c.DeleteRetention == 0 {
		c.DeleteRetention = defaultDeleteRetention
	}
	return c
}

// Dirt is how much of a log there is to clean.
type Dirt struct {
	Clean, Dirty int64   // bytes
	Ratio        float64 // of Dirty to all
	Due          bool
}

// Dirt looks whether the log needs cleaning, in memory only. If that lacks nothing but a checkpoint it asks for one. A topic that is not compacted has none.
func (r *Replica) Dirt() Dirt {
	s := r.settings.Load()
	v, err := r.view(-1, true)
	if err != nil || !s.Compact || v.m.log.CleaningWaits() || v.m.keys.reading() {
		return Dirt{}
	}
	now := r.now()
	age := s.SegmentAge
	if s.Compaction.MaxLag >= 0 {
		age = min(age, s.Compaction.MaxLag) // what is in the file that is written to is not cleaned
	}
	if age > 0 {
		v.m.log.RollOlder(now.Add(-age).UnixMilli())
	}
	c := v.m.log.Cleanable(r.cleanBound(v, s, now))
	pressing := r.abortedPress()
	due := func(dirty int64) bool {
		late := s.Compaction.MaxLag >= 0 && c.Oldest >= 0 && c.Oldest < now.Add(-s.Compaction.MaxLag).UnixMilli()
		return dirty > 0 && (late || pressing || float64(dirty) > s.Compaction.MinDirtyRatio*float64(c.Clean+dirty))
	}
	d := Dirt{Clean: c.Clean, Dirty: c.Dirty, Due: c.UpTo > 0 && due(c.Dirty)}
	if c.Clean+c.Dirty > 0 {
		d.Ratio = float64(c.Dirty) / float64(c.Clean+c.Dirty)
	}
	if c.Beyond > 0 && due(c.Dirty+c.Beyond) || pressing && c.Open > 0 && c.Dirty == 0 {
		v.m.log.WantCheckpoint()
		v.group.Snapshot()
	}
	return d
}

// cleanBound is how far the log may be cleaned: no record that is not stable, and none that is younger than the topic wants.
func (r *Replica) cleanBound(v view, s *Settings, now time.Time) segment.CleanBound {
	q := segment.CleanBound{Index: v.pub.applied, Offset: segment.Offset(v.pub.stable), Before: math.MaxInt64}
	switch {
	case s.Compaction.MinLag < 0:
		q.Offset = 0
	case s.Compaction.MinLag > 0:
		q.Before = now.Add(-s.Compaction.MinLag).UnixMilli()
	}
	if v.lead.Serving() {
		if i := leastMatch(v.group); i < q.Index {
			held := q
			held.Index = i
			if c := v.m.log.Cleanable(q); c.Dirty <= laggardPatience*max(c.Clean, v.m.log.SegmentBytes()) && !r.abortedPress() {
				q = held
			}
		}
	}
	return q
}

// leastMatch is what every member has on its disk.
func leastMatch(g *multi.Group) raft.Index {
	least := raft.Index(math.MaxUint64)
	l := lookAt(g)
	for i := range l.peers {
		least = min(least, l.peers[i].Match)
	}
	return least
}

// CompactOptions are what the broker spares for a cleaning.
type CompactOptions struct {
	MapBytes int64
	Pace     func(bytes int) error // an error ends it
}

// Compact cleans the log, if there is anything to clean, whether that is due or not. It reads and writes files at its pace, on the caller's
// goroutine; the log goes on meanwhile. What it has made takes effect soon after.
func (r *Replica) Compact(o CompactOptions) (segment.CleanStats, error) {
	s := r.settings.Load()
	v, err := r.view(-1, true)
	if err != nil {
		return segment.CleanStats{}, err
	}
	if v.m.keys.reading() {
		return segment.CleanStats{}, fmt.Errorf("%w: the keys of the log are being read", segment.ErrNothingToClean)
	}
	now := r.now()
	bound := r.cleanBound(v, s, now)
	cleanable := func(known int64) segment.Cleanable {
		b := bound
		b.Offset = min(b.Offset, segment.Offset(known))
		return v.m.log.Cleanable(b)
	}
	recalled, known, lost, err := v.m.recallAborted(func(known int64) bool { return cleanable(known).UpTo > 0 }, o.Pace)
	if err != nil {
		return segment.CleanStats{}, err
	}
	c := cleanable(known)
	if c.UpTo == 0 {
		return segment.CleanStats{}, segment.ErrNothingToClean
	}
	aborted, err := v.m.abortedBelow(int64(c.Next), recalled, lost)
	if err != nil {
		return segment.CleanStats{}, err
	}
	stats, err := v.m.log.Clean(segment.CleanOptions{UpTo: c.UpTo, Start: segment.Offset(v.pub.start), Now: now.UnixMilli(),
		DeleteRetention: s.Compaction.deleteRetention(), MapBytes: o.MapBytes, Aborted: aborted, Pace: o.Pace})
	if err != nil {
		return stats, err
	}
	v.group.Prune()
	return stats, nil
}

// CompactionOvertaken reports an error of Compact that says nothing but that the log has changed meanwhile, or has nothing to clean.
func CompactionOvertaken(err error) bool {
	return errors.Is(err, segment.ErrOvertaken) || errors.Is(err, segment.ErrNothingToClean) || errors.Is(err, segment.ErrClosed)
}
