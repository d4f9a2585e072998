// Everything that a crash can leave in the directory: interrupted creations, interrupted truncations in every state that
// a file system may show after a power loss, lost files; full disks; and the fuzzed parsers.

package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/tidwall/wal"
)

// truncation is a directory before, and the files of, a checkpoint.
type truncation struct {
	id       []byte
	oldName  string
	old      []byte // the old file, the checkpoint at its end
	newName  string
	new      []byte // the new file: the checkpoint
	expected map[raft.GroupID]raft.HardState
}

// makeTruncation catches the moment before TruncateFront, and what comes out of it.
func makeTruncation(t *testing.T) *truncation {
	t.Helper()
	dir := t.TempDir()
	tr := &truncation{expected: make(map[raft.GroupID]raft.HardState)}
	caught := make(chan struct{}) // closed by the owner when old has been caught
	o := Options{ReserveBytes: -1, CheckpointBytes: 2 << 10, MarkAfter: 1 << 40, openWAL: func(path string, o *wal.Options) (walLog, error) {
		l, err := wal.Open(path, o)
		return &spyLog{Log: l, before: func() {
			tr.oldName, tr.old = filepath.Base(walFile(t, dir)), read(t, walFile(t, dir))
			close(caught)
		}}, err
	}}
	j := mustOpen(t, dir, o)
	for i := 0; ; i++ {
		save(t, j, raft.GroupID(i%5+1), raft.Term(i+1), raft.NodeID(i%3+1))
		select {
		case <-caught:
		default:
			if i > 1000 {
				t.Fatal("no checkpoint")
			}
			continue
		}
		break
	}
	closeIt(t, j) // and with it TruncateFront has returned
	tr.id = read(t, filepath.Join(dir, idName))
	// Cut the new file out of the old one: from the last begin of a checkpoint on.
	pos, at, first := 0, 0, uint64(0)
	_, err := scan("", tr.old, 1, 0, func(r record) error {
		switch r.kind {
		case kindBegin:
			at, first = pos, r.seq
		case kindState: // what the checkpoint must amount to, found without it
			st := decodeState(r.body)
			tr.expected[st.group] = st.hs
		}
		_, n, _ := nextEntry(tr.old[pos:])
		pos += n
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	tr.newName, tr.new = segmentName(first), tr.old[at:]
	if _, err := os.Stat(filepath.Join(dir, walName, tr.newName)); err != nil {
		t.Fatal("the new file is called otherwise:", err)
	}
	return tr
}

type spyLog struct {
	*wal.Log
	before func()
}

func (l *spyLog) TruncateFront(i uint64) error {
	if l.before != nil {
		l.before()
		l.before = nil
	}
	return l.Log.TruncateFront(i)
}

// Every combination of the steps of TruncateFront that a power loss can keep, with the guard in place as it is during
// all of them; and after it, when the guard's removal was kept or lost.
func TestInterruptedTruncations(t *testing.T) {
	tr := makeTruncation(t)
	old, final := filepath.Join(walName, tr.oldName), filepath.Join(walName, tr.newName)
	start, temp := final+".START", final+".START.TEMP"
	guard := guardPrefix + tr.oldName
	later := slices.Clone(tr.new)
	p := appendRecord(nil, record{kind: kindState, id: idIn(t, tr.new), seq: lastSeq(t, tr) + 1, synced: lastSeq(t, tr),
		body: appendState(nil, groupState{77, raft.HardState{Term: 5}})})
	later = append(append(later, byte(len(p))), p...)
	for name, c := range map[string]struct {
		files map[string][]byte
		want  int // groups; 0: the checkpoint's
	}{
		"not begun":                       {map[string][]byte{old: tr.old}, 0},
		"guarded":                         {map[string][]byte{old: tr.old, guard: tr.old}, 0},
		"half of the new file":            {map[string][]byte{old: tr.old, guard: tr.old, temp: tr.new[:30]}, 0},
		"an empty new file":               {map[string][]byte{old: tr.old, guard: tr.old, temp: {}}, 0},
		"whole, not renamed":              {map[string][]byte{old: tr.old, guard: tr.old, temp: tr.new}, 0},
		"renamed to START":                {map[string][]byte{old: tr.old, guard: tr.old, start: tr.new}, 0},
		"renamed to START, guard lost":    {map[string][]byte{old: tr.old, start: tr.new}, 0},
		"old removed":                     {map[string][]byte{guard: tr.old, start: tr.new}, 0},
		"old removed, START unrenamed":    {map[string][]byte{guard: tr.old, temp: tr.new}, 0},
		"old removed, nothing else kept":  {map[string][]byte{guard: tr.old}, 0},
		"old removed, half a TEMP":        {map[string][]byte{guard: tr.old, temp: tr.new[:30]}, 0},
		"done":                            {map[string][]byte{guard: tr.old, final: tr.new}, 0},
		"done, old still there":           {map[string][]byte{guard: tr.old, final: tr.new, old: tr.old}, 0},
		"done, old there, guard gone":     {map[string][]byte{final: tr.new, old: tr.old}, 0},
		"done, guard gone":                {map[string][]byte{final: tr.new}, 0},
		"life went on, guard still there": {map[string][]byte{final: later, guard: tr.old}, 6},
		"life went on, torn, guard there": {map[string][]byte{final: append(slices.Clone(later), 1, 2, 3), guard: tr.old}, 6},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(ramDir(t), "j")
			write(t, filepath.Join(dir, idName), tr.id)
			for f, b := range c.files {
				write(t, filepath.Join(dir, f), b)
			}
			for range 2 {
				got, err := openStates(t, dir)
				if err != nil {
					t.Fatal(err)
				}
				if c.want > 0 {
					if len(got) != c.want || got[77].Term != 5 {
						t.Fatal(got)
					}
					delete(got, 77)
				}
				if !maps.Equal(got, tr.expected) {
					t.Fatalf("%v; want %v", got, tr.expected)
				}
				if m, _ := filepath.Glob(filepath.Join(dir, guardPrefix+"*")); len(m) > 0 {
					t.Fatal("guard left behind:", m)
				}
				walFile(t, dir) // exactly one
			}
		})
	}
	// What no interrupted truncation explains is refused.
	broken := slices.Clone(tr.new)
	broken[len(broken)/2] ^= 1
	for name, files := range map[string]map[string][]byte{
		"nothing at all":             {},
		"only a TEMP":                {temp: tr.new},
		"START is damaged":           {old: tr.old, start: broken},
		"START is short":             {old: tr.old, start: tr.new[:len(tr.new)-1]},
		"the newer file is damaged":  {old: tr.old, final: broken},
		"the newer file is short":    {old: tr.old, final: tr.new[:len(tr.new)-1]},
		"the only file is damaged":   {final: broken},
		"the only file is empty":     {final: {}},
		"the only file is zero":      {final: make([]byte, 4096)},
		"START beside the new file":  {final: tr.new, start: tr.new},
		"two STARTs":                 {start: tr.new, old + ".START": tr.old},
		"an END":                     {final: tr.new, old + ".END": tr.old},
		"another name":               {filepath.Join(walName, segmentName(5)): tr.new},
		"a guard of a strange name":  {guardPrefix + "x": tr.old},
		"the guard itself is broken": {guard: broken},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(ramDir(t), "j")
			write(t, filepath.Join(dir, idName), tr.id)
			for f, b := range files {
				write(t, filepath.Join(dir, f), b)
			}
			if got, err := openStates(t, dir); !errors.Is(err, ErrCorrupt) {
				t.Fatal(got, err)
			}
			for f, b := range files {
				if f == guard || f == temp {
					continue
				}
				if now, err := os.ReadFile(filepath.Join(dir, f)); err != nil || !bytes.Equal(now, b) {
					t.Fatal("changed:", f, err)
				}
			}
		})
	}
}

func idIn(t *testing.T, data []byte) uint64 {
	t.Helper()
	r, _, err := nextEntry(data)
	if err != nil {
		t.Fatal(err)
	}
	return r.id
}

func lastSeq(t *testing.T, tr *truncation) uint64 {
	t.Helper()
	var first uint64
	if _, err := fmt.Sscanf(tr.newName, "%d", &first); err != nil {
		t.Fatal(err)
	}
	res, err := scan("", tr.new, first, 0, func(record) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return res.last
}

// A crash while the journal is made: whatever part of it is there, the next start makes it.
func TestInterruptedCreation(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{ReserveBytes: -1})
	closeIt(t, j)
	name := filepath.Join(walName, segmentName(1))
	genesis := read(t, filepath.Join(dir, name))[:genesisLen] // a mark follows
	if res, err := scan("", genesis, 1, 0, func(record) error { return nil }); err != nil || res.tail != tailClean || res.last != 2 {
		t.Fatal("genesisLen is wrong:", res, err)
	}
	for n := range len(genesis) + 1 {
		for _, b := range [][]byte{genesis[:n], append(slices.Clone(genesis[:n]), make([]byte, len(genesis)-n)...)} {
			dir := filepath.Join(ramDir(t), "j")
			write(t, filepath.Join(dir, name), b)
			if got, err := openStates(t, dir); err != nil || len(got) > 0 {
				t.Fatal(n, got, err)
			}
			if _, err := openStates(t, dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Without its ID, a journal with something in it is taken as it is, and a damaged one is not taken for a new one.
	h := makeHistory(t)
	dir = filepath.Join(ramDir(t), "j")
	write(t, filepath.Join(dir, name), h.data)
	if got, err := openStates(t, dir); err != nil || !maps.Equal(got, h.states[len(h.starts)]) {
		t.Fatal(got, err)
	}
	for _, b := range [][]byte{make([]byte, 4096), bytes.Repeat([]byte("x"), 4096), h.data[10:]} {
		dir = filepath.Join(ramDir(t), "j")
		write(t, filepath.Join(dir, name), b)
		if _, err := openStates(t, dir); !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	}
	for pos := range h.id {
		id := slices.Clone(h.id)
		id[pos] ^= 1
		dir = filepath.Join(ramDir(t), "j")
		write(t, filepath.Join(dir, name), h.data)
		write(t, filepath.Join(dir, idName), id)
		if _, err := openStates(t, dir); !errors.Is(err, ErrCorrupt) {
			t.Fatal(pos, err)
		}
	}
}

// What a newer version wrote is neither cut nor called damaged.
func TestNewerVersion(t *testing.T) {
	h := makeHistory(t)
	seq := h.first + uint64(len(h.starts))
	for name, change := range map[string]func(p []byte){
		"version": func(p []byte) { p[3] = 2 },
		"kind":    func(p []byte) { p[4] = 99 },
		"flags":   func(p []byte) { p[5] = 1 },
	} {
		p := appendRecord(nil, record{kind: kindMark, id: idOf(t, h), seq: seq, synced: seq - 1})
		change(p)
		binary.LittleEndian.PutUint32(p[36:], recordCRC(p))
		data := append(append(slices.Clone(h.data), byte(len(p))), p...)
		dir := filepath.Join(ramDir(t), "j")
		if _, err := h.openWith(t, dir, data); !errors.Is(err, errNewVersion) {
			t.Fatal(name, err)
		}
		if !bytes.Equal(read(t, walFile(t, dir)), data) {
			t.Fatal(name, "was changed")
		}
	}
}

// The disk is full: the reserve is given up, the half-written batch is taken back, and votes go on.
func TestFullDiskLivesOnReserve(t *testing.T) {
	var l *faultyLog
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{ReserveBytes: 1 << 20, openWAL: faulty(&l)})
	reserve := filepath.Join(dir, reserveName)
	if fi, err := os.Stat(reserve); err != nil || fi.Size() != 1<<20 {
		t.Fatal(fi, err)
	}
	save(t, j, 1, 1, 1)
	full := error(&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
	l.fullFor.Store(1)
	l.full.Store(&full)
	save(t, j, 1, 2, 2)
	save(t, j, 2, 3, 3)
	if _, err := os.Stat(reserve); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the reserve is still there:", err)
	}
	if l.opens.Load() < 2 {
		t.Fatal("tidwall/wal was not reopened after a failed write")
	}
	// Full again, and nothing left to give: that is the end, and it says why.
	l.fullFor.Store(-1)
	if err := trySave(j, 1, 4, 1); !errors.Is(err, ErrFailed) || !errors.Is(err, vfs.ErrNoSpace) {
		t.Fatal(err)
	}
	_ = j.Close()
	j = mustOpen(t, dir, Options{ReserveBytes: 1 << 20})
	want(t, j, 1, 2, 2)
	want(t, j, 2, 3, 3)
	if _, err := os.Stat(reserve); err != nil {
		t.Fatal("the reserve did not come back:", err)
	}
}

// A checkpoint for which there is no room is put off, not fatal.
func TestFullDiskPutsOffCheckpoint(t *testing.T) {
	var l *faultyLog
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{ReserveBytes: -1, CheckpointBytes: 2 << 10, openWAL: faulty(&l)})
	full := error(&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
	l.truncate.Store(&full)
	for i := range 200 {
		save(t, j, 1, raft.Term(i+1), 1)
	}
	grown := fileSize(t, dir)
	l.truncate.Store(nil)
	for i := range 200 {
		save(t, j, 1, raft.Term(i+201), 1)
	}
	closeIt(t, j)
	if now := fileSize(t, dir); grown < 10<<10 || now > 6<<10 {
		t.Fatalf("%d bytes, then %d", grown, now)
	}
	j = mustOpen(t, dir, Options{})
	want(t, j, 1, 400, 1)
}

// The same on a real, small file system, filled up by somebody else.
func TestFullDiskForReal(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=4m", "balsa-test", dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a tmpfs: %v %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", dir).Run() })
	j := mustOpen(t, filepath.Join(dir, "j"), Options{ReserveBytes: 1 << 20, CheckpointBytes: 16 << 10})
	save(t, j, 1, 1, 1)
	f, err := os.Create(filepath.Join(dir, "hog"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	for i := range 3000 { // several checkpoints' worth
		save(t, j, raft.GroupID(i%50+1), raft.Term(i+2), 1)
	}
	if _, err := os.Stat(filepath.Join(dir, "j", reserveName)); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the disk was not full, or the reserve was not given up:", err)
	}
	closeIt(t, j)
	j = mustOpen(t, filepath.Join(dir, "j"), Options{ReserveBytes: 1 << 20})
	want(t, j, 50, 3001, 1)
	closeIt(t, j)
}

// Two processes' worth of kills at any byte: a random history is cut at random places, reopened, continued.
func TestLivesAndCuts(t *testing.T) {
	dir := filepath.Join(ramDir(t), "j")
	acked := make(map[raft.GroupID]raft.HardState)
	term := raft.Term(0)
	for life := range 60 {
		j := mustOpen(t, dir, Options{ReserveBytes: -1, CheckpointBytes: 1 << 10})
		for g, hs := range acked {
			want(t, j, g, hs.Term, hs.Vote)
		}
		for i := range life % 17 {
			term++
			g := raft.GroupID(i%4 + 1)
			save(t, j, g, term, raft.NodeID(i+1))
			acked[g] = raft.HardState{Term: term, Vote: raft.NodeID(i + 1)}
		}
		closeIt(t, j)
		// An unfinished write of the next record, of every length.
		path := walFile(t, dir)
		res, err := scan(path, read(t, path), firstOf(t, path), 0, func(record) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		p := appendRecord(nil, record{kind: kindState, id: idIn(t, read(t, path)), seq: res.last + 1, synced: res.last,
			body: appendState(nil, groupState{1, raft.HardState{Term: 1 << 30}})})
		p = append([]byte{byte(len(p))}, p...)
		write(t, path, append(read(t, path), p[:life%len(p)]...))
	}
}

func firstOf(t *testing.T, path string) (first uint64) {
	t.Helper()
	if _, err := fmt.Sscanf(filepath.Base(path), "%d", &first); err != nil {
		t.Fatal(err)
	}
	return first
}

func FuzzDecodeRecord(f *testing.F) {
	for k, body := range map[recordKind][]byte{kindState: make([]byte, stateLen), kindDelete: make([]byte, 8), kindBegin: make([]byte, 4), kindMark: nil,
		kindChunk: append([]byte{2, 0, 0, 0}, make([]byte, 2*stateLen)...)} {
		f.Add(appendRecord(nil, record{kind: k, id: 1, seq: 9, synced: 8, body: body}))
	}
	f.Add([]byte("BHJ\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, n, err := decodeRecord(data)
		if err != nil {
			return
		}
		if again := appendRecord(nil, r); !bytes.Equal(again, data[:n]) {
			t.Fatalf("%x decodes and encodes to %x", data[:n], again)
		}
	})
}

// The scanner survives anything, never reads past what is whole, and what it calls good, tidwall/wal can open.
func FuzzScan(f *testing.F) {
	var data []byte
	add := func(kind recordKind, seq, synced uint64, body []byte) {
		p := appendRecord(nil, record{kind: kind, id: 5, seq: seq, synced: synced, body: body})
		data = append(append(data, byte(len(p))), p...)
		f.Add(slices.Clone(data))
	}
	add(kindBegin, 1, 0, make([]byte, 4))
	add(kindEnd, 2, 0, make([]byte, 4))
	add(kindState, 3, 2, appendState(nil, groupState{1, raft.HardState{Term: 2, Vote: 3}}))
	add(kindMark, 4, 3, nil)
	add(kindDelete, 5, 4, make([]byte, 8))
	f.Add(append(slices.Clone(data), make([]byte, 50)...))
	f.Add(append(slices.Clone(data[:150]), data[160:]...))
	f.Fuzz(func(t *testing.T, data []byte) {
		rep := replay{states: make(map[raft.GroupID]raft.HardState)}
		var n uint64
		res, err := scan("f", data, 1, 0, func(r record) error { n++; return rep.apply(r) })
		if res.good > len(data) || (err == nil && res.last != n) || (err == nil && (res.tail == tailClean) != (res.good == len(data))) {
			t.Fatal(res, n, err)
		}
		good, err2 := scan("f", data[:res.good], 1, 0, func(record) error { return nil })
		if err2 != nil || good.tail != tailClean || good.last != res.last {
			t.Fatal("what was good is not:", good, res, err2)
		}
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, errNewVersion) {
			t.Fatal(err)
		}
	})
}
