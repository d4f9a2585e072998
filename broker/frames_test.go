// The memory of produce requests, and of what fetches read, which all tests of this package have spoilt when it is given back, also that of small
// ones.

package broker

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/balsamq/balsa/segment"
)

func init() {
	spoilFrames = true
	segment.SpoilLent()
}

func TestFrameClasses(t *testing.T) {
	last := -1
	sizes := make(map[int]int)
	for n := minPooledFrame; n <= maxPooledFrame; n += 1 + n>>12 { // in steps that miss no class
		class, size := frameClass(n)
		if class < last || class > last+1 || class >= frameClasses {
			t.Fatalf("%d bytes are of class %d after class %d", n, class, last)
		}
		if size < n || size > n+n/4 {
			t.Fatalf("%d bytes get %d", n, size)
		}
		if s, ok := sizes[class]; ok && s != size {
			t.Fatalf("class %d has frames of %d and of %d bytes", class, s, size)
		}
		if same, _ := frameClass(size); same != class {
			t.Fatalf("a frame of %d bytes is taken from class %d and given to %d", size, class, same)
		}
		sizes[class], last = size, class
	}
	if len(sizes) != frameClasses {
		t.Fatalf("%d classes are used", len(sizes))
	}
	for _, n := range []int{maxPooledFrame + 1, 100 << 20} {
		if takeFrame(n) != nil {
			t.Fatalf("%d bytes are pooled", n)
		}
	}
}

func TestReadPooled(t *testing.T) {
	for _, n := range []int{8, minPooledFrame, claimedFrame - 1, claimedFrame, claimedFrame + 1, 3*claimedFrame + 5, maxPooledFrame, maxPooledFrame + 1} {
		sent := make([]byte, n)
		for i := range sent {
			sent[i] = byte(i ^ i>>8 ^ i>>16)
		}
		for range 2 { // the second time with the memory of the first
			frame, pooled, err := readPooled(iotest.HalfReader(bytes.NewReader(sent)), n)
			if err != nil || !bytes.Equal(frame, sent) || cap(frame) != n {
				t.Fatalf("%d bytes: %d, %v", n, len(frame), err)
			}
			if (pooled != nil) != (n <= maxPooledFrame) {
				t.Fatalf("%d bytes are pooled: %v", n, pooled != nil)
			}
			if pooled != nil {
				giveFrame(pooled)
			}
		}
		for _, m := range []int{0, n / 2, n - 1} {
			if _, pooled, err := readPooled(bytes.NewReader(sent[:m]), n); pooled != nil || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%d bytes of %d: %v", m, n, err)
			}
		}
	}
}

// Who claims a large frame and sends nothing has us take no more than for one of claimedFrame.
func TestPooledClaims(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err := readPooled(bytes.NewReader(nil), maxPooledFrame)
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; err != io.EOF || took > 2*claimedFrame {
		t.Fatalf("%d bytes are taken, %v", took, err)
	}
}
