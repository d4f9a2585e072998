// Reading for a member that was away: pieces of megabytes, from the disk into memory of their own, past the page cache. Through the cache the
// bytes would be copied out of pages that nobody looks at again, which costs more than all else that a leader does to send them.

package segment

import (
	"path"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// maxBehindRead bounds one read of EntriesBehind.
const maxBehindRead = 8 << 20

// EntriesBehind implements multi.Log. Whatever is out of the ordinary is left to Entries: what is in memory, where a file cannot be read in
// this way, frames that are larger than the piece, damage.
func (l *Log) EntriesBehind(lo, hi raft.Index, maxBytes int) ([]raft.Entry, error) {
	l.mu.RLock()
	var v view
	old := lo >= l.first && lo < hi && hi <= l.last+1 && !l.closed && !l.inTail(lo)
	if old {
		var err error
		v, err = l.locate(lo)
		old = err == nil
	}
	l.mu.RUnlock()
	if old {
		if es := l.readBehind(v, lo, hi, maxBytes); len(es) > 0 {
			l.opt.Cache.misses.Add(1)
			return es, nil
		}
	}
	return l.Entries(lo, hi, maxBytes)
}

// readBehind reads entries from lo on from one file, as many as fit into maxBytes and are whole in what one read brings.
func (l *Log) readBehind(v view, lo, hi raft.Index, maxBytes int) (es []raft.Entry) {
	f, err := l.fs.Open(path.Join(l.dir, v.name))
	if err != nil {
		return nil
	}
	defer f.Close()
	if !f.SetDirect() {
		return nil
	}
	from := unitBelow(v.pos)
	upTo := min(v.size, v.pos+int64(min(l.readHint(maxBytes), maxBehindRead)))
	buf := vfs.AlignedUncleared(int(unitAbove(upTo) - from))
	n, _ := f.ReadAt(buf, from) // the last unit may end with the file: what counts is what came
	buf = buf[:min(int64(n), upTo-from)]
	bytes := 0
	for at := int(v.pos - from); len(buf)-at >= 4 && v.index <= v.last && v.index < hi; {
		size := int(frameWord(buf[at:]))
		if uint32(size) == blockMagic {
			if len(buf)-at < blockHeaderSize {
				break
			}
			h, err := decodeBlockHeader(l.group, buf[at:])
			if err != nil {
				break
			}
			at += h.body()
			continue
		}
		if size < FrameHeaderSize || size > len(buf)-at || bytes > 0 && bytes+size > maxBytes {
			break
		}
		r, err := decodeFrame(l.group, buf[at:at+size])
		if err != nil || r.Index != v.index {
			break
		}
		if r.Index >= lo {
			es = append(es, r.Entry)
			bytes += size
		}
		at += size
		v.index++
	}
	return es
}
