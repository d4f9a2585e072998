// The memory of produce requests, which all tests of this package have spoilt when it is given back, also that of small ones.

package broker

import "testing"

func init() { spoilFrames = true }

func TestFrameClasses(t *testing.T) {
	last := -1
	sizes := make(map[int]int)
	for n := minPooledFrame; n <= maxPooledFrame; n++ {
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
