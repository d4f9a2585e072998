package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// batches are a batch of the system, if it has any, and one that does its writes one by one.
func batches(t *testing.T, writes int) map[string]*Batch {
	t.Helper()
	bs := map[string]*Batch{"one by one": OneByOne()}
	if b, err := NewBatch(writes); err == nil {
		bs["at once"] = b
	} else if !errors.Is(err, ErrNoBatch) {
		t.Fatal(err)
	}
	for _, b := range bs {
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return bs
}

// createDirect makes a file of n bytes that is written directly, where the file system can.
func createDirect(t *testing.T, name string, n int64) File {
	t.Helper()
	f, err := OS().Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // some tests close it themselves
	if err := f.Allocate(0, n); err != nil {
		t.Fatal(err)
	}
	f.SetDirect()
	return f
}

func fill(n int, b byte) []byte {
	p := Aligned(n)
	for i := range p {
		p[i] = b
	}
	return p
}

// run does the writes, and checks that each was said to be done once.
func run(t *testing.T, b *Batch, writes []SyncWrite) {
	t.Helper()
	var done []int
	b.WriteSync(writes, func(at []int) { done = append(done, at...) })
	slices.Sort(done)
	for i := range writes {
		if i >= len(done) || done[i] != i {
			t.Fatalf("%d writes, done: %v", len(writes), done)
		}
	}
}

// Files of all kinds are written: the system's own, directly or not, wrapped ones and ones in memory; more than the batch takes at once; beside
// other goroutines, whose signals interrupt system calls.
func TestBatchWrites(t *testing.T) {
	const most, rounds = 4, 30
	for name, b := range batches(t, most) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			rng := rand.New(rand.NewPCG(1, 2))
			var files []File
			var want [][]byte
			for i := range 3 * most {
				f := createDirect(t, filepath.Join(dir, fmt.Sprint(i)), 64<<10)
				if i%5 == 4 {
					f = &injectFile{inner: f, fs: &injectFS{fault: func(Op, string) error { return nil }}}
				}
				files, want = append(files, f), append(want, make([]byte, 64<<10))
			}
			buffered, err := OS().Create(filepath.Join(dir, "buffered"))
			if err != nil {
				t.Fatal(err)
			}
			memory, err := NewMem(1).Create("memory")
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range []File{buffered, memory} {
				defer f.Close()
				if err := f.Allocate(0, 64<<10); err != nil {
					t.Fatal(err)
				}
				files, want = append(files, f), append(want, make([]byte, 64<<10))
			}
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() { // has the runtime preempt and collect
					for {
						select {
						case <-stop:
							return
						default:
							_ = make([]byte, 1<<20)
						}
					}
				})
			}
			for round := range rounds {
				var writes []SyncWrite
				for i, f := range files {
					if rng.IntN(3) == 0 {
						continue
					}
					n, off := (1+rng.IntN(4))*DirectUnit, rng.IntN(12)*DirectUnit
					p := fill(n, byte(round+i+1))
					copy(want[i][off:], p)
					bufs := [][]byte{p}
					if cut := rng.IntN(n/DirectUnit) * DirectUnit; cut > 0 {
						bufs = [][]byte{p[:cut], fill(n-cut, p[0])}
					}
					writes = append(writes, SyncWrite{File: f, Bufs: bufs, Off: int64(off)})
				}
				run(t, b, writes)
				for i := range writes {
					if writes[i].Err != nil {
						t.Fatal(writes[i].Err)
					}
				}
			}
			close(stop)
			wg.Wait()
			for i, f := range files[:len(files)-2] {
				got, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(i)))
				if err != nil || !bytes.Equal(got, want[i]) {
					t.Errorf("file %d (%T) differs, %v", i, f, err)
				}
			}
			for i, f := range files[len(files)-2:] {
				got := make([]byte, 64<<10)
				if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want[len(files)-2+i]) {
					t.Errorf("file %T differs, %v", f, err)
				}
			}
			run(t, b, nil)
		})
	}
}

// A write that cannot be done fails alone. One that the queue refuses as it stands (not aligned) goes the way of WriteSync.
func TestBatchFailsOneByOne(t *testing.T) {
	for name, b := range batches(t, 8) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var writes []SyncWrite
			for i := range 6 {
				writes = append(writes, SyncWrite{File: createDirect(t, filepath.Join(dir, fmt.Sprint(i)), 8192), Bufs: [][]byte{fill(4096, byte('a'+i))}, Off: 4096})
			}
			if err := writes[1].File.Close(); err != nil {
				t.Fatal(err)
			}
			readOnly, err := os.Open(filepath.Join(dir, "3"))
			if err != nil {
				t.Fatal(err)
			}
			defer readOnly.Close()
			writes[3].File = &osFile{f: readOnly, direct: true}
			writes[4].Bufs[0], writes[4].Off = writes[4].Bufs[0][:100], 17 // refused; then it goes through the cache
			run(t, b, writes)
			for i := range writes {
				bad := i == 1 || i == 3
				if (writes[i].Err != nil) != bad {
					t.Errorf("write %d: %v", i, writes[i].Err)
				}
				got, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(i)))
				if err != nil {
					t.Fatal(err)
				}
				at := int(writes[i].Off)
				if same := bytes.Equal(got[at:at+len(writes[i].Bufs[0])], writes[i].Bufs[0]); same == bad {
					t.Errorf("write %d: in the file: %v", i, same)
				}
			}
			// It goes on.
			again := []SyncWrite{{File: writes[0].File, Bufs: [][]byte{fill(4096, 'z')}}, {File: writes[2].File, Bufs: [][]byte{fill(4096, 'z')}}}
			run(t, b, again)
			if again[0].Err != nil || again[1].Err != nil {
				t.Error(again[0].Err, again[1].Err)
			}
		})
	}
}
