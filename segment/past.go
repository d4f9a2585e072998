// Reading past the page cache. A consumer that reads what has piled up takes each byte once: to bring it into the page cache, find it there
// again and copy it out of there costs a broker as much as sending it. So such reads are direct, into memory that is lent for them.
//
// What is read again is better off in the page cache. The log cannot see the future, so it goes by the past: a read that begins where
// somebody has read before goes through the page cache, and so do the next sharedReads bytes of that log, whoever reads them. Of two groups
// that read one after the other, the one ahead fills the page cache then for the one behind.

package segment

import "github.com/balsamq/balsa/internal/vfs"

// Tests read less.
var (
	// leastPast is the least that is read past the page cache.
	leastPast int64 = 256 << 10
	// sharedReads is how much of a log is read through the page cache after something was read again.
	sharedReads int64 = 64 << 20
)

// pastCache says whether a read shall be direct.
func (l *Log) pastCache(v *view, want *reading) bool {
	n := min(int64(want.hint), v.size-v.pos)
	if want.loan == nil || !l.opt.Direct || v.seg == nil || n < leastPast {
		return false
	}
	// A reader that goes on begins where it has stopped, or as far before that as the index is coarse.
	if v.pos+2*l.opt.IndexBytes < v.seg.read.Load() {
		l.readAgain.Store(sharedReads)
		return false
	}
	return l.readAgain.Load() <= 0
}

// directRead bounds one direct read: what else the disk has to do, syncs above all, waits for one that has begun.
const directRead = 1 << 20

// readDirect is f.ReadAt in parts that the disk has soon done with.
func readDirect(f vfs.File, p []byte, off int64) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = f.ReadAt(p[n:min(n+directRead, len(p))], off+int64(n))
		n += k
	}
	return n, err
}

// noteRead notes that the file has been read up to pos, for a reader with lent memory.
func (l *Log) noteRead(v *view, pos int64, direct bool) {
	if !direct && l.readAgain.Load() > 0 {
		l.readAgain.Add(v.pos - pos)
	}
	for {
		old := v.seg.read.Load()
		if old >= pos || v.seg.read.CompareAndSwap(old, pos) {
			return
		}
	}
}
