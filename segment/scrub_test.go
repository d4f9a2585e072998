// Scrubbing finds what rotted, wherever it is, and nothing else: not in what is void, not in what is not known to be durable,
// and not in what goes away meanwhile.

package segment

import (
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// walkAll steps through a walk to its end, and returns what was read and the first error.
func walkAll(t *testing.T, s *Scrub, n int64) (read int64, err error) {
	t.Helper()
	for range 1 << 16 {
		k, e := s.Step(n)
		read += k
		if err == nil {
			err = e
		}
		if errors.Is(e, ErrCorrupt) || errors.Is(e, ErrClosed) || e == nil && k == 0 {
			return read, err
		}
	}
	t.Fatal("the walk does not end")
	return 0, nil
}

// Each bit of a log of several files is flipped in turn (one in each byte): what a mark proves to have been durable is found
// damaged, and reported once; what is void, or proven by nothing, is left alone.
func TestScrubFindsEveryFlip(t *testing.T) {
	m := vfs.NewMem(1)
	o := Options{SegmentBytes: 1500, FirstExtent: 4096}
	var said int
	o.OnDamage = func(error) { said++ }
	l := mustOpen(t, m, o)
	for l.Segments() < 3 {
		mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 2, 200))
		mustSync(t, l)
	}
	mustAppend(t, l, 2, records(l, 2, l.LastIndex(), 2, 200)) // what it overrules is void
	mustSync(t, l)
	mustSync(t, l) // the mark
	total, err := walkAll(t, l.Scrub(0), 1)
	if err != nil || said != 0 {
		t.Fatal("damage where there is none:", err)
	}
	if big, err := walkAll(t, l.Scrub(0), 1<<20); err != nil || big != total {
		t.Fatalf("%d bytes in small steps, %d in large ones, %v", total, big, err)
	}
	segs := append([]*seg(nil), l.segs...)
	found, void := 0, 0
	for k, s := range segs {
		name := path.Join(testDir, s.name)
		full := contents(t, m, testDir)[name]
		upTo := s.last
		if k == len(segs)-1 {
			upTo = min(upTo, l.marked)
		}
		// Where the entries that are to be verified end.
		w := fileWindow{f: openFile(t, m, name), size: s.size}
		end := int64(SegmentHeaderSize)
		scan, err := scanSegment(&w, testGroup, &s.segmentHeader, upTo, func(pos int64, r *record) { end = pos + int64(len(r.Frame)) })
		if err != nil || scan.bad != nil {
			t.Fatal(err, scan.bad)
		}
		for pos := range scan.end {
			overwrite(t, m, name, pos, []byte{full[pos] ^ 1<<(pos%8)})
			said = 0
			_, err := walkAll(t, l.Scrub(0), 700)
			if pos < end {
				found++
				if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), s.name) || said != 1 {
					t.Fatalf("%s at %d (entries end at %d): %v, reported %d times", s.name, pos, end, err, said)
				}
			} else if void++; err != nil || said != 0 {
				t.Fatalf("%s at %d, which is void (entries end at %d): %v", s.name, pos, end, err)
			}
			overwrite(t, m, name, pos, full[pos:pos+1])
			l.mu.Lock()
			l.readDamage = nil
			l.mu.Unlock()
		}
	}
	if found == 0 || void == 0 {
		t.Fatalf("%d bytes that count, %d that are void", found, void)
	}
}

func openFile(t *testing.T, m vfs.FS, name string) vfs.File {
	t.Helper()
	f, err := m.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// A walk goes on while the log is written, cut at both ends and rolled, is begun again where it was, and ends with the log.
func TestScrubOfALivingLog(t *testing.T) {
	m := vfs.NewMem(1)
	l := mustOpen(t, m, Options{SegmentBytes: 1500, FirstExtent: 4096, OnDamage: func(err error) { t.Error(err) }})
	grow := func(from raft.Index, term raft.Term) {
		t.Helper()
		mustAppend(t, l, term, records(l, term, from, 5, 200))
		mustSync(t, l)
	}
	step := func(s *Scrub) raft.Index {
		t.Helper()
		if _, err := s.Step(300); err != nil {
			t.Fatal(err)
		}
		return s.At()
	}
	for range 4 {
		grow(l.LastIndex()+1, 1)
	}
	s := l.Scrub(0)
	if at := step(s); at < 2 || at > 6 {
		t.Fatalf("one step verified up to %d", at)
	}
	mustSave(t, l, 12)
	if err := l.TruncatePrefix(12); err != nil {
		t.Fatal(err)
	}
	if at := step(s); at <= 12-2 {
		t.Fatalf("at %d of a log that begins at %d", at, l.FirstIndex())
	}
	grow(l.LastIndex()-2, 2) // over the end of a file
	grow(l.LastIndex()+1, 2)
	if _, err := walkAll(t, s, 300); err != nil {
		t.Fatal(err)
	}
	mustSync(t, l)
	if at := l.LastIndex() + 1; s.At() < at-6 {
		t.Fatalf("the walk ends at %d, the log at %d", s.At(), at-1)
	}
	// Begun again in the middle: no more than the file that it is in is read twice.
	all, err := walkAll(t, l.Scrub(0), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if part, err := walkAll(t, l.Scrub(l.LastIndex()), 1<<20); err != nil || part == 0 || part >= all {
		t.Fatalf("%d of %d bytes from the middle on, %v", part, all, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Step(1); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

// A file that cannot be read is no damage; the walk goes on behind it.
func TestScrubPassesOverWhatCannotBeRead(t *testing.T) {
	broken := ""
	m := vfs.Inject(vfs.NewMem(1), func(op vfs.Op, name string) error {
		if op == vfs.OpRead && path.Base(name) == broken {
			return errors.New("the disk does not answer")
		}
		return nil
	})
	l := mustOpen(t, m, Options{SegmentBytes: 1500, FirstExtent: 4096, OnDamage: func(err error) { t.Error(err) }})
	for l.Segments() < 4 {
		mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 2, 200))
		mustSync(t, l)
	}
	all, err := walkAll(t, l.Scrub(0), 400)
	if err != nil {
		t.Fatal(err)
	}
	broken = l.segs[1].name
	rest, err := walkAll(t, l.Scrub(0), 400)
	if err == nil || errors.Is(err, ErrCorrupt) || rest == 0 || all-rest != l.segs[1].size-SegmentHeaderSize {
		t.Fatalf("%d of %d bytes, %d in the file that cannot be read: %v", rest, all, l.segs[1].size, err)
	}
}
