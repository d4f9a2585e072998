// The memory of produce requests, used again and again: a request's bytes are needed until its batches have their places in the log,
// into which they are copied, and what follows in the same connection is of much the same size. Taken anew for each, they were a
// quarter of all memory that a busy cluster took, and each byte of it was cleared before it was written.

package broker

import (
	"math/bits"
	"sync"
)

const (
	// minPooledFrame and maxPooledFrame bound the frames whose memory is used again. maxPooledFrame is also what a peer that claims much
	// and sends nothing makes us take, as in protocol.ReadFrameBody.
	minPooledFrame = 8 << 10
	maxPooledFrame = 1 << 20
	// frameClasses is how many sizes there are: four from each power of two to the next.
	frameClasses = 4*7 + 1
)

// framePools are by size. The collector empties what is not used. What is in use is bounded by serverOptions.RequestMemory, to a quarter.
var framePools [frameClasses]sync.Pool

// spoilFrames has frames overwritten when they are given back, small ones too: tests find out who still looks.
var spoilFrames bool

// frameClass is the pool for frames of n bytes, and the size of those in it.
func frameClass(n int) (class, size int) {
	if n <= minPooledFrame {
		return 0, minPooledFrame
	}
	step := bits.Len(uint(n-1)) - 3 // a quarter of the power of two below n
	size = (n + 1<<step - 1) >> step << step
	return 4*(step+2-bits.Len(minPooledFrame-1)) + size>>step - 4, size
}

// takeFrame is memory for a frame of n bytes, to be given back with giveFrame; nil if it is of no pooled size.
func takeFrame(n int) *[]byte {
	if n < minPooledFrame && spoilFrames {
		b := make([]byte, n)
		return &b
	}
	if n < minPooledFrame || n > maxPooledFrame {
		return nil
	}
	class, size := frameClass(n)
	b, _ := framePools[class].Get().(*[]byte)
	if b == nil {
		fresh := make([]byte, size)
		b = &fresh
	}
	return b
}

// giveFrame gives back what takeFrame gave, into which nobody looks any more.
func giveFrame(b *[]byte) {
	if spoilFrames {
		for i := range *b {
			(*b)[i] = 0xdb
		}
	}
	if len(*b) < minPooledFrame {
		return
	}
	class, _ := frameClass(len(*b))
	framePools[class].Put(b)
}
