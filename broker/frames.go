// The memory of produce requests, used again and again: a request's bytes are needed until its batches have their places in the log,
// into which they are copied, and what follows in the same connection is of much the same size. Taken anew for each, they were a
// quarter of all memory that a busy cluster took, and each byte of it was cleared before it was written.

package broker

import (
	"io"
	"math/bits"
	"sync"

	"github.com/balsamq/balsa/protocol"
)

const (
	// minPooledFrame and maxPooledFrame bound the frames whose memory is used again. Clients that write to many partitions send some MiB at
	// a time.
	minPooledFrame = 8 << 10
	maxPooledFrame = 8 << 20
	// claimedFrame is what a peer that claims much and sends nothing makes us take, as in protocol.ReadFrameBody.
	claimedFrame = 1 << 20
	// frameClasses is how many sizes there are: four from each power of two to the next.
	frameClasses = 4*10 + 1
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

// readPooled reads n bytes of a frame into memory that is used again, which is to be given back with giveFrame; pooled is nil if there is none
// for frames of that size.
func readPooled(r io.Reader, n int) (frame []byte, pooled *[]byte, err error) {
	if n <= maxPooledFrame {
		pooled = takeFrame(min(n, claimedFrame))
	}
	if pooled == nil {
		frame, err = protocol.ReadFrameBody(r, n)
		return frame, nil, err
	}
	frame = (*pooled)[:min(n, claimedFrame)]
	if _, err = io.ReadFull(r, frame); err == nil && len(frame) < n {
		first := pooled
		pooled = takeFrame(n)
		frame = (*pooled)[:n]
		k := copy(frame, *first)
		giveFrame(first)
		_, err = io.ReadFull(r, frame[k:])
	}
	if err != nil {
		giveFrame(pooled)
		return nil, nil, err
	}
	return frame[:n:n], pooled, nil
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
