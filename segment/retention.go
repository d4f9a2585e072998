// Retention: which records are too old or too many, told by whole files, and files that are closed because of their age.
// Nothing here reads the disk.

package segment

// Expiry asks what may go.
type Expiry struct {
	MaxAge   int64 // milliseconds since a file's largest timestamp; negative: no limit
	MaxBytes int64 // of files; negative: no limit
	Now      int64 // wall clock, milliseconds
	// Start is where the records begin now, End the high watermark: nothing at or above it may go.
	Start, End Offset
}

// Expired is the offset below which records may go: where the oldest file that has to stay begins. Like Kafka it goes by whole
// files, from the oldest on, and by their largest timestamp; the newest one goes only if all of it is too old.
func (l *Log) Expired(q Expiry) Offset {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var bytes int64
	for _, s := range l.segs {
		switch {
		case s.next <= q.Start || len(l.cleaned) > 0 && s.next <= l.start:
		case len(l.cleaned) > 0 && s.base < l.start:
			bytes += s.size - s.posOf(l.start) // the rest is in the cleaned part
		default:
			bytes += s.size
		}
	}
	bytes += l.pendingBytes
	for _, f := range l.cleaned {
		if f.end > q.Start {
			bytes += f.size
		}
	}
	start := q.Start
	for _, f := range l.cleaned {
		if f.end <= q.Start {
			continue // on its way out
		}
		old := q.MaxAge >= 0 && (f.records == 0 || f.maxTime != noTimestamp && q.Now-f.maxTime > q.MaxAge)
		many := q.MaxBytes >= 0 && bytes-f.size >= q.MaxBytes
		if f.end > q.End || !old && !many {
			return start
		}
		bytes -= f.size
		start = f.end
	}
	for i, s := range l.segs {
		if s.next <= q.Start || len(l.cleaned) > 0 && s.next <= l.start {
			continue // on its way out, or in the cleaned part
		}
		if s.next > q.End || i == len(l.segs)-1 && l.pendingBytes > 0 {
			break
		}
		if s.next > s.base {
			old := q.MaxAge >= 0 && s.maxTime != noTimestamp && q.Now-s.maxTime > q.MaxAge
			many := q.MaxBytes >= 0 && bytes-s.size >= q.MaxBytes
			if !old && !many {
				break
			}
		}
		bytes -= s.size
		start = s.next
	}
	return start
}

// RollOlder closes the file that is written to if its first records are older than ts (milliseconds): what comes next begins
// another. It reports whether it did.
func (l *Log) RollOlder(ts int64) bool {
	l.mu.RLock()
	due := l.oldActive(l.lastSeg(), ts)
	l.mu.RUnlock()
	if !due {
		return false
	}
	l.io.Lock()
	defer l.io.Unlock()
	l.mu.RLock()
	due = l.usable() == nil && l.cut == 0 && l.w.seg != nil && l.w.seg == l.lastSeg() && l.oldActive(l.w.seg, ts)
	l.mu.RUnlock()
	if due {
		if err := l.settle(); err != nil {
			_ = l.failSync(err) // the next Sync says so
			return false
		}
		l.leave()
	}
	return due
}

// oldActive goes by the largest timestamp up to the second entry of the sparse index: the first record's, or a little later.
func (l *Log) oldActive(s *seg, ts int64) bool {
	return s != nil && s.next > s.base && len(s.index) > 0 && s.index[0].maxTime != noTimestamp && s.index[0].maxTime < ts
}

// SetSegmentBytes changes Options.SegmentBytes for what is written from now on.
func (l *Log) SetSegmentBytes(n int64) {
	if n > 0 {
		l.segmentBytes.Store(max(n, minSegmentBytes))
	}
}

// SegmentBytes is the size in force.
func (l *Log) SegmentBytes() int64 { return l.segmentBytes.Load() }

// minSegmentBytes keeps a topic from making a file of every record.
const minSegmentBytes = 64 << 10
