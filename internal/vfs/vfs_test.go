package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t testing.TB, f FS, name string, content string) File {
	t.Helper()
	file, err := f.Create(name)
	must(t, err)
	if content != "" {
		_, err = file.WriteAt([]byte(content), 0)
		must(t, err)
	}
	return file
}

func read(t testing.TB, f FS, name string) (string, bool) {
	t.Helper()
	file, err := f.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false
	}
	must(t, err)
	defer file.Close()
	size, err := file.Size()
	must(t, err)
	b := make([]byte, size)
	if n, err := file.ReadAt(b, 0); int64(n) != size || err != nil && err != io.EOF {
		t.Fatalf("read %s: %d of %d, %v", name, n, size, err)
	}
	return string(b), true
}

// What every file system must do, the real one included.
func TestConformance(t *testing.T) {
	for name, f := range map[string]FS{
		"os": OS(), "mem": NewMem(1), "inject": Inject(NewMem(1), func(Op, string) error { return nil }), "quota": Quota(NewMem(1), 1<<30),
	} {
		t.Run(name, func(t *testing.T) {
			dir := "base"
			if name == "os" {
				dir = t.TempDir()
			}
			p := func(s string) string { return filepath.Join(dir, s) }
			must(t, f.MkdirAll(p("a/b")))
			must(t, f.MkdirAll(p("a/b")))
			file := create(t, f, p("a/b/x"), "hello")
			if _, err := f.Create(p("a/b/x")); !errors.Is(err, fs.ErrExist) {
				t.Fatalf("created twice: %v", err)
			}
			for _, op := range []func() error{
				func() error { _, err := f.Open(p("none")); return err },
				func() error { _, err := f.Stat(p("none")); return err },
				func() error { _, err := f.ReadDir(p("none")); return err },
				func() error { return f.Remove(p("none")) },
				func() error { return f.Rename(p("none"), p("y")) },
				func() error { _, err := f.Create(p("none/x")); return err },
			} {
				if err := op(); !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("want ErrNotExist: %v", err)
				}
			}
			must(t, f.RemoveAll(p("none")))
			n, err := file.WritevAt([][]byte{[]byte("ab"), nil, []byte("cde")}, 3)
			if n != 5 || err != nil {
				t.Fatalf("writev: %d, %v", n, err)
			}
			must(t, file.Sync())
			if s, _ := read(t, f, p("a/b/x")); s != "helabcde" {
				t.Fatalf("read %q", s)
			}
			b := make([]byte, 10)
			if n, err := file.ReadAt(b, 6); n != 2 || err != io.EOF {
				t.Fatalf("read at the end: %d, %v", n, err)
			}
			must(t, file.Allocate(0, 10000))
			must(t, file.Allocate(0, 100))
			if size, err := file.Size(); size != 10000 || err != nil {
				t.Fatalf("size %d, %v", size, err)
			}
			must(t, file.Truncate(4))
			must(t, file.Allocate(4, 4))
			if s, _ := read(t, f, p("a/b/x")); s != "hela\x00\x00\x00\x00" {
				t.Fatalf("read %q", s)
			}
			st, err := f.Stat(p("a/b/x"))
			if err != nil || st.Size() != 8 || st.IsDir() || st.Name() != "x" {
				t.Fatalf("stat %+v, %v", st, err)
			}
			must(t, create(t, f, p("a/b/z"), "old").Close())
			must(t, f.Rename(p("a/b/x"), p("a/b/z")))
			must(t, f.Rename(p("a/b/z"), p("a/y")))
			must(t, f.SyncDir(p("a")))
			if names, err := f.ReadDir(p("a")); err != nil || !slices.Equal(names, []string{"b", "y"}) {
				t.Fatalf("names %v, %v", names, err)
			}
			if names, err := f.ReadDir(p("a/b")); err != nil || len(names) != 0 {
				t.Fatalf("names %v, %v", names, err)
			}
			if n, err := file.ReadAt(b[:4], 0); n != 4 || err != nil || string(b[:4]) != "hela" {
				t.Fatalf("a renamed file's handle reads %q, %v", b[:n], err)
			}
			must(t, file.Close())
			if _, err := file.WriteAt(b, 0); err == nil {
				t.Fatal("wrote to a closed file")
			}
			must(t, f.Remove(p("a/y")))
			must(t, f.RemoveAll(p("a")))
			if _, err := f.Stat(p("a")); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("removed, and there: %v", err)
			}
			unlock, err := f.Lock(p("LOCK"))
			must(t, err)
			if _, err := f.Lock(p("LOCK")); !errors.Is(err, ErrLocked) {
				t.Fatalf("locked twice: %v", err)
			}
			must(t, unlock())
			unlock, err = f.Lock(p("LOCK"))
			must(t, err)
			must(t, unlock())
			if free, err := f.Free(dir); err != nil || free <= 0 {
				t.Fatalf("free %d, %v", free, err)
			}
		})
	}
}

// What is written directly is there for other handles, and what no disk takes directly is refused by the simulated one.
func TestDirect(t *testing.T) {
	for name, f := range map[string]FS{
		"os": OS(), "mem": NewMem(1), "inject": Inject(NewMem(1), func(Op, string) error { return nil }), "quota": Quota(NewMem(1), 1<<30),
	} {
		t.Run(name, func(t *testing.T) {
			dir := "base"
			if name == "os" {
				dir = t.TempDir()
			}
			must(t, f.MkdirAll(dir))
			x := filepath.Join(dir, "x")
			file := create(t, f, x, "before")
			must(t, file.Sync())
			if !file.SetDirect() {
				if name != "os" {
					t.Fatal("refused")
				}
				t.Skip("this file system does not say that it takes direct writes")
			}
			b := Aligned(2 * DirectUnit)
			for i := range b {
				b[i] = byte(i * 7)
			}
			if _, err := file.WriteAt(b, DirectUnit); err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteAt(b[:DirectUnit], 0); err != nil {
				t.Fatal(err)
			}
			want := append(bytes.Clone(b[:DirectUnit]), b...)
			pieces := [][]byte{b[DirectUnit:], b[:DirectUnit], b, b[DirectUnit:]}
			if _, err := file.WritevAt(pieces[:2], 3*DirectUnit); err != nil {
				t.Fatal(err)
			}
			must(t, file.WriteSync(pieces[2:], 5*DirectUnit))
			for _, p := range pieces {
				want = append(want, p...)
			}
			if o, ok := file.(*osFile); ok && !o.direct {
				t.Error("pieces are agreed to, and refused")
			}
			must(t, file.Sync())
			if got, _ := read(t, f, x); got != string(want) {
				t.Error("another handle reads other bytes")
			}
			in, end := Aligned(4*DirectUnit), int64(len(want))
			if n, err := file.ReadAt(in, end-2*DirectUnit); n != 2*DirectUnit || !errors.Is(err, io.EOF) || !bytes.Equal(in[:n], want[end-2*DirectUnit:]) {
				t.Errorf("the last units are read as %d bytes, %v", n, err)
			}
			if n, err := file.ReadAt(in[:DirectUnit], end-DirectUnit); n != DirectUnit || err != nil || !bytes.Equal(in[:n], want[end-DirectUnit:]) {
				t.Errorf("the last unit is read as %d bytes, %v", n, err)
			}
			if n, err := file.ReadAt(in, end); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("behind the end there are %d bytes, %v", n, err)
			}
			must(t, file.Truncate(DirectUnit+100))
			if n, err := file.ReadAt(in, 0); n != DirectUnit+100 || !errors.Is(err, io.EOF) || !bytes.Equal(in[:n], want[:n]) {
				t.Errorf("of a file that ends within a unit %d bytes are read, %v", n, err)
			}
			if name != "os" {
				for what, try := range map[string]func() error{
					"at an odd place":   func() error { _, err := file.WriteAt(b, 512); return err },
					"an odd length":     func() error { _, err := file.WriteAt(b[:512], 0); return err },
					"from an odd place": func() error { _, err := file.WriteAt(b[8:DirectUnit+8], 0); return err },
					"of two pieces": func() error {
						_, err := file.WritevAt([][]byte{b[:512], b[512:]}, 0)
						return err
					},
					"read at an odd place":  func() error { _, err := file.ReadAt(b, 512); return err },
					"read of an odd length": func() error { _, err := file.ReadAt(b[:512], 0); return err },
					"read to an odd place":  func() error { _, err := file.ReadAt(b[8:DirectUnit+8], 0); return err },
				} {
					if try() == nil {
						t.Errorf("%s: went through", what)
					}
				}
			}
			must(t, file.Close())
		})
	}
}

// Direct writes and ones through the cache, one after the other in the same units, read by another handle in between.
func TestCachedBesideDirect(t *testing.T) {
	for name, f := range map[string]FS{
		"os": OS(), "mem": NewMem(1), "inject": Inject(NewMem(1), func(Op, string) error { return nil }), "quota": Quota(NewMem(1), 1<<30),
	} {
		t.Run(name, func(t *testing.T) {
			dir := "base"
			if name == "os" {
				dir = t.TempDir()
			}
			must(t, f.MkdirAll(dir))
			x := filepath.Join(dir, "x")
			file := create(t, f, x, "")
			if !file.SetDirect() {
				t.Skip("this file system does not say that it takes direct writes")
			}
			rng := rand.New(rand.NewPCG(1, 2))
			want := make([]byte, 16*DirectUnit)
			must(t, file.Allocate(0, int64(len(want))))
			for i := range 300 {
				at, n := rng.IntN(len(want)), 0
				if i%2 == 0 {
					at = at / DirectUnit * DirectUnit
					b := Aligned(min(len(want)-at, (1+rng.IntN(3))*DirectUnit))
					n = copy(b, bytes.Repeat([]byte{byte(i)}, len(b)))
					_, err := file.WriteAt(b, int64(at))
					must(t, err)
				} else {
					n = min(len(want)-at, 1+rng.IntN(2*DirectUnit))
					b := bytes.Repeat([]byte{byte(i)}, n)
					_, err := file.WriteCached([][]byte{b[:n/2], b[n/2:]}, int64(at))
					must(t, err)
				}
				copy(want[at:], bytes.Repeat([]byte{byte(i)}, n))
				if got, _ := read(t, f, x); got != string(want) {
					t.Fatalf("write %d: another handle reads other bytes", i)
				}
			}
			must(t, errors.Join(file.Sync(), file.Close()))
			if m, ok := f.(*Mem); ok {
				must(t, errors.Join(m.SyncDir(""), m.SyncDir(dir)))
				if got, _ := read(t, m.CrashClone(nil), x); got != string(want) {
					t.Error("what was synced does not survive a crash")
				}
			}
		})
	}
}

// A system that agrees to direct writes and then refuses one gets it through its cache; so do the zeros where nothing can be allocated.
func TestDirectRefusedLate(t *testing.T) {
	for what, write := range map[string]func(File) error{
		"odd":   func(f File) error { _, err := f.WriteAt([]byte("odd"), 7); return err },
		"odds":  func(f File) error { _, err := f.WritevAt([][]byte{[]byte("od"), []byte("d")}, 7); return err },
		"zeros": func(f File) error { return zeroFill(f, 0, 2*DirectUnit) },
		"read": func(f File) error {
			b := make([]byte, 5)
			n, err := f.ReadAt(b, 1)
			if n != 5 || string(b) != "efore" {
				return fmt.Errorf("read %q, %w", b[:n], err)
			}
			return nil
		},
	} {
		t.Run(what, func(t *testing.T) {
			x := filepath.Join(t.TempDir(), "x")
			file := create(t, OS(), x, "before")
			if !file.SetDirect() {
				t.Skip("this file system does not say that it takes direct writes")
			}
			must(t, write(file))
			whole := Aligned(DirectUnit)
			copy(whole, "whole")
			_, err := file.WriteAt(whole, 2*DirectUnit)
			must(t, errors.Join(err, file.Sync()))
			want := append(make([]byte, 2*DirectUnit), whole...)
			copy(want, "before")
			if strings.HasPrefix(what, "odd") {
				copy(want[7:], "odd")
			}
			if got, _ := read(t, OS(), x); got != string(want) {
				t.Errorf("read %q", strings.Trim(got, "\x00"))
			}
			must(t, file.Close())
		})
	}
}

func TestWritevManyBuffers(t *testing.T) {
	f, err := OS().Create(filepath.Join(t.TempDir(), "x"))
	must(t, err)
	defer f.Close()
	var bufs [][]byte
	var want []byte
	for i := range 2500 { // more than one pwritev takes
		b := bytes.Repeat([]byte{byte(i)}, i%7)
		bufs, want = append(bufs, b), append(want, b...)
	}
	n, err := f.WritevAt(bufs, 5)
	got := make([]byte, len(want))
	if _, rerr := f.ReadAt(got, 5); err != nil || rerr != nil || n != int64(len(want)) || !bytes.Equal(got, want) {
		t.Fatalf("%d of %d bytes, %v, %v", n, len(want), err, rerr)
	}
}

// Synced bytes under synced names always survive; unsynced ones are kept, lost and torn, all of it in turn.
func TestCrashOutcomes(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(400) {
		m := NewMem(seed)
		must(t, m.MkdirAll("d"))
		must(t, m.SyncDir(""))
		f := create(t, m, "d/f", "")
		old := bytes.Repeat([]byte("o"), 8*SectorSize)
		_, err := f.WriteAt(old, 0)
		must(t, err)
		must(t, f.Sync())
		must(t, m.SyncDir("d"))
		for s := 2; s < 6; s++ {
			_, err = f.WriteAt([]byte("new"), int64(s*SectorSize+10))
			must(t, err)
		}
		_, err = f.WriteAt(bytes.Repeat([]byte("t"), 3*SectorSize), 8*SectorSize)
		must(t, err)
		g := create(t, m, "d/g", "g")
		must(t, g.Sync())
		must(t, m.Rename("d/g", "d/h"))
		m.Crash(nil)
		if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
			t.Fatalf("a handle outlived the crash: %v", err)
		}
		s, ok := read(t, m, "d/f")
		if !ok || len(s) < 8*SectorSize {
			t.Fatalf("seed %d: synced file has %d bytes, %v", seed, len(s), ok)
		}
		kept := 0
		for k := range 8 {
			sec := s[k*SectorSize : (k+1)*SectorSize]
			switch {
			case sec == string(old[:SectorSize]):
			case k >= 2 && k < 6 && sec[10:13] == "new" && sec[:10] == string(old[:10]) && sec[13:] == string(old[13:SectorSize]):
				kept++
			default:
				t.Fatalf("seed %d: sector %d is %q", seed, k, sec)
			}
		}
		seen[fmt.Sprintf("kept %d", kept)]++
		tail := s[8*SectorSize:]
		if len(bytes.Trim([]byte(tail), "t\x00")) > 0 {
			t.Fatalf("seed %d: tail %q", seed, tail)
		}
		switch n := bytes.Count([]byte(tail), []byte("t")); {
		case n == 3*SectorSize:
			seen["tail kept"]++
		case n == 0 && tail == "":
			seen["tail lost"]++
		case n == 0:
			seen["tail of zeros"]++
		default:
			seen["tail torn"]++
		}
		_, isG := read(t, m, "d/g")
		c, isH := read(t, m, "d/h")
		seen[fmt.Sprintf("names g=%v h=%v", isG, isH)]++
		if isH && c != "g" {
			t.Fatalf("seed %d: synced content is %q", seed, c)
		}
	}
	for _, k := range []string{"kept 0", "kept 1", "kept 2", "kept 4", "tail kept", "tail lost", "tail of zeros", "tail torn",
		"names g=false h=false", "names g=true h=false", "names g=false h=true"} {
		if seen[k] == 0 {
			t.Errorf("%q never happened: %v", k, seen)
		}
	}
	t.Log(seen)
}

// The unit that a log ends in is written directly again and again. A crash leaves each of its sectors as one of the writes had it, in any
// mixture, and so does a failed sync, which no cache hides.
func TestDirectRewriteTears(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(400) {
		m := NewMem(seed)
		f := create(t, m, "f", "")
		f.SetDirect()
		write := func(fill string) {
			b := Aligned(DirectUnit)
			copy(b, strings.Repeat(fill, DirectUnit))
			_, err := f.WriteAt(b, 0)
			must(t, err)
		}
		write("1")
		must(t, errors.Join(f.Sync(), m.SyncDir(".")))
		write("2")
		write("3")
		left, what := FS(m), "failed sync"
		if seed%2 == 0 {
			left, what = m.CrashClone(nil), "crash"
		} else {
			must(t, m.FailSync("f", nil))
		}
		got, _ := read(t, left, "f")
		kinds := map[string]bool{}
		for s := range DirectUnit / SectorSize {
			sector := got[s*SectorSize : (s+1)*SectorSize]
			if sector[:1] < "1" || sector[:1] > "3" || sector != strings.Repeat(sector[:1], SectorSize) {
				t.Fatalf("seed %d: sector %d is %.20q", seed, s, sector)
			}
			kinds[sector[:1]] = true
		}
		seen[fmt.Sprint(what, " ", slices.Sorted(maps.Keys(kinds)))]++
		if again, _ := read(t, m.CrashClone(nil), "f"); seed%2 == 1 && got != strings.Repeat("3", DirectUnit) && again != got {
			t.Fatalf("seed %d: what the disk had after the failed sync has changed", seed)
		}
	}
	for _, what := range []string{"crash", "failed sync"} {
		for _, kinds := range []string{"[1]", "[2]", "[3]", "[1 2]", "[2 3]", "[1 3]", "[1 2 3]"} {
			if seen[what+" "+kinds] == 0 {
				t.Errorf("%s: never left %s: %v", what, kinds, seen)
			}
		}
	}
}

// What WriteSync has written survives any crash, and what was there before it does not come back. A direct one leaves all else as
// little durable as it was.
func TestWriteSync(t *testing.T) {
	block := func(fill string, units int) []byte {
		b := Aligned(units * DirectUnit)
		copy(b, strings.Repeat(fill, len(b)))
		return b
	}
	for name, f := range map[string]FS{
		"os": OS(), "mem": NewMem(1), "inject": Inject(NewMem(1), func(Op, string) error { return nil }), "quota": Quota(NewMem(1), 1<<30),
	} {
		for _, direct := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " direct=", direct), func(t *testing.T) {
				dir := "base"
				if name == "os" {
					dir = t.TempDir()
				}
				must(t, f.MkdirAll(dir))
				x := filepath.Join(dir, fmt.Sprint(direct))
				file := create(t, f, x, "")
				if direct && !file.SetDirect() {
					t.Skip("this file system does not say that it takes direct writes")
				}
				must(t, file.WriteSync([][]byte{block("a", 2)}, 0))
				must(t, file.WriteSync([][]byte{block("b", 1)}, DirectUnit))
				if got, _ := read(t, f, x); got != strings.Repeat("a", DirectUnit)+strings.Repeat("b", DirectUnit) {
					t.Errorf("other bytes are read")
				}
				must(t, file.Close())
			})
		}
	}
	lost := 0
	for seed := range uint64(200) {
		m := NewMem(seed)
		f := create(t, m, "f", "")
		must(t, m.SyncDir("."))
		f.SetDirect()
		for _, w := range []struct {
			fill  string
			at, n int64
		}{{"1", 0, 4}, {"2", 5, 1}, {"3", 1, 2}} {
			_, err := f.WriteAt(block(w.fill, int(w.n)), w.at*DirectUnit)
			must(t, err)
		}
		must(t, f.WriteSync([][]byte{block("x", 1), block("x", 1)}, DirectUnit))
		got, _ := read(t, m.CrashClone(nil), "f")
		if len(got) < 3*DirectUnit || got[DirectUnit:3*DirectUnit] != strings.Repeat("x", 2*DirectUnit) {
			t.Fatalf("seed %d: what was written and synced is gone", seed)
		}
		if got[:DirectUnit] != strings.Repeat("1", DirectUnit) {
			lost++
		}
		if seed%2 == 0 {
			must(t, f.Sync())
			if got, _ := read(t, m.CrashClone(nil), "f"); got[:DirectUnit] != strings.Repeat("1", DirectUnit) || got[3*DirectUnit:4*DirectUnit] != got[:DirectUnit] ||
				got[5*DirectUnit:] != strings.Repeat("2", DirectUnit) || got[DirectUnit] != 'x' {
				t.Fatalf("seed %d: a synced file changed in the crash", seed)
			}
		}
	}
	if lost == 0 {
		t.Error("a direct WriteSync has made everything durable")
	}
}

// A rename across directories may survive by halves, but the file is never lost.
func TestCrashMove(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(200) {
		m := NewMem(seed)
		must(t, m.MkdirAll("a"))
		must(t, m.MkdirAll("b"))
		must(t, m.SyncDir(""))
		must(t, create(t, m, "a/f", "x").Sync())
		must(t, m.SyncDir("a"))
		must(t, m.Rename("a/f", "b/f"))
		switch seed % 4 {
		case 1:
			must(t, m.SyncDir("a"))
		case 2:
			must(t, m.SyncDir("b"))
		case 3:
			must(t, errors.Join(m.SyncDir("b"), m.SyncDir("a")))
		}
		m.Crash(nil)
		_, inA := read(t, m, "a/f")
		_, inB := read(t, m, "b/f")
		seen[fmt.Sprintf("%d: %v %v", seed%4, inA, inB)]++
		if !inA && !inB || seed%2 == 1 && (inA || !inB) || seed%4 == 2 && !inB {
			t.Fatalf("seed %d: in a %v, in b %v", seed, inA, inB)
		}
	}
	if len(seen) != 3+1+2+1 {
		t.Errorf("outcomes: %v", seen)
	}
}

// The two images of a file against a plain model: the current content, and after a crash with everything synced, the same.
func TestMemAgainstModel(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 4))
		m := NewMem(seed)
		f := create(t, m, "f", "")
		must(t, m.SyncDir(""))
		var cur, dur []byte
		for range 200 {
			switch rng.IntN(8) {
			case 0, 1, 2, 3:
				b := make([]byte, rng.IntN(6000))
				for i := range b {
					b[i] = byte(rng.Uint32())
				}
				off := rng.IntN(30000)
				if off+len(b) > len(cur) && len(b) > 0 {
					cur = append(cur, make([]byte, off+len(b)-len(cur))...)
				}
				copy(cur[min(off, len(cur)):], b)
				_, err := f.WriteAt(b, int64(off))
				must(t, err)
			case 4:
				n := rng.IntN(30000)
				must(t, f.Truncate(int64(n)))
				if n <= len(cur) {
					cur = cur[:n:n]
				} else {
					cur = append(cur[:len(cur):len(cur)], make([]byte, n-len(cur))...)
				}
			case 5:
				n := 1 + rng.IntN(30000)
				must(t, f.Allocate(0, int64(n)))
				if n > len(cur) {
					cur = append(cur[:len(cur):len(cur)], make([]byte, n-len(cur))...)
				}
			case 6:
				must(t, f.Sync())
				dur = bytes.Clone(cur)
			case 7:
				c := m.CrashClone(rng)
				if s, _ := read(t, c, "f"); bytes.Equal(cur, dur) && s != string(cur) {
					t.Fatalf("seed %d: a synced file changed in the crash", seed)
				}
				if rng.IntN(3) == 0 {
					s, _ := read(t, c, "f")
					m, cur, dur = c, []byte(s), []byte(s)
					var err error
					f, err = m.Open("f")
					must(t, err)
				}
			}
			if s, _ := read(t, m, "f"); s != string(cur) {
				t.Fatalf("seed %d: content differs", seed)
			}
		}
	}
}

// A file with very many unsynced writes forgets how the older ones came about, not what they wrote.
func TestPendingIsBounded(t *testing.T) {
	m := NewMem(1)
	f := create(t, m, "f", "")
	must(t, m.SyncDir(""))
	want := make([]byte, 20000)
	for i := range 3 * maxPending {
		at := (i * 7) % len(want)
		want[at] = byte(i)
		_, err := f.WriteAt(want[at:at+1], int64(at))
		must(t, err)
	}
	if n := len(m.root.names["f"].pending); n > maxPending {
		t.Fatalf("%d changes remembered", n)
	}
	must(t, f.Sync())
	s, _ := read(t, m.CrashClone(nil), "f")
	if s != string(want) {
		t.Fatal("a synced file lost writes")
	}
}

func TestMemConcurrent(t *testing.T) {
	m := NewMem(1)
	var wg sync.WaitGroup
	for k := range 6 {
		wg.Go(func() {
			name := fmt.Sprintf("f%d", k%3)
			f, err := m.Create(name)
			if err != nil {
				if f, err = m.Open(name); err != nil {
					t.Error(err)
					return
				}
			}
			b := make([]byte, 700)
			for i := range 300 {
				_, err := f.WriteAt(b, int64(i*100))
				_, rerr := f.ReadAt(b, int64(i*100))
				if err := errors.Join(err, rerr, f.Sync(), m.SyncDir("")); err != nil {
					t.Error(err)
					return
				}
				if i%50 == 0 {
					m.CrashClone(rand.New(rand.NewPCG(uint64(i), 1)))
				}
			}
		})
	}
	wg.Wait()
}

func TestInject(t *testing.T) {
	m := NewMem(1)
	boom := errors.New("boom")
	var fault error
	var on Op
	var asked []string
	f := Inject(m, func(op Op, name string) error {
		asked = append(asked, string(op)+" "+name)
		if op == on {
			return fault
		}
		return nil
	})
	file := create(t, f, "x", "0123456789")
	must(t, file.Sync())
	must(t, f.SyncDir("."))
	b := make([]byte, 3)
	on, fault = "", boom
	for op, do := range map[Op]func() error{
		OpCreate: func() error { _, err := f.Create("y"); return err }, OpOpen: func() error { _, err := f.Open("x"); return err },
		OpRemove: func() error { return f.Remove("x") }, OpRemoveAll: func() error { return f.RemoveAll("x") },
		OpRename: func() error { return f.Rename("x", "z") }, OpMkdir: func() error { return f.MkdirAll("d") },
		OpReadDir: func() error { _, err := f.ReadDir("."); return err }, OpStat: func() error { _, err := f.Stat("x"); return err },
		OpSyncDir: func() error { return f.SyncDir(".") }, OpLock: func() error { _, err := f.Lock("l"); return err },
		OpRead: func() error { _, err := file.ReadAt(b, 0); return err }, OpWrite: func() error { _, err := file.WriteAt(b, 0); return err },
		OpAllocate: func() error { return file.Allocate(0, 100) }, OpTruncate: func() error { return file.Truncate(1) },
		OpSync: file.Sync,
	} {
		on = op
		if err := do(); !errors.Is(err, boom) {
			t.Errorf("%s: %v", op, err)
		}
	}
	on = ""
	if s, _ := read(t, f, "x"); s != "0123456789" {
		t.Fatalf("a refused operation happened: %q", s)
	}
	// A short write.
	on, fault = OpWrite, &ShortWriteError{N: 4, Err: boom}
	if n, err := file.WritevAt([][]byte{[]byte("ab"), []byte("cdef")}, 0); n != 4 || !errors.Is(err, boom) {
		t.Fatalf("short write: %d, %v", n, err)
	}
	on = ""
	if s, _ := read(t, f, "x"); s != "abcd456789" {
		t.Fatalf("after a short write: %q", s)
	}
	// A sync that lies.
	on, fault = OpSync, ErrSkip
	must(t, file.Sync())
	lost := false
	for range 50 {
		s, _ := read(t, m.CrashClone(nil), "x")
		lost = lost || s == "0123456789"
	}
	if !lost {
		t.Fatal("a skipped sync was done")
	}
	if !slices.Contains(asked, "rename z") || !slices.Contains(asked, "sync x") {
		t.Fatalf("asked: %v", asked)
	}
}

func TestQuota(t *testing.T) {
	m := NewMem(1)
	must(t, m.MkdirAll("d/e"))
	create(t, m, "d/e/old", "12345")
	q := Quota(m, 100, "d")
	if q.Used() != 5 {
		t.Fatalf("used %d", q.Used())
	}
	f := create(t, q, "d/x", "")
	must(t, f.Allocate(0, 90))
	for name, do := range map[string]func() error{
		"write":    func() error { _, err := f.WriteAt(make([]byte, 10), 86); return err },
		"writev":   func() error { _, err := f.WritevAt([][]byte{make([]byte, 5), make([]byte, 5)}, 86); return err },
		"allocate": func() error { return f.Allocate(90, 6) },
		"truncate": func() error { return f.Truncate(96) },
	} {
		if err := do(); !errors.Is(err, ErrNoSpace) {
			t.Errorf("%s beyond the quota: %v", name, err)
		}
		if size, _ := f.Size(); size != 90 || q.Used() != 95 {
			t.Errorf("%s changed something: %d, %d", name, size, q.Used())
		}
	}
	_, err := f.WriteAt(make([]byte, 90), 0) // inside what is allocated
	must(t, err)
	if free, _ := q.Free("d"); free != 5 {
		t.Fatalf("free %d", free)
	}
	q.SetLimit(200)
	must(t, f.Truncate(150))
	q.SetLimit(50)
	must(t, f.Truncate(20))
	create(t, q, "d/y", "1234567")
	must(t, q.Rename("d/y", "d/e/old"))
	if q.Used() != 27 {
		t.Fatalf("used %d, want 27", q.Used())
	}
	must(t, q.Remove("d/x"))
	must(t, q.RemoveAll("d"))
	if q.Used() != 0 {
		t.Fatalf("used %d, want 0", q.Used())
	}
}

func BenchmarkMemAppendSync(b *testing.B) {
	m := NewMem(1)
	f, err := m.Create("f")
	must(b, err)
	must(b, f.Allocate(0, 64<<10))
	p := make([]byte, 300)
	off := int64(0)
	for b.Loop() {
		if _, err := f.WriteAt(p, off); err != nil {
			b.Fatal(err)
		}
		must(b, f.Sync())
		off = (off + 300) % (60 << 10)
	}
}

// TestFailSync: after a failed sync the cache goes on showing what was written, a later sync reports success, and yet a power
// loss finds it gone, unless it was written again.
func TestFailSync(t *testing.T) {
	lost, kept := 0, 0
	for seed := range uint64(40) {
		m := NewMem(seed)
		f := create(t, m, "f", "old!")
		must(t, errors.Join(f.Sync(), m.SyncDir(".")))
		overwrite := func() {
			_, err := f.WriteAt([]byte("new!"), 0)
			must(t, err)
		}
		overwrite()
		must(t, errors.Join(m.FailSync("f", nil), f.Sync()))
		if got, _ := read(t, m, "f"); got != "new!" {
			t.Fatalf("the cache shows %q", got)
		}
		switch got, _ := read(t, m.CrashClone(nil), "f"); got {
		case "old!":
			lost++
		case "new!":
			kept++
		default:
			t.Fatalf("after the power loss %q", got)
		}
		overwrite()
		must(t, f.Sync())
		if got, _ := read(t, m.CrashClone(nil), "f"); got != "new!" {
			t.Fatalf("written again, synced, and lost: %q", got)
		}
	}
	if lost == 0 || kept == 0 {
		t.Errorf("%d lost, %d kept: both must happen", lost, kept)
	}
}

// TestDamage: damage is read at once and after a power loss, and touches nothing else.
func TestDamage(t *testing.T) {
	m := NewMem(1)
	text := string(bytes.Repeat([]byte("."), pageSize-4)) + "abcdefgh"
	f := create(t, m, "f", text)
	must(t, errors.Join(f.Sync(), m.SyncDir(".")))
	before := m.CrashClone(nil)
	_, err := f.WriteAt([]byte("pending"), 2*pageSize)
	must(t, err)
	must(t, m.Damage("f", pageSize-2, []byte("XYZ")))
	for _, f := range []FS{m, m.CrashClone(nil)} {
		if got, _ := read(t, f, "f"); got[pageSize-4:pageSize+4] != "abXYZfgh" {
			t.Errorf("found %q", got[pageSize-4:pageSize+4])
		}
	}
	if got, _ := read(t, before, "f"); got != text {
		t.Errorf("a clone made earlier has %q", got[pageSize-4:])
	}
	if err := m.Damage("f", 2*pageSize, []byte("x")); err == nil {
		t.Error("what is not durable was damaged")
	}
}

// NextData may say less than there is to know, and never passes by what was written.
func TestNextData(t *testing.T) {
	dir := t.TempDir()
	for name, f := range map[string]FS{"os": OS(), "mem": NewMem(1), "injected": Inject(OS(), func(Op, string) error { return nil })} {
		if name == "mem" {
			if err := f.MkdirAll(dir); err != nil {
				t.Fatal(err)
			}
		}
		file, err := f.Create(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		const size = 4 << 20
		written := []int64{0, 100_000, 2 << 20}
		if err := file.Allocate(0, size); err != nil {
			t.Fatal(err)
		}
		for _, at := range written {
			if _, err := file.WriteAt([]byte{1}, at); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // dirty, then synced
			for off := int64(0); off <= size; off += 4096 {
				at := NextData(file, off)
				if at < off || at > size {
					t.Fatalf("%s: next data after %d is at %d of %d", name, off, at, size)
				}
				for _, w := range written {
					if w >= off && at > w {
						t.Fatalf("%s: next data after %d is at %d, and %d was written", name, off, at, w)
					}
				}
			}
			if err := file.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
