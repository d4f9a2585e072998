// Reading the cleaned part of a compacted log: by offset and by time. Offsets have gaps there; what is asked for is answered with
// the next batch at or after it, and the last batch of the part always ends where the segments begin, so that there is one.

package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sort"
)

// startLocked is the first offset that the log holds. The caller holds mu.
func (l *Log) startLocked() Offset {
	if len(l.cleaned) > 0 {
		return l.cleaned[0].base
	}
	return l.start
}

// CleanedEnd is where the cleaned part ends and the segments begin; StartOffset if there is none. Below it no record of an aborted transaction
// is left, and their markers go when their time has come: a reader that is told of them must not be told of those that end there. Who reads batches
// and asks for this must ask first.
func (l *Log) CleanedEnd() Offset {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.start
}

// cleanedAt is the cleaned files from the one on that holds offset o. The caller holds mu.
func (l *Log) cleanedAt(o Offset) []*cleanedFile {
	return l.cleaned[sort.Search(len(l.cleaned), func(k int) bool { return l.cleaned[k].end > o }):]
}

// stretchOf is the index entry of the stretch in which a batch that ends behind o begins.
func (f *cleanedFile) stretchOf(o Offset) int {
	return max(sort.Search(len(f.index), func(k int) bool { return f.index[k].base > o })-1, 0)
}

// walkCleaned yields the batches of the cleaned part that end behind from, in order, until yield returns false; hint as for walk. end is
// the offset behind all that was yielded, or where the part ends; more: it has come to the end.
func (l *Log) walkCleaned(from Offset, hint int, yield func(*record) bool) (end Offset, more bool, err error) {
	for tries := 0; ; {
		l.mu.RLock()
		closed, files, upTo := l.closed, l.cleanedAt(from), l.start
		l.mu.RUnlock()
		switch {
		case closed:
			return from, false, ErrClosed
		case from >= upTo:
			return from, true, nil
		case len(files) == 0 || from < files[0].base:
			return from, false, fmt.Errorf("%w: %d, the cleaned part has moved on", ErrOffsetOutOfRange, from)
		}
		f := files[0]
		more = true
		err := l.scanCleaned(f, f.stretchOf(from), len(f.index), hint, func(r *record) bool {
			if r.next() <= from {
				return true
			}
			from = r.next()
			more = yield(r)
			return more
		})
		switch {
		case errors.Is(err, fs.ErrNotExist) && tries < maxRelocate:
			tries++ // cleaned again meanwhile: what is there instead is found by looking again
		case err != nil:
			return from, false, l.cleanedError(f, err)
		case !more:
			return from, false, nil
		default:
			from = max(from, f.end)
		}
	}
}

// scanCleaned reads and verifies the frames of the stretches from the first up to before the last, and yields them until yield returns
// false. Frames are slices of buffers that are never written again.
func (l *Log) scanCleaned(f *cleanedFile, first, last, hint int, yield func(*record) bool) error {
	file, err := l.fs.Open(path.Join(l.dir, f.name()))
	if err != nil {
		return err
	}
	defer file.Close()
	pos, stop := f.index[first].pos, f.frames
	if last < len(f.index) {
		stop = f.index[last].pos
	}
	var buf []byte
	have := func(n int) error {
		if len(buf) >= n {
			return nil
		}
		if int64(n) > stop-pos {
			return fmt.Errorf("%w: %s at %d: %d bytes where %d are left", ErrCorrupt, f.name(), pos, n, stop-pos)
		}
		buf = make([]byte, min(int64(max(n, min(hint, maxReadChunk))), stop-pos))
		return readFull(file, buf, pos)
	}
	next := Offset(-1)
	for pos < stop {
		if err := have(4); err != nil {
			return err
		}
		n := int64(frameWord(buf))
		if n < FrameHeaderSize || n > MaxFrameSize {
			return fmt.Errorf("%w: %s at %d: no frame begins with %#08x", ErrCorrupt, f.name(), pos, n)
		}
		if err := have(int(n)); err != nil {
			return err
		}
		r, err := decodeFrame(l.group, buf[:n])
		if err != nil {
			return fmt.Errorf("%w: %s at %d: %w", ErrCorrupt, f.name(), pos, err)
		}
		if r.records == 0 || r.base < next || r.next() > f.end {
			return fmt.Errorf("%w: %s at %d: batch of [%d, %d) behind %d", ErrCorrupt, f.name(), pos, r.base, r.next(), next)
		}
		next = r.next()
		buf, pos = buf[n:], pos+n
		if !yield(&r) {
			return nil
		}
	}
	return nil
}

// cleanedError notes damage that a read has met in a cleaned file. Open believes the end of a file and does not look through it: the name
// tells the next one to.
func (l *Log) cleanedError(f *cleanedFile, err error) error {
	err = fmt.Errorf("group %d: %w", l.group, err)
	if errors.Is(err, ErrCorrupt) {
		if file, cerr := l.fs.Create(path.Join(l.dir, f.name()+badSuffix)); cerr == nil {
			_ = file.Close()
		}
		l.noteReadDamage(err)
	}
	return err
}

// readCleaned is ReadOffsets for an offset below the segments. collect takes batches until it has enough.
func (l *Log) readCleaned(from Offset, maxBytes int, collect func(*record) bool) (end Offset, more bool, err error) {
	l.opt.Cache.misses.Add(1)
	return l.walkCleaned(from, l.readHint(maxBytes), collect)
}

// undisturbed looks for something in both parts, and once more if what was in the one has moved to the other meanwhile.
func (l *Log) undisturbed(look func() error) error {
	for tries := 0; ; tries++ {
		l.mu.RLock()
		life := l.life
		l.mu.RUnlock()
		err := look()
		l.mu.RLock()
		moved := l.life != life && len(l.cleaned) > 0
		l.mu.RUnlock()
		if !moved || tries >= maxRelocate {
			return err
		}
	}
}

// cleanedSince is OffsetForTime for the cleaned part.
func (l *Log) cleanedSince(ts int64, from Offset) (off Offset, at int64, r record, ok bool, err error) {
	for tries := 0; ; tries++ {
		off, at, r, ok, err = l.cleanedSinceOnce(ts, from)
		if tries >= maxRelocate || !errors.Is(err, fs.ErrNotExist) { // else cleaned again meanwhile
			return off, at, r, ok, err
		}
	}
}

func (l *Log) cleanedSinceOnce(ts int64, from Offset) (off Offset, at int64, r record, ok bool, err error) {
	l.mu.RLock()
	files := l.cleanedAt(from)
	l.mu.RUnlock()
	for _, f := range files {
		if f.maxTime < ts {
			continue
		}
		for k := range f.index {
			if f.index[k].maxTime < ts || k+1 < len(f.index) && f.index[k+1].base <= from {
				continue
			}
			err = l.scanCleaned(f, k, k+1, int(l.opt.IndexBytes)+readAhead, func(c *record) bool {
				if c.maxTimestamp() >= ts && c.next() > from {
					off, at, ok = c.keptSince(from, ts)
					r = *c
				}
				return !ok
			})
			switch {
			case err != nil:
				return 0, 0, record{}, false, l.cleanedError(f, err)
			case ok:
				return off, at, r, true, nil
			}
		}
	}
	return 0, 0, record{}, false, nil
}

// cleanedMax is MaxTimestamp for the cleaned part: the first batch with the largest time of at least ts; false: there is none.
func (l *Log) cleanedMax(ts int64, from Offset) (best record, found bool, err error) {
	for tries := 0; ; tries++ {
		best, found, err = l.cleanedMaxOnce(ts, from)
		if tries >= maxRelocate || !errors.Is(err, fs.ErrNotExist) { // else cleaned again meanwhile
			return best, found, err
		}
	}
}

func (l *Log) cleanedMaxOnce(ts int64, from Offset) (best record, found bool, err error) {
	l.mu.RLock()
	files := l.cleanedAt(from)
	l.mu.RUnlock()
	for i := len(files) - 1; i >= 0; i-- {
		f := files[i]
		for k := len(f.index) - 1; k >= 0; k-- {
			if t := f.index[k].maxTime; t < ts || t == noTimestamp || k+1 < len(f.index) && f.index[k+1].base <= from {
				continue
			}
			top := noTimestamp
			var r record
			err := l.scanCleaned(f, k, k+1, int(l.opt.IndexBytes)+readAhead, func(c *record) bool {
				if t := c.maxTimestamp(); t > top && c.next() > from {
					top, r = t, *c
				}
				return true
			})
			if err != nil {
				return record{}, false, l.cleanedError(f, err)
			}
			if top >= ts && top != noTimestamp { // an equal one further down is the first
				ts, best, found = top, r, true
			}
		}
	}
	return best, found, nil
}

// keptSince is firstSince for a batch that may have lost records.
func (r *record) keptSince(from Offset, ts int64) (Offset, int64, bool) {
	b, ok := batchOf(r.Payload)
	if !ok {
		return 0, 0, false
	}
	for rec, err := range b.Records(inflater()) {
		if err != nil {
			return max(r.base, from), r.maxTimestamp(), true // the batch as a whole answers
		}
		if rec.Timestamp >= ts && Offset(rec.Offset) >= from {
			return Offset(rec.Offset), rec.Timestamp, true
		}
	}
	return 0, 0, false
}
