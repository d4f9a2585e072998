// Fuzz targets: every decoder of bytes from disk or from a peer.

package segment

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

func seedEntries(n int) (frames []byte, recs []record) {
	rng := rand.New(rand.NewPCG(1, 2))
	base := Offset(0)
	for i := range n {
		e := raft.Entry{Term: 1, Index: raft.Index(i + 1), Type: raft.EntryRecords, Payload: testBatch(rng, base, 1, 5, 10)}
		frames = AppendFrame(frames, testGroup, &e, base, 1)
		recs = append(recs, record{Entry: e, base: base, records: 1})
		base++
	}
	return frames, recs
}

func FuzzFrame(f *testing.F) {
	b, recs := seedEntries(2)
	f.Add(b)
	f.Add(recs[0].Frame)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeFrame(testGroup, b)
		if err != nil {
			return
		}
		e := r.Entry
		if again := AppendFrame(nil, testGroup, &e, r.base, r.records); !bytes.Equal(again, b) {
			t.Fatalf("decoded and framed again it is another frame")
		}
	})
}

// FuzzSegment opens a log whose only segment is the given bytes (with checksums as they are) and goes on with it.
func FuzzSegment(f *testing.F) {
	m := vfs.NewMem(1)
	l := mustOpen(f, m, Options{})
	mustAppend(f, l, 1, records(l, 1, 1, 3, 20))
	mustSync(f, l)
	mustSync(f, l)
	name := testDir + "/" + l.segs[0].name
	b := contents(f, m, testDir)[name][:l.segs[0].size]
	f.Add(b, uint16(0), byte(0))
	f.Add(b, uint16(SegmentHeaderSize), byte(1))
	f.Add(b[:len(b)-20], uint16(200), byte(7))
	_, _, _, padded := paddedLog(f)
	f.Add(padded, uint16(0), byte(0))
	f.Add(padded, uint16(SegmentHeaderSize+8), byte(1))
	f.Fuzz(func(t *testing.T, b []byte, at uint16, flip byte) {
		if len(b) > 1<<16 {
			return
		}
		b = bytes.Clone(b)
		if int(at) < len(b) {
			b[at] ^= flip
		}
		m := vfs.NewMem(1)
		if err := m.MkdirAll(testDir); err != nil {
			t.Fatal(err)
		}
		file, err := m.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		l, err := Open(m, testDir, testGroup, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if es, err := l.Entries(l.FirstIndex(), l.LastIndex()+1, 1<<20); err != nil || len(es) != int(l.LastIndex()+1-l.FirstIndex()) {
			t.Fatalf("[%d, %d]: %d entries, %v", l.FirstIndex(), l.LastIndex(), len(es), err)
		}
		last := l.LastIndex()
		term, err := l.Term(last)
		if err != nil {
			t.Fatal(err)
		}
		if term == raft.MaxTerm || last > 1<<40 || l.NextOffset() > 1<<40 {
			return
		}
		mustAppend(t, l, term+1, records(l, term+1, last+1, 1, 10))
		mustSync(t, l)
		l2, err := Open(m, testDir, testGroup, Options{})
		if err != nil || l2.LastIndex() != last+1 {
			t.Fatalf("reopened: %v", err)
		}
		_ = Dump(m, testDir, discard{}, DumpOptions{Frames: true})
	})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func FuzzIndexFile(f *testing.F) {
	si := segmentIndex{generation: 1, first: 1, last: 9, next: 5, size: 900, index: []indexEntry{{1, 0, 120, 3}, {5, 2, 300, 9}},
		epochs: []epoch{{1, 1, 0}, {3, 4, 2}}, configs: []raft.Index{2, 7}}
	f.Add(si.encode(testGroup))
	f.Fuzz(func(t *testing.T, b []byte) {
		si, err := decodeIndex(testGroup, b)
		if err == nil && !bytes.Equal(si.encode(testGroup), b) {
			t.Fatal("decoded and encoded again it is another file")
		}
	})
}

func FuzzMeta(f *testing.F) {
	m := meta{first: 9, prevTerm: 2, start: 7, floor: 3, damaged: 20, epochs: []epoch{{1, 1, 0}, {2, 4, 2}}}
	f.Add(m.encode(testGroup))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(testGroup, b)
		if err == nil && !bytes.Equal(m.encode(testGroup), b) {
			t.Fatal("decoded and encoded again it is another file")
		}
	})
}

func FuzzPart(f *testing.F) {
	p := receiving{snap: raft.Snapshot{Meta: raft.SnapshotMeta{Index: 9, Term: 3}, Size: 1000, Sum: 77}, at: snapshotHeaderSize + 2*memberSize, got: 600}
	f.Add(p.encode(testGroup))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Once as it is, and once with a checksum that holds, so that what follows it is reached.
		for range 2 {
			if p, err := decodePart(testGroup, b); err == nil {
				if !bytes.Equal(p.encode(testGroup), b[:partHeaderSize]) {
					t.Fatal("decoded and encoded again it is another header")
				}
				// What comes next is written by these. Read into memory is no more than MaxSnapshotSize, see finishPart.
				if p.got < 0 || p.got > p.snap.Size || p.snap.Size > maxWholeSize || p.at < snapshotHeaderSize || p.at > maxSnapshotHead {
					t.Fatalf("%d of %d bytes at %d", p.got, p.snap.Size, p.at)
				}
			}
			if len(b) < partHeaderSize {
				return
			}
			b = bytes.Clone(b)
			binary.LittleEndian.PutUint32(b[4:], crc32.Update(groupSeed(testGroup)^partMagic, castagnoli, b[8:partHeaderSize]))
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	st := logState{next: 7, epochs: []epoch{{1, 1, 0}, {2, 4, 2}}, state: []byte("state")}
	sm := raft.SnapshotMeta{Index: 5, Term: 2, Conf: raft.ConfState{Voters: []raft.Member{{ID: 1, Incarnation: 2}}, Learners: []raft.Member{{ID: 4}}}}
	f.Add(bytes.Join(encodeSnapshotFile(testGroup, &sm, 3, st.encode(testGroup)), nil))
	f.Add(st.encode(testGroup))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, floor, err := decodeSnapshotFile(testGroup, b); err == nil {
			if !bytes.Equal(bytes.Join(encodeSnapshotFile(testGroup, &s.Meta, floor, s.Data), nil), b) {
				t.Fatal("decoded and encoded again it is another file")
			}
		}
		if st, err := decodeLogState(testGroup, b); err == nil && !bytes.Equal(st.encode(testGroup), b) {
			t.Fatal("decoded and encoded again it is another state")
		}
	})
}

func FuzzNote(f *testing.F) {
	f.Add(encodeNote(testGroup, "a boot"))
	f.Add(encodeNote(testGroup, ""))
	f.Fuzz(func(t *testing.T, b []byte) {
		if boot, err := decodeNote(testGroup, b); err == nil && len(b) != noteHeaderSize+len(boot) {
			t.Fatalf("%d bytes name a boot of %d", len(b), len(boot))
		}
	})
}
