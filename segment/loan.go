// Memory that is lent to readers, and used again when they have given it back. What a consumer reads from the disk is needed until it
// has been written to its socket: taken anew for each answer, such memory is most of what a broker takes that serves a backlog; the
// system has to find and clear each page of it, and the collector comes round for nothing else.

package segment

import (
	"sync"

	"github.com/balsamq/balsa/internal/vfs"
)

const (
	// Lent memory comes in leastLent bytes, twice, four times … as many up to lentClasses-1 doublings, and lentSlack more each: a read of
	// a round number of bytes begins a little before what is wanted, and at a whole unit.
	leastLent   = 64 << 10
	lentClasses = 7
	lentSlack   = 64 << 10
	// mostLent bounds what is lent as one piece, and so one read, unless a single frame is larger.
	mostLent = leastLent<<(lentClasses-1) + lentSlack
)

// lendFrom is the least that is worth lending. Tests lend less.
var lendFrom = leastLent

// lentMemory is what was given back, by size. The collector empties it of what is not used.
var lentMemory [lentClasses]sync.Pool

// spoilLent has memory overwritten when it is given back.
var spoilLent bool

// SpoilLent is for tests: from here on memory is overwritten when it is given back, so that who still looks finds out.
func SpoilLent() { spoilLent = true }

// lentClass is the class of n bytes, at most mostLent, and how many bytes those of the class have.
func lentClass(n int) (class, size int) {
	for size = leastLent; size+lentSlack < n; size *= 2 {
		class++
	}
	return class, size + lentSlack
}

// Loan is memory that was lent for batches; see [Log.ReadLent]. The zero value is one of nothing. It is one goroutine's at a time.
type Loan struct {
	pieces []piece
	size   int
}

// piece is memory of a class, or a larger one, which is nobody's afterwards.
type piece struct {
	mem  *[]byte
	kept bool // batches lie in it
}

// Size is how many bytes of memory are lent.
func (n *Loan) Size() int { return n.size }

// Return gives the memory back. What was read into it may not be looked at any more.
func (n *Loan) Return() {
	for i := range n.pieces {
		n.pieces[i].giveBack()
	}
	clear(n.pieces)
	n.pieces, n.size = n.pieces[:0], 0
}

// take lends size bytes more, aligned as direct reads want them: head, and then anything. Nothing in the last piece is needed any more
// after that, unless it is kept: then it is given back.
func (n *Loan) take(size int, head []byte) []byte {
	p := lend(size)
	copy(*p.mem, head)
	n.adopt(p)
	return (*p.mem)[:size:size]
}

// adopt is take for a piece that is there already.
func (n *Loan) adopt(p piece) {
	if k := len(n.pieces) - 1; k >= 0 && !n.pieces[k].kept {
		n.size -= len(*n.pieces[k].mem)
		n.pieces[k].giveBack()
		n.pieces = n.pieces[:k]
	}
	n.pieces = append(n.pieces, p)
	n.size += len(*p.mem)
}

// lend is a piece of at least size bytes.
func lend(size int) piece {
	if size > mostLent {
		fresh := vfs.AlignedUncleared(size)
		return piece{mem: &fresh}
	}
	class, full := lentClass(size)
	mem, _ := lentMemory[class].Get().(*[]byte)
	if mem == nil {
		fresh := vfs.AlignedUncleared(full)
		mem = &fresh
	}
	return piece{mem: mem}
}

// Lend is b in lent memory: for readers of what is in no log.
func (n *Loan) Lend(b []byte) []byte {
	mem := n.take(len(b), b)
	n.keep()
	return mem
}

// keep says that what was taken last is needed until Return.
func (n *Loan) keep() {
	if k := len(n.pieces) - 1; k >= 0 {
		n.pieces[k].kept = true
	}
}

func (p piece) giveBack() {
	if mem := *p.mem; spoilLent && len(mem) > 0 {
		mem[0] = 0xdb
		for n := 1; n < len(mem); n *= 2 { // not byte by byte, each of which the race detector would look at by itself
			copy(mem[n:], mem[:n])
		}
	}
	if len(*p.mem) > mostLent {
		return
	}
	class, _ := lentClass(len(*p.mem))
	lentMemory[class].Put(p.mem)
}
