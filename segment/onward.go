// Reading ahead. While a direct read is under way its reader waits, and while what it brought is checked and sent the disk rests: the page
// cache, which it goes past, would have read on by itself. So the next piece of a log that somebody reads piece by piece is read beside the
// sending of the last one, into memory that the next answer takes over.
//
// That is begun for a reader that has come back for what follows its last piece, never for a first one, and ends with the file. What nobody asks
// for is given back after onwardKept, or when somebody else reads on in the same log; all logs of a cache hold no more than onwardBytes.
// What the last answer had no room for begins the next piece: it is copied there rather than read again.
// Nothing in it is believed before it is handed out: it is checked like any other read, and damage in it is the file's. A file that has been
// replaced, or cut, is not the one that the next reader is led to, or is found to be shorter.

package segment

import (
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

const (
	// onwardBytes bounds what all logs of a cache have read ahead, or are reading, for nobody who has asked yet.
	onwardBytes = 64 << 20
	// onwardReads is how many pieces all logs of a cache read ahead at the same time. A disk's queue that is full of them is one that
	// writes wait in, and with them whoever waits for an acknowledgement.
	onwardReads = 2
)

// Tests have more time, or less, and read less.
var (
	// onwardKept is how long a reader may take to come back: one that is sent megabytes takes some milliseconds.
	onwardKept = 500 * time.Millisecond
	// leastOnward is the least that is read ahead.
	leastOnward int64 = 256 << 10
)

// place is where a reader has stopped: at the frame of an entry that it had no room for.
type place struct {
	seg   *seg // nil: it has stopped for another reason
	index raft.Index
	pos   int64
	size  int64 // of the file's part that held blocks
}

// nextPiece is one that has been read, or is being read, for who comes next.
type nextPiece struct {
	place
	offset Offset // who asks for it is who it is for
	piece  piece
	raw    []byte        // what there is from the unit on that pos is in, in piece; nobody's but the goroutine's that reads until done is closed
	done   chan struct{} // closed when it has been read

	// Guarded by onward.mu.
	dropped bool        // nobody will take it
	timer   *time.Timer // nil: it is being read
}

// onward reads ahead for one log.
type onward struct {
	used *atomic.Int64 // bytes of all logs, see onwardBytes

	mu      sync.Mutex // guards what follows; a leaf
	next    *nextPiece // nil: there is none
	stopped Offset     // where the last reader that had no room for more will go on; 0: none has
	closed  bool
	wg      sync.WaitGroup // of the goroutines that read
}

// readOn takes note that a reader which had begun at offset from has stopped at p, and will go on at offset next. One that has come back has the
// next n bytes read for it. rest is what it has read of them, see reading.
func (l *Log) readOn(from, next Offset, p place, rest []byte, n int) {
	a := &l.onward
	size := min(int64(n), p.size-p.pos, mostLent-2*vfs.DirectUnit)
	a.mu.Lock()
	defer a.mu.Unlock()
	back := from > 0 && from == a.stopped
	a.stopped = next
	if !back || size < leastOnward || a.closed {
		return
	}
	a.drop(a.next)
	begin, end := unitBelow(p.pos), unitAbove(p.pos+size)
	piece := lend(int(end - begin))
	if held := int64(len(*piece.mem)); a.used.Add(held) > onwardBytes {
		a.used.Add(-held)
		piece.giveBack()
		return
	}
	x := &nextPiece{place: p, offset: next, piece: piece, done: make(chan struct{})}
	x.raw = (*piece.mem)[:copy((*piece.mem)[:end-begin], rest)] // now: they are in memory that the reader gives back
	a.next = x
	a.wg.Go(func() {
		l.opt.Cache.reading <- struct{}{}
		a.mu.Lock()
		wanted := !x.dropped
		a.mu.Unlock()
		if wanted {
			l.readPiece(x, end, p.pos+size)
		}
		<-l.opt.Cache.reading
		a.mu.Lock()
		defer a.mu.Unlock()
		close(x.done)
		if x.dropped {
			a.giveBack(x)
		} else if a.next == x {
			x.timer = time.AfterFunc(onwardKept, func() {
				a.mu.Lock()
				defer a.mu.Unlock()
				if a.next == x {
					a.drop(x)
				}
			})
		}
	})
}

// readPiece reads whole units up to end, but for those that are there, of which what lies below upTo counts. What cannot be read is read again by
// who asks for it, and is told why not.
func (l *Log) readPiece(x *nextPiece, end, upTo int64) {
	begin := unitBelow(x.pos)
	if at := begin + int64(len(x.raw)); at < end {
		f, err := l.fs.Open(path.Join(l.dir, x.seg.name))
		if err != nil {
			return
		}
		defer f.Close()
		if !f.SetDirect() {
			return
		}
		n, _ := readDirect(f, (*x.piece.mem)[at-begin:end-begin], at)
		x.raw = (*x.piece.mem)[:at-begin+int64(n)]
	}
	x.raw = x.raw[:min(int64(len(x.raw)), upTo-begin)]
}

// take is what has been read for who reads from offset from on, once it has been read; nil if there is nothing. It is the caller's.
func (a *onward) take(from Offset) *nextPiece {
	a.mu.Lock()
	x := a.next
	if x == nil || x.offset != from {
		a.mu.Unlock()
		return nil
	}
	a.next = nil
	if x.timer != nil {
		x.timer.Stop()
	}
	a.mu.Unlock()
	<-x.done
	a.used.Add(-int64(len(*x.piece.mem)))
	return x
}

// drop gives x back, now or when it has been read; nil: there is nothing to do. The caller holds mu.
func (a *onward) drop(x *nextPiece) {
	if x == nil {
		return
	}
	a.next, x.dropped = nil, true
	if x.timer != nil {
		x.timer.Stop()
		a.giveBack(x)
	}
}

func (a *onward) giveBack(x *nextPiece) {
	a.used.Add(-int64(len(*x.piece.mem)))
	x.piece.giveBack()
}

// close gives back what there is, and waits until nothing is being read any more.
func (a *onward) close() {
	a.mu.Lock()
	a.drop(a.next)
	a.closed = true
	a.mu.Unlock()
	a.wg.Wait()
}
