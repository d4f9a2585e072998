// The tip file of the newest segment: what a scan would find out about all but the end of it, so that the next Open need not read it
// from the beginning. A closed segment has its index for that.
//
// It is written as the segment grows, without a sync, each record behind the last:
//
//	segment  | blocks, durable .................................. | last write, durable | torn, or not
//	         |<--- record 1 --->|<--- record 2 --->|<- record 3 ->|
//	                                                              ^ the scan of the next Open begins here
//
// A record is written only when what it speaks of is durable, and so is what follows that: nobody needs the record, and whatever of
// it a crash leaves is true, since a segment file is never written over (a truncation goes on in another file). The last write
// is left to the scan because its blocks carry the mark of all that comes before them.

package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"sort"
	"strings"

	"github.com/balsamq/balsa/raft"
)

const (
	tipMagic      = 0xBA534C01
	tipHeaderSize = 72
	// tipIdle is the part of Options.ScanBytes from which on an idle log's record pays.
	tipIdle = 16
)

func tipName(segment string) string {
	return strings.TrimSuffix(segment, segmentSuffix) + tipSuffix
}

// tipEnd is how far the tip file of a segment goes.
type tipEnd struct {
	pos  int64      // in the segment: between two blocks
	last raft.Index // the entry before
	crc  uint32     // of the last record: the next one is chained to it
	size int64      // of the tip file's good records
}

// tip is what the records of a tip file say together.
type tip struct {
	tipEnd
	next    Offset    // after last
	term    raft.Term // of last
	synced  raft.Index
	maxTime int64
	index   []indexEntry
	epochs  []epoch
	configs []raft.Index
}

// noTip is the tip of a segment about which nothing is known.
func noTip(group raft.GroupID, h *segmentHeader) tip {
	return tip{tipEnd: tipEnd{pos: SegmentHeaderSize, last: h.first - 1, crc: crc32.Update(groupSeed(group)^tipMagic, castagnoli, h.encode(group))},
		next: h.base, term: h.prevTerm, maxTime: noTimestamp}
}

// encodeTip encodes what a record adds to the tip that ends with crc. Only t's own fields count, not tipEnd's crc and size.
//
//	magic | crc | n index | n epochs | n configs | 0 | pos | last | next | term | synced | max time | index, epochs, configs as in an index file
func encodeTip(t *tip, crc uint32) ([]byte, uint32) {
	le := binary.LittleEndian
	b := make([]byte, tipHeaderSize, tipHeaderSize+len(t.index)*indexEntrySize+len(t.epochs)*epochSize+len(t.configs)*8)
	le.PutUint32(b[0:], tipMagic)
	le.PutUint32(b[8:], uint32(len(t.index)))
	le.PutUint32(b[12:], uint32(len(t.epochs)))
	le.PutUint32(b[16:], uint32(len(t.configs)))
	le.PutUint64(b[24:], uint64(t.pos))
	le.PutUint64(b[32:], uint64(t.last))
	le.PutUint64(b[40:], uint64(t.next))
	le.PutUint64(b[48:], uint64(t.term))
	le.PutUint64(b[56:], uint64(t.synced))
	le.PutUint64(b[64:], uint64(t.maxTime))
	b = appendIndexEntries(b, t.index)
	b = appendEpochs(b, t.epochs)
	for _, i := range t.configs {
		b = le.AppendUint64(b, uint64(i))
	}
	crc = crc32.Update(crc, castagnoli, b[8:])
	le.PutUint32(b[4:], crc)
	return b, crc
}

// decodeTip reads a tip file as far as it is good and speaks of nothing above upTo.
func decodeTip(group raft.GroupID, h *segmentHeader, b []byte, upTo raft.Index) tip {
	t := noTip(group, h)
	for {
		n, err := t.add(h, b[t.size:], upTo)
		if err != nil || n == 0 {
			return t
		}
	}
}

var errBadTip = errors.New("bad tip file")

// add takes in the record at the beginning of b, and says how long it is; 0: there is none. After an error nothing has changed.
func (t *tip) add(h *segmentHeader, b []byte, upTo raft.Index) (int64, error) {
	if len(b) == 0 {
		return 0, nil
	}
	le := binary.LittleEndian
	if len(b) < tipHeaderSize || le.Uint32(b) != tipMagic {
		return 0, fmt.Errorf("%w: no record", errBadTip)
	}
	ni, ne, nc := uint64(le.Uint32(b[8:])), uint64(le.Uint32(b[12:])), uint64(le.Uint32(b[16:]))
	length := tipHeaderSize + ni*indexEntrySize + ne*epochSize + nc*8
	if length > uint64(len(b)) {
		return 0, fmt.Errorf("%w: cut short", errBadTip)
	}
	b = b[:length]
	crc := crc32.Update(t.crc, castagnoli, b[8:])
	if crc != le.Uint32(b[4:]) {
		return 0, fmt.Errorf("%w: checksum", errBadTip)
	}
	a := tip{tipEnd: tipEnd{pos: int64(le.Uint64(b[24:])), last: raft.Index(le.Uint64(b[32:])), crc: crc, size: t.size + int64(length)},
		next: Offset(le.Uint64(b[40:])), term: raft.Term(le.Uint64(b[48:])), synced: raft.Index(le.Uint64(b[56:])), maxTime: int64(le.Uint64(b[64:]))}
	if le.Uint32(b[20:]) != 0 || a.pos <= t.pos || a.last < t.last || a.last < h.first || a.last > maxIndex || a.next < t.next || uint64(a.next) > maxOffset ||
		a.term < t.term || a.term > raft.MaxTerm || a.synced < a.last || a.synced > maxIndex || a.maxTime < t.maxTime {
		return 0, fmt.Errorf("%w: range", errBadTip)
	}
	if a.last > upTo {
		return 0, nil
	}
	rest := b[tipHeaderSize:]
	var before *indexEntry
	if n := len(t.index); n > 0 {
		before = &t.index[n-1]
	}
	index, again := make([]indexEntry, ni), 0
	for i := range index {
		e := decodeIndexEntry(rest)
		rest = rest[indexEntrySize:]
		index[i] = e
		switch {
		case i == 0 && before != nil && e.index == before.index && e.base == before.base && e.pos == before.pos:
			again = 1 // said again, for more may have come to its stretch
		case e.index <= t.last || e.index > a.last || e.base < t.next || e.base > a.next || e.pos < t.pos || e.pos >= a.pos,
			before == nil && e.index != h.first, before != nil && (e.index <= before.index || e.base < before.base || e.pos <= before.pos):
			return 0, fmt.Errorf("%w: entry %d", errBadTip, i)
		}
		before = &index[i]
	}
	es, rest, err := decodeEpochs(rest, int(ne))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errBadTip, err)
	}
	for _, e := range es {
		if e.first <= t.last || e.first > a.last || e.term <= t.term || e.term > a.term || e.start > a.next {
			return 0, fmt.Errorf("%w: term %d", errBadTip, e.term)
		}
	}
	configs := t.configs
	for before := t.last; len(rest) > 0; rest = rest[8:] {
		i := raft.Index(le.Uint64(rest))
		if i <= before || i > a.last {
			return 0, fmt.Errorf("%w: membership at %d", errBadTip, i)
		}
		configs, before = append(configs, i), i
	}
	if before == nil {
		return 0, fmt.Errorf("%w: no entry of the index", errBadTip)
	}
	if again > 0 {
		t.index[len(t.index)-1] = index[0]
	}
	a.index, a.epochs, a.configs = append(t.index, index[again:]...), append(t.epochs, es...), configs
	*t = a
	return int64(length), nil
}

// loadTip is what is known of a segment; it may be nothing.
func (r *recoverer) loadTip(f *found) tip {
	b, err := readFile(r.fs, path.Join(r.dir, tipName(f.name)), maxIndexFile)
	if err != nil {
		return noTip(r.group, &f.header)
	}
	return decodeTip(r.group, &f.header, b, f.upTo)
}

// extendTip notes what the current file holds below pos, up to entry last, next being the offset and term the term behind and of it.
// All of it is durable, and so is at least a block behind it, which notes last as durable. Nothing is noted before it is worth least
// bytes, and that it cannot be is no error. The caller holds io.
func (l *Log) extendTip(pos int64, last raft.Index, next Offset, term raft.Term, least int64) {
	w := &l.w
	if pos-w.tip.pos < least {
		return
	}
	s := w.seg
	t := tip{tipEnd: tipEnd{pos: pos, last: last}, next: next, term: term}
	l.mu.RLock()
	known := l.cut == 0 && !w.seal && l.lastSeg() == s && s.last >= last && s.first <= last && l.readDamage == nil
	if known {
		t.synced, t.maxTime = l.durable, s.maxTime
		from := sort.Search(len(s.index), func(k int) bool { return s.index[k].pos >= w.tip.pos })
		to := sort.Search(len(s.index), func(k int) bool { return s.index[k].pos >= pos })
		t.index = s.index[max(from-1, 0):to] // only appended to from here on, and its last entry's time raised: copied under the lock
		for k := len(l.epochs) - 1; k >= 0 && l.epochs[k].first > w.tip.last; k-- {
			if l.epochs[k].first <= last {
				t.epochs = append([]epoch{l.epochs[k]}, t.epochs...)
			}
		}
		for k := len(l.configs) - 1; k >= 0 && l.configs[k] > w.tip.last; k-- {
			if l.configs[k] <= last {
				t.configs = append([]raft.Index{l.configs[k]}, t.configs...)
			}
		}
	}
	var b []byte
	if known {
		b, t.crc = encodeTip(&t, w.tip.crc)
	}
	l.mu.RUnlock()
	if !known || l.appendTip(s.name, b) != nil {
		return
	}
	t.size = w.tip.size + int64(len(b))
	w.tip = t.tipEnd
}

// appendTip writes a record behind those that the current file has.
func (l *Log) appendTip(segment string, b []byte) error {
	name := path.Join(l.dir, tipName(segment))
	open := l.fs.Open
	if l.w.tip.size == 0 {
		_ = l.fs.Remove(name) // without a good record
		open = l.fs.Create
	}
	f, err := open(name)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, l.w.tip.size)
	return errors.Join(err, f.Close())
}

// removeShortcuts removes a segment's index and tip, which say nothing that it does not say.
func (l *Log) removeShortcuts(segment string) {
	_ = l.fs.Remove(path.Join(l.dir, indexName(segment)))
	_ = l.fs.Remove(path.Join(l.dir, tipName(segment)))
}
