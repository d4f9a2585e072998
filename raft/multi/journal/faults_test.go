// The seven faults of tidwall/wal v1.2.1, one test each: first the fault, shown on the bare library where that is
// possible, then that the journal does not have it. Real files are mutilated, byte by byte.

package journal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/balsamq/balsa/raft"
	"github.com/tidwall/wal"
)

// bare makes a log of n entries with tidwall/wal alone and returns its one file.
func bare(t *testing.T, dir string, n int) string {
	t.Helper()
	l, err := wal.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := l.Write(uint64(i+1), fmt.Appendf(nil, "entry %d", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, segmentName(1))
}

// ramDir is a directory in memory where the machine has one: opening thousands of journals costs thousands of syncs.
func ramDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "balsa-journal-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
}

// history is a journal's directory, with what it holds after each record of its file.
type history struct {
	id     []byte
	name   string // of the wal file
	first  uint64
	data   []byte
	starts []int                             // where each record begins
	states []map[raft.GroupID]raft.HardState // before each record, and after the last
	synced []uint64                          // each record's mark
}

// makeHistory makes a journal of saves, each with its own sync, and looks at its file without closing it, so that its
// last record is not yet vouched for.
func makeHistory(t *testing.T) *history {
	t.Helper()
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{ReserveBytes: -1, MarkAfter: 1 << 40})
	for i := range 6 {
		save(t, j, raft.GroupID(1+i%3), raft.Term(i+1), raft.NodeID(i%3+1))
	}
	remove(t, j, 2)
	save(t, j, 4, 9, 3)
	return look(t, dir)
}

func look(t *testing.T, dir string) *history {
	t.Helper()
	path := walFile(t, dir)
	h := &history{id: read(t, filepath.Join(dir, idName)), name: filepath.Base(path), data: read(t, path)}
	if _, err := fmt.Sscan(strings.TrimLeft(h.name, "0"), &h.first); err != nil {
		t.Fatal(err)
	}
	rep := replay{states: make(map[raft.GroupID]raft.HardState)}
	pos := 0
	h.states = append(h.states, nil)
	res, err := scan(path, h.data, h.first, 0, func(r record) error {
		h.starts = append(h.starts, pos)
		h.synced = append(h.synced, r.synced)
		_, n, _ := nextEntry(h.data[pos:])
		pos += n
		err := rep.apply(r)
		if rep.complete {
			h.states = append(h.states, maps.Clone(rep.states))
		} else {
			h.states = append(h.states, nil)
		}
		return err
	})
	if err != nil || res.tail != tailClean {
		t.Fatal(res, err)
	}
	return h
}

// vouched is the number of records that a later one calls durable.
func (h *history) vouched() int { return int(h.synced[len(h.synced)-1] - h.first + 1) }

// recordAt is the record that the byte at pos belongs to.
func (h *history) recordAt(pos int) int {
	i, found := slices.BinarySearch(h.starts, pos)
	if !found {
		i--
	}
	return i
}

// openWith opens a journal on a directory with the given wal file.
func (h *history) openWith(t *testing.T, dir string, data []byte) (map[raft.GroupID]raft.HardState, error) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, walName, h.name), data)
	write(t, filepath.Join(dir, idName), h.id)
	return openStates(t, dir)
}

func openStates(t *testing.T, dir string) (map[raft.GroupID]raft.HardState, error) {
	t.Helper()
	j, err := Open(dir, Options{ReserveBytes: -1, SyncDir: func(string) error { return nil }})
	if err != nil {
		return nil, err
	}
	got := make(map[raft.GroupID]raft.HardState)
	for _, g := range j.Groups() {
		got[g], _ = j.Load(g)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return got, nil
}

// wantCorrupt wants damage reported at a record, by file and position, and nothing changed.
func (h *history) wantCorrupt(t *testing.T, dir, what string, data []byte, pos int, err error) {
	t.Helper()
	c, ok := errors.AsType[*CorruptError](err)
	if !ok || !errors.Is(err, ErrCorrupt) || !strings.Contains(c.File, walName) || (pos >= 0 && c.Pos != int64(pos)) {
		t.Fatalf("%s: %v; want damage at byte %d", what, err, pos)
	}
	if !bytes.Equal(read(t, filepath.Join(dir, walName, h.name)), data) {
		t.Fatalf("%s: the damaged file was changed", what)
	}
}

// Fault 1: no checksums. Every byte of the file is flipped in turn. Bytes that a later record vouches for are damage,
// reported with their place; the last record, which nobody vouches for yet, is cut and kept. Nothing else is ever read.
func TestFault1NoChecksums(t *testing.T) {
	dir := t.TempDir()
	path := bare(t, dir, 3)
	b := read(t, path)
	b[len(b)/2] ^= 4
	write(t, path, b)
	l, err := wal.Open(dir, nil)
	if err != nil {
		t.Fatal("tidwall/wal notices a flipped bit; this test is out of date:", err)
	}
	if got, _ := l.Read(2); string(got) == "entry 2" {
		t.Fatal("the flip did not hit entry 2")
	}
	_ = l.Close()

	h := makeHistory(t)
	dir = filepath.Join(ramDir(t), "j")
	for pos := range h.data {
		for _, flip := range []byte{1 << (pos % 8), 0xff} {
			data := bytes.Clone(h.data)
			data[pos] ^= flip
			rec := h.recordAt(pos)
			what := fmt.Sprintf("byte %d (record %d) ^ %#x", pos, rec, flip)
			got, err := h.openWith(t, dir, data)
			if rec < h.vouched() {
				h.wantCorrupt(t, dir, what, data, h.starts[rec], err)
				continue
			}
			if err != nil || !maps.Equal(got, h.states[rec]) {
				t.Fatalf("%s: %v, %v", what, got, err)
			}
			cut, _ := filepath.Glob(filepath.Join(dir, cutName, "*"))
			if len(cut) != 1 || !bytes.Equal(read(t, cut[0]), bytes.TrimRight(data[h.starts[rec]:], "\x00")) {
				t.Fatalf("%s: the bytes cut were not kept: %v", what, cut)
			}
		}
	}
	// With the mark of a clean close (or of an idle moment), the last save is vouched for as well.
	dir2 := t.TempDir()
	j := mustOpen(t, dir2, Options{ReserveBytes: -1})
	save(t, j, 1, 1, 1)
	save(t, j, 1, 2, 2)
	closeIt(t, j)
	h = look(t, dir2)
	last := len(h.starts) - 2
	for pos := h.starts[last]; pos < h.starts[last+1]; pos++ {
		data := bytes.Clone(h.data)
		data[pos] ^= 0x10
		_, err := h.openWith(t, dir, data)
		h.wantCorrupt(t, dir, fmt.Sprint("byte ", pos), data, h.starts[last], err)
	}
}

// Fault 2: a torn tail cannot be opened. The file is cut at every byte, and filled up with rubbish; what is left is what
// was whole. A second opening finds nothing to do.
func TestFault2TornTail(t *testing.T) {
	dir := t.TempDir()
	path := bare(t, dir, 3)
	write(t, path, read(t, path)[:len(read(t, path))-3])
	if l, err := wal.Open(dir, nil); err == nil {
		_ = l.Close()
		t.Fatal("tidwall/wal opens a torn tail; this test is out of date")
	}

	h := makeHistory(t)
	dir = filepath.Join(ramDir(t), "j")
	for n := range len(h.data) + 1 {
		for _, rubbish := range []string{"", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x00\x00\x3cBHJ\x01"} {
			if n == len(h.data) && rubbish == "" {
				continue
			}
			data := append(bytes.Clone(h.data[:n]), rubbish...)
			what := fmt.Sprintf("%d bytes and %q", n, rubbish)
			same := 0 // the rubbish may begin as the record would have gone on
			for same < min(len(data), len(h.data)) && data[same] == h.data[same] {
				same++
			}
			whole := len(h.starts)
			if same < len(h.data) {
				whole = h.recordAt(same)
			}
			got, err := h.openWith(t, dir, data)
			if h.states[whole] == nil { // into the checkpoint in front, which was durable before the file had its name
				h.wantCorrupt(t, dir, what, data, -1, err)
				continue
			}
			if err != nil || !maps.Equal(got, h.states[whole]) {
				t.Fatalf("%s: %v, %v; want %v", what, got, err, h.states[whole])
			}
			if again, err := openStates(t, dir); err != nil || !maps.Equal(again, got) {
				t.Fatalf("%s, opened again: %v, %v", what, again, err)
			}
		}
	}
}

// A write of several pages can reach the disk in any order: good records behind bad bytes are still a torn tail when
// nobody vouches for the bad ones.
func TestTornInTheMiddleOfABatch(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{ReserveBytes: -1, MarkAfter: 1 << 40})
	save(t, j, 1, 1, 1)
	before := fileSize(t, dir)
	// One batch of several records: all of them vouch for what was before the batch and for none of their own.
	recs := make([]record, 5)
	for i := range recs {
		recs[i] = record{kind: kindState, body: appendState(nil, groupState{raft.GroupID(10 + i), raft.HardState{Term: 7}})}
	}
	closeIt(t, j) // writes a mark as well
	h := look(t, dir)
	seq := h.first + uint64(len(h.starts)) - 1
	data := bytes.Clone(h.data)
	var at []int
	for i, r := range recs {
		r.id, r.seq, r.synced = idOf(t, h), seq+1+uint64(i), seq
		at = append(at, len(data))
		p := appendRecord(nil, r)
		data = append(append(data, byte(len(p))), p...)
	}
	for i := at[1]; i < at[2]; i++ {
		data[i] = 0
	}
	got, err := h.openWith(t, filepath.Join(ramDir(t), "j"), data)
	if err != nil || len(got) != 2 || got[10].Term != 7 || got[1].Term != 1 {
		t.Fatalf("%v %v (file was %d)", got, err, before)
	}
	// The same bytes, and a later record that calls them durable: damage.
	p := appendRecord(nil, record{kind: kindMark, id: idOf(t, h), seq: seq + 6, synced: seq + 5})
	data = append(append(data, byte(len(p))), p...)
	dir = filepath.Join(ramDir(t), "j")
	_, err = h.openWith(t, dir, data)
	h.wantCorrupt(t, dir, "zeroed record", data, at[1], err)
}

func idOf(t *testing.T, h *history) uint64 {
	t.Helper()
	r, _, err := nextEntry(h.data)
	if err != nil {
		t.Fatal(err)
	}
	return r.id
}

// Fault 3: a zero-filled tail is read as phantom entries. The file is continued by zeros, and zeroed from every byte on.
func TestFault3ZeroFilledTail(t *testing.T) {
	dir := t.TempDir()
	path := bare(t, dir, 3)
	write(t, path, append(read(t, path), make([]byte, 100)...))
	l, err := wal.Open(dir, nil)
	if err != nil {
		t.Fatal("tidwall/wal refuses a zero-filled tail; this test is out of date:", err)
	}
	if last, _ := l.LastIndex(); last != 103 {
		t.Fatal("tidwall/wal sees", last, "entries; this test is out of date")
	}
	_ = l.Close()

	h := makeHistory(t)
	dir = filepath.Join(ramDir(t), "j")
	all := h.states[len(h.starts)]
	for _, zeros := range []int{1, 100, 4096, 1 << 20} {
		got, err := h.openWith(t, dir, append(bytes.Clone(h.data), make([]byte, zeros)...))
		if err != nil || !maps.Equal(got, all) {
			t.Fatalf("%d zeros: %v, %v", zeros, got, err)
		}
		if _, err := os.Stat(filepath.Join(dir, cutName)); err == nil {
			t.Fatal("zeros were kept")
		}
	}
	for pos := h.starts[2]; pos < len(h.data); pos++ {
		data := append(bytes.Clone(h.data[:pos]), make([]byte, len(h.data)-pos)...)
		got, err := h.openWith(t, dir, data)
		if want := h.states[h.recordAt(pos)]; err != nil || !maps.Equal(got, want) {
			// The last bytes of a record may have been zero anyway.
			if next := h.recordAt(pos) + 1; err != nil || !bytes.Equal(data[:end(h, next)], h.data[:end(h, next)]) || !maps.Equal(got, h.states[next]) {
				t.Fatalf("zero from byte %d: %v, %v; want %v", pos, got, err, want)
			}
		}
	}
	// A phantom by the library's rules with real records behind it that vouch for what the zeros hide: damage.
	data := slices.Concat(h.data[:h.starts[3]], []byte{0}, h.data[h.starts[3]:])
	_, err = h.openWith(t, dir, data)
	h.wantCorrupt(t, dir, "an empty entry in the middle", data, h.starts[3], err)
	// Records that are whole but not in their place are phantoms too.
	for name, data := range map[string][]byte{
		"one record missing": slices.Concat(h.data[:h.starts[3]], h.data[h.starts[4]:]),
		"one record twice":   slices.Concat(h.data[:h.starts[4]], h.data[h.starts[3]:]),
		"two exchanged":      slices.Concat(h.data[:h.starts[3]], h.data[h.starts[4]:h.starts[5]], h.data[h.starts[3]:h.starts[4]], h.data[h.starts[5]:]),
	} {
		_, err := h.openWith(t, dir, data)
		h.wantCorrupt(t, dir, name, data, -1, err)
	}
	// Records of another journal, left in a reused file.
	other := makeHistory(t)
	got, err := h.openWith(t, dir, slices.Concat(h.data, other.data[other.starts[len(other.starts)-1]:]))
	if err != nil || !maps.Equal(got, all) {
		t.Fatal("records of another journal:", got, err)
	}
}

// end is where record i begins: the end of the one before.
func end(h *history, i int) int {
	if i < len(h.starts) {
		return h.starts[i]
	}
	return len(h.data)
}

// Fault 4: a failed write stays in memory, so that the next write puts it, or its gap, on disk. The journal writes
// nothing after a failure, and a reopened one shows nothing of it.
func TestFault4FailedWriteInMemory(t *testing.T) {
	// Bare: a write fails (the descriptor is closed beneath it), and yet the entry is there to be read.
	dir := t.TempDir()
	l, err := wal.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Write(1, []byte("one")); err != nil {
		t.Fatal(err)
	}
	restore := breakDescriptor(t, filepath.Join(dir, segmentName(1)))
	if err := l.Write(2, []byte("never written")); err == nil {
		t.Fatal("the write did not fail")
	}
	restore()
	if err := l.Write(2, []byte("written")); err != nil {
		t.Fatal(err)
	}
	if got, _ := l.Read(2); string(got) != "never written" {
		t.Fatalf("tidwall/wal reads %q after a failed write; this test is out of date", got)
	}
	_ = l.Close()

	dir = t.TempDir()
	j := mustOpen(t, dir, Options{ReserveBytes: -1})
	save(t, j, 1, 1, 1)
	restore = breakDescriptor(t, walFile(t, dir))
	if err := trySave(j, 1, 2, 2); !errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
	restore()
	if err := trySave(j, 1, 3, 3); !errors.Is(err, ErrFailed) {
		t.Fatal("a save after a failed write:", err)
	}
	want(t, j, 1, 1, 1)
	_ = j.Close()
	j = mustOpen(t, dir, Options{})
	want(t, j, 1, 1, 1)
}

// Fault 5: concurrent reads race. The library is shown in a process of its own, which crashes (or which the race detector
// stops, when this test runs under it); the journal is read and written by many at once in this one.
func TestFault5RacingReads(t *testing.T) {
	if os.Getenv("BALSA_TEST_RACING_READS") != "" {
		raceBare(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestFault5RacingReads$", "-test.count=1")
	cmd.Env = append(os.Environ(), "BALSA_TEST_RACING_READS=1")
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Log("the library's race did not show this time")
	} else if !bytes.Contains(out, []byte("DATA RACE")) && !bytes.Contains(out, []byte("panic")) && !bytes.Contains(out, []byte("fatal error")) && !bytes.Contains(out, []byte("wrong entry")) {
		t.Fatalf("the library failed in an unknown way: %v\n%s", err, out)
	}

	j := mustOpen(t, t.TempDir(), Options{CheckpointBytes: 2 << 10})
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			last := make(map[raft.GroupID]raft.Term)
			for !stop.Load() {
				for _, g := range j.Groups() {
					hs, ok := j.Load(g)
					if !ok || hs.Term < last[g] || hs.Vote != raft.NodeID(hs.Term) {
						t.Errorf("group %d: %+v %v after term %d", g, hs, ok, last[g])
						return
					}
					last[g] = hs.Term
				}
			}
		})
	}
	for i := range 300 {
		save(t, j, raft.GroupID(1+i%7), raft.Term(i+1), raft.NodeID(i+1))
	}
	stop.Store(true)
	wg.Wait()
}

func raceBare(t *testing.T) {
	l, err := wal.Open(t.TempDir(), &wal.Options{SegmentSize: 64, SegmentCacheSize: 1, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	const n = 200
	for i := range n {
		if err := l.Write(uint64(i+1), fmt.Appendf(nil, "entry %d", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 3000 {
				at := uint64((i*31+g*17)%n + 1)
				if got, err := l.Read(at); err != nil || string(got) != fmt.Sprintf("entry %d", at) {
					panic(fmt.Sprintf("wrong entry: %q %v", got, err))
				}
			}
		})
	}
	wg.Wait()
}

// Fault 6: no lock. Two logs open one directory, and write over each other.
func TestFault6NoLock(t *testing.T) {
	dir := t.TempDir()
	bare(t, dir, 1)
	a, err := wal.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := wal.Open(dir, nil)
	if err != nil {
		t.Fatal("tidwall/wal takes a lock; this test is out of date:", err)
	}
	defer b.Close()

	dir = t.TempDir()
	j := mustOpen(t, dir, Options{})
	save(t, j, 1, 1, 1)
	before := read(t, walFile(t, dir))
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	if !bytes.Equal(before, read(t, walFile(t, dir))) {
		t.Fatal("the refused one has touched the file")
	}
	closeIt(t, j)
	j = mustOpen(t, dir, Options{})
	want(t, j, 1, 1, 1)
}

// Fault 7: no directory is ever synced. (The library has no call that could: its source opens no directory. Its own
// steps cannot be watched from here.) Whenever a save is acknowledged, the names in the directories are those of the last
// sync of each.
func TestFault7DirectoryNotSynced(t *testing.T) {
	dir := t.TempDir()
	durable := make(map[string][]string)
	var mu sync.Mutex
	var syncs int
	names := func(d string) []string {
		ents, err := os.ReadDir(d)
		if err != nil {
			t.Error(err)
		}
		var ns []string
		for _, e := range ents {
			if e.Name() != lockName && e.Name() != reserveName { // neither carries a promise
				ns = append(ns, e.Name())
			}
		}
		return ns
	}
	o := Options{CheckpointBytes: 1 << 10, SyncDir: func(d string) error {
		mu.Lock()
		defer mu.Unlock()
		durable[d] = names(d)
		syncs++
		return syncDir(d)
	}}
	check := func(when string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		for _, d := range []string{dir, filepath.Join(dir, walName)} {
			if now := names(d); !slices.Equal(now, durable[d]) {
				t.Fatalf("%s: %s holds %v, synced were %v", when, d, now, durable[d])
			}
		}
	}
	j := mustOpen(t, dir, o)
	check("after creation")
	file := walFile(t, dir)
	for i := range 100 {
		c := make(chan error, 1)
		j.Save(1, raft.HardState{Term: raft.Term(i + 1)}, func(err error) {
			check("at an acknowledgement")
			c <- err
		})
		if err := <-c; err != nil {
			t.Fatal(err)
		}
	}
	closeIt(t, j)
	if walFile(t, dir) == file {
		t.Fatal("no checkpoint came by")
	}
	if before := syncs; before < 10 {
		t.Fatalf("only %d syncs of directories", before)
	}
	// A sync of a directory that fails ends the journal like any other.
	dir2 := t.TempDir()
	broken := errors.New("broken")
	var fail atomic.Bool
	j = mustOpen(t, dir2, Options{CheckpointBytes: 1 << 10, SyncDir: func(d string) error {
		if fail.Load() {
			return broken
		}
		return syncDir(d)
	}})
	fail.Store(true)
	err := error(nil)
	for i := 0; err == nil && i < 200; i++ {
		err = trySave(j, 1, raft.Term(i+1), 1)
	}
	if !errors.Is(err, broken) || !errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
}
